-- The live sessions of a user.
-- ARGV[2]  service   ARGV[3]  identity
-- Reply: 2 each: session, node
local reply, u = {}, load(ARGV[2], ARGV[3])
for n in string.gmatch(u and u.on or '', '%d+') do
  local is = redis.call('HMGET', block(u.svc, n), '', u.id)
  for session in string.gmatch(is[2] or '', '[^,]+') do reply[#reply + 1], reply[#reply + 2] = session, is[1] or '' end
end
return reply
