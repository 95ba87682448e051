-- Gives up a node's lease; what sessions it left linger, so that nobody is seen to leave.
-- ARGV[2]  node   ARGV[3]  linger, ms   ARGV[4]  at most so many sessions
-- ARGV[5]  stall, ms
-- Reply: 1 if sessions are left
local node, linger, silent = ARGV[2], tonumber(ARGV[3]), silence(tonumber(ARGV[5]))
local set = base .. ':node:' .. node
for _, member in ipairs(redis.call('SPOP', set, ARGV[4])) do
  local session, svc, id = split(member)
  if redis.call('HDEL', onkey(svc, id), session) == 1 or orphan(svc, id) then lingering(svc, id, linger, silent, 'drained', 0) end
end
if redis.call('EXISTS', set) == 1 then return 1 end
redis.call('ZREM', base .. ':nodes', node)
redis.call('HDEL', base .. ':ops', node)
redis.call('DEL', base .. ':end:' .. node)
return 0
