-- Begins a generation of one bucket, unless a newer one has begun: nothing is granted in it until it is opened.
--
-- KEYS[1]  meta of the bucket, {tg:B}:m
-- ARGV[1]  gen, fresh from SQL and sent to this bucket once
-- ARGV[2]  the gen that the node was in when it saw that a new one is needed
--
-- Answers the gen that the bucket is in now.

local meta = redis.call('HMGET', KEYS[1], 'inc', 'gen')
local info = redis.call('INFO', 'server', 'replication')
local inc = info:match('run_id:(%x+)') .. info:match('master_replid:(%x+)')
local gen = tonumber(meta[2])
if gen and gen >= tonumber(ARGV[1]) then return gen end
-- Somebody else was quicker, for the same reason.
if meta[1] == inc and gen > tonumber(ARGV[2]) then return gen end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'inc', inc, 'gen', ARGV[1], 'open', '0')
return tonumber(ARGV[1])
