-- Deletes users of a deleted service in one partition, with their bindings; nodes are
-- told to end its sessions.
-- ARGV[2]  service   ARGV[3]  at most so many users and bindings
-- Reply: 1 if anything is left
local svc, left = ARGV[2], tonumber(ARGV[3])
local live = false
local users, state = base .. ':' .. svc .. ':users', base .. ':' .. svc .. ':state'
for _, member in ipairs(redis.call('ZRANGE', users, 0, left - 1)) do
  if left <= 0 then break end
  left = left - 1
  local id = string.sub(member, SHORT + 1)
  local u = load(svc, id)
  if u and u.sid .. id == member then
    live = expel(u, '') > 0 or live
    for _, binding in ipairs(redis.call('HKEYS', bkey(svc, id))) do
      -- nothing to settle: all addresses of the service go
      redis.call('ZREM', base .. ':unsettled', svc .. binding .. unbind(svc, id, binding))
      left = left - 1
    end
    redis.call('DEL', ukey(svc, id))
    redis.call('ZREM', base .. ':linger', svc .. id)
    redis.call('ZREM', base .. ':debounce', svc .. id)
    redis.call('HDEL', state, id)
  end
  redis.call('ZREM', users, member)
end
-- webhooks owed
local owed = base .. ':' .. svc .. ':due'
for _, id in ipairs(redis.call('ZRANGE', owed, 0, ARGV[3] - 1)) do
  redis.call('DEL', base .. ':' .. svc .. ':q:' .. id)
  redis.call('ZREM', owed, id)
end
redis.call('DEL', base .. ':' .. svc .. ':tries', base .. ':' .. svc .. ':dead', base .. ':' .. svc .. ':letters')
redis.call('HDEL', base .. ':hooks', svc)
redis.call('ZREM', base .. ':hookdue', svc)
if live then wake('e') end
if math.max(redis.call('EXISTS', users), redis.call('EXISTS', owed)) == 1 then return 1 end
local s = base .. ':' .. svc
redis.call('UNLINK', s .. ':addr', s .. ':state', s .. ':roles', s .. ':online', s .. ':offline', s .. ':gone', s .. ':bsids', s .. ':bindings')
return 0
