-- Changes the account's configuration, all of it or nothing.
-- ARGV[2]  SID of the service to make the default one, or empty
-- then pairs: field, value; an empty value clears
-- Reply: 1; 0 if there is no such service
local sid, account = ARGV[2], base .. ':account'
if sid ~= '' then
  if redis.call('EXISTS', base .. ':' .. sid) == 0 then return 0 end
  redis.call('SET', base .. ':default', sid)
end
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', account, ARGV[i]) else redis.call('HSET', account, ARGV[i], ARGV[i + 1]) end
end
return 1
