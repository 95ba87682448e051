-- What of API keys and revocations is newer than what a node has.
-- ARGV[2..4]  run, changes of keys and newest stamp that it has; '', 0, 0 for nothing
-- ARGV[5]  at most so many revocations   ARGV[6]  for how long they are needed, ms
-- Reply: {run, changes of keys, stamp, number of keys, 1 if there are more
--   revocations, then 6 each: SID, account,
--   name, secret, created, updated; then 5 each: service, SID, before and created in
--   ms, identity}, the stamp being that of the last revocation in it, or the newest.
--   The number is -1 if keys are as they were; -2, and nothing follows, if the store
--   lost what the node has
trim(ARGV[6])
local at = redis.call('HMGET', base .. ':seq', 'run', 'keys', 'revoked')
local run, keys, stamp = at[1] or '', at[2] or '0', at[3] or '0'
if ARGV[2] ~= '' and (run ~= ARGV[2] or tonumber(keys) < tonumber(ARGV[3]) or tonumber(stamp) < tonumber(ARGV[4])) then
  return {run, keys, stamp, -2, 0}
end
local reply = {run, keys, stamp, -1, 0}
if run ~= ARGV[2] or keys ~= ARGV[3] then
  local members = redis.call('ZRANGE', base .. ':keys', 0, -1)
  reply[4] = #members
  for _, m in ipairs(members) do
    for _, v in ipairs(redis.call('HMGET', base .. ':key:' .. string.sub(m, 17), 'sid', 'account', 'friendly_name', 'secret', 'created', 'updated')) do
      reply[#reply + 1] = v or ''
    end
  end
end
if stamp ~= ARGV[4] then
  local limit = tonumber(ARGV[5])
  local members = redis.call('ZRANGEBYLEX', base .. ':revocations', '(' .. stamped(tonumber(ARGV[4])) .. '~', '+', 'LIMIT', 0, limit)
  for _, m in ipairs(members) do
    local svc, sid = string.sub(m, 17, 50), string.sub(m, 51)
    local r = redis.call('HGET', base .. ':' .. svc .. ':revoked', sid)
    if r then -- else its service is gone
      r = cjson.decode(r)
      for _, v in ipairs({svc, sid, r.b, r.c, r.i}) do reply[#reply + 1] = v end
    end
  end
  if #members == limit then reply[3], reply[5] = str(tonumber(string.sub(members[limit], 1, 16))), 1 end
end
return reply
