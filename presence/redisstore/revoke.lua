-- Revokes access tokens of a service.
-- ARGV[2]  service   ARGV[3]  identity, empty for everybody
-- ARGV[4]  those issued before, ms; empty for now
-- ARGV[5]  for so long, ms   ARGV[6]  at most so many revocations
-- Reply: {SID, before, created}; 'missing' if there is no such service; 'full'
local svc = ARGV[2]
if redis.call('EXISTS', base .. ':' .. svc) == 0 then return 'missing' end
trim(ARGV[5])
local sid, before, created = revoke(svc, ARGV[3], tonumber(ARGV[4]) or now, now, tonumber(ARGV[6]))
if not sid then return 'full' end
changed()
return {sid, str(before), str(created)}
