-- ARGV[2]  service   ARGV[3]  SID
-- Reply: {identity, what :state says of the user, its role, its other fields as HGETALL}; {} if there is no such user
local u = find(ARGV[2], ARGV[3])
if not u then return {} end
return {u.id, text(u), role(u), redis.call('HGETALL', ukey(u.svc, u.id))}
