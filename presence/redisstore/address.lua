-- Decides which binding of a service has an address, in the address's own partition.
-- ARGV[2]  claim: the binding has it from here on; another that had it is to be removed
--          confirm: the binding, which is there, has it if no other has
--          release: the binding is not there
--          undo: it was claimed in vain
-- ARGV[3]  service   ARGV[4]  type:address   ARGV[5]  binding SID
-- Reply: {SID of the binding that has it, or empty; of each that is to be removed, ...}
local mode, addresses, address, sid = ARGV[2], base .. ':' .. ARGV[3] .. ':addr', ARGV[4], ARGV[5]
local owner, stale
for s in string.gmatch((redis.call('HGET', addresses, address) or '') .. ',', '([^,]*),') do
  if not owner then
    owner, stale = s, {}
  elseif s ~= sid or mode == 'undo' or mode == 'confirm' and owner ~= '' then
    stale[#stale + 1] = s
  end
end
if mode == 'claim' or mode == 'confirm' and owner == '' then
  if owner ~= sid and owner ~= '' then stale[#stale + 1] = owner end
  owner = sid
elseif mode == 'release' and owner == sid then
  owner = ''
elseif mode == 'undo' and owner == sid then
  owner = table.remove(stale) or ''
end
if owner == '' and #stale == 0 then
  redis.call('HDEL', addresses, address)
else
  redis.call('HSET', addresses, address, table.concat({owner, unpack(stale)}, ','))
end
return {owner, unpack(stale)}
