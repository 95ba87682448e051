-- Shared by the scripts that go through what is of a node, or due.

-- service..identity
local SERVICE = 34
local function split(member) return string.sub(member, 1, SERVICE), string.sub(member, SERVICE + 1) end

-- Removes a node's sessions, about so many, and calls each with their users, saved as
-- being without them. Returns how many there were, and whether none are left.
local function vacate(node, left, each)
  local key, total = base .. ':node:' .. node, 0
  local lists = redis.call('HGETALL', key)
  for i = 1, #lists, 2 do
    if left <= 0 then break end
    local svc, rest = lists[i], lists[i + 1]
    for n in string.gmatch(rest, '%d+') do
      if left <= 0 then break end
      local b = block(svc, n)
      local entries, all = redis.call('HGETALL', b), true
      -- whose sessions they were is to be found out
      if #entries == 0 then
        redis.call('HSET', base .. ':lapsed', svc, '-inf')
        soon()
      end
      for j = 1, #entries, 2 do
        local id, held = entries[j], entries[j + 1]
        if left <= 0 then
          all = false
        elseif id ~= '' then
          local count = select(2, string.gsub(held, '[^,]+', ''))
          left, total = left - count, total + count
          redis.call('HDEL', b, id)
          local u = load(svc, id)
          if u then
            u.on = without(u.on, n)
            save(u)
            each(u)
          end
        end
      end
      if all then
        redis.call('DEL', b)
        rest = without(rest, n)
      end
    end
    if rest == '' then redis.call('HDEL', key, svc) elseif rest ~= lists[i + 1] then redis.call('HSET', key, svc, rest) end
  end
  return total, redis.call('EXISTS', key) == 0
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
