-- Deletes a service's record, its roles and settings; its users are purged partition by partition, now by
-- the caller and once more later, after every node has heard of it.
-- ARGV[2]  SID   ARGV[3]  ms until the later purge
-- The last 1,000 deleted services are remembered, for who looks for what is left of them.
-- Reply: 1; 0 if there is no such service; 2 if it is the default service
local s = base .. ':' .. ARGV[2]
local created = redis.call('HGET', s, 'created')
if not created then return 0 end
if redis.call('GET', base .. ':default') == ARGV[2] then return 2 end
for _, member in ipairs(redis.call('ZRANGE', s .. ':roles', 0, -1)) do redis.call('DEL', s .. ':role:' .. string.sub(member, 17)) end
redis.call('DEL', s, s .. ':roles', s .. ':notifications', s .. ':revocations', s .. ':revoked')
redis.call('ZREM', base .. ':all', string.format('%016.0f', tonumber(created)) .. ARGV[2])
redis.call('ZADD', base .. ':todo', str(now + ARGV[3]), ARGV[2])
redis.call('ZADD', base .. ':deleted', str(now), ARGV[2])
redis.call('ZREMRANGEBYRANK', base .. ':deleted', 0, -1001)
publish({s = ARGV[2]})
return 1
