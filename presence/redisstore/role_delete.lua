-- Deletes a role. Users who have it keep its SID until they are given another.
-- ARGV[2]  service   ARGV[3]  SID
-- Reply: 1; 0 if there is no such role; 2 if it is one of the service's defaults
local svc, sid = ARGV[2], ARGV[3]
local role = base .. ':' .. svc .. ':role:' .. sid
local created = redis.call('HGET', role, 'created')
if not created then return 0 end
for _, default in ipairs(redis.call('HMGET', base .. ':' .. svc, 'role_service', 'role_creator', 'role_conversation')) do
  if default == sid then return 2 end
end
redis.call('DEL', role)
redis.call('ZREM', base .. ':' .. svc .. ':roles', string.format('%016.0f', tonumber(created)) .. sid)
return 1
