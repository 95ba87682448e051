-- Shared by the scripts of API keys and revocations. Keys below the services' base:
--   :keys               zset  creation order    :key:<SK>  hash  the key
--   :keys:gone          zset  SK -> when it was deleted, ms; so that no node writes it back
--   :revocations        zset  stamp..IS..RV of all services, by age
--   :<IS>:revocations   zset  stamp..RV         :<IS>:revoked  hash  RV -> JSON: i identity, b before and c created in ms, m stamp
--   :seq                hash  keys (changes of them), revoked (the newest stamp)
-- A stamp is 16 digits of us and grows with each revocation.
local function stamped(n) return string.format('%016.0f', n) end

-- Tells the nodes. It is not counted among the services' events, after which nodes
-- read their services again: keys and revocations have counters of their own.
local function changed()
  local seq = base .. ':seq'
  redis.call('HSETNX', seq, 'run', str(us))
  local at = redis.call('HMGET', seq, 'run', 'n')
  redis.call(PUBLISH, base, cjson.encode({r = at[1], q = at[2] or '0', s = 'access'}))
end

-- Drops revocations that are no longer needed, some at a time.
local function trim(life)
  local all = base .. ':revocations'
  for _, m in ipairs(redis.call('ZRANGEBYLEX', all, '-', '(' .. stamped(us - life * 1000), 'LIMIT', 0, 100)) do
    local stamp, svc, sid = string.sub(m, 1, 16), string.sub(m, 17, 50), string.sub(m, 51)
    redis.call('ZREM', all, m)
    redis.call('ZREM', base .. ':' .. svc .. ':revocations', stamp .. sid)
    redis.call('HDEL', base .. ':' .. svc .. ':revoked', sid)
  end
end

-- Records a revocation, of an identity or ('') of everybody. One that is there
-- already goes on if it is the stronger. Returns SID, before and created; nil if
-- there are max of them.
local function revoke(svc, id, before, created, max)
  local all, order, revoked = base .. ':revocations', base .. ':' .. svc .. ':revocations', base .. ':' .. svc .. ':revoked'
  local sid = 'RV' .. string.sub(redis.sha1hex(id == '' and '*' or 'i' .. id), 1, 32)
  local was = redis.call('HGET', revoked, sid)
  if was then
    was = cjson.decode(was)
    before, created = math.max(before, tonumber(was.b)), math.max(created, tonumber(was.c))
    redis.call('ZREM', all, was.m .. svc .. sid)
    redis.call('ZREM', order, was.m .. sid)
  elseif redis.call('ZCARD', all) >= max then
    return nil
  end
  local stamp = math.max(us, (tonumber(redis.call('HGET', base .. ':seq', 'revoked')) or 0) + 1)
  local m = stamped(stamp)
  redis.call('HSET', base .. ':seq', 'revoked', str(stamp))
  redis.call('ZADD', all, 0, m .. svc .. sid)
  redis.call('ZADD', order, 0, m .. sid)
  redis.call('HSET', revoked, sid, cjson.encode({i = id, b = str(before), c = str(created), m = m}))
  return sid, before, created
end
