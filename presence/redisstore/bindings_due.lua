-- What there is to do about bindings of the partition.
-- ARGV[2]  at most so many of each
-- Reply: {number that expired, service..binding SID of each, then service..binding
--         SID..type:address of each that is to be settled}
local due = redis.call('ZRANGEBYSCORE', base .. ':bindexp', '-inf', str(now), 'LIMIT', 0, ARGV[2])
local reply = {#due}
for _, member in ipairs(due) do reply[#reply + 1] = member end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', base .. ':unsettled', '-inf', str(now), 'LIMIT', 0, ARGV[2])) do
  reply[#reply + 1] = member
end
return reply
