-- Creates or updates a service; on the partition-like slot of the services, whose
-- base is KEYS[1]. Keys below it: :<IS> the service, :all creation order, :default
-- the default service's SID, :seq run and n as in a partition, :account the account's
-- configuration, :<IS>:roles creation order of its roles, :<IS>:role:<RL> one of them,
-- :<IS>:notifications its push settings; for keys and revocations see access.lua.
-- ARGV[2]  create, default or update   ARGV[3]  SID
-- then pairs: field, value; enabled is 1 or 0; hook_* and debounce are about webhooks
-- Reply: the service's hash as HGETALL (for 'default' that of the default service,
--   made only if there is none); 'missing'; 'no role' if an update names a role that
--   the service does not have
local mode, sid = ARGV[2], ARGV[3]
if mode == 'default' then
  local have = redis.call('GET', base .. ':default')
  if have then return redis.call('HGETALL', base .. ':' .. have) end
  redis.call('SET', base .. ':default', sid)
end
local s = base .. ':' .. sid
if mode == 'update' then
  if redis.call('EXISTS', s) == 0 then return 'missing' end
  for i = 4, #ARGV, 2 do
    if string.sub(ARGV[i], 1, 5) == 'role_' and redis.call('EXISTS', s .. ':role:' .. ARGV[i + 1]) == 0 then return 'no role' end
  end
else
  redis.call('HSET', s, 'sid', sid, 'created', str(us))
  redis.call('ZADD', base .. ':all', 0, string.format('%016.0f', us) .. sid)
end
local changed, hooks = mode ~= 'update', false
for i = 4, #ARGV, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  local was = redis.call('HGET', s, field)
  if was ~= value then
    changed = true
    hooks = hooks or (string.sub(field, 1, 5) == 'hook_' or field == 'debounce')
    redis.call('HSET', s, field, value)
    if field == 'enabled' and (was or value == '1') then
      -- Ahead of every revision that a user of the service can have by now: those
      -- follow the clock or the last flip, but for bursts and for the clocks of other
      -- Redis primaries.
      redis.call('HSET', s, 'rev', str(math.max(tonumber(redis.call('HGET', s, 'rev')) or 0, now) + 1000))
      if value == '1' then redis.call('HINCRBY', s, 'epoch', 1) end
    end
  end
end
if hooks then hooked(s, sid) end
if changed then
  redis.call('HSET', s, 'updated', str(now))
  publish({s = sid})
end
return redis.call('HGETALL', s)
