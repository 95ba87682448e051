-- The short way through a partition's heartbeat. Returns what run, seq and operations of the node are if nothing is due;
-- nil if all of beat.lua is to be done. It comes before lib.lua, of which it needs nothing.
local node, lease, stall = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local present, deadline = str(now), str(now + lease)
local function idle(base)
  local seq, nodes = base .. ':seq', base .. ':nodes'
  local at = redis.call('HMGET', seq, 'run', 'n', 'beat', 'look', 'ops:' .. node)
  if now - (tonumber(at[3]) or now) > stall or now >= (tonumber(at[4]) or 0) or redis.call('ZCOUNT', nodes, '-inf', present) > 0 then return nil end
  if redis.call('ZADD', nodes, deadline, node) == 1 then -- it had no lease, and may have sessions to end
    redis.call('HSET', seq, 'look', '0')
    return nil
  end
  redis.call('HSET', seq, 'beat', present)
  return at[1] or '', at[2] or '0', tonumber(at[5]) or 0
end
