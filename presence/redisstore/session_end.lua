-- Ends sessions of a user for the operator: the user is offline at once if none is
-- left, and the nodes that hold them are told to close them.
-- ARGV[2]  service   ARGV[3]  identity   ARGV[4]  session, or '' for all
-- ARGV[5]  enabled (1 or 0)   ARGV[6]  epoch   ARGV[7]  floor (the service's revision)   ARGV[8]  lease, ms
-- Reply: how many were ended
local svc, id, session = ARGV[2], ARGV[3], ARGV[4]
local u = load(svc, id)
if not u then return 0 end
local ended = expel(u, session)
if ended > 0 and session ~= '' and orphan(u) and vanished(u) then
  lingering(u, tonumber(ARGV[8]), 0, 'operator', 0)
  save(u)
elseif (ended > 0 or session == '') and orphan(u) then
  redis.call('ZREM', base .. ':linger', svc .. id)
  offline(u, ARGV[5] == '1' and tonumber(ARGV[6]) or 0, tonumber(ARGV[7]), 'operator')
elseif ended > 0 then
  save(u)
end
if ended > 0 then wake('e') end
return ended
