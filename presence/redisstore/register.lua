-- Records sessions of a node as live; their users are online from here on.
-- ARGV[2]  node                ARGV[3]  its lease, ms, if it has none here yet
-- ARGV[4]  TTL of the online state, ms     ARGV[5]  stall, ms
-- then 8 each: service, identity, session, SID the user has or, if it is new, gets, role
--   if new, enabled (1 or 0), epoch, floor (the service's revision)
-- Reply: {operations of this node, outcome, ...}: 0 unchanged, 1 published, 3 refused: the
--   session was ended, or it is one of a user who was deleted
local node, lease, ttl = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local reply = {redis.call('HINCRBY', base .. ':seq', 'ops:' .. node, 1)}
if not redis.call('ZSCORE', base .. ':nodes', node) then
  redis.call('ZADD', base .. ':nodes', str(now + lease - silence(tonumber(ARGV[5]))), node)
  redis.call('HSETNX', base .. ':seq', 'beat', str(now)) -- a silence may begin before the first heartbeat, too
  soon() -- it may have had to end sessions when it lost its lease
end
local deleted = redis.call('EXISTS', base .. ':deleted') == 1
for i = 6, #ARGV, 8 do
  local svc, id, session, enabled, epoch, floor = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 5] == '1', tonumber(ARGV[i + 6]), tonumber(ARGV[i + 7])
  if redis.call('SISMEMBER', base .. ':end:' .. node, session) == 1 or deleted and redis.call('ZSCORE', base .. ':deleted', ARGV[i + 3]) then
    reply[#reply + 1] = 3
  else
    local u, on, created = load(svc, id), '', false
    if u then
      on = u.on
    else
      u, floor = create(svc, id, ARGV[i + 3], ARGV[i + 4], floor)
      created = true
    end
    -- one that is registered anew is no return of the one that left
    if join(u, session, node, ttl) then redis.call('ZREM', base .. ':linger', svc .. id) end
    local mask, stamped, cause = 0, tonumber(u.epoch) or 0, 'create'
    if enabled and (u.online ~= '1' or stamped < epoch) then
      mask, cause = 1, u.online == '1' and 'switch' or 'connect'
      u.online, u.epoch = '1', str(math.max(epoch, stamped))
      emit(u, mask, floor, cause, 'SDK', created)
    elseif created then
      u.online = '1'
      emit(u, mask, floor, cause, 'SDK', created)
    elseif u.online ~= '1' then
      u.online = '1'
      record(u)
    elseif u.on ~= on then
      save(u)
    end
    reply[#reply + 1] = mask
  end
end
return reply
