-- Adds or renews a user's push binding; the user is notifiable from here on.
-- ARGV[2]  service      ARGV[3]  identity   ARGV[4]  binding SID   ARGV[5]  type   ARGV[6]  address
-- ARGV[7]  credential, or empty             ARGV[8]  message types ARGV[9]  life, ms
-- ARGV[10] most bindings that a user may have
-- ARGV[11] epoch (0 if the switch is off)   ARGV[12] floor (the service's revision)
-- Reply: the binding's JSON; 'missing' if there is no such user, 'full' if it has too many
local svc, id, sid, credential = ARGV[2], ARGV[3], ARGV[4], ARGV[7]
local u, bindings = load(svc, id), bkey(svc, id)
if not u then return 'missing' end
local was = redis.call('HGET', bindings, sid)
if not was and redis.call('HLEN', bindings) >= tonumber(ARGV[10]) then return 'full' end
was = was and cjson.decode(was) or {c = '', k = string.format('%016.0f', us)}
local expires = str(now + ARGV[9])
local binding = cjson.encode({t = ARGV[5], a = ARGV[6], c = credential, m = ARGV[8], k = was.k, u = str(now), x = expires})
redis.call('HSET', bindings, sid, binding)
redis.call('HSET', base .. ':' .. svc .. ':bsids', sid, id)
redis.call('ZADD', base .. ':' .. svc .. ':bindings', 0, was.k .. sid)
redis.call('ZADD', base .. ':bindexp', expires, svc .. sid)
if was.c ~= credential and was.c ~= '' then redis.call('SREM', base .. ':cred:' .. was.c, svc .. sid) end
if credential ~= '' then redis.call('SADD', base .. ':cred:' .. credential, svc .. sid) end
unsettled(svc, sid, ARGV[5] .. ':' .. ARGV[6])

local epoch = tonumber(ARGV[11])
local raised = epoch > (tonumber(u.nepoch) or 0)
if raised then u.nepoch = str(epoch) end
if u.notifiable ~= '1' then
  u.notifiable = '1'
  -- whatever the switch, as with offline: it may have been flipped meanwhile
  emit(u, 2, tonumber(ARGV[12]), 'register_push')
elseif raised then
  record(u)
end
return binding
