-- A node has said what it holds in this generation of the bucket.
--
-- KEYS[1]  meta of the bucket, {tg:B}:m
-- ARGV[1]  gen
-- ARGV[2]  node
--
-- Answers {'OK'}, {'LOST'} or {'GEN', gen}; the latter two changed nothing.

local meta = redis.call('HMGET', KEYS[1], 'inc', 'gen')
local info = redis.call('INFO', 'server', 'replication')
local inc = info:match('run_id:(%x+)') .. info:match('master_replid:(%x+)')
if meta[1] ~= inc then return {'LOST'} end
if meta[2] ~= ARGV[1] then return {'GEN', tonumber(meta[2])} end
redis.call('HSET', KEYS[1], 'ok:' .. ARGV[2], '1')
return {'OK'}
