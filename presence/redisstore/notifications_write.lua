-- Changes a service's push settings.
-- ARGV[2]  service
-- then pairs: field, value; an empty value clears
-- Reply: the settings as HGETALL; 'missing' if there is no such service
local svc = ARGV[2]
local settings = base .. ':' .. svc .. ':notifications'
if redis.call('EXISTS', base .. ':' .. svc) == 0 then return 'missing' end
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then redis.call('HDEL', settings, ARGV[i]) else redis.call('HSET', settings, ARGV[i], ARGV[i + 1]) end
end
return redis.call('HGETALL', settings)
