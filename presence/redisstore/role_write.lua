-- Creates a role, or replaces its permissions.
-- ARGV[2]  create or update   ARGV[3]  service   ARGV[4]  SID   ARGV[5]  permissions as JSON
-- for create: ARGV[6]  name   ARGV[7]  type   ARGV[8]  at most so many roles
-- Reply: the role's hash as HGETALL; 'missing' if there is no such role, or for
--   create no such service; 'stock' if role_stock.lua is to run first; 'full'
local mode, svc, sid, permissions = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local roles, role = base .. ':' .. svc .. ':roles', base .. ':' .. svc .. ':role:' .. sid
if mode == 'create' then
  if redis.call('EXISTS', base .. ':' .. svc) == 0 then return 'missing' end
  local n = redis.call('ZCARD', roles)
  if n == 0 then return 'stock' end
  if n >= tonumber(ARGV[8]) then return 'full' end
  redis.call('HSET', role, 'sid', sid, 'friendly_name', ARGV[6], 'type', ARGV[7], 'created', str(us))
  redis.call('ZADD', roles, 0, string.format('%016.0f', us) .. sid)
elseif redis.call('EXISTS', role) == 0 then
  return 'missing'
end
redis.call('HSET', role, 'permissions', permissions, 'updated', str(now))
return redis.call('HGETALL', role)
