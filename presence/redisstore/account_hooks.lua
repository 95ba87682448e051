-- Changes the account's webhooks; on the services' slot, whose base is KEYS[1].
-- ARGV[2]  ms after which any node tells the partitions, if this one has not
-- then pairs: field, value
-- Reply: the account's hash as HGETALL
local account = base .. ':account'
local changed = false
for i = 3, #ARGV, 2 do
  if redis.call('HGET', account, ARGV[i]) ~= ARGV[i + 1] then
    changed = true
    redis.call('HSET', account, ARGV[i], ARGV[i + 1])
  end
end
if changed then
  redis.call('HSET', account, 'hook_version', str(us))
  redis.call('ZADD', base .. ':todo', str(now + ARGV[2]), 'hooks * ' .. str(us))
end
return redis.call('HGETALL', account)
