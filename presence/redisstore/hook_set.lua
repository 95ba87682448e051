-- Tells a partition what a service's backend, or the account's, wants to hear.
-- ARGV[2]  service, or * for the account   ARGV[3]  version, wanted events, debounce in
-- ms; empty: the service is gone
-- Reply: 1
local hooks = base .. ':hooks'
if ARGV[3] == '' then
  redis.call('HDEL', hooks, ARGV[2])
  return 1
end
local have = redis.call('HGET', hooks, ARGV[2])
-- of two changes that arrive in the wrong order the later one holds
if not have or tonumber(string.match(have, '^%d+')) < tonumber(string.match(ARGV[3], '^%d+')) then
  redis.call('HSET', hooks, ARGV[2], ARGV[3])
  soon()
end
return 1
