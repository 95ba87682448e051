-- Writes back what a node has and the store lost with its data.
-- ARGV[2]  for how long revocations are needed, ms   ARGV[3]  at most so many of them
-- ARGV[4]  number of keys, then 6 each: SID, account, name, secret, created in us, updated in ms
-- then 4 each: service, identity, before and created in ms
-- Reply: 1
local life, max, any = tonumber(ARGV[2]), tonumber(ARGV[3]), false
local first = 5 + 6 * ARGV[4]
for i = 5, first - 1, 6 do
  local sid = ARGV[i]
  local key = base .. ':key:' .. sid
  if redis.call('EXISTS', key) == 0 and not redis.call('ZSCORE', base .. ':keys:gone', sid) then
    redis.call('HSET', key, 'sid', sid, 'account', ARGV[i + 1], 'friendly_name', ARGV[i + 2], 'secret', ARGV[i + 3], 'created', ARGV[i + 4], 'updated', ARGV[i + 5])
    redis.call('ZADD', base .. ':keys', 0, stamped(tonumber(ARGV[i + 4])) .. sid)
    redis.call('HINCRBY', base .. ':seq', 'keys', 1)
    any = true
  end
end
for i = first, #ARGV, 4 do
  local svc, id, before, created = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local was = redis.call('HGET', base .. ':' .. svc .. ':revoked', 'RV' .. string.sub(redis.sha1hex(id == '' and '*' or 'i' .. id), 1, 32))
  if created + life > now and not (was and tonumber(cjson.decode(was).b) >= before) then
    any = revoke(svc, id, before, created, max) ~= nil or any
  end
end
if any then changed() end
return 1
