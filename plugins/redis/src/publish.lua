-- Publishes a batch, marks what was sent and moves the position, as one step.
-- KEYS[1]  the route's hash
-- ARGV[1]  MessagePack array, four fields an event: id, collection channel ('' = that of the event before), channel of the
--          document (or an array of it and further channels), message ('' = the position was lost here)
-- ARGV[2]  '1': leave out what is not later than the watermark. It is kept in any case: it shows what Redis has forgotten
-- ARGV[3]  resume token to store with the last event, ARGV[4] its cluster time ('' = none)
-- ARGV[5]  the watermark that this instance knows to have been stored ('' = none)
-- ARGV[6]  '1': if an event is refused, none of the batch counts as sent: messages behind it speak for events before it
-- returns  {events done, how many of them were left out, the watermark, error that stopped at the next one or nil};
--          {-1, 0, error} when the state of the batch as a whole is not known to be stored
local key, dedupe, token, time = KEYS[1], ARGV[2] == '1', ARGV[3], ARGV[4]
-- Redis 7.0 gives a command that the user may not run in a script no code word; asked, it tells.
local function refusal(reply, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(...) then return 'NOPERM' end
  return type(reply) == 'table' and reply.err or 'ERR'
end
local state = redis.pcall('HMGET', key, 'format', 'watermark', 'time', 'generation')
if state.err then return {-1, 0, refusal(state, 'HMGET', key, 'format')} end
if state[1] and state[1] ~= '1' then return {-1, 0, 'OPLOGUEFORMAT'} end
-- Whatever forbids writing (a replica, no memory, no right, another type of key) shows here, before anything is sent.
local proof = redis.pcall('HSET', key, 'format', '1')
if type(proof) == 'table' and proof.err then return {-1, 0, refusal(proof, 'HSET', key, 'format', '1')} end
-- A Redis that has forgotten what it had confirmed (a failover to a replica that lagged, a restart from a snapshot) may not
-- have told its subscribers either.
if state[2] and state[2] < ARGV[5] then return {-1, 0, 'OPLOGUEBEHIND'} end

local batch = cmsgpack.unpack(ARGV[1])
local base = state[2] or ''
local old = base
local mark, earlier = old, old
local done, known, gap, failure = 0, 0, false, false
local channel = ''
for i = 1, #batch, 4 do
  local id, message = batch[i], batch[i + 3]
  if batch[i + 1] ~= '' then channel = batch[i + 1] end
  if message == '' then
    gap = true
    if old > id then old = id end
    if mark > id then mark, earlier = id, id end
  elseif id > old or not dedupe then
    local to = channel
    local reply = redis.pcall('PUBLISH', to, message)
    local more = batch[i + 2]
    if type(more) == 'string' then
      if type(reply) == 'number' then
        to = more
        reply = redis.pcall('PUBLISH', to, message)
      end
    else
      for n = 1, #more do
        if type(reply) ~= 'number' then break end
        to = more[n]
        reply = redis.pcall('PUBLISH', to, message)
      end
    end
    if type(reply) ~= 'number' then
      failure = refusal(reply, 'PUBLISH', to, message)
      if id == mark and mark ~= base then mark = earlier end
      break
    end
    if id > mark then earlier, mark = mark, id end
  else
    known = known + 1
  end
  done = done + 1
end
if failure and ARGV[6] == '1' then mark = old end

local change = {}
if mark ~= base then
  change[1], change[2] = 'watermark', mark
end
if not failure and time ~= '' and (gap or not state[3] or time > state[3]) then
  local n = #change
  change[n + 1], change[n + 2] = 'token', token
  change[n + 3], change[n + 4] = 'time', time
  change[n + 5], change[n + 6] = 'generation', string.format('%.0f', (tonumber(state[4] or '0') or 0) + 1)
end
if #change > 0 then
  local stored = redis.pcall('HSET', key, unpack(change))
  if type(stored) == 'table' and stored.err then return {-1, 0, stored.err} end
end
return {done, known, mark, failure}
