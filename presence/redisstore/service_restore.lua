-- Writes a service back that was lost with Redis's data. Of one that is there the switch
-- is set as given if its last flip was lost in a failover: the given revision is higher.
-- ARGV[2]  SID   ARGV[3]  run of the event counter when the service was last read
-- ARGV[4]  1 if it was the default service   ARGV[5]  number of partitions
-- ARGV[6]  created, us
-- then pairs: field, value
-- Reply: the service's hash as HGETALL; 'missing' if it was deleted: the run is the same
local sid, run, created = ARGV[2], ARGV[3], tonumber(ARGV[6])
local s = base .. ':' .. sid
if redis.call('EXISTS', s) == 0 then
  if run == '' or redis.call('HGET', base .. ':seq', 'run') == run then return 'missing' end
  redis.call('SETNX', base .. ':partitions', ARGV[5])
  redis.call('HSET', s, 'sid', sid, 'created', str(created))
  for i = 7, #ARGV, 2 do redis.call('HSET', s, ARGV[i], ARGV[i + 1]) end
  redis.call('ZADD', base .. ':all', 0, string.format('%016.0f', created) .. sid)
  if ARGV[4] == '1' then redis.call('SETNX', base .. ':default', sid) end
  local version = redis.call('HGET', s, 'hook_version')
  if version then redis.call('ZADD', base .. ':todo', str(now), 'hooks ' .. sid .. ' ' .. version) end
  publish({s = sid})
else
  local given = {}
  for i = 7, #ARGV, 2 do given[ARGV[i]] = ARGV[i + 1] end
  if tonumber(given.rev or 0) > (tonumber(redis.call('HGET', s, 'rev')) or 0) then
    redis.call('HSET', s, 'enabled', given.enabled, 'epoch', given.epoch, 'rev', given.rev)
    publish({s = sid})
  end
end
return redis.call('HGETALL', s)
