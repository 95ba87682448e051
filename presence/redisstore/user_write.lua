-- Creates, ensures or updates a user.
-- ARGV[2]  create, ensure or update   ARGV[3]  service   ARGV[4]  identity
-- ARGV[5]  SID if new   ARGV[6]  role if new   ARGV[7]  floor (the service's revision)
-- then pairs: field (friendly_name, attributes, role), value
-- Reply: the user's hash as HGETALL; 'exists' or 'missing' where mode forbids
local mode, svc, id, floor, origin = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[7]), ARGV[8]
local u = ukey(svc, id)
local exists = redis.call('EXISTS', u) == 1
if exists and mode == 'create' then return 'exists' end
if not exists and mode == 'update' then return 'missing' end
if not exists then floor = math.max(floor, create(svc, id, ARGV[5], ARGV[6])) end
local bits = {friendly_name = 4, attributes = 8, role = 0}
local mask, changed = 0, false
for i = 9, #ARGV, 2 do
  if redis.call('HGET', u, ARGV[i]) ~= ARGV[i + 1] then
    redis.call('HSET', u, ARGV[i], ARGV[i + 1])
    mask, changed = mask + bits[ARGV[i]], true
  end
end
if changed then redis.call('HSET', u, 'updated', str(now)) end
if mask > 0 or not exists then
  emit(svc, id, mask, floor, exists and 'update' or 'create', origin, not exists)
elseif changed and origin ~= '' then -- the role, which no subscriber sees
  owe(svc, id, 'p', 'update', origin)
end
return redis.call('HGETALL', u)
