-- What every script begins with: see lib.lua for KEYS and keys.
-- ARGV[1]  offset in ms added to the clock (0 outside tests)
local base, PUBLISH = KEYS[1], KEYS[2] and 'SPUBLISH' or 'PUBLISH'
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2] + ARGV[1] * 1000
local now = math.floor(us / 1000)

-- Lua prints large numbers with an exponent; Redis and cjson would too.
local function str(n) return string.format('%.0f', n) end
