-- The short way through a heartbeat, with nothing due: before lib.lua, of which it needs nothing.
-- For ARGV and the reply see beat.lua.
local node, lease, stall = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local seq, nodes = base .. ':seq', base .. ':nodes'
local at = redis.call('HMGET', seq, 'run', 'n', 'beat', 'look', 'ops:' .. node)
if now - (tonumber(at[3]) or now) <= stall and now < (tonumber(at[4]) or 0) and redis.call('ZCOUNT', nodes, '-inf', str(now)) == 0
  -- a node that had no lease looks what it has to end
  and redis.call('ZADD', nodes, str(now + lease), node) == 0 then
  redis.call('HSET', seq, 'beat', str(now))
  return {at[1] or '', at[2] or '0', tonumber(at[5]) or 0, 0, 0, 0, 0, 0, 0, 0, -1, {}}
end
