-- ARGV[2]  service   ARGV[3]  SID
-- Reply: {identity, what :state says of the user, its role, its other fields as HGETALL}; {} if there is no such user
local svc, sid = ARGV[2], string.sub(ARGV[3], 7)
local member = redis.call('ZRANGEBYLEX', base .. ':' .. svc .. ':users', '[' .. sid, '[' .. sid .. '\255', 'LIMIT', 0, 1)[1]
local u = member and load(svc, string.sub(member, SHORT + 1))
if not u or u.sid ~= sid then return {} end
return {u.id, text(u), role(u), redis.call('HGETALL', ukey(u.svc, u.id))}
