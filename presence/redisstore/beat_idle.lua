-- The short way through a heartbeat, with nothing due: before lib.lua, of which it needs nothing.
-- For ARGV and the reply see beat.lua.
local node, lease, stall = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[5])
local seq, nodes, ops, expiries = base .. ':seq', base .. ':nodes', base .. ':ops', base .. ':bindexp'
local at = redis.call('HMGET', seq, 'run', 'n', 'beat')
if now - (tonumber(at[3]) or now) <= stall and redis.call('ZCOUNT', nodes, '-inf', str(now)) == 0 then
  local busy = redis.call('EXISTS', base .. ':linger', base .. ':unsettled', base .. ':hooks', base .. ':lapsed', base .. ':end:' .. node, expiries)
  -- bindings are there for months, and rarely is one due
  if busy == 0 or busy == 1 and redis.call('EXISTS', expiries) == 1 and redis.call('ZCOUNT', expiries, '-inf', str(now)) == 0 then
    redis.call('HSET', seq, 'beat', str(now))
    redis.call('ZADD', nodes, str(now + lease), node)
    return {at[1] or '', at[2] or '0', tonumber(redis.call('HGET', ops, node)) or 0, 0, 0, 0, 0, 0, 0, 0, -1, {}}
  end
end
