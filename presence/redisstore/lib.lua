-- Shared by every script of a partition.
-- KEYS[1]  base of the partition's keys, such as rc:{p007}; also its channel
-- ARGV[1]  offset in ms added to the clock (0 outside tests)
--
-- Keys below the base (all in one slot; spelt in internal/keys too):
--   :seq           hash  run, n (events published), rev (highest of a deleted user), beat (ms of the last heartbeat)
--   :nodes         zset  node -> lease deadline, ms
--   :ops           hash  node -> operations of that node, gone when it was reaped
--   :node:<node>   set   session..service..identity
--   :end:<node>    set   sessions which that node must end
--   :linger        zset  service..identity -> due, ms
--   :<IS>:u:<id>   hash  the user      :<IS>:on:<id>  hash  session -> node
--   :<IS>:users    zset  creation order  :<IS>:sids   hash  user SID -> identity
--   :<IS>:b:<id>   hash  binding SID -> JSON of strings: t type, a address, c credential or
--                        empty, m message types, k created (16 digits, us), u updated, x expires, ms
--   :<IS>:bindings zset  creation order  :<IS>:bsids  hash  binding SID -> identity
--   :<IS>:addr     hash  type:address (of any user) -> binding SIDs joined by commas: the one
--                        that has it, empty for none, and those that it is being taken from
--   :bindexp       zset  service..binding SID -> when it expires, ms
--   :unsettled     zset  service..binding SID..type:address -> when to see to it that the binding
--                        and what :addr says elsewhere agree, ms
--   :cred:<CR>     set   service..binding SID
local base = KEYS[1]
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2] + ARGV[1] * 1000
local now = math.floor(us / 1000)

-- Lua prints large numbers with an exponent; Redis and cjson would too.
local function str(n) return string.format('%.0f', n) end
local function ukey(svc, id) return base .. ':' .. svc .. ':u:' .. id end
local function onkey(svc, id) return base .. ':' .. svc .. ':on:' .. id end
local function bkey(svc, id) return base .. ':' .. svc .. ':b:' .. id end

local function publish(msg)
  local seq = base .. ':seq'
  local run = redis.call('HGET', seq, 'run')
  if not run then
    run = str(us)
    redis.call('HSET', seq, 'run', run)
  end
  msg.r = run
  msg.q = str(redis.call('HINCRBY', seq, 'n', 1))
  redis.call('PUBLISH', base, cjson.encode(msg))
end

-- Gives the user a revision above its last and above floor, and publishes its
-- recorded state. mask holds the reasons; profile values go with their reason.
-- cause: connect, switch, end, operator, linger, lease, create, update, register_push,
-- unregister_push or push_expired.
local function emit(svc, id, mask, floor, cause)
  local u = ukey(svc, id)
  local f = redis.call('HMGET', u, 'sid', 'rev', 'epoch', 'nepoch', 'online', 'notifiable', 'last_online', 'friendly_name', 'attributes')
  local rev = str(math.max((tonumber(f[2]) or 0) + 1, now, floor + 1))
  redis.call('HSET', u, 'rev', rev)
  local msg = {s = svc, i = id, u = f[1], v = rev, e = f[3] or nil, ne = f[4] or nil, o = f[5] or nil,
    n = f[6] or nil, l = f[7] or nil, m = mask}
  if mask % 8 >= 4 then msg.f = f[8] or nil end
  if mask % 16 >= 8 then msg.a = f[9] or nil end
  publish(msg)
end

-- Has every node look at the partition for work of a kind: 'e', sessions to be ended.
-- It may be lost: the next heartbeat finds the work too.
local function wake(kind)
  local prefix, number = string.match(base, '^(.*){p(%d+)}$')
  redis.call('PUBLISH', prefix .. 'wake', kind .. tonumber(number))
end

-- Has the nodes that hold a user's sessions end them, and forgets the sessions.
-- True if there was any.
local function expel(svc, id)
  local on = onkey(svc, id)
  local sessions = redis.call('HGETALL', on)
  for i = 1, #sessions, 2 do
    redis.call('SREM', base .. ':node:' .. sessions[i + 1], sessions[i] .. svc .. id)
    redis.call('SADD', base .. ':end:' .. sessions[i + 1], sessions[i])
  end
  redis.call('DEL', on)
  return #sessions > 0
end

local function create(svc, id, sid, role)
  redis.call('HSET', ukey(svc, id), 'sid', sid, 'role', role, 'attributes', '{}', 'created', str(us), 'updated', str(now))
  redis.call('ZADD', base .. ':' .. svc .. ':users', 0, string.format('%016.0f', us) .. sid)
  redis.call('HSET', base .. ':' .. svc .. ':sids', sid, id)
  -- a user made again goes on above the revision its predecessor ended with
  return tonumber(redis.call('HGET', base .. ':seq', 'rev')) or 0
end

-- The offline transition of a user whose last session is gone. epoch: the service's
-- if its switch is known to be on, else 0. It is published whatever the switch: the
-- caller may not have heard of a flip that others have heard of.
local function offline(svc, id, epoch, floor, cause)
  local u = ukey(svc, id)
  if epoch > (tonumber(redis.call('HGET', u, 'epoch')) or 0) then redis.call('HSET', u, 'epoch', str(epoch)) end
  redis.call('HSET', u, 'online', '0', 'last_online', str(now))
  emit(svc, id, 1, floor, cause)
end

-- Notes that a binding came or went, for the node that did it to settle its address;
-- should it die, a heartbeat finds the note this many ms later.
local UNSETTLED = 5000
local function unsettled(svc, sid, address)
  redis.call('ZADD', base .. ':unsettled', str(now + UNSETTLED), svc .. sid .. address)
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

-- True if the user is recorded online without any session to keep it so.
local function orphan(svc, id)
  return redis.call('EXISTS', onkey(svc, id)) == 0 and redis.call('HGET', ukey(svc, id), 'online') == '1'
end

-- session..service..identity
local SESSION, SERVICE = 24, 34
local function split(member)
  return string.sub(member, 1, SESSION), string.sub(member, SESSION + 1, SESSION + SERVICE), string.sub(member, SESSION + SERVICE + 1)
end
