-- The heartbeats of many partitions, all on one server, where nothing is due.
-- KEYS     bases of the partitions   ARGV  as of beat.lua
-- Reply: 3 each: run, seq, operations of this node; run is false where nothing was done: there beat.lua has work
local reply = {}
for i = 1, #KEYS do
  local run, n, operations = idle(KEYS[i])
  reply[3 * i - 2], reply[3 * i - 1], reply[3 * i] = run or false, n or '', operations or 0
end
return reply
