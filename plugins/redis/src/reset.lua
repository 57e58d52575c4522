-- Sets the checkpoint whatever is stored, and the watermark with it, so that exactly what comes behind it is sent.
-- KEYS[1]  the hash
-- ARGV     token, time ('' = remove everything), '1': has a watermark
-- returns  {1}, or {-1, error}
local key, token, time = KEYS[1], ARGV[1], ARGV[2]
local function refusal(reply, ...)
  if redis.acl_check_cmd and not redis.acl_check_cmd(...) then return 'NOPERM' end
  return reply.err
end
local state = redis.pcall('HMGET', key, 'format', 'generation')
if state.err then return {-1, refusal(state, 'HMGET', key, 'format')} end
if state[1] and state[1] ~= '1' then return {-1, 'OPLOGUEFORMAT'} end
local reply
if time == '' then
  reply = redis.pcall('HDEL', key, 'format', 'token', 'time', 'generation', 'watermark')
  if type(reply) == 'table' and reply.err then return {-1, refusal(reply, 'HDEL', key, 'format')} end
else
  local generation = string.format('%.0f', (tonumber(state[2] or '0') or 0) + 1)
  reply = redis.pcall('HSET', key, 'format', '1', 'token', token, 'time', time, 'generation', generation)
  if type(reply) == 'number' and ARGV[3] == '1' then reply = redis.pcall('HSET', key, 'watermark', time) end
end
if type(reply) == 'table' and reply.err then return {-1, refusal(reply, 'HSET', key, 'format', '1')} end
return {1}
