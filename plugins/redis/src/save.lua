-- Saves a checkpoint if it follows the stored one.
-- KEYS[1]  the hash
-- ARGV     token, time, generation, '1': of several instances, so never move backwards,
--          the watermark that this instance knows to have been stored ('' = none)
-- A sink's checkpoint that is gone (a Redis that keeps nothing over a restart) is stored again: the position is that of what was
-- delivered. One that stands alone is not: who removed it meant something.
-- returns  {1} when stored, {0, token, time, generation} of what is there instead, or {-1, error}
local key, token, time, generation = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local function refusal(reply, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(...) then return 'NOPERM' end
  return reply.err
end
local state = redis.pcall('HMGET', key, 'format', 'token', 'time', 'generation', 'watermark')
if state.err then return {-1, refusal(state, 'HMGET', key, 'format')} end
if state[1] and state[1] ~= '1' then return {-1, 'OPLOGUEFORMAT'} end
-- As in publish.lua: where this Redis has forgotten events, a later position would pass them over.
if state[5] and state[5] < ARGV[5] then return {-1, 'OPLOGUEBEHIND'} end
if state[2] then
  local follows = tonumber(generation) == (tonumber(state[4] or '0') or 0) + 1
  local ahead = ARGV[4] ~= '1' or time >= (state[3] or '')
  if not (follows and ahead) then
    if state[2] == token and state[3] == time and (state[4] == generation or ARGV[4] == '1') then return {1} end
    return {0, state[2], state[3] or '', state[4] or ''}
  end
elseif generation ~= '1' and ARGV[4] ~= '1' then
  return {-1, 'OPLOGUEGONE'}
end
local stored = redis.pcall('HSET', key, 'format', '1', 'token', token, 'time', time, 'generation', generation)
if type(stored) == 'table' and stored.err then return {-1, refusal(stored, 'HSET', key, 'format', '1')} end
return {1}
