-- ARGV[2]  service   ARGV[3]  SID
-- Reply: {identity, the user's hash as HGETALL}; {} if there is no such user
local id = redis.call('HGET', base .. ':' .. ARGV[2] .. ':sids', ARGV[3])
if not id then return {} end
return {id, redis.call('HGETALL', ukey(ARGV[2], id))}
