-- Shared by every script of a partition, after clock.lua.
-- KEYS[1]  base of the partition's keys, such as rc:{p007}; also its channel
-- KEYS[2]  only on a Cluster, whose channels are sharded; why is said where keys are declared
--
-- Keys below the base (all in one slot; spelt in internal/keys too):
--   :seq           hash  run, n (events published), rev (highest of a deleted user), beat (ms of the last heartbeat),
--                        stamp (of the last change), block (the last that was begun), look (ms: before that nothing is due),
--                        ops:<node> (operations of that node, gone when it was reaped)
--   :nodes         zset  node -> lease deadline, ms
--   :node:<node>   hash  service -> the node's blocks of the online state, joined by commas
--   :lapsed        hash  service of which blocks lapsed -> stamp up to which its users were looked at since
--   :end:<node>    set   sessions which that node must end; outlives its lease by KEEP, for a node that was cut off
--   :deleted       zset  SID of a deleted user -> when, ms
--   :linger        zset  service..identity -> due, ms
--   :<IS>:state    hash  identity -> the user, in few words: see load
--   :<IS>:u:<id>   hash  what few users have: friendly_name, attributes (absent: {}), told and pending (of webhooks)
--   :<IS>:users    zset  SID without what all of the partition begin with..identity, all of one score: the order of
--                        creation, since a SID begins with that
--   :<IS>:roles    hash  role -> a number for it, and number -> role
--   :<IS>:on:<n>   hash  a block of the online state: identity -> sessions joined by commas, and empty -> the node whose
--                        sessions they are. Small enough to be packed
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
local function ukey(svc, id) return base .. ':' .. svc .. ':u:' .. id end
local function block(svc, n) return base .. ':' .. svc .. ':on:' .. n end

-- What one script need not read twice.
local seen, wishes = nil, {}

-- Has the next heartbeat look for what is due: to be called by what puts anything into :linger, :unsettled, :bindexp,
-- :hooks, :lapsed or :end:<node>.
local looking = false
local function soon()
  if not looking then redis.call('HSET', base .. ':seq', 'look', '0') end
  looking = true
end

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

-- What :state says of a user, each empty if there is none:
--   sid          without what all of the partition begin with; its first 13 digits are the time of creation, us
--   online, notifiable (1 or 0), epoch, nepoch, rev, last_online: these are all that bulk readers read
--   role         as a number        updated  ms, if not as created
--   left         how the user last began to linger, and for how many ms it is away when that is over
--   on           blocks of the online state that have its sessions, joined by commas
local PATTERN = '^(%S*) (%S*) (%S*) (%S*) (%S*) (%S*) (%S*) (%S*) (%S*) (%S*) (%S*)$'

-- The user as a table of svc, id and these; nil if there is none.
local function load(svc, id)
  local text = redis.call('HGET', base .. ':' .. svc .. ':state', id)
  if not text then return nil end
  local u = {svc = svc, id = id}
  u.sid, u.online, u.notifiable, u.epoch, u.nepoch, u.rev, u.last_online, u.role, u.updated, u.left, u.on = string.match(text, PATTERN)
  return u.sid and u.sid ~= '' and u or nil
end

local function text(u)
  return table.concat({u.sid, u.online, u.notifiable, u.epoch, u.nepoch, u.rev, u.last_online, u.role, u.updated, u.left, u.on}, ' ')
end

local function save(u) redis.call('HSET', base .. ':' .. u.svc .. ':state', u.id, text(u)) end

local function whole(sid) return string.format('US%04x', tonumber(string.match(base, '{p(%d+)}$'))) .. sid end
local SHORT = 28 -- characters of a SID that :users and :state keep

local function created(u) return tonumber(string.sub(u.sid, 1, 13), 16) end
local function some(field) return field ~= '' and field or nil end

-- Saves a user, and notes in the change log that it changed.
-- stamp: of the change, if known
local function record(u, stamp)
  save(u)
  if not stamp then stamp = select(3, count(0)) end
  local s, online = base .. ':' .. u.svc, u.online == '1'
  if redis.call('ZADD', s .. (online and ':online' or ':offline'), stamp, u.id) == 1 then
    redis.call('ZREM', s .. (online and ':offline' or ':online'), u.id)
  end
end

-- What is gone is remembered for so many seconds.
local KEEP = 8 * 86400

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

local function role(u) return u.role ~= '' and redis.call('HGET', base .. ':' .. u.svc .. ':roles', u.role) or '' end

-- What else there is to webhooks, made when it is first needed: every function that a script makes costs it 0.15 us, and
-- most have nobody to tell.
local function webhooks()
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

  local function updated(u) return u.updated ~= '' and u.updated or str(math.floor(created(u) / 1000)) end

  -- Queues what owe is asked for.
  local function tell(u, kinds, window, what, cause, origin, lasted)
    local svc, id = u.svc, u.id
    local key = ukey(svc, id)
    local f = redis.call('HMGET', key, 'told', 'pending', 'friendly_name', 'attributes')
    local before, at = nil, str(now)
    if string.find(what, 'r', 1, true) then
      local state = string.format('%s %s %s %s', some(u.online) or '-', some(u.epoch) or '-', some(u.notifiable) or '-', some(u.nepoch) or '-')
      local rev, told = string.match(f[1] or '', '^(%d+) (.*)$')
      if window > 0 and not lasted and string.find(kinds, '[ur]') then
        what = string.gsub(what, 'r', '')
        if told == state then
          redis.call('ZREM', base .. ':debounce', svc .. id)
        else
          redis.call('HSET', key, 'pending', at .. ' ' .. cause)
          redis.call('ZADD', base .. ':debounce', str(now + window), svc .. id)
          -- who delivers asks again when the first is due
          if redis.call('ZRANK', base .. ':debounce', svc .. id) == 0 then wake('w') end
        end
      elseif lasted and told == state then
        return
      else
        if lasted and f[2] then at, cause = string.match(f[2], '^(%d+) (.*)$') end
        redis.call('HSET', key, 'told', u.rev .. ' ' .. state)
        before = rev
      end
    end
    local function push(kind)
      local item = {k = kind, i = id, u = whole(u.sid), v = u.rev, c = cause, t = at, x = cause == 'operator' and 'API' or origin, o = some(u.online),
        e = some(u.epoch), n = some(u.notifiable), ne = some(u.nepoch), l = some(u.last_online), b = before}
      if kind ~= 'r' then
        item.f, item.a, item.r, item.cr, item.up = f[3] or nil, f[4] or '{}', role(u), str(created(u)), updated(u)
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

  return {RUN = RUN, bury = bury, queue = queue, reschedule = reschedule, work = work, tell = tell}
end

-- Queues what the backend is to be told of a user, one item for each request: what
-- holds any of a (the user was added), p (its profile changed) and r (its
-- reachability did). A change of reachability is put off until it has lasted for the
-- debounce window; one that goes back to what was last told is never told.
-- origin: SDK or API.   lasted: the window is over
local function owe(u, what, cause, origin, lasted)
  local kinds, window = wanted(u.svc)
  if kinds ~= '-' then webhooks().tell(u, kinds, window, what, cause, origin, lasted) end
end

-- Gives the user a revision above its last and above floor, saves it and publishes its
-- state. mask holds the reasons; profile values go with their reason.
-- cause: connect, switch, end, operator, linger, lease, create, update, register_push,
-- unregister_push, push_expired or repair.
-- origin: SDK (the default) or API, told to the backend; with '' it hears of neither
-- creation nor profile. added: the user was just created.
local function emit(u, mask, floor, cause, origin, added)
  u.rev = str(math.max((tonumber(u.rev) or 0) + 1, now, floor + 1))
  local msg = {s = u.svc, i = u.id, u = whole(u.sid), v = u.rev, o = some(u.online), n = some(u.notifiable), e = some(u.epoch), ne = some(u.nepoch),
    l = some(u.last_online), m = mask}
  if mask % 8 >= 4 then msg.f = redis.call('HGET', ukey(u.svc, u.id), 'friendly_name') or nil end
  if mask % 16 >= 8 then msg.a = redis.call('HGET', ukey(u.svc, u.id), 'attributes') or '{}' end
  record(u, publish(msg))
  local what = mask % 4 > 0 and 'r' or ''
  if origin ~= '' and (added or mask >= 4) then what = what .. (added and 'a' or 'p') end
  if what ~= '' then owe(u, what, cause, origin or 'SDK') end
end

-- Joins and takes apart what commas join.
local function with(list, one) return list == '' and one or list .. ',' .. one end
local function without(list, one)
  local rest = ''
  for v in string.gmatch(list, '[^,]+') do
    if v ~= one then rest = with(rest, v) end
  end
  return rest
end

-- A hash is packed as long as it has no more than 128 fields and none longer than 64 bytes, by the defaults of Redis. A
-- block takes new users up to BLOCK, and of one user as many sessions as make no more than HELD bytes; of a user who is in
-- more than FEW blocks any number, because every script about it looks into all of them.
local BLOCK, HELD, FEW = 100, 64, 8

-- A block of a node with room for one more user, who is not in it yet: the last, or one from which others have left
-- since, or a new one.
local turn = us
local function allot(u, node)
  local key = base .. ':node:' .. node
  local list = redis.call('HGET', key, u.svc) or ''
  local function room(n)
    if string.find(',' .. u.on .. ',', ',' .. n .. ',', 1, true) then return false end
    local size = redis.call('HLEN', block(u.svc, n))
    if size == 0 then redis.call('HSET', block(u.svc, n), '', node) end -- it lapsed
    return size < BLOCK
  end
  local last = string.match(list, '%d+$')
  if last then
    if room(last) then return last end
    local all = {}
    for n in string.gmatch(list, '%d+') do all[#all + 1] = n end
    turn = turn + 1
    local other = all[turn % #all + 1]
    if room(other) then return other end
  end
  local n
  repeat -- one that there is already is another node's: the counter was lost
    n = str(redis.call('HINCRBY', base .. ':seq', 'block', 1))
  until redis.call('HSETNX', block(u.svc, n), '', node) == 1
  redis.call('HSET', key, u.svc, with(list, n))
  return n
end

-- Removes a block that has nobody any more.
local function clear(svc, n)
  local b = block(svc, n)
  if redis.call('HLEN', b) > 1 then return end
  local node = redis.call('HGET', b, '')
  redis.call('DEL', b)
  if not node then return end
  local key = base .. ':node:' .. node
  local rest = without(redis.call('HGET', key, svc) or '', n)
  if rest == '' then redis.call('HDEL', key, svc) else redis.call('HSET', key, svc, rest) end
end

-- Removes a session of a user from a block; true if it was there.
local function part(svc, id, session, n)
  local b = block(svc, n)
  local held = redis.call('HGET', b, id)
  if not (held and string.find(held, session, 1, true)) then return false end
  local rest = without(held, session)
  if rest ~= '' then
    redis.call('HSET', b, id, rest)
  else
    redis.call('HDEL', b, id)
    clear(svc, n)
  end
  return true, rest == ''
end

-- Adds a session to a user's, or renews it; true if it is new. It is for the caller to save the user.
local function join(u, session, node, ttl)
  local renewed, at, held, blocks = false, nil, nil, 0
  for n in string.gmatch(u.on, '%d+') do
    blocks = blocks + 1
    local b = block(u.svc, n)
    local is = redis.call('HMGET', b, '', u.id)
    local there = is[2] and string.find(is[2], session, 1, true)
    if there and is[1] == node then
      redis.call('PEXPIRE', b, ttl)
      renewed = true
    elseif there then -- as if of another node
      if select(2, part(u.svc, u.id, session, n)) then u.on = without(u.on, n) end
    elseif not is[2] then
      u.on = without(u.on, n) -- it lapsed
    elseif is[1] == node and (#is[2] + #session < HELD or blocks > FEW) then
      at, held = n, is[2]
    end
  end
  if renewed then return false end
  if not at then
    at = allot(u, node)
    u.on = with(u.on, at)
  end
  local b = block(u.svc, at)
  redis.call('HSET', b, u.id, held and with(held, session) or session)
  redis.call('PEXPIRE', b, ttl)
  return true
end

-- Removes a session of a user, who need not exist; true if it was there. It is for the caller to save the user.
local function quit(u, svc, id, session, node)
  for n in string.gmatch(u and u.on or '', '%d+') do
    local was, last = part(svc, id, session, n)
    if was then
      if last then u.on = without(u.on, n) end
      return true
    end
  end
  -- if the user's record was lost its sessions may be there all the same
  for n in string.gmatch(redis.call('HGET', base .. ':node:' .. node, svc) or '', '%d+') do
    if part(svc, id, session, n) then return true end
  end
  return false
end

-- True if the user has a live session.
local function live(u)
  for n in string.gmatch(u.on, '%d+') do
    if redis.call('HEXISTS', block(u.svc, n), u.id) == 1 then return true end
  end
  return false
end

-- True if the user is recorded online without any session to keep it so.
local function orphan(u) return u.online == '1' and not live(u) end

-- The number of a role.
local function numbered(svc, role)
  if role == '' then return '' end
  local roles = base .. ':' .. svc .. ':roles'
  local n = redis.call('HGET', roles, role)
  if not n then
    n = str(redis.call('HLEN', roles) / 2 + 1)
    redis.call('HSET', roles, role, n, n, role)
  end
  return n
end

-- Makes a user, which is for the caller to save. Returns it and the least revision that it may have, above floor.
-- sid: of zeros where the time is to be if the user is new
local function create(svc, id, sid, role, floor)
  sid = string.sub(sid, 7)
  if tonumber(string.sub(sid, 1, 13), 16) == 0 then sid = string.format('%013x', us) .. string.sub(sid, 14) end
  redis.call('DEL', ukey(svc, id)) -- of a user that was lost
  redis.call('ZADD', base .. ':' .. svc .. ':users', 0, sid .. id)
  redis.call('ZREM', base .. ':' .. svc .. ':gone', id)
  local u = {svc = svc, id = id, sid = sid, online = '', notifiable = '', epoch = '', nepoch = '', rev = '', last_online = '',
    role = numbered(svc, role), updated = '', left = '', on = ''}
  if math.floor(created(u) / 1000) ~= now then u.updated = str(now) end -- made again
  -- a user made again goes on above the revision its predecessor ended with
  return u, math.max(floor, tonumber(redis.call('HGET', base .. ':seq', 'rev')) or 0)
end

-- The offline transition of a user whose last session is gone. epoch: the service's
-- if its switch is known to be on, else 0. It is published whatever the switch: the
-- caller may not have heard of a flip that others have heard of.
local function offline(u, epoch, floor, cause)
  if epoch > (tonumber(u.epoch) or 0) then u.epoch = str(epoch) end
  u.online, u.last_online, u.left, u.on = '0', str(now), '', ''
  emit(u, 1, floor, cause)
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
-- times in which no node has beaten. It is for the caller to save the user.
local function lingering(u, linger, silent, how, ago)
  if u.online ~= '1' then return end -- its record may be lost
  local due, have = now + linger - silent, tonumber(redis.call('ZSCORE', base .. ':linger', u.svc .. u.id) or nil)
  if have and have >= due then return end
  redis.call('ZADD', base .. ':linger', str(due), u.svc .. u.id)
  soon()
  u.left = how .. ':' .. str(linger + ago)
end

-- Whether blocks lapsed that had sessions of a user who has no live one left. Blocks of several nodes lapse at different
-- times, while Redis is away, and a node that holds such a session is about to register it anew: the user is to linger
-- for a lease. This is told once; it is for the caller to save the user.
local function vanished(u)
  local some = u.on ~= ''
  u.on = ''
  return some
end

-- True if the user lingers for a session that ended after one which ended some ms ago: what is told late, because
-- Redis was away, does not cut short what began since.
local function newer(u, silent, ago)
  local due = tonumber(redis.call('ZSCORE', base .. ':linger', u.svc .. u.id) or nil)
  local away = due and tonumber(string.match(u.left, ':(%d+)$'))
  return away and due + silent - away > now - ago or false
end
