-- One node's settle about accounts of one bucket. The rules are those of `rules.rs`; a test holds the two together.
--
-- KEYS[1]     meta of the bucket, {tg:B}:m     fields inc, gen, open, ok:<node>
-- KEYS[2..]   one key per ask, {tg:B}:a:<tenant>:<period>:<meter>; the same one may come again
--             fields gen, ver, cap ('' = none), s = sum of a, t = sum of u, hungry = until (ms), tn tl tu = whose turn,
--             what it lacks, until (ms); per node u:<node> used, a:<node> ceiling, c:<node> last ctr
-- ARGV[1]     node
-- ARGV[2]     gen that the node is in
-- ARGV[3]     now, Unix ms; 0 = this server's own clock
-- ARGV[4]     nodes alive
-- ARGV[5..]   eight per ask: ctr (20 digits, so that text order is number order), used, hold, need, want, plan version,
--             cap ('' = none), base ('' = not read, else JSON {node: flushed units})
--
-- Answers {'LOST'}: this process did not write the meta it holds, nothing changed.
--         {'GEN', gen}: the bucket is in another generation, nothing changed.
--         {'OK', open, ...}: per ask {'OLD'}, {'NEEDBASE'}, or {'OK', ceiling (-1 = no cap), used, plan version, recall,
--         exhausted}.
-- Numbers are exact up to 2^53; what is sent is cut off there.

local HUNGER_MS = 1000
-- Longer than any node spends a ceiling without an answer (10 minutes), longer than a month: 38 days from the last settle.
local KEEP_S = 38 * 86400

local meta = redis.call('HMGET', KEYS[1], 'inc', 'gen', 'open')
local info = redis.call('INFO', 'server', 'replication')
local inc = info:match('run_id:(%x+)') .. info:match('master_replid:(%x+)')
if meta[1] ~= inc then return {'LOST'} end
if meta[2] ~= ARGV[2] then return {'GEN', tonumber(meta[2])} end

local node, gen, nodes, open = ARGV[1], meta[2], tonumber(ARGV[4]), meta[3] == '1'
local now = tonumber(ARGV[3])
if now == 0 then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function text(number) return string.format('%.0f', number) end

-- The account's first settle in this generation: nodes hold nothing but what they have flushed, until they say more.
local function begin(key, base)
  local fields, used = redis.call('HGETALL', key), {}
  local known = {ver = '0', cap = '0'}
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    if name:sub(1, 2) == 'u:' then used[name:sub(3)] = tonumber(value) end
    if known[name] then known[name] = value end
  end
  for name, total in pairs(base) do used[name] = math.max(used[name] or 0, total) end
  local sum = 0
  for name, total in pairs(used) do
    sum = sum + total
    redis.call('HSET', key, 'u:' .. name, text(total), 'a:' .. name, text(total))
  end
  redis.call('HSET', key, 'gen', gen, 'ver', known.ver, 'cap', known.cap, 's', text(sum), 't', text(sum),
    'hungry', '0', 'tn', '', 'tl', '0', 'tu', '0')
end

local function load(key)
  local f = redis.call('HMGET', key, 'gen', 'ver', 'cap', 's', 't', 'hungry', 'tn', 'tl', 'tu',
    'u:' .. node, 'a:' .. node, 'c:' .. node)
  return { gen = f[1], ver = tonumber(f[2]), cap = tonumber(f[3]), s = tonumber(f[4]), t = tonumber(f[5]),
    hungry = tonumber(f[6]), tn = f[7], tl = tonumber(f[8]), tu = tonumber(f[9]),
    u = tonumber(f[10] or 0), a = tonumber(f[11] or 0), c = f[12] or '' }
end

local function store(key, acc)
  redis.call('HSET', key, 'ver', text(acc.ver), 'cap', acc.cap and text(acc.cap) or '', 's', text(acc.s),
    't', text(acc.t), 'hungry', text(acc.hungry), 'tn', acc.tn, 'tl', text(acc.tl), 'tu', text(acc.tu),
    'u:' .. node, text(acc.u), 'a:' .. node, text(acc.a), 'c:' .. node, acc.c)
  redis.call('EXPIRE', key, KEEP_S)
end

-- A ceiling is never below what is used.
local function set_ceiling(acc, ceiling)
  ceiling = math.max(ceiling, acc.u)
  acc.s = acc.s + ceiling - acc.a
  acc.a = ceiling
end

-- Units that would be free for a node that has used u and holds a, if all others gave back what they have not used.
local function within_reach(acc, u, a) return math.max(0, acc.cap - (acc.t - u) - a) end

-- Units kept from this node because it is another's turn.
local function kept_for_others(acc, key)
  if acc.tn == '' or acc.tn == node or now >= acc.tu then return 0 end
  local of = redis.call('HMGET', key, 'u:' .. acc.tn, 'a:' .. acc.tn)
  local reach = within_reach(acc, tonumber(of[1] or 0), tonumber(of[2] or 0))
  return acc.tl <= reach and acc.tl or 0
end

local function grant(acc, key, need, want)
  local free = math.max(0, math.max(0, acc.cap - acc.s) - kept_for_others(acc, key))
  local share = nodes <= 1 and free or math.max(need, math.floor(free / (2 * nodes)))
  return math.min(math.max(want, need), free, share)
end

local function note_hunger(acc, lack)
  if lack > 0 then acc.hungry = now + HUNGER_MS end
  local wanted = lack > 0 and lack <= within_reach(acc, acc.u, acc.a)
  local own = acc.tn == node
  if own and not wanted then
    acc.tn, acc.tl, acc.tu = '', 0, 0
  elseif own and now < acc.tu then
    acc.tl = lack
  elseif acc.tn ~= '' and now < (own and acc.tu + HUNGER_MS or acc.tu) then
    return
  elseif wanted then
    acc.tn, acc.tl, acc.tu = node, lack, now + HUNGER_MS
  end
end

local function capped(acc, key, hold, need, want)
  set_ceiling(acc, hold)
  if open then
    local granted = grant(acc, key, need, want)
    set_ceiling(acc, acc.a + granted)
    note_hunger(acc, math.max(0, need - granted))
  end
  local own_turn = acc.tn == node and now < acc.tu
  local recall = now < acc.hungry and not own_turn
  return {'OK', acc.a, acc.t, acc.ver, recall and 1 or 0, acc.t >= acc.cap and 1 or 0}
end

-- Nothing is granted where nothing is limited: only use is kept, for the day when a cap comes.
local function uncapped(acc)
  set_ceiling(acc, 0)
  acc.tn, acc.tl, acc.tu = '', 0, 0
  return {'OK', -1, acc.t, acc.ver, 0, 0}
end

local function settle(key, at)
  local acc = load(key)
  if acc.gen ~= gen then
    if ARGV[at + 7] == '' then return {'NEEDBASE'} end
    begin(key, cjson.decode(ARGV[at + 7]))
    acc = load(key)
  end
  local ctr, ver = ARGV[at], tonumber(ARGV[at + 5])
  if ctr <= acc.c then return {'OLD'} end
  acc.c = ctr
  if ver > acc.ver or acc.ver == 0 then acc.ver, acc.cap = ver, tonumber(ARGV[at + 6]) end
  local used = math.max(acc.u, tonumber(ARGV[at + 1]))
  acc.t = acc.t + used - acc.u
  acc.u = used
  local answer
  if acc.cap then
    answer = capped(acc, key, tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]))
  else
    answer = uncapped(acc)
  end
  store(key, acc)
  return answer
end

local answers = {'OK', open and 1 or 0}
for i = 2, #KEYS do answers[i + 1] = settle(KEYS[i], 5 + (i - 2) * 8) end
return answers
