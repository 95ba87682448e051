-- Creates an API key, or changes its name.
-- ARGV[2]  create or update   ARGV[3]  SID   ARGV[4]  name
-- for create: ARGV[5]  account   ARGV[6]  secret   ARGV[7]  at most so many keys
-- Reply: the key's hash as HGETALL; 'missing'; 'full'
local mode, sid = ARGV[2], ARGV[3]
local key, keys = base .. ':key:' .. sid, base .. ':keys'
if mode == 'create' then
  if redis.call('ZCARD', keys) >= tonumber(ARGV[7]) then return 'full' end
  redis.call('HSET', key, 'sid', sid, 'account', ARGV[5], 'secret', ARGV[6], 'created', str(us))
  redis.call('ZADD', keys, 0, stamped(us) .. sid)
elseif redis.call('EXISTS', key) == 0 then
  return 'missing'
end
redis.call('HSET', key, 'friendly_name', ARGV[4], 'updated', str(now))
redis.call('HINCRBY', base .. ':seq', 'keys', 1)
changed()
return redis.call('HGETALL', key)
