-- Takes what became of claimed webhooks.
-- ARGV[2]  ms after which an event that cannot be delivered becomes a dead letter
-- then 6 each: service, identity, EV SIDs delivered (in order, each followed by a
--   comma), EV SID that failed or was given back, or empty, ms until it is to be tried
--   again (negative: given back, no attempt), why it failed
-- Reply: {dead letters made, ms until there is work (-1: none)}
local hooks = webhooks()
local keep, buried = tonumber(ARGV[2]), 0
for i = 3, #ARGV, 6 do
  local svc, id, failed, retry, why = ARGV[i], ARGV[i + 1], ARGV[i + 3], tonumber(ARGV[i + 4]), ARGV[i + 5]
  local q, tries, dues = base .. ':' .. svc .. ':q:' .. id, base .. ':' .. svc .. ':tries', base .. ':' .. svc .. ':due'
  local function first(ev)
    local item = redis.call('LINDEX', q, 0)
    return item and string.match(item, '^%d+ (%S+) ') == ev and item
  end
  -- What another deliverer settled meanwhile is its claim, not this one's.
  local ours, at = false, now
  for ev in string.gmatch(ARGV[i + 2], '[^,]+') do
    if first(ev) then
      redis.call('LPOP', q)
      redis.call('HDEL', tries, id)
      ours = true
    end
  end
  local item = failed ~= '' and first(failed)
  if item then
    ours = true
    if retry >= 0 then
      local n = redis.call('HINCRBY', tries, id, 1)
      at = now + retry
      if at - tonumber(string.match(item, '^%d+')) > keep then
        redis.call('LPOP', q)
        redis.call('HDEL', tries, id)
        hooks.bury(svc, item, why, n)
        buried, at = buried + 1, now
      end
    end
  end
  if ours then
    if redis.call('EXISTS', q) == 1 then
      redis.call('ZADD', dues, str(at), id)
    else
      redis.call('ZREM', dues, id)
    end
    hooks.reschedule(svc)
  end
end
return {buried, hooks.work()}
