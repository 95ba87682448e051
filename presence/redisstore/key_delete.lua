-- Deletes an API key.
-- ARGV[2]  SID   ARGV[3]  ms for which it is remembered as deleted
-- Reply: 1; 0 if there is no such key
local sid = ARGV[2]
local key, gone = base .. ':key:' .. sid, base .. ':keys:gone'
local created = redis.call('HGET', key, 'created')
if not created then return 0 end
redis.call('DEL', key)
redis.call('ZREM', base .. ':keys', stamped(tonumber(created)) .. sid)
redis.call('ZREMRANGEBYSCORE', gone, '-inf', str(now - ARGV[3]))
redis.call('ZADD', gone, str(now), sid)
redis.call('HINCRBY', base .. ':seq', 'keys', 1)
changed()
return 1
