-- The checks of verify.lua, each of which sees its subject whole. A subject is a table of
-- type, svc, id and rest, with what is known of the service: enabled, epoch (-1: nothing
-- is known) and rev. What is found is mended in the same step if that is asked for.
-- ARGV[2]  1 to mend            ARGV[3]  grace, ms: so late may be what is due
-- ARGV[4]  lease, ms            ARGV[5]  the longest linger, ms
-- ARGV[6]  TTL of the online state, ms   ARGV[7]  stall, ms
local mend, grace, longest, ttl = ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[5]), ARGV[6]
local in_a_lease = str(now + ARGV[4] - silence(tonumber(ARGV[7])))
local nodes, lingers, ops = base .. ':nodes', base .. ':linger', base .. ':ops'

local found = {}
local function report(s, kind, detail, fix)
  for _, v in ipairs({kind, s.type, s.svc, s.id, s.rest, detail}) do found[#found + 1] = v end
  if mend and fix then fix() end
end

local leases = {}
local function leased(node)
  if leases[node] == nil then leases[node] = tonumber(redis.call('ZSCORE', nodes, node) or nil) or false end
  return leases[node]
end

-- Has a node compare its record here with the sessions it holds, at its next heartbeat:
-- it ends what it does not hold, and registers anew what the record lacks.
local function ask(node)
  if leased(node) then redis.call('HINCRBY', ops, node, 1) end
end

-- Has a user linger for a lease. How and when it left is not known.
local function linger_a_lease(svc, id)
  redis.call('ZADD', lingers, in_a_lease, svc .. id)
  redis.call('HDEL', ukey(svc, id), 'left')
end

-- What is left of a user that does not exist.
local function check_absent(s)
  local svc, id, p, member = s.svc, s.id, base .. ':' .. s.svc, s.svc .. s.id
  local on, b = onkey(svc, id), bkey(svc, id)
  local sessions = redis.call('HGETALL', on)
  if #sessions > 0 then
    report(s, 'session_without_user', 'online state: ' .. #sessions / 2 .. ' sessions, of node ' .. sessions[2] .. '; user: none', function()
      for i = 1, #sessions, 2 do
        redis.call('SREM', base .. ':node:' .. sessions[i + 1], sessions[i] .. member)
        ask(sessions[i + 1])
      end
      redis.call('DEL', on)
    end)
  end
  local state, places = redis.call('HGET', p .. ':state', id), {}
  local logged = redis.call('ZSCORE', p .. ':online', id) or redis.call('ZSCORE', p .. ':offline', id)
  if redis.call('EXISTS', ukey(svc, id)) == 1 then places[#places + 1] = 'a hash without SID' end
  if state then places[#places + 1] = 'state copy' end
  if logged then places[#places + 1] = 'change log' end
  if redis.call('EXISTS', b) == 1 then places[#places + 1] = 'bindings' end
  if redis.call('ZSCORE', lingers, member) then places[#places + 1] = 'linger' end
  if #places == 0 then return end
  report(s, 'entry_without_user', 'user: none; yet there is: ' .. table.concat(places, ', '), function()
    for _, sid in ipairs(redis.call('HKEYS', b)) do
      if not pcall(unbind, svc, id, sid) then redis.call('HDEL', b, sid) end
    end
    redis.call('DEL', ukey(svc, id))
    redis.call('ZREM', lingers, member)
    redis.call('ZREM', base .. ':debounce', member)
    if not (state or logged) then return end
    local sid = string.match(state or '', '^%S+')
    if sid and redis.call('HGET', p .. ':sids', sid) == id then redis.call('HDEL', p .. ':sids', sid) end
    local last = tonumber(string.match(state or '', '^%S* %S* %S* %S* %S* (%d+)')) or 0
    local rev = math.max(last + 1, now, s.rev + 1)
    if rev > (tonumber(redis.call('HGET', base .. ':seq', 'rev')) or 0) then redis.call('HSET', base .. ':seq', 'rev', str(rev)) end
    forget(svc, id, publish({s = svc, i = id, v = str(rev), d = 1, m = 0}))
  end)
end

-- Push bindings of a user. Returns its bindings whose address is settled: sid, type:address, ...
local function check_bindings(s)
  local svc, id, p, b, settled = s.svc, s.id, base .. ':' .. s.svc, bkey(s.svc, s.id), {}
  local list = redis.call('HGETALL', b)
  for i = 1, #list, 2 do
    local sid, ok, x = list[i], pcall(cjson.decode, list[i + 1])
    if not (ok and type(x) == 'table' and x.t and x.a and x.c and x.k and tonumber(x.x)) then
      report(s, 'binding_index', 'binding ' .. sid .. ': cannot be read', function()
        redis.call('HDEL', b, sid)
        redis.call('HDEL', p .. ':bsids', sid)
        redis.call('ZREM', base .. ':bindexp', svc .. sid)
      end)
    elseif tonumber(x.x) < now - grace then
      report(s, 'binding_overdue', 'binding ' .. sid .. ': expired ' .. str(now - x.x) .. ' ms ago and is still there', function() unbind(svc, id, sid) end)
    else
      local lacking = {}
      if redis.call('HGET', p .. ':bsids', sid) ~= id then lacking[#lacking + 1] = 'SIDs' end
      if not redis.call('ZSCORE', p .. ':bindings', x.k .. sid) then lacking[#lacking + 1] = 'list' end
      if tonumber(redis.call('ZSCORE', base .. ':bindexp', svc .. sid) or nil) ~= tonumber(x.x) then lacking[#lacking + 1] = 'expiries' end
      if x.c ~= '' and redis.call('SISMEMBER', base .. ':cred:' .. x.c, svc .. sid) == 0 then lacking[#lacking + 1] = 'those of its credential' end
      if #lacking > 0 then
        report(s, 'binding_index', 'binding ' .. sid .. ': is there; not among: ' .. table.concat(lacking, ', '), function()
          redis.call('HSET', p .. ':bsids', sid, id)
          redis.call('ZADD', p .. ':bindings', 0, x.k .. sid)
          redis.call('ZADD', base .. ':bindexp', x.x, svc .. sid)
          if x.c ~= '' then redis.call('SADD', base .. ':cred:' .. x.c, svc .. sid) end
        end)
      end
      local address = x.t .. ':' .. x.a
      if not redis.call('ZSCORE', base .. ':unsettled', svc .. sid .. address) then
        settled[#settled + 1], settled[#settled + 2] = sid, address
      end
    end
  end
  local bound, flag = redis.call('EXISTS', b) == 1, redis.call('HGET', ukey(svc, id), 'notifiable')
  if bound ~= (flag == '1') then
    report(s, 'notifiable', 'bindings: ' .. redis.call('HLEN', b) .. '; user: notifiable is ' .. (flag or 'null'), function()
      redis.call('HSET', ukey(svc, id), 'notifiable', bound and '1' or '0')
      if s.enabled and s.epoch > (tonumber(redis.call('HGET', ukey(svc, id), 'nepoch')) or 0) then redis.call('HSET', ukey(svc, id), 'nepoch', str(s.epoch)) end
      emit(svc, id, 2, s.rev, 'repair')
    end)
  end
  return settled
end

-- A user with all that is said of it in the partition. Returns its SID and time of
-- creation, and what check_bindings does; nil if there is no such user.
local function check_user(s)
  local svc, id, p, member = s.svc, s.id, base .. ':' .. s.svc, s.svc .. s.id
  local u, on = ukey(svc, id), onkey(svc, id)
  local f = redis.call('HMGET', u, unpack(STATE))
  local sid = f[1]
  if not sid then
    check_absent(s)
    return nil
  end
  -- read first: mending sessions writes them
  local copy, wanted, stale = redis.call('HGET', p .. ':state', id), {}, false
  for i = 1, #STATE do wanted[i] = f[i] or '' end
  local logs = {}
  for _, log in ipairs({'online', 'offline', 'gone'}) do
    if redis.call('ZSCORE', p .. ':' .. log, id) then logs[#logs + 1] = log end
  end

  local list, ghosts = redis.call('HGETALL', on), false
  for i = 1, #list, 2 do
    local session, node = list[i], list[i + 1]
    local set = base .. ':node:' .. node
    if not leased(node) then
      report(s, 'session_without_lease', 'online state: session ' .. session .. ' of node ' .. node .. '; leases: none of ' .. node, function()
        redis.call('HDEL', on, session)
        redis.call('SREM', set, session .. member)
        ghosts = true
      end)
    elseif redis.call('SISMEMBER', set, session .. member) == 0 then
      report(s, 'session_unlisted', 'online state: session ' .. session .. ' of node ' .. node .. '; record of ' .. node .. ': without it', function()
        redis.call('SADD', set, session .. member)
        ask(node)
      end)
    end
  end
  if redis.call('PTTL', on) == -1 then
    report(s, 'online_without_ttl', 'online state: never expires', function() redis.call('PEXPIRE', on, ttl) end)
  end

  local live, online, linger = redis.call('EXISTS', on) == 1, f[2] == '1', tonumber(redis.call('ZSCORE', lingers, member) or nil)
  local function leave(cause)
    redis.call('ZREM', lingers, member)
    offline(svc, id, s.enabled and s.epoch or 0, s.rev, cause)
  end
  if linger and not online then
    report(s, 'linger_stray', 'linger: due in ' .. str(linger - now) .. ' ms; user: is offline already', function() redis.call('ZREM', lingers, member) end)
  elseif linger and linger < now - grace then
    report(s, 'linger_overdue', 'linger: due ' .. str(now - linger) .. ' ms ago; user: still online', function()
      if live then redis.call('ZREM', lingers, member) else leave('linger') end
    end)
  elseif linger and linger > now + longest + grace then
    report(s, 'linger_overdue', 'linger: due only in ' .. str(linger - now) .. ' ms', function() linger_a_lease(svc, id) end)
  elseif not linger and not live and online then
    if ghosts then
      leave('repair')
    else
      report(s, 'stuck_online', 'user: online; online state: no session; linger: none', function()
        linger_a_lease(svc, id)
        for _, node in ipairs(redis.call('ZRANGE', nodes, 0, -1)) do ask(node) end
      end)
    end
  end
  if live and not online then
    report(s, 'shown_offline', 'online state: ' .. #list / 2 .. ' sessions; user: online is ' .. (f[2] or 'null'), function()
      redis.call('HSET', u, 'online', '1')
      if s.enabled and s.epoch > (tonumber(f[4]) or 0) then redis.call('HSET', u, 'epoch', str(s.epoch)) end
      emit(svc, id, 1, s.rev, 'repair')
    end)
  end

  local epoch, nepoch = tonumber(f[4]) or 0, tonumber(f[5]) or 0
  if s.epoch >= 0 and (math.max(epoch, nepoch) > s.epoch or s.enabled and live and online and epoch < s.epoch and now - s.rev > grace) then
    report(s, 'epoch', 'user: epochs ' .. epoch .. ' and ' .. nepoch .. '; service: epoch ' .. s.epoch, function()
      if s.enabled and live then epoch = s.epoch end
      redis.call('HSET', u, 'epoch', str(math.min(epoch, s.epoch)))
      if nepoch > s.epoch then redis.call('HSET', u, 'nepoch', str(s.epoch)) end
      emit(svc, id, 3, s.rev, 'repair')
    end)
  end

  local settled = check_bindings(s)

  local created = tonumber(redis.call('HGET', u, 'created') or nil)
  local identity = redis.call('HGET', p .. ':sids', sid)
  if not created or identity ~= id or not redis.call('ZSCORE', p .. ':users', string.format('%016.0f', created) .. sid) then
    report(s, 'user_index', 'user: ' .. sid .. '; SIDs: ' .. (identity or 'none') .. '; list of users: ' .. (identity == id and 'without it' or 'not looked up'), function()
      if not created then
        created = us
        redis.call('HSET', u, 'created', str(created))
      end
      redis.call('HSET', p .. ':sids', sid, id)
      redis.call('ZADD', p .. ':users', 0, string.format('%016.0f', created) .. sid)
    end)
  end

  if copy ~= table.concat(wanted, ' ') then
    report(s, 'state_copy', 'user: ' .. table.concat(wanted, ' ') .. '; state copy: ' .. (copy or 'none'), function()
      emit(svc, id, 3, s.rev, 'repair') -- which of the two subscribers were told is not known
    end)
  end
  if table.concat(logs, ', ') ~= (online and 'online' or 'offline') then
    report(s, 'change_log', 'user: ' .. (online and 'online' or 'offline') .. '; change log: ' .. (#logs > 0 and table.concat(logs, ', ') or 'none'), function()
      for _, log in ipairs(logs) do redis.call('ZREM', p .. ':' .. log, id) end
      stale = true
    end)
  end
  if stale then record(svc, id) end
  return sid, created, settled
end

-- A session in a node's record. rest: session..node
local function check_session(s)
  local session, node = string.sub(s.rest, 1, SESSION), string.sub(s.rest, SESSION + 1)
  local set, member = base .. ':node:' .. node, session .. s.svc .. s.id
  if redis.call('SISMEMBER', set, member) == 0 then return end
  local holder = redis.call('HGET', onkey(s.svc, s.id), session)
  if holder ~= node then
    report(s, 'session_not_online', 'record of ' .. node .. ': session ' .. session .. '; online state: ' .. (holder and 'it is of node ' .. holder or 'without it'), function()
      redis.call('SREM', set, member)
      ask(node)
    end)
  elseif not redis.call('HGET', ukey(s.svc, s.id), 'sid') then
    check_absent({type = 'u', svc = s.svc, id = s.id, rest = '', enabled = s.enabled, epoch = s.epoch, rev = s.rev})
  end
end

-- A node's lease and what else there is of it. rest: the node
local function check_node(s)
  local node = s.rest
  local set, ended = base .. ':node:' .. node, base .. ':end:' .. node
  local has, counted = redis.call('SCARD', set), redis.call('HGET', ops, node)
  -- that a node which is gone was to end sessions is to be forgotten, but not at once
  local kept = not leased(node) and redis.call('PTTL', ended) == -1
  -- in chunks, as in beat.lua
  local function bury()
    for _, member in ipairs(redis.call('SPOP', set, 100)) do
      local session, svc, id = split(member)
      redis.call('HDEL', onkey(svc, id), session)
      if orphan(svc, id) and not redis.call('ZSCORE', lingers, svc .. id) then offline(svc, id, 0, 0, 'lease') end
    end
    if redis.call('EXISTS', set) == 1 then return end
    redis.call('ZREM', nodes, node)
    redis.call('HDEL', ops, node)
    redis.call('EXPIRE', ended, KEEP)
  end
  local left = has .. ' sessions, ' .. (counted or 'no') .. ' operations' .. (kept and ', sessions to end, for ever' or '')
  if not leased(node) then
    if has > 0 or counted or kept then report(s, 'node_without_lease', 'leases: none of ' .. node .. '; its records: ' .. left, bury) end
  elseif leased(node) > now + longest + grace then
    report(s, 'lease_overdue', 'lease of ' .. node .. ': lapses only in ' .. str(leased(node) - now) .. ' ms; its records: ' .. left,
      function() redis.call('ZADD', nodes, in_a_lease, node) end)
  elseif leased(node) < now - grace then
    local beat = tonumber(redis.call('HGET', base .. ':seq', 'beat') or nil) or 0
    report(s, 'lease_overdue', 'lease of ' .. node .. ': lapsed ' .. str(now - leased(node)) .. ' ms ago; its records: ' .. left ..
      '; last heartbeat of any node: ' .. str(now - beat) .. ' ms ago', bury)
  end
end

-- An entry of the list of users. rest: the member
local function check_listed(s)
  local p, sid = base .. ':' .. s.svc, string.sub(s.rest, 17)
  if not redis.call('ZSCORE', p .. ':users', s.rest) then return end
  local id = redis.call('HGET', p .. ':sids', sid)
  local f = id and redis.call('HMGET', ukey(s.svc, id), 'sid', 'created') or {}
  if f[1] ~= sid or string.format('%016.0f', tonumber(f[2]) or 0) .. sid ~= s.rest then
    s.id = id or ''
    report(s, 'user_index', 'list of users: ' .. s.rest .. '; SIDs: ' .. (id or 'none') .. '; user: ' .. (f[1] or 'none'), function()
      redis.call('ZREM', p .. ':users', s.rest)
      if id and f[1] ~= sid then redis.call('HDEL', p .. ':sids', sid) end
    end)
  end
end

-- An entry of the hash from SIDs to identities. rest: the SID
local function check_sid(s)
  local p = base .. ':' .. s.svc
  local is = redis.call('HGET', ukey(s.svc, s.id), 'sid')
  if redis.call('HGET', p .. ':sids', s.rest) == s.id and is ~= s.rest then
    report(s, 'user_index', 'SIDs: ' .. s.rest .. '; user: ' .. (is or 'none'), function() redis.call('HDEL', p .. ':sids', s.rest) end)
  end
end

-- Where bindings are looked up: by SID (type b; rest: the SID), in order (c; rest: the
-- member), by expiry (x; rest: the SID).
local function check_binding(s)
  local p = base .. ':' .. s.svc
  local sid = s.type == 'c' and string.sub(s.rest, 17) or s.rest
  local where = {b = 'SIDs', c = 'list', x = 'expiries'}
  local there = {b = {'HGET', p .. ':bsids', sid}, c = {'ZSCORE', p .. ':bindings', s.rest}, x = {'ZSCORE', base .. ':bindexp', s.svc .. sid}}
  if not redis.call(unpack(there[s.type])) then return end
  local id = redis.call('HGET', p .. ':bsids', sid)
  local raw = id and redis.call('HGET', bkey(s.svc, id), sid)
  local ok, x = pcall(cjson.decode, raw or '')
  if raw and (s.type ~= 'c' or ok and type(x) == 'table' and (x.k or '') .. sid == s.rest) then return end
  s.id = id or s.id
  report(s, 'binding_index', where[s.type] .. ': binding ' .. sid .. '; bindings: none of that kind', function()
    if s.type == 'b' then redis.call('HDEL', p .. ':bsids', sid)
    elseif s.type == 'c' then redis.call('ZREM', p .. ':bindings', s.rest)
    else redis.call('ZREM', base .. ':bindexp', s.svc .. sid) end
  end)
end

-- What a deleted service left.
local KINDS = {':users', ':sids', ':state', ':online', ':offline', ':bsids', ':bindings', ':addr', ':due'}
local function keys_of(svc)
  local keys = {}
  for i, kind in ipairs(KINDS) do keys[i] = base .. ':' .. svc .. kind end
  return keys
end
local function check_deleted(s)
  local n = redis.call('EXISTS', unpack(keys_of(s.svc)))
  if n > 0 then report(s, 'deleted_service', 'services: deleted; partition: ' .. n .. ' of its keys, ' .. redis.call('ZCARD', base .. ':' .. s.svc .. ':users') .. ' users') end
end
