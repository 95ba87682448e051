-- Shared by every script of a partition.
-- KEYS[1]  base of the partition's keys, such as rc:{p007}; also its channel
-- ARGV[1]  offset in ms added to the clock (0 outside tests)
--
-- Keys below the base (all in one slot; spelt in internal/keys too):
--   :seq           hash  run, n (events published), rev (highest of a deleted user), beat (ms of the last heartbeat),
--                        stamp (of the last change)
--   :nodes         zset  node -> lease deadline, ms
--   :ops           hash  node -> operations of that node, gone when it was reaped
--   :node:<node>   set   session..service..identity
--   :end:<node>    set   sessions which that node must end
--   :linger        zset  service..identity -> due, ms
--   :<IS>:u:<id>   hash  the user      :<IS>:on:<id>  hash  session -> node
--   :<IS>:users    zset  creation order  :<IS>:sids   hash  user SID -> identity
--   :<IS>:state    hash  identity -> sid, online, notifiable, epoch, nepoch, rev, last_online, joined by spaces: what
--                        the user's hash says, once more, for readers of many users
--   The change log, each user in one of the three; a stamp is in us and grows with each change of the partition:
--   :<IS>:online, :<IS>:offline   zset  identity -> stamp of the last change, by the recorded state
--   :<IS>:gone                    zset  identity -> stamp of the deletion
local base = KEYS[1]
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2] + ARGV[1] * 1000
local now = math.floor(us / 1000)

-- Lua prints large numbers with an exponent; Redis and cjson would too.
local function str(n) return string.format('%.0f', n) end
local function ukey(svc, id) return base .. ':' .. svc .. ':u:' .. id end
local function onkey(svc, id) return base .. ':' .. svc .. ':on:' .. id end

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

-- The stamp of a change: never below what the clock was before, so that a reader who
-- has all stamps below a time that the clock has reached has missed none.
local function newstamp()
  local seq = base .. ':seq'
  local stamp = str(math.max((tonumber(redis.call('HGET', seq, 'stamp')) or 0) + 1, us))
  redis.call('HSET', seq, 'stamp', stamp)
  return stamp
end

-- What readers of many users are told of one: in :state in this order.
local STATE = {'sid', 'online', 'notifiable', 'epoch', 'nepoch', 'rev', 'last_online'}

-- Notes in :state and in the change log what the user's hash says now. Whatever
-- changes one of those fields ends with this.
local function record(svc, id)
  local s, f = base .. ':' .. svc, redis.call('HMGET', ukey(svc, id), unpack(STATE))
  for i = 1, #STATE do f[i] = f[i] or '' end
  redis.call('HSET', s .. ':state', id, table.concat(f, ' '))
  redis.call('ZADD', s .. (f[2] == '1' and ':online' or ':offline'), newstamp(), id)
  redis.call('ZREM', s .. (f[2] == '1' and ':offline' or ':online'), id)
end

-- Notes that the user was deleted. This is forgotten after KEEP seconds.
local KEEP = 8 * 86400
local function forget(svc, id)
  local s = base .. ':' .. svc
  redis.call('HDEL', s .. ':state', id)
  redis.call('ZREM', s .. ':online', id)
  redis.call('ZREM', s .. ':offline', id)
  redis.call('ZADD', s .. ':gone', newstamp(), id)
  redis.call('ZREMRANGEBYSCORE', s .. ':gone', '-inf', str(us - KEEP * 1000000))
  redis.call('EXPIRE', s .. ':gone', KEEP)
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
  record(svc, id)
  publish(msg)
end

-- Has every node look at the partition for work of a kind: 'e', sessions to be ended.
-- It may be lost: the next heartbeat finds the work too.
local function wake(kind)
  local prefix, number = string.match(base, '^(.*){p(%d+)}$')
  redis.call('PUBLISH', prefix .. 'wake', kind .. tonumber(number))
end

-- Has the nodes that hold a user's sessions, or the one session that is named, end
-- them, and forgets the sessions. Returns how many.
local function expel(svc, id, only)
  local on = onkey(svc, id)
  local sessions, ended = redis.call('HGETALL', on), 0
  for i = 1, #sessions, 2 do
    local session, node = sessions[i], sessions[i + 1]
    if only == '' or only == session then
      redis.call('HDEL', on, session)
      redis.call('SREM', base .. ':node:' .. node, session .. svc .. id)
      redis.call('SADD', base .. ':end:' .. node, session)
      ended = ended + 1
    end
  end
  return ended
end

local function create(svc, id, sid, role)
  redis.call('HSET', ukey(svc, id), 'sid', sid, 'role', role, 'attributes', '{}', 'created', str(us), 'updated', str(now))
  redis.call('ZADD', base .. ':' .. svc .. ':users', 0, string.format('%016.0f', us) .. sid)
  redis.call('HSET', base .. ':' .. svc .. ':sids', sid, id)
  redis.call('ZREM', base .. ':' .. svc .. ':gone', id)
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

-- True if the user is recorded online without any session to keep it so.
local function orphan(svc, id)
  return redis.call('EXISTS', onkey(svc, id)) == 0 and redis.call('HGET', ukey(svc, id), 'online') == '1'
end

-- session..service..identity
local SESSION, SERVICE = 24, 34
local function split(member)
  return string.sub(member, 1, SESSION), string.sub(member, SESSION + 1, SESSION + SERVICE), string.sub(member, SESSION + SERVICE + 1)
end
