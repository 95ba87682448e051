-- Changes the account's configuration, all of it or nothing; on the services' slot,
-- whose base is KEYS[1].
-- ARGV[2]  SID of the service to make the default one, or empty
-- then pairs: field, value; an empty value clears; hook_* are its webhooks
-- Reply: the account's hash as HGETALL; 'missing' if there is no such service
local sid, account, hooks = ARGV[2], base .. ':account', false
if sid ~= '' then
  if redis.call('EXISTS', base .. ':' .. sid) == 0 then return 'missing' end
  redis.call('SET', base .. ':default', sid)
end
for i = 3, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  if (redis.call('HGET', account, field) or '') ~= value then
    hooks = hooks or string.sub(field, 1, 5) == 'hook_'
    if value == '' then redis.call('HDEL', account, field) else redis.call('HSET', account, field, value) end
  end
end
if hooks then hooked(account, '*') end
return redis.call('HGETALL', account)
