-- Shared by the scripts that delete users or end their sessions.

-- Has the nodes that hold a user's sessions, or the one session that is named, end
-- them, and forgets the sessions. Returns how many. It is for the caller to save the user.
local function expel(u, only)
  local ended = 0
  for n in string.gmatch(u.on, '%d+') do
    local is = redis.call('HMGET', block(u.svc, n), '', u.id)
    for session in string.gmatch(is[2] or '', '[^,]+') do
      if only == '' or only == session then
        if is[1] then
          redis.call('SADD', base .. ':end:' .. is[1], session)
          soon()
        end
        if select(2, part(u.svc, u.id, session, n)) then u.on = without(u.on, n) end
        ended = ended + 1
      end
    end
  end
  return ended
end

-- Notes that the user was deleted, under the stamp of that. This is forgotten after KEEP seconds.
local function forget(svc, id, stamp)
  local s = base .. ':' .. svc
  redis.call('HDEL', s .. ':state', id)
  redis.call('ZREM', s .. ':online', id)
  redis.call('ZREM', s .. ':offline', id)
  redis.call('ZADD', s .. ':gone', stamp, id)
  redis.call('ZREMRANGEBYSCORE', s .. ':gone', '-inf', str(us - KEEP * 1000000))
  redis.call('EXPIRE', s .. ':gone', KEEP)
end

-- Remembers the SID of a deleted user for KEEP seconds, and of many the last TOMBS: a
-- node that was cut off meanwhile may still hold sessions of it, and is not to make
-- the user anew with them.
local TOMBS = 1000
local function entomb(sid)
  local deleted = base .. ':deleted'
  redis.call('ZADD', deleted, str(now), sid)
  redis.call('ZREMRANGEBYSCORE', deleted, '-inf', str(now - KEEP * 1000))
  redis.call('ZREMRANGEBYRANK', deleted, 0, -TOMBS - 1)
  redis.call('EXPIRE', deleted, KEEP)
end
