-- Publishes a batch, claims a key for each event and moves the position, as one step; keys and values are those of oplogtoredis.
-- KEYS[1]  the first of the resume keys, `<prefix>lastProcessedEntry.0`
-- ARGV[1]  MessagePack array, four fields an event: `<entry>::<index>`, collection channel ('' = that of the event before), channel
--          of the document or an array of it and further ones, message
-- ARGV[2]  how long a claim lasts, in seconds
-- ARGV[3]  what the names of the keys begin with
-- ARGV[4]  the entry that is reached with the last event ('' = none), ARGV[5] how many resume keys there are
-- ARGV[6]  '1': that entry holds even if it is an earlier one
-- ARGV[7]  a claim that must still be there ('' = none)
-- returns  {events done, how many of them others had claimed, the last one done, for how many seconds it stays claimed, the entry
--          that is stored, error that stopped at the next event or nil}; {-1, 0, error} when nothing was done
local claims, ttl, upto = ARGV[3] .. 'processed::', ARGV[2], ARGV[4]
local resume = ARGV[3] .. 'lastProcessedEntry.'
-- Redis 7.0 gives a command that the user may not run in a script no code word; asked, it tells.
local function refusal(reply, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(...) then return 'NOPERM' end
  return type(reply) == 'table' and reply.err or 'ERR'
end
-- Whatever forbids writing (a replica, no memory, no right) shows here, before anything is sent. XX: nothing is made.
local proof = redis.pcall('SET', claims .. 'proof', '1', 'XX')
if type(proof) == 'table' and proof.err then return {-1, 0, refusal(proof, 'SET', claims .. 'proof', '1')} end
local stored = redis.pcall('GET', KEYS[1])
if type(stored) == 'table' then return {-1, 0, refusal(stored, 'GET', KEYS[1])} end
-- As in publish.lua: a Redis that has forgotten what it had confirmed may not have told its subscribers either.
if ARGV[7] ~= '' and stored and redis.call('EXISTS', claims .. ARGV[7]) == 0 then return {-1, 0, 'OPLOGUEBEHIND'} end

local batch = cmsgpack.unpack(ARGV[1])
local done, known, left, last, failure = 0, 0, 0, '', false
local channel = ''
for i = 1, #batch, 4 do
  local claim = claims .. batch[i]
  if batch[i + 1] ~= '' then channel = batch[i + 1] end
  local claimed = redis.pcall('SET', claim, '1', 'NX', 'EX', ttl)
  if claimed == false then
    known = known + 1
    left = -1
  elseif claimed.err then
    failure = refusal(claimed, 'SET', claim, '1')
    break
  else
    local to, message = channel, batch[i + 3]
    local reply = redis.pcall('PUBLISH', to, message)
    local more = batch[i + 2]
    if type(more) == 'string' then more = {more} end
    for n = 1, #more do
      if type(reply) ~= 'number' then break end
      to = more[n]
      reply = redis.pcall('PUBLISH', to, message)
    end
    if type(reply) ~= 'number' then
      failure = refusal(reply, 'PUBLISH', to, message)
      redis.call('DEL', claim)
      break
    end
    left = ttl
  end
  last = batch[i]
  done = done + 1
end
if left == -1 then left = math.max(redis.call('TTL', claims .. last), 0) end

-- Decimal numbers without leading zeros, of more digits than a Lua number holds.
local function later(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end
if not failure and upto ~= '' then
  for n = 0, ARGV[5] - 1 do
    local old = redis.pcall('GET', resume .. n)
    if type(old) == 'table' then return {-1, 0, old.err} end
    if ARGV[6] == '1' or not old or later(upto, old) then
      local set = redis.pcall('SET', resume .. n, upto)
      if set.err then return {-1, 0, refusal(set, 'SET', resume .. n, upto)} end
      old = upto
    end
    if n == 0 then stored = old end
  end
end
return {done, known, last, left, stored or '', failure}
