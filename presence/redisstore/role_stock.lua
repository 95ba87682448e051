-- Makes the roles that a service comes with. They are made when roles are first
-- looked at, so a service that was written back after a loss of data has them too;
-- a service always has a role from then on, since its default ones cannot be deleted.
-- ARGV[2]  service   ARGV[3]  SID of the first, which is no default
-- then 4 times: name, type, permissions as JSON; the last three are those of the
--   service's role_service, role_creator and role_conversation
-- Reply: 1; 0 if there is no such service
local svc = ARGV[2]
local roles = base .. ':' .. svc .. ':roles'
local f = redis.call('HMGET', base .. ':' .. svc, 'created', 'role_service', 'role_creator', 'role_conversation')
if not f[1] then return 0 end
if redis.call('EXISTS', roles) == 1 then return 1 end
local sids = {ARGV[3], f[2], f[3], f[4]}
for i, sid in ipairs(sids) do
  local role, a, at = base .. ':' .. svc .. ':role:' .. sid, 1 + 3 * i, tonumber(f[1]) + i - 1
  if redis.call('EXISTS', role) == 0 then
    redis.call('HSET', role, 'sid', sid, 'friendly_name', ARGV[a], 'type', ARGV[a + 1], 'permissions', ARGV[a + 2],
      'created', str(at), 'updated', str(math.floor(at / 1000)))
    redis.call('ZADD', roles, 0, string.format('%016.0f', at) .. sid)
  end
end
return 1
