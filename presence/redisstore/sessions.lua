-- All sessions of a node in the partition.
-- ARGV[2]  node
-- Reply: 3 each: service, identity, sessions joined by commas
local reply, lists = {}, redis.call('HGETALL', base .. ':node:' .. ARGV[2])
for i = 1, #lists, 2 do
  for n in string.gmatch(lists[i + 1], '%d+') do
    local entries = redis.call('HGETALL', block(lists[i], n))
    for j = 1, #entries, 2 do
      if entries[j] ~= '' then reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = lists[i], entries[j], entries[j + 1] end
    end
  end
end
return reply
