-- What a node asks of the services' slot with each round of heartbeats.
-- ARGV[2]  at most so many things to do in the partitions; each is taken by one node
-- Reply: {run, seq, service or credential to purge or 'hooks <service or *> <version>', ...}
local at = redis.call('HMGET', base .. ':seq', 'run', 'n')
local reply = {at[1] or '', at[2] or '0'}
for _, sid in ipairs(redis.call('ZRANGEBYSCORE', base .. ':todo', '-inf', str(now), 'LIMIT', 0, ARGV[2])) do
  reply[#reply + 1] = sid
  -- again in a minute, unless the node that took it reports it done
  redis.call('ZADD', base .. ':todo', str(now + 60000), sid)
end
return reply
