-- The checks of verify.lua, each of which sees its subject whole. A subject is a table of
-- type, svc, id and rest, with what is known of the service: enabled, epoch (-1: nothing
-- is known) and rev. What is found is mended in the same step if that is asked for.
-- ARGV[2]  1 to mend            ARGV[3]  grace, ms: so late may be what is due
-- ARGV[4]  lease, ms            ARGV[5]  the longest linger, ms
-- ARGV[6]  TTL of the online state, ms   ARGV[7]  stall, ms
local mend, grace, longest, ttl = ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[5]), ARGV[6]
local in_a_lease = str(now + ARGV[4] - silence(tonumber(ARGV[7])))
local nodes, lingers, seq = base .. ':nodes', base .. ':linger', base .. ':seq'

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
  if leased(node) then redis.call('HINCRBY', seq, 'ops:' .. node, 1) end
end

-- Has a user linger for a lease. How and when it left is not known.
local function linger_a_lease(u)
  redis.call('ZADD', lingers, in_a_lease, u.svc .. u.id)
  soon()
  u.left = ''
  save(u)
end

-- True if a list that commas join has it.
local function has(list, one) return string.find(',' .. list .. ',', ',' .. one .. ',', 1, true) ~= nil end

-- The blocks that a node's record has of a service.
local records = {}
local function blocks(node, svc)
  local at = node .. ' ' .. svc
  records[at] = records[at] or redis.call('HGET', base .. ':node:' .. node, svc) or ''
  return records[at]
end
local function keep_blocks(node, svc, list)
  records[node .. ' ' .. svc] = list
  if list == '' then redis.call('HDEL', base .. ':node:' .. node, svc) else redis.call('HSET', base .. ':node:' .. node, svc, list) end
end

-- Takes a user out of a block.
local function evict(svc, id, n)
  redis.call('HDEL', block(svc, n), id)
  clear(svc, n)
  records = {}
end

-- What is left of a user that does not exist.
local function check_absent(s)
  local svc, id, p, member = s.svc, s.id, base .. ':' .. s.svc, s.svc .. s.id
  local b, places = bkey(svc, id), {}
  local state = redis.call('HGET', p .. ':state', id)
  local logged = redis.call('ZSCORE', p .. ':online', id) or redis.call('ZSCORE', p .. ':offline', id)
  if state then places[#places + 1] = 'a record that cannot be read' end
  if redis.call('EXISTS', ukey(svc, id)) == 1 then places[#places + 1] = 'profile' end
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
    -- What revision the user had is not known; it grew with the clock.
    local rev = math.max(now, s.rev) + 1000
    if rev > (tonumber(redis.call('HGET', base .. ':seq', 'rev')) or 0) then redis.call('HSET', base .. ':seq', 'rev', str(rev)) end
    forget(svc, id, publish({s = svc, i = id, v = str(rev), d = 1, m = 0}))
  end)
end

-- Push bindings of a user. Returns its bindings whose address is settled: sid, type:address, ...
local function check_bindings(s, u)
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
          soon()
          if x.c ~= '' then redis.call('SADD', base .. ':cred:' .. x.c, svc .. sid) end
        end)
      end
      local address = x.t .. ':' .. x.a
      if not redis.call('ZSCORE', base .. ':unsettled', svc .. sid .. address) then
        settled[#settled + 1], settled[#settled + 2] = sid, address
      end
    end
  end
  local bound = redis.call('EXISTS', b) == 1
  if bound ~= (u.notifiable == '1') then
    report(s, 'notifiable', 'bindings: ' .. redis.call('HLEN', b) .. '; user: notifiable is ' .. (some(u.notifiable) or 'null'), function()
      u.notifiable = bound and '1' or '0'
      if s.enabled and s.epoch > (tonumber(u.nepoch) or 0) then u.nepoch = str(s.epoch) end
      emit(u, 2, s.rev, 'repair')
    end)
  end
  return settled
end

-- A user's sessions, by the blocks that it names. Returns how many there are, and whether any were removed.
local function check_sessions(s, u)
  local sessions, removed = 0, false
  for n in string.gmatch(u.on, '%d+') do
    local b = block(u.svc, n)
    local is = redis.call('HMGET', b, '', u.id)
    local node = is[1] or ''
    if not is[2] then
      report(s, 'session_lost', 'user: online in block ' .. n .. '; online state: without it there', function()
        u.on = without(u.on, n)
        save(u)
        for _, any in ipairs(redis.call('ZRANGE', nodes, 0, -1)) do ask(any) end
      end)
    elseif not leased(node) then
      report(s, 'session_without_lease', 'online state: session ' .. is[2] .. ' of node ' .. node .. '; leases: none of ' .. node, function()
        evict(u.svc, u.id, n)
        u.on = without(u.on, n)
        save(u)
        removed = true
      end)
    else
      sessions = sessions + select(2, string.gsub(is[2], '[^,]+', ''))
      if not has(blocks(node, u.svc), n) then
        report(s, 'session_unlisted', 'online state: session ' .. is[2] .. ' of node ' .. node .. '; record of ' .. node .. ': without its block, ' .. n, function()
          keep_blocks(node, u.svc, with(blocks(node, u.svc), n))
          ask(node)
        end)
      end
    end
    if is[2] and redis.call('PTTL', b) == -1 then
      report(s, 'online_without_ttl', 'online state: block ' .. n .. ' never expires', function() redis.call('PEXPIRE', b, ttl) end)
    end
  end
  return sessions, removed
end

-- A user with all that is said of it in the partition. Returns its SID as kept there, and what
-- check_bindings does; nil if there is no such user.
local function check_user(s)
  local svc, id, p, member = s.svc, s.id, base .. ':' .. s.svc, s.svc .. s.id
  local u = load(svc, id)
  if not u or #u.sid ~= SHORT or not created(u) then
    check_absent(s)
    return nil
  end
  -- read first: mending sessions writes them
  local logs, stale = {}, false
  for _, log in ipairs({'online', 'offline', 'gone'}) do
    if redis.call('ZSCORE', p .. ':' .. log, id) then logs[#logs + 1] = log end
  end
  local was = u.online

  local sessions, ghosts = check_sessions(s, u)
  local alive, online, linger = live(u), u.online == '1', tonumber(redis.call('ZSCORE', lingers, member) or nil)
  local function leave(cause)
    redis.call('ZREM', lingers, member)
    offline(u, s.enabled and s.epoch or 0, s.rev, cause)
  end
  if linger and not online then
    report(s, 'linger_stray', 'linger: due in ' .. str(linger - now) .. ' ms; user: is offline already', function() redis.call('ZREM', lingers, member) end)
  elseif linger and linger < now - grace then
    report(s, 'linger_overdue', 'linger: due ' .. str(now - linger) .. ' ms ago; user: still online', function()
      if alive then redis.call('ZREM', lingers, member) else leave('linger') end
    end)
  elseif linger and linger > now + longest + grace then
    report(s, 'linger_overdue', 'linger: due only in ' .. str(linger - now) .. ' ms', function() linger_a_lease(u) end)
  elseif not linger and not alive and online then
    if ghosts then
      leave('repair')
    else
      report(s, 'stuck_online', 'user: online; online state: no session; linger: none', function()
        linger_a_lease(u)
        for _, node in ipairs(redis.call('ZRANGE', nodes, 0, -1)) do ask(node) end
      end)
    end
  end
  if alive and not online then
    report(s, 'shown_offline', 'online state: ' .. sessions .. ' sessions; user: online is ' .. (some(u.online) or 'null'), function()
      u.online = '1'
      if s.enabled and s.epoch > (tonumber(u.epoch) or 0) then u.epoch = str(s.epoch) end
      emit(u, 1, s.rev, 'repair')
    end)
  end

  local epoch, nepoch = tonumber(u.epoch) or 0, tonumber(u.nepoch) or 0
  if s.epoch >= 0 and (math.max(epoch, nepoch) > s.epoch or s.enabled and alive and online and epoch < s.epoch and now - s.rev > grace) then
    report(s, 'epoch', 'user: epochs ' .. epoch .. ' and ' .. nepoch .. '; service: epoch ' .. s.epoch, function()
      if s.enabled and alive then epoch = s.epoch end
      u.epoch = str(math.min(epoch, s.epoch))
      if nepoch > s.epoch then u.nepoch = str(s.epoch) end
      emit(u, 3, s.rev, 'repair')
    end)
  end

  local settled = check_bindings(s, u)

  if not redis.call('ZSCORE', p .. ':users', u.sid .. id) then
    report(s, 'user_index', 'user: ' .. whole(u.sid) .. '; list of users: without it', function() redis.call('ZADD', p .. ':users', 0, u.sid .. id) end)
  end

  if table.concat(logs, ', ') ~= (was == '1' and 'online' or 'offline') then
    report(s, 'change_log', 'user: ' .. (was == '1' and 'online' or 'offline') .. '; change log: ' .. (#logs > 0 and table.concat(logs, ', ') or 'none'), function()
      for _, log in ipairs(logs) do redis.call('ZREM', p .. ':' .. log, id) end
      stale = true
    end)
  end
  if stale then emit(u, 1, s.rev, 'repair') end -- what subscribers were told is not known
  return u.sid, settled
end

-- A user's sessions in a block of a node's record. rest: block, a space, node
local function check_session(s)
  local n, node = string.match(s.rest, '^(%d+) (.*)$')
  local held, u = redis.call('HGET', block(s.svc, n), s.id), load(s.svc, s.id)
  if not held or not has(blocks(node, s.svc), n) then return end
  if not u then
    report(s, 'session_without_user', 'record of ' .. node .. ': session ' .. held .. '; user: none', function()
      evict(s.svc, s.id, n)
      ask(node)
    end)
    check_absent({type = 'u', svc = s.svc, id = s.id, rest = '', enabled = s.enabled, epoch = s.epoch, rev = s.rev})
  elseif not has(u.on, n) then
    report(s, 'session_not_online', 'record of ' .. node .. ': session ' .. held .. ' in block ' .. n .. '; user: online in ' .. (some(u.on) or 'none'), function()
      evict(s.svc, s.id, n)
      ask(node)
    end)
  end
end

-- A block in a node's record. rest: block, a space, node
local function check_block(s)
  local n, node = string.match(s.rest, '^(%d+) (.*)$')
  if not has(blocks(node, s.svc), n) then return end
  local owner = redis.call('HGET', block(s.svc, n), '')
  -- One that lapsed is taken again, or goes with the node; who was in it is found by the users that name it.
  if owner == node or redis.call('EXISTS', block(s.svc, n)) == 0 then return end
  local function drop() keep_blocks(node, s.svc, without(blocks(node, s.svc), n)) ask(node) end
  if owner then
    report(s, 'session_unlisted', 'record of ' .. node .. ': block ' .. n .. '; online state: that is of node ' .. owner, drop)
  else
    report(s, 'session_lost', 'record of ' .. node .. ': block ' .. n .. '; online state: without it', function()
      redis.call('HSET', base .. ':lapsed', s.svc, '-inf')
      soon()
      redis.call('DEL', block(s.svc, n))
      drop()
    end)
  end
end

-- A node's lease and what else there is of it. rest: the node
local function check_node(s)
  local node = s.rest
  local set, ended = base .. ':node:' .. node, base .. ':end:' .. node
  local some_left, counted = redis.call('EXISTS', set) == 1, redis.call('HGET', seq, 'ops:' .. node)
  -- that a node which is gone was to end sessions is to be forgotten, but not at once
  local kept = not leased(node) and redis.call('PTTL', ended) == -1
  -- in chunks, as in beat.lua
  local function bury()
    local _, all = vacate(node, 100, function(u)
      if orphan(u) and not redis.call('ZSCORE', lingers, u.svc .. u.id) then offline(u, 0, 0, 'lease') end
    end)
    records = {}
    if not all then return end
    redis.call('ZREM', nodes, node)
    redis.call('HDEL', seq, 'ops:' .. node)
    redis.call('EXPIRE', ended, KEEP)
  end
  local left = (some_left and 'sessions' or 'no session') .. ', ' .. (counted or 'no') .. ' operations' .. (kept and ', sessions to end, for ever' or '')
  if not leased(node) then
    if some_left or counted or kept then report(s, 'node_without_lease', 'leases: none of ' .. node .. '; its records: ' .. left, bury) end
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
  local p = base .. ':' .. s.svc
  if not redis.call('ZSCORE', p .. ':users', s.rest) then return end
  local id = string.sub(s.rest, SHORT + 1)
  local u = load(s.svc, id)
  if not u or u.sid .. id ~= s.rest then
    s.id = id
    report(s, 'user_index', 'list of users: ' .. s.rest .. '; user: ' .. (u and whole(u.sid) or 'none'), function() redis.call('ZREM', p .. ':users', s.rest) end)
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
local KINDS = {':users', ':state', ':roles', ':online', ':offline', ':bsids', ':bindings', ':addr', ':due'}
local function keys_of(svc)
  local keys = {}
  for i, kind in ipairs(KINDS) do keys[i] = base .. ':' .. svc .. kind end
  return keys
end
local function check_deleted(s)
  local n = redis.call('EXISTS', unpack(keys_of(s.svc)))
  if n > 0 then report(s, 'deleted_service', 'services: deleted; partition: ' .. n .. ' of its keys, ' .. redis.call('ZCARD', base .. ':' .. s.svc .. ':users') .. ' users') end
end
