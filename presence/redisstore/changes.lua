-- What the change log has of a service after a stamp and before another.
-- ARGV[2]  service   ARGV[3]  from, ARGV[4]  to: bounds of ZRANGEBYSCORE
-- ARGV[5]  at most so many of each kind
-- Reply: {revision that no deletion is above, {online user, stamp, ...}, {offline user, ...}, {deleted user, ...}}
local reply = {redis.call('HGET', base .. ':seq', 'rev') or '0'}
for _, kind in ipairs({':online', ':offline', ':gone'}) do
  reply[#reply + 1] = redis.call('ZRANGEBYSCORE', base .. ':' .. ARGV[2] .. kind, ARGV[3], ARGV[4], 'WITHSCORES', 'LIMIT', 0, ARGV[5])
end
return reply
