-- Makes a service the default one.
-- ARGV[2]  SID
-- Reply: 1; 0 if there is no such service
if redis.call('EXISTS', base .. ':' .. ARGV[2]) == 0 then return 0 end
redis.call('SET', base .. ':default', ARGV[2])
return 1
