-- Creates or updates a push credential, on the slot of the services.
-- ARGV[2]  create or update   ARGV[3]  SID
-- then pairs: field, value
-- Reply: {field, value, ...} of what may be shown; 'missing' if there is none to update
local c = base .. ':' .. ARGV[3]
if ARGV[2] == 'create' then
  redis.call('HSET', c, 'sid', ARGV[3], 'created', str(us), 'updated', str(now))
  redis.call('ZADD', base .. ':credentials', 0, string.format('%016.0f', us) .. ARGV[3])
elseif redis.call('EXISTS', c) == 0 then
  return 'missing'
end
local changed = false
for i = 4, #ARGV, 2 do
  if redis.call('HGET', c, ARGV[i]) ~= ARGV[i + 1] then
    redis.call('HSET', c, ARGV[i], ARGV[i + 1])
    changed = true
  end
end
if changed then redis.call('HSET', c, 'updated', str(now)) end
local reply = {}
for _, field in ipairs({'sid', 'account', 'type', 'friendly_name', 'sandbox', 'created', 'updated'}) do
  reply[#reply + 1] = field
  reply[#reply + 1] = redis.call('HGET', c, field) or ''
end
return reply
