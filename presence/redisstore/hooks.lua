-- Shared by the scripts that change webhooks, of the account (*) or of a service, whose
-- hash was just written: the partitions are to know. The caller tells them now; should
-- it die over that, some node does after AGAIN ms.
local AGAIN = 10000
local function hooked(hash, owner)
  redis.call('HSET', hash, 'hook_version', str(us))
  redis.call('ZADD', base .. ':todo', str(now + AGAIN), 'hooks ' .. owner .. ' ' .. str(us))
end
