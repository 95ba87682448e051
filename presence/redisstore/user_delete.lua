-- Deletes a user with all that hangs on it; nodes are told to end its sessions.
-- ARGV[2]  service   ARGV[3]  identity   ARGV[4]  floor (the service's revision)
-- Reply: 1, or 0 if there was no such user
local svc, id, floor = ARGV[2], ARGV[3], tonumber(ARGV[4])
local u = load(svc, id)
if not u then return 0 end
local live = expel(u, '') > 0
for _, sid in ipairs(redis.call('HKEYS', bkey(svc, id))) do unbind(svc, id, sid) end
redis.call('DEL', ukey(svc, id))
entomb(whole(u.sid))
redis.call('ZREM', base .. ':linger', svc .. id)
redis.call('ZREM', base .. ':debounce', svc .. id)
redis.call('ZREM', base .. ':' .. svc .. ':users', u.sid .. id)
local rev = math.max((tonumber(u.rev) or 0) + 1, now, floor + 1)
if rev > (tonumber(redis.call('HGET', base .. ':seq', 'rev')) or 0) then redis.call('HSET', base .. ':seq', 'rev', str(rev)) end
forget(svc, id, publish({s = svc, i = id, v = str(rev), d = 1, m = 0}))
if live then wake('e') end
return 1
