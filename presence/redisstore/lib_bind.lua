-- Shared by the scripts of push bindings.
local function bkey(svc, id) return base .. ':' .. svc .. ':b:' .. id end

-- Notes that a binding came or went, for the node that did it to settle its address;
-- should it die, a heartbeat finds the note this many ms later.
local UNSETTLED = 5000
local function unsettled(svc, sid, address)
  redis.call('ZADD', base .. ':unsettled', str(now + UNSETTLED), svc .. sid .. address)
  soon()
end

-- Removes a binding of a user and returns its type:address; nil if there is none.
local function unbind(svc, id, sid)
  local raw = redis.call('HGET', bkey(svc, id), sid)
  if not raw then return nil end
  local b = cjson.decode(raw)
  redis.call('HDEL', bkey(svc, id), sid)
  redis.call('HDEL', base .. ':' .. svc .. ':bsids', sid)
  redis.call('ZREM', base .. ':' .. svc .. ':bindings', b.k .. sid)
  redis.call('ZREM', base .. ':bindexp', svc .. sid)
  if b.c ~= '' then redis.call('SREM', base .. ':cred:' .. b.c, svc .. sid) end
  unsettled(svc, sid, b.t .. ':' .. b.a)
  return b.t .. ':' .. b.a
end
