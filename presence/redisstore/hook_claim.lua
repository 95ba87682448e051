-- Queues changes that have lasted, and takes webhooks that are due for delivery: of
-- each user its next few, which are not due again before the claim lapses.
-- ARGV[2]  claim, ms   ARGV[3]  at most so many services   ARGV[4]  and users of each
-- then services to leave out, whose targets are busy
-- Reply: {ms until there is work again (-1: none), 1 if a service with work was left
--         out, dead letters by overflow and lost for want of room since the last claim,
--         then for each user: service, identity, failed attempts, number of items, item, ...}
local hooks = webhooks()
local lease, services, users = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local busy, busies = {}, 0
for i = 5, #ARGV do busy[ARGV[i]], busies = true, busies + 1 end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', base .. ':debounce', '-inf', str(now), 'LIMIT', 0, 50)) do
  redis.call('ZREM', base .. ':debounce', member)
  local u = load(split(member))
  if u then owe(u, 'r', 'change', 'SDK', true) end
end

local stats = redis.call('HMGET', base .. ':hookstats', 'overflow', 'lost')
redis.call('DEL', base .. ':hookstats')
local reply = {0, 0, tonumber(stats[1]) or 0, tonumber(stats[2]) or 0}
for _, svc in ipairs(redis.call('ZRANGEBYSCORE', base .. ':hookdue', '-inf', str(now), 'LIMIT', 0, services + busies)) do
  if busy[svc] then
    reply[2] = 1
  else
    local dues = base .. ':' .. svc .. ':due'
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', dues, '-inf', str(now), 'LIMIT', 0, users)) do
      local items = redis.call('LRANGE', base .. ':' .. svc .. ':q:' .. id, 0, hooks.RUN - 1)
      redis.call('ZADD', dues, str(now + lease), id)
      reply[#reply + 1], reply[#reply + 2] = svc, id
      reply[#reply + 1] = tonumber(redis.call('HGET', base .. ':' .. svc .. ':tries', id)) or 0
      reply[#reply + 1] = #items
      for _, item in ipairs(items) do reply[#reply + 1] = item end
    end
    hooks.reschedule(svc)
  end
end
reply[1] = hooks.work(busy, busies)
return reply
