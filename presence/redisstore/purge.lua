-- Deletes users of a deleted service in one partition, with their bindings; nodes end
-- its sessions when they hear of the deletion.
-- ARGV[2]  service   ARGV[3]  at most so many users and bindings
-- Reply: 1 if users are left
local svc, left = ARGV[2], tonumber(ARGV[3])
local users, sids = base .. ':' .. svc .. ':users', base .. ':' .. svc .. ':sids'
for _, member in ipairs(redis.call('ZRANGE', users, 0, left - 1)) do
  if left <= 0 then break end
  left = left - 1
  local sid = string.sub(member, 17)
  local id = redis.call('HGET', sids, sid)
  if id then
    local on = onkey(svc, id)
    local sessions = redis.call('HGETALL', on)
    for i = 1, #sessions, 2 do
      redis.call('SREM', base .. ':node:' .. sessions[i + 1], sessions[i] .. svc .. id)
      redis.call('SADD', base .. ':end:' .. sessions[i + 1], sessions[i])
    end
    for _, binding in ipairs(redis.call('HKEYS', bkey(svc, id))) do
      -- nothing to settle: all addresses of the service go
      redis.call('ZREM', base .. ':unsettled', svc .. binding .. unbind(svc, id, binding))
      left = left - 1
    end
    redis.call('DEL', ukey(svc, id), on)
    redis.call('ZREM', base .. ':linger', svc .. id)
    redis.call('HDEL', sids, sid)
  end
  redis.call('ZREM', users, member)
end
if redis.call('EXISTS', users) == 1 then return 1 end
redis.call('UNLINK', base .. ':' .. svc .. ':addr')
return 0
