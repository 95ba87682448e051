-- Shared by every script of a partition.
-- KEYS[1]  base of the partition's keys, such as rc:{p007}; also its channel
-- KEYS[2]  only on a Cluster, whose channels are sharded; why is said where keys are declared
-- ARGV[1]  offset in ms added to the clock (0 outside tests)
--
-- Keys below the base (all in one slot; spelt in internal/keys too):
--   :seq           hash  run, n (events published), rev (highest of a deleted user), beat (ms of the last heartbeat),
--                        stamp (of the last change)
--   :nodes         zset  node -> lease deadline, ms
--   :ops           hash  node -> operations of that node, gone when it was reaped
--   :node:<node>   set   session..service..identity
--   :end:<node>    set   sessions which that node must end; outlives its lease by KEEP, for a node that was cut off
--   :deleted       zset  SID of a deleted user -> when, ms
--   :linger        zset  service..identity -> due, ms
--   :<IS>:u:<id>   hash  the user      :<IS>:on:<id>  hash  session -> node
--                  of the user, left: how it last began to linger, and for how many ms it is away when that is over
--   :<IS>:users    zset  creation order  :<IS>:sids   hash  user SID -> identity
--   :<IS>:state    hash  identity -> sid, online, notifiable, epoch, nepoch, rev, last_online, joined by spaces: what
--                        the user's hash says, once more, for readers of many users
--   :<IS>:b:<id>   hash  binding SID -> JSON of strings: t type, a address, c credential or
--                        empty, m message types, k created (16 digits, us), u updated, x expires, ms
--   :<IS>:bindings zset  creation order  :<IS>:bsids  hash  binding SID -> identity
--   :<IS>:addr     hash  type:address (of any user) -> binding SIDs joined by commas: the one
--                        that has it, empty for none, and those that it is being taken from
--   :bindexp       zset  service..binding SID -> when it expires, ms
--   :unsettled     zset  service..binding SID..type:address -> when to see to it that the binding
--                        and what :addr says elsewhere agree, ms
--   :cred:<CR>     set   service..binding SID
-- and for webhooks:
--   :hooks         hash  service, or * for the account -> version, wanted events, debounce in ms
--   :hookdue       zset  service -> when the first of its users is due
--   :debounce      zset  service..identity -> when its change will have lasted
--   :hookstats     hash  what became of events outside a delivery, taken by the next claim
--   :<IS>:due      zset  identity -> when its next attempt is due, or its claim lapses
--   :<IS>:q:<id>   list  events owed: queued (ms), EV SID, JSON
--   :<IS>:tries    hash  identity -> failed attempts at its first event
--   :<IS>:dead     zset  dead letters in the order of their death
--   :<IS>:letters  hash  EV SID -> died (us), attempts, why, then as in the list
-- and for the change log, with each user in one of the three; a stamp is in us and
-- grows with each change of the partition:
--   :<IS>:online, :<IS>:offline   zset  identity -> stamp of the last change, by the recorded state
--   :<IS>:gone                    zset  identity -> stamp of the deletion
local base, PUBLISH = KEYS[1], KEYS[2] and 'SPUBLISH' or 'PUBLISH'
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2] + ARGV[1] * 1000
local now = math.floor(us / 1000)

-- Lua prints large numbers with an exponent; Redis and cjson would too.
local function str(n) return string.format('%.0f', n) end
local function ukey(svc, id) return base .. ':' .. svc .. ':u:' .. id end
local function onkey(svc, id) return base .. ':' .. svc .. ':on:' .. id end
local function bkey(svc, id) return base .. ':' .. svc .. ':b:' .. id end

-- What one script need not read twice.
local seen, wishes = nil, {}

-- Counts a change: returns the run, the number of events with it (one more if it is
-- to be published) and its stamp. A stamp is never below what the clock was before,
-- so that a reader who has all stamps below a time that the clock has reached has
-- missed none.
local function count(event)
  local seq = base .. ':seq'
  seen = seen or redis.call('HMGET', seq, 'run', 'n', 'stamp')
  local run, n, stamp = seen[1] or str(us), (tonumber(seen[2]) or 0) + event, math.max((tonumber(seen[3]) or 0) + 1, us)
  seen = {run, n, stamp}
  redis.call('HSET', seq, 'run', run, 'n', str(n), 'stamp', str(stamp))
  return run, str(n), str(stamp)
end

-- Publishes an event, and returns the stamp of the change.
local function publish(msg)
  local run, n, stamp = count(1)
  msg.r, msg.q = run, n
  redis.call(PUBLISH, base, cjson.encode(msg))
  return stamp
end

-- What readers of many users are told of one: in :state in this order.
local STATE = {'sid', 'online', 'notifiable', 'epoch', 'nepoch', 'rev', 'last_online'}

-- Notes in :state and in the change log what the user's hash says now. Whatever
-- changes one of those fields ends with this.
-- f, stamp: the values of STATE and the stamp of the change, if known
local function record(svc, id, f, stamp)
  local s, state = base .. ':' .. svc, {}
  f = f or redis.call('HMGET', ukey(svc, id), unpack(STATE))
  for i = 1, #STATE do state[i] = f[i] or '' end
  redis.call('HSET', s .. ':state', id, table.concat(state, ' '))
  if not stamp then stamp = select(3, count(0)) end
  local list, other = s .. (f[2] == '1' and ':online' or ':offline'), s .. (f[2] == '1' and ':offline' or ':online')
  if redis.call('ZADD', list, stamp, id) == 1 then redis.call('ZREM', other, id) end
end

-- Notes that the user was deleted, under the stamp of that. This is forgotten after KEEP seconds.
local KEEP = 8 * 86400
local function forget(svc, id, stamp)
  local s = base .. ':' .. svc
  redis.call('HDEL', s .. ':state', id)
  redis.call('ZREM', s .. ':online', id)
  redis.call('ZREM', s .. ':offline', id)
  redis.call('ZADD', s .. ':gone', stamp, id)
  redis.call('ZREMRANGEBYSCORE', s .. ':gone', '-inf', str(us - KEEP * 1000000))
  redis.call('EXPIRE', s .. ':gone', KEEP)
end

-- Remembers the SID of a deleted user for KEEP seconds, and of many the last TOMBS: a
-- node that was cut off meanwhile may still hold sessions of it, and is not to make
-- the user anew with them.
local TOMBS = 1000
local function entomb(sid)
  local deleted = base .. ':deleted'
  redis.call('ZADD', deleted, str(now), sid)
  redis.call('ZREMRANGEBYSCORE', deleted, '-inf', str(now - KEEP * 1000))
  redis.call('ZREMRANGEBYRANK', deleted, 0, -TOMBS - 1)
  redis.call('EXPIRE', deleted, KEEP)
end

-- Has every node look at the partition for work of a kind: 'e', sessions to be ended;
-- 'w', webhooks to be delivered.
-- It may be lost: the next heartbeat finds the work too.
local function wake(kind)
  local prefix, number = string.match(base, '^(.*){p(%d+)}$')
  redis.call('PUBLISH', prefix .. 'wake', kind .. tonumber(number))
end

-- What of a service's users its backend wants to be told: any of a (added), u
-- (updated), r (reachability changed), or -; and for how long a change must last, ms.
local function wanted(svc)
  if wishes[svc] then return wishes[svc].kinds, wishes[svc].window end
  local h = redis.call('HMGET', base .. ':hooks', svc, '*')
  local kinds, window = '*', '0'
  if h[1] then kinds, window = string.match(h[1], '^%d+ (%S+) (%d+)$') end
  if kinds == '*' then kinds = h[2] and string.match(h[2], '^%d+ (%S+)') or '-' end
  wishes[svc] = {kinds = kinds, window = tonumber(window)}
  return kinds, tonumber(window)
end

-- The service has an event due at a time.
local function due(svc, at)
  local have = tonumber(redis.call('ZSCORE', base .. ':hookdue', svc) or nil)
  if not have or have > at then
    redis.call('ZADD', base .. ':hookdue', str(at), svc)
    wake('w')
  end
end

-- An event that will not be delivered any more becomes a dead letter; of those the
-- oldest make room.
local BURIED = 100
local function bury(svc, item, why, tries)
  local dead, letters = base .. ':' .. svc .. ':dead', base .. ':' .. svc .. ':letters'
  local ev = string.match(item, '^%d+ (%S+) ')
  redis.call('ZADD', dead, 0, string.format('%016.0f', us) .. ev)
  redis.call('HSET', letters, ev, str(us) .. ' ' .. tries .. ' ' .. why .. ' ' .. item)
  if redis.call('ZCARD', dead) > BURIED then
    local oldest = redis.call('ZRANGE', dead, 0, 0)[1]
    redis.call('ZREM', dead, oldest)
    redis.call('HDEL', letters, string.sub(oldest, 17))
    redis.call('HINCRBY', base .. ':hookstats', 'lost', 1)
  end
end

-- Queues an event behind the user's others. Of too many that wait the oldest becomes
-- a dead letter; the first RUN may be under way.
local RUN, WAITING = 4, 100
local function queue(svc, id, item)
  local q = base .. ':' .. svc .. ':q:' .. id
  local n = redis.call('RPUSH', q, item)
  if n == 1 then
    redis.call('ZADD', base .. ':' .. svc .. ':due', str(now), id)
    due(svc, now)
  elseif n > WAITING then
    local oldest = redis.call('LINDEX', q, RUN)
    redis.call('LREM', q, 1, oldest)
    bury(svc, oldest, 'overflow', 0)
    redis.call('HINCRBY', base .. ':hookstats', 'overflow', 1)
  end
end

-- The service is due when the first of its users is.
local function reschedule(svc)
  local first = redis.call('ZRANGE', base .. ':' .. svc .. ':due', 0, 0, 'WITHSCORES')[2]
  if first then
    redis.call('ZADD', base .. ':hookdue', first, svc)
  else
    redis.call('ZREM', base .. ':hookdue', svc)
  end
end

-- How long until a webhook is due, or a change has lasted: ms, -1 if there is none.
-- busy, n: services that do not count, and how many they are.
local function work(busy, n)
  local first = tonumber(redis.call('ZRANGE', base .. ':debounce', 0, 0, 'WITHSCORES')[2])
  local services = redis.call('ZRANGE', base .. ':hookdue', 0, n or 0, 'WITHSCORES')
  for i = 1, #services, 2 do
    if not (busy and busy[services[i]]) then
      local at = tonumber(services[i + 1])
      if not first or at < first then first = at end
      break
    end
  end
  return first and math.max(0, math.ceil(first - now)) or -1
end

-- Queues what the backend is to be told of a user, one item for each request: what
-- holds any of a (the user was added), p (its profile changed) and r (its
-- reachability did). A change of reachability is put off until it has lasted for the
-- debounce window; one that goes back to what was last told is never told.
-- origin: SDK or API.   lasted: the window is over
local function owe(svc, id, what, cause, origin, lasted)
  local kinds, window = wanted(svc)
  if kinds == '-' then return end
  local u = ukey(svc, id)
  local f = redis.call('HMGET', u, 'told', 'online', 'epoch', 'notifiable', 'nepoch', 'rev', 'sid', 'last_online',
    'friendly_name', 'attributes', 'role', 'created', 'updated', 'pending')
  local before, at = nil, str(now)
  if string.find(what, 'r', 1, true) then
    local state = string.format('%s %s %s %s', f[2] or '-', f[3] or '-', f[4] or '-', f[5] or '-')
    local rev, told = string.match(f[1] or '', '^(%d+) (.*)$')
    if window > 0 and not lasted and string.find(kinds, '[ur]') then
      what = string.gsub(what, 'r', '')
      if told == state then
        redis.call('ZREM', base .. ':debounce', svc .. id)
      else
        redis.call('HSET', u, 'pending', at .. ' ' .. cause)
        redis.call('ZADD', base .. ':debounce', str(now + window), svc .. id)
        -- who delivers asks again when the first is due
        if redis.call('ZRANK', base .. ':debounce', svc .. id) == 0 then wake('w') end
      end
    elseif lasted and told == state then
      return
    else
      if lasted and f[14] then at, cause = string.match(f[14], '^(%d+) (.*)$') end
      redis.call('HSET', u, 'told', f[6] .. ' ' .. state)
      before = rev
    end
  end
  local function push(kind)
    local item = {k = kind, i = id, u = f[7], v = f[6], c = cause, t = at, x = cause == 'operator' and 'API' or origin, o = f[2] or nil, e = f[3] or nil,
      n = f[4] or nil, ne = f[5] or nil, l = f[8] or nil, b = before}
    if kind ~= 'r' then
      item.f, item.a, item.r, item.cr, item.up = f[9] or nil, f[10] or nil, f[11] or nil, f[12] or nil, f[13] or nil
      if string.find(what, 'p', 1, true) then item.p = '1' end
    end
    local ev = string.format('EV%04x%014x%014x', tonumber(string.match(base, '{p(%d+)}$')), us,
      redis.call('HINCRBY', base .. ':seq', 'hooks', 1))
    queue(svc, id, str(now) .. ' ' .. ev .. ' ' .. cjson.encode(item))
  end
  local function wants(event, any) return string.find(kinds, event, 1, true) and string.find(what, any) end
  if wants('a', 'a') then push('a') end
  if wants('u', '[pr]') then push('u') end
  if wants('r', 'r') then push('r') end
end

-- Gives the user a revision above its last and above floor, and publishes its
-- recorded state. mask holds the reasons; profile values go with their reason.
-- cause: connect, switch, end, operator, linger, lease, create, update, register_push,
-- unregister_push, push_expired or repair.
-- origin: SDK (the default) or API, told to the backend; with '' it hears of neither
-- creation nor profile. added: the user was just created.
local function emit(svc, id, mask, floor, cause, origin, added)
  local u = ukey(svc, id)
  local f = redis.call('HMGET', u, 'sid', 'online', 'notifiable', 'epoch', 'nepoch', 'rev', 'last_online', 'friendly_name', 'attributes')
  local rev = str(math.max((tonumber(f[6]) or 0) + 1, now, floor + 1))
  f[6] = rev
  redis.call('HSET', u, 'rev', rev)
  local msg = {s = svc, i = id, u = f[1], v = rev, o = f[2] or nil, n = f[3] or nil, e = f[4] or nil, ne = f[5] or nil,
    l = f[7] or nil, m = mask}
  if mask % 8 >= 4 then msg.f = f[8] or nil end
  if mask % 16 >= 8 then msg.a = f[9] or nil end
  record(svc, id, f, publish(msg))
  local what = mask % 4 > 0 and 'r' or ''
  if origin ~= '' and (added or mask >= 4) then what = what .. (added and 'a' or 'p') end
  if what ~= '' then owe(svc, id, what, cause, origin or 'SDK') end
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

-- How long no node has beaten, ms, if that is longer than stall, else 0: nobody could have renewed anything (Redis
-- was paused or away). The next heartbeat moves all leases and lingers by it, so what begins only now, and is to end
-- at its time all the same, is made due earlier by it.
local function silence(stall)
  local silent = now - (tonumber(redis.call('HGET', base .. ':seq', 'beat')) or now)
  return silent > stall and silent or 0
end

-- An online user is not shown offline before its linger is over, unless it signs out or is
-- ended. One of its sessions ended some ms ago. For how long the user will then
-- have been away is noted as a duration, since what is due at its time moves with the
-- times in which no node has beaten.
local function lingering(svc, id, linger, silent, how, ago)
  if redis.call('HGET', ukey(svc, id), 'online') ~= '1' then return end -- its record may be lost
  local due, have = now + linger - silent, tonumber(redis.call('ZSCORE', base .. ':linger', svc .. id) or nil)
  if have and have >= due then return end
  redis.call('ZADD', base .. ':linger', str(due), svc .. id)
  redis.call('HSET', ukey(svc, id), 'left', how .. ' ' .. str(linger + ago))
end

-- True if the user lingers for a session that ended after one which ended some ms ago: what is told late, because
-- Redis was away, does not cut short what began since.
local function newer(svc, id, silent, ago)
  local due = tonumber(redis.call('ZSCORE', base .. ':linger', svc .. id) or nil)
  local away = due and tonumber(string.match(redis.call('HGET', ukey(svc, id), 'left') or '', ' (%d+)$'))
  return away and due + silent - away > now - ago or false
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

-- The live node that the partition's name fits best: all nodes agree on it, and few
-- partitions move when one comes or goes.
local function fittest()
  local best, chosen = ''
  for _, node in ipairs(redis.call('ZRANGEBYSCORE', base .. ':nodes', str(now), '+inf')) do
    local fit = redis.sha1hex(base .. node)
    if fit > best then best, chosen = fit, node end
  end
  return chosen
end
