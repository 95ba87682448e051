-- Compares what the partition's records say of each other, a chunk at a time. ARGV[2] to
-- ARGV[7]: see verify_check.lua. Nothing is mended but by 'check'.
-- ARGV[8]  what to do     ARGV[9]  cursor, empty to begin     ARGV[10]  about so many subjects
-- then, by what there is to do:
--   check    7 each: type, service, identity, rest, enabled (1 or 0), epoch, rev
--   top      the node that asks, or empty
--   session  a node, whose record is gone through
--   linger, bindexp
--   users    4 each: service, enabled, epoch, rev
--   state, online, offline, bsids, bindings, addr   4: as for users, of one service
-- Reply: {cursor to go on with, empty at the end,
--         {kind, type, service, identity, rest, detail, ... of each disagreement},
--         {more, ...}}, where more is
--   of top      1 if it is for the asking node to look at this partition, then each node that has a record
--   of users    3 each: service, binding SID, type:address of bindings that are settled;
--               service, empty, and of its collections s, b and a: those that are to be gone through
--   of addr     3 each: service, what address.lua keeps, type:address
-- The cursor of users is the number of services that are done, a space, and a member.
local what, cursor, budget, more = ARGV[8], ARGV[9], tonumber(ARGV[10]), {}
local checks = {u = check_user, n = check_session, o = check_block, N = check_node, i = check_listed,
  b = check_binding, c = check_binding, x = check_binding, d = check_deleted}

local function subject(kind, svc, id, rest, at)
  return {type = kind, svc = svc, id = id, rest = rest, enabled = at and ARGV[at] == '1',
    epoch = at and tonumber(ARGV[at + 1]) or -1, rev = at and tonumber(ARGV[at + 2]) or 0}
end

local function check(s) return checks[s.type](s) end

-- Goes through a collection with a command of the SCAN family; step: 2 where values come with members.
local function scan(command, key, step, each)
  local r = redis.call(command, key, cursor == '' and '0' or cursor, 'COUNT', budget)
  cursor = r[1] == '0' and '' or r[1]
  for i = 1, #r[2], step do each(r[2][i], r[2][i + 1]) end
end

local function users()
  local done, last = string.match(cursor, '^(%d+) (.*)$')
  done, last = tonumber(done or 0), last or ''
  local left = budget
  for at = 11, #ARGV, 4 do
    local svc = ARGV[at]
    local p = base .. ':' .. svc
    if left <= 0 then break end
    if redis.call('EXISTS', unpack(keys_of(svc))) == 0 then
      left = left - 0.2
    else
      local limit = math.ceil(left)
      local members = redis.call('ZRANGEBYLEX', p .. ':users', last == '' and '-' or '(' .. last, '+', 'LIMIT', 0, limit)
      for _, member in ipairs(members) do
        local id = string.sub(member, SHORT + 1)
        local sid, settled = check(subject('u', svc, id, '', at + 1))
        if not sid or sid .. id ~= member then check(subject('i', svc, id, member, at + 1)) end
        for i = 1, #(settled or {}), 2 do
          more[#more + 1], more[#more + 2], more[#more + 3] = svc, settled[i], settled[i + 1]
        end
      end
      left = left - #members - 1
      if #members == limit then
        cursor = done .. ' ' .. members[limit]
        return
      end
      -- All users that are listed agree with all else; what else there is must then be as many.
      local n, flags = redis.call('ZCARD', p .. ':users'), ''
      if redis.call('HLEN', p .. ':state') ~= n or redis.call('ZCARD', p .. ':online') + redis.call('ZCARD', p .. ':offline') ~= n then flags = 's' end
      if redis.call('EXISTS', p .. ':bsids', p .. ':bindings') > 0 then flags = flags .. 'b' end
      if redis.call('EXISTS', p .. ':addr') > 0 then flags = flags .. 'a' end
      if flags ~= '' then more[#more + 1], more[#more + 2], more[#more + 3] = svc, '', flags end
    end
    done, last = done + 1, ''
  end
  cursor = done * 4 < #ARGV - 10 and done .. ' ' or ''
end

-- Some blocks of a node's record, which has a field for each service. The cursor is that of the services, a space, and the
-- last block of these that was done.
local function node_blocks(node)
  local place, last = string.match(cursor, '^(%d+) (.*)$')
  place, last = place or '0', last or ''
  local r, order = redis.call('HSCAN', base .. ':node:' .. node, place, 'COUNT', budget), {}
  for i = 1, #r[2], 2 do
    for n in string.gmatch(r[2][i + 1], '%d+') do order[#order + 1] = r[2][i] .. string.format('%016.0f', tonumber(n)) end
  end
  table.sort(order)
  local left = budget
  for _, member in ipairs(order) do
    if member > last then
      if left <= 0 then
        cursor = place .. ' ' .. last
        return
      end
      local service, n = split(member)
      n, last = str(tonumber(n)), member
      check(subject('o', service, '', n .. ' ' .. node))
      local entries = redis.call('HGETALL', block(service, n))
      for i = 1, #entries, 2 do
        if entries[i] ~= '' then check(subject('n', service, entries[i], n .. ' ' .. node)) end
      end
      left = left - 1 - #entries / 2
    end
  end
  cursor = r[1] == '0' and '' or r[1] .. ' '
end

local svc = ARGV[11]
if what == 'check' then
  for at = 11, #ARGV, 7 do check(subject(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], at + 4)) end
elseif what == 'top' then
  more[1] = fittest() == ARGV[11] and '1' or '0'
  for _, node in ipairs(redis.call('ZRANGE', nodes, 0, -1)) do more[#more + 1] = node end
  for _, field in ipairs(redis.call('HKEYS', seq)) do
    local node = string.match(field, '^ops:(.*)$')
    if node then more[#more + 1] = node end
  end
elseif what == 'session' then
  node_blocks(ARGV[11])
elseif what == 'linger' then
  scan('ZSCAN', lingers, 2, function(member)
    local service, id = split(member)
    check(subject('u', service, id, ''))
  end)
elseif what == 'bindexp' then
  scan('ZSCAN', base .. ':bindexp', 2, function(member) check(subject('x', string.sub(member, 1, SERVICE), '', string.sub(member, SERVICE + 1))) end)
elseif what == 'users' then
  users()
elseif what == 'state' then
  scan('HSCAN', base .. ':' .. svc .. ':state', 2, function(id) check(subject('u', svc, id, '', 12)) end)
elseif what == 'online' or what == 'offline' then
  scan('ZSCAN', base .. ':' .. svc .. ':' .. what, 2, function(id) check(subject('u', svc, id, '', 12)) end)
elseif what == 'bsids' then
  scan('HSCAN', base .. ':' .. svc .. ':bsids', 2, function(sid, id) check(subject('b', svc, id, sid, 12)) end)
elseif what == 'bindings' then
  scan('ZSCAN', base .. ':' .. svc .. ':bindings', 2, function(member) check(subject('c', svc, '', member, 12)) end)
elseif what == 'addr' then
  scan('HSCAN', base .. ':' .. svc .. ':addr', 2, function(address, holders)
    more[#more + 1], more[#more + 2], more[#more + 3] = svc, holders, address
  end)
end
return {cursor, found, more}
