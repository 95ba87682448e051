-- Creates, ensures or updates a user.
-- ARGV[2]  create, ensure or update   ARGV[3]  service   ARGV[4]  identity
-- ARGV[5]  SID if new   ARGV[6]  role if new   ARGV[7]  floor (the service's revision)
-- then pairs: field (friendly_name, attributes, role), value
-- Reply: {what :state says of the user, its role, its other fields as HGETALL}; 'exists' or 'missing' where mode forbids
local mode, svc, id, floor, origin = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[7]), ARGV[8]
local u, key = load(svc, id), ukey(svc, id)
local exists = u ~= nil
if exists and mode == 'create' then return 'exists' end
if not exists and mode == 'update' then return 'missing' end
if not exists then u, floor = create(svc, id, ARGV[5], ARGV[6], floor) end
local bits = {friendly_name = 4, attributes = 8, role = 0}
local mask, changed = 0, false
for i = 9, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  local was = field == 'role' and role(u) or field ~= 'role' and redis.call('HGET', key, field)
  if field == 'attributes' and not was then was = '{}' end
  if was ~= value then
    if field == 'role' then u.role = numbered(svc, value)
    elseif field == 'attributes' and value == '{}' then redis.call('HDEL', key, field)
    else redis.call('HSET', key, field, value) end
    mask, changed = mask + bits[field], true
  end
end
if changed then u.updated = str(now) end
if mask > 0 or not exists then
  emit(u, mask, floor, exists and 'update' or 'create', origin, not exists)
elseif changed then -- the role, which no subscriber sees
  save(u)
  if origin ~= '' then owe(u, 'p', 'update', origin) end
end
return {text(u), role(u), redis.call('HGETALL', key)}
