-- Opens a generation of one bucket for grants, if all nodes that may hold budget have said what they hold.
--
-- KEYS[1]   meta of the bucket, {tg:B}:m
-- ARGV[1]   gen
-- ARGV[2..] the nodes
--
-- Answers {'OPEN'}, {'WAIT', node, ...} with those that are missing, {'LOST'} or {'GEN', gen}.

local meta = redis.call('HMGET', KEYS[1], 'inc', 'gen')
local info = redis.call('INFO', 'server', 'replication')
local inc = info:match('run_id:(%x+)') .. info:match('master_replid:(%x+)')
if meta[1] ~= inc then return {'LOST'} end
if meta[2] ~= ARGV[1] then return {'GEN', tonumber(meta[2])} end
local missing = {'WAIT'}
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1], 'ok:' .. ARGV[i]) == 0 then missing[#missing + 1] = ARGV[i] end
end
if #missing > 1 then return missing end
redis.call('HSET', KEYS[1], 'open', '1')
return {'OPEN'}
