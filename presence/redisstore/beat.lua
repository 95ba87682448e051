-- Renews a node's lease in the partition and reaps what is due: sessions of nodes
-- whose lease has lapsed, and lingers.
-- ARGV[2]  node             ARGV[3]  lease, ms
-- ARGV[4]  at most so many sessions and lingers are reaped
-- ARGV[5]  stall, ms: a silence of that length is not counted against leases and
--          lingers
-- Reply: {run, seq, operations of this node, sessions reaped, offline by lease,
--         offline by linger, 1 if more is due, ms stalled, bindings due, 1 if this node
--         delivers the partition's webhooks, ms until there is any to deliver (-1: none),
--         {how a user that is offline now had left and how many ms ago, ...},
--         session to end, ...}
-- What is not marked as due, as when it was put there by hand, is seen after so many ms.
local LOOK = 60000
-- node, lease and stall are of beat_idle.lua.
local left, seq, nodes = tonumber(ARGV[4]), base .. ':seq', base .. ':nodes'
local lingers, lapses = base .. ':linger', base .. ':lapsed'

local stalled = silence(stall)
if stalled > 0 then
  for _, set in ipairs({nodes, lingers}) do
    for _, member in ipairs(redis.call('ZRANGE', set, 0, -1)) do redis.call('ZINCRBY', set, str(stalled), member) end
  end
end
redis.call('HSET', seq, 'beat', str(now))
redis.call('ZADD', nodes, str(now + lease), node)

local reaped, by_lease, by_linger, more, departed = 0, 0, 0, 0, {}
local lapsed = redis.call('ZRANGEBYSCORE', nodes, '-inf', str(now), 'WITHSCORES', 'LIMIT', 0, 16)
for i = 1, #lapsed, 2 do
  local dead, unheard = lapsed[i], now - lapsed[i + 1] + lease
  -- so that a node that was only slow learns that it was reaped
  redis.call('HDEL', seq, 'ops:' .. dead)
  local sessions, all = vacate(dead, left, function(u)
    if not orphan(u) or redis.call('ZSCORE', lingers, u.svc .. u.id) then return end
    if vanished(u) then
      lingering(u, lease, 0, 'node_lost', unheard)
      save(u)
    else
      offline(u, 0, 0, 'lease')
      by_lease = by_lease + 1
      departed[#departed + 1] = 'node_lost ' .. str(unheard)
    end
  end)
  reaped = reaped + sessions
  left = left - sessions
  if all then
    redis.call('ZREM', nodes, dead)
    -- a node that was only cut off must still end them when it is back
    redis.call('EXPIRE', base .. ':end:' .. dead, KEEP)
  else
    more = 1
  end
end
-- Blocks lapse while nobody renews them. Who was in them is found among those online; as in end.lua they may
-- be about to be registered anew.
local unknown = redis.call('HGETALL', lapses)
for i = 1, #unknown, 2 do
  local svc, list = unknown[i], {}
  if left > 0 then list = redis.call('ZRANGEBYSCORE', base .. ':' .. svc .. ':online', '(' .. unknown[i + 1], '+inf', 'WITHSCORES', 'LIMIT', 0, left) end
  for j = 1, #list, 2 do
    local u = load(svc, list[j])
    if u and orphan(u) and not redis.call('ZSCORE', lingers, svc .. u.id) then
      vanished(u)
      lingering(u, lease, 0, 'node_lost', lease)
      save(u)
    end
  end
  if #list / 2 < left then
    redis.call('HDEL', lapses, svc)
  else
    if #list > 0 then redis.call('HSET', lapses, svc, list[#list]) end
    more = 1
  end
  left = left - #list / 2
end
local due = left > 0 and redis.call('ZRANGEBYSCORE', lingers, '-inf', str(now), 'WITHSCORES', 'LIMIT', 0, left) or {}
for i = 1, #due, 2 do
  redis.call('ZREM', lingers, due[i])
  local u = load(split(due[i]))
  if u and orphan(u) then
    local how, away = string.match(u.left, '^(%S+):(%d+)$')
    away = how and now - due[i + 1] + away
    if vanished(u) then
      lingering(u, lease, 0, how or 'node_lost', away or 0)
      save(u)
    else
      offline(u, 0, 0, 'linger')
      by_linger = by_linger + 1
      if how then departed[#departed + 1] = how .. ' ' .. str(away) end
    end
  end
end
if redis.call('ZCOUNT', lingers, '-inf', str(now)) > 0 then more = 1 end

local delivers, hooks = 0, -1
if redis.call('EXISTS', base .. ':hooks') == 1 then
  if fittest() == node then delivers = 1 end
  hooks = webhooks().work()
end

local next = more == 1 and 0 or now + LOOK
for _, set in ipairs({lingers, base .. ':bindexp', base .. ':unsettled'}) do
  next = math.min(next, tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]) or next)
end
local ends = {base .. ':hooks'}
for _, n in ipairs(redis.call('ZRANGE', nodes, 0, -1)) do ends[#ends + 1] = base .. ':end:' .. n end
if redis.call('EXISTS', unpack(ends)) > 0 then next = 0 end
redis.call('HSET', seq, 'look', str(next))

local at = redis.call('HMGET', seq, 'run', 'n', 'ops:' .. node)
local reply = {at[1] or '', at[2] or '0', tonumber(at[3]) or 0, reaped, by_lease, by_linger, more, stalled,
  redis.call('ZCOUNT', base .. ':bindexp', '-inf', str(now)) + redis.call('ZCOUNT', base .. ':unsettled', '-inf', str(now)), delivers, hooks,
  departed}
for _, session in ipairs(redis.call('SRANDMEMBER', base .. ':end:' .. node, 100)) do reply[#reply + 1] = session end
return reply
