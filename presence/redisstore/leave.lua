-- Gives up a node's lease; what sessions it left linger, so that nobody is seen to leave.
-- ARGV[2]  node   ARGV[3]  linger, ms   ARGV[4]  at most so many sessions
-- ARGV[5]  stall, ms
-- Reply: 1 if sessions are left
local node, linger, silent = ARGV[2], tonumber(ARGV[3]), silence(tonumber(ARGV[5]))
local _, all = vacate(node, tonumber(ARGV[4]), function(u)
  lingering(u, linger, silent, 'drained', 0)
  save(u)
end)
if not all then return 1 end
redis.call('ZREM', base .. ':nodes', node)
redis.call('HDEL', base .. ':seq', 'ops:' .. node)
redis.call('DEL', base .. ':end:' .. node)
return 0
