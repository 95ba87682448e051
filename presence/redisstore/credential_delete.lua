-- Deletes a push credential; its bindings are removed partition by partition, now by
-- the caller and once more later, for those that were being made.
-- ARGV[2]  SID   ARGV[3]  ms until the later removal
-- Reply: 1; 0 if there is no such credential
local c = base .. ':' .. ARGV[2]
local created = redis.call('HGET', c, 'created')
if not created then return 0 end
redis.call('DEL', c)
redis.call('ZREM', base .. ':credentials', string.format('%016.0f', tonumber(created)) .. ARGV[2])
redis.call('ZADD', base .. ':todo', str(now + ARGV[3]), ARGV[2])
return 1
