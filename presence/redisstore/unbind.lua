-- Removes push bindings; a user whose last one is gone is not notifiable any more.
-- ARGV[2]  cause: unregister_push, or push_expired, which spares those that are not due
-- ARGV[3]  credential that they must have; empty for any
-- then 5 each: service, binding SID, identity whose it must be (empty for any), epoch
--   (0 if the switch is off), floor (the service's revision)
-- Reply: for each its type:address, empty if it was not removed
local cause, credential, reply = ARGV[2], ARGV[3], {}
for i = 4, #ARGV, 5 do
  local svc, sid, epoch = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 3])
  local id = redis.call('HGET', base .. ':' .. svc .. ':bsids', sid)
  local spared = not id or ARGV[i + 2] ~= '' and ARGV[i + 2] ~= id
    or credential ~= '' and redis.call('SREM', base .. ':cred:' .. credential, svc .. sid) == 0
  if not spared and cause == 'push_expired' then
    spared = (tonumber(redis.call('ZSCORE', base .. ':bindexp', svc .. sid)) or math.huge) > now
  end
  local address = not spared and unbind(svc, id, sid)
  local u = address and redis.call('EXISTS', bkey(svc, id)) == 0 and load(svc, id)
  if u and u.notifiable == '1' then
    if epoch > (tonumber(u.nepoch) or 0) then u.nepoch = str(epoch) end
    u.notifiable = '0'
    emit(u, 2, tonumber(ARGV[i + 4]), cause)
  end
  reply[#reply + 1] = address or ''
end
return reply
