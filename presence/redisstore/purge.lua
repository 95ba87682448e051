-- Deletes users of a deleted service in one partition; nodes are told to end its
-- sessions.
-- ARGV[2]  service   ARGV[3]  at most so many users
-- Reply: 1 if users are left
local svc = ARGV[2]
local live = false
local users, sids = base .. ':' .. svc .. ':users', base .. ':' .. svc .. ':sids'
for _, member in ipairs(redis.call('ZRANGE', users, 0, ARGV[3] - 1)) do
  local sid = string.sub(member, 17)
  local id = redis.call('HGET', sids, sid)
  if id then
    live = expel(svc, id, '') > 0 or live
    redis.call('DEL', ukey(svc, id))
    redis.call('ZREM', base .. ':linger', svc .. id)
    redis.call('HDEL', sids, sid)
  end
  redis.call('ZREM', users, member)
end
if live then wake('e') end
local left = redis.call('EXISTS', users)
if left == 0 then
  for _, key in ipairs({':state', ':online', ':offline', ':gone'}) do redis.call('DEL', base .. ':' .. svc .. key) end
end
return left
