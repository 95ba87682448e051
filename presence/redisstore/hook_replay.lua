-- Queues dead letters again, behind what waits of their users, or deletes one.
-- ARGV[2]  service   ARGV[3]  EV SID, or empty for the oldest   ARGV[4]  at most so many
-- ARGV[5]  replay or delete
-- Reply: how many there were
local hooks = webhooks()
local svc = ARGV[2]
local dead, letters = base .. ':' .. svc .. ':dead', base .. ':' .. svc .. ':letters'
local evs = {ARGV[3]}
if ARGV[3] == '' then
  evs = {}
  for i, member in ipairs(redis.call('ZRANGE', dead, 0, ARGV[4] - 1)) do evs[i] = string.sub(member, 17) end
end
local n = 0
for _, ev in ipairs(evs) do
  local letter = redis.call('HGET', letters, ev)
  if letter then
    n = n + 1
    local died, rest = string.match(letter, '^(%d+) %d+ %S+ %d+ (.*)$')
    redis.call('HDEL', letters, ev)
    redis.call('ZREM', dead, string.format('%016.0f', tonumber(died)) .. ev)
    if ARGV[5] == 'replay' then
      hooks.queue(svc, cjson.decode(string.sub(rest, #ev + 2)).i, str(now) .. ' ' .. rest)
    end
  end
end
return n
