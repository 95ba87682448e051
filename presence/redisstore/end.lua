-- Removes ended sessions; a user whose last session is gone goes offline at once
-- or after its linger.
-- ARGV[2]  node   ARGV[3]  lease, ms   ARGV[4]  stall, ms
-- then 9 each: service, identity, session, linger in ms (0: at once), enabled (1 or 0), epoch, floor,
--   how it ended, ms since then
-- Reply: {operations of this node, outcome, ...}: 0 unchanged, 1 published, 2 lingering
local node, lease, silent = ARGV[2], tonumber(ARGV[3]), silence(tonumber(ARGV[4]))
local reply = {redis.call('HINCRBY', base .. ':seq', 'ops:' .. node, 1)}
for i = 5, #ARGV, 9 do
  local svc, id, session, linger = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  redis.call('SREM', base .. ':end:' .. node, session)
  local u = load(svc, id)
  local removed = quit(u, svc, id, session, node)
  local outcome, last, changed = 0, u and orphan(u), u and removed
  -- a repeated end changes nothing: neither a linger that began since, nor its due time
  if u and (removed or last and not redis.call('ZSCORE', base .. ':linger', svc .. id)) then
    -- the online state lapsed while Redis was away: the user's other sessions, if it
    -- has any, are about to be registered anew
    if last and vanished(u) or not removed then linger = math.max(linger, lease) end
    changed = true
    if linger > 0 then
      -- also while the user has other sessions: those may be a dead node's, which is yet to be reaped
      lingering(u, linger, silent, ARGV[i + 7], tonumber(ARGV[i + 8]))
      if last then outcome = 2 end
    elseif last and newer(u, silent, tonumber(ARGV[i + 8])) then
      outcome = 2
    elseif last then
      redis.call('ZREM', base .. ':linger', svc .. id)
      offline(u, ARGV[i + 4] == '1' and tonumber(ARGV[i + 5]) or 0, tonumber(ARGV[i + 6]), 'end')
      outcome = 1
    end
  end
  if changed and outcome ~= 1 then save(u) end
  reply[#reply + 1] = outcome
end
return reply
