-- What must happen in Redis in one step: an entity's state is written and published together, and a player's view is
-- kept and told together. One hash per entity channel: `e` names the table's life, `s` counts its changes, and each
-- entity has `k` and its key, with when it was heard (Redis' clock, milliseconds) and what was published.
-- PREFIX, EXTERNAL_BYTES and CLASSES stand above; docs/redis.md describes what services see.

local MAX_KEY_BYTES = 255
local MAX_VIEWS = 256

local function table_of(channel)
  return PREFIX .. '{' .. channel .. '}:entities'
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Names a table's life: no two begin in the same microsecond.
local function new_epoch()
  local time = redis.call('TIME')
  return string.format('%x%05x', tonumber(time[1]), tonumber(time[2]))
end

-- Takes out what nobody has heard of for `ttl` milliseconds; not more often than that is worth.
local function purge(name, now, ttl)
  local last = tonumber(redis.call('HGET', name, 'p') or '0')
  if now - last < ttl / 8 then
    return
  end
  redis.call('HSET', name, 'p', now)
  local all = redis.call('HGETALL', name)
  for at = 1, #all, 2 do
    local heard = all[at]:sub(1, 1) == 'k' and tonumber(all[at + 1]:match('^%d+'))
    if heard and heard + ttl <= now then
      redis.call('HDEL', name, all[at])
    end
  end
end

-- Writes one event into the channel's table and publishes it. `body` is a JSON object without its last brace, and
-- without an id. Gives the table's version.
local function commit(channel, max, ttl, key, remove, body, id)
  local name = table_of(channel)
  local field = 'k' .. key
  local now = now_ms()
  local epoch = redis.call('HGET', name, 'e')
  if not epoch then
    epoch = new_epoch()
    redis.call('HSET', name, 'e', epoch, 's', 0, 'p', now)
  end
  if not remove and redis.call('HEXISTS', name, field) == 0 and redis.call('HLEN', name) - 3 >= max then
    purge(name, now, ttl)
    if redis.call('HLEN', name) - 3 >= max then
      return redis.error_reply('LIMIT_EXCEEDED the channel holds ' .. max .. ' entities already')
    end
  end
  local seq = redis.call('HINCRBY', name, 's', 1)
  local payload = body .. ',"id":"' .. id .. '@' .. epoch .. '.' .. string.format('%.0f', seq) .. '"}'
  if remove then
    redis.call('HDEL', name, field)
  else
    redis.call('HSET', name, field, string.format('%.0f', now) .. ' ' .. payload)
  end
  redis.call('PEXPIRE', name, ttl)
  redis.call('PUBLISH', channel, payload)
  return seq
end

-- For servers: max, ttl, and for each event its key, whether it ends the entity, the JSON object without its last
-- brace, and the id. An answer for each.
local function server_commit(keys, args)
  local answers = {}
  local max, ttl = tonumber(args[1]), tonumber(args[2])
  for at = 3, #args, 4 do
    local answer = commit(keys[1], max, ttl, args[at], args[at + 1] == '1', args[at + 2], args[at + 3])
    answers[#answers + 1] = type(answer) == 'table' and answer.err or answer
  end
  return answers
end

-- cjson takes NaN, infinities and hexadecimal numbers, which are not JSON.
local function has_odd_numbers(payload)
  if not (payload:find('[Nn][Aa][Nn]') or payload:find('[Ii][Nn][Ff]') or payload:find('[xX]')) then
    return false
  end
  local bare = payload:gsub('\\.', ''):gsub('"[^"]*"', '""')
  return bare:find('[Nn][Aa][Nn]') or bare:find('[Ii][Nn][Ff]') or bare:find('[xX]')
end

-- What a service's payload says, as docs/protocol.md has it: the event's name, its JSON members for keys and positions,
-- and the JSON object without its last brace; nothing where the class does not take it.
local function read(class, payload)
  local known, decoded = pcall(cjson.decode, payload)
  known = known and not has_odd_numbers(payload)
  if known and type(decoded) == 'table' and payload:find('^%s*{') and type(decoded.event) == 'string' and class.payload ~= 'raw' then
    local envelope = true
    if class.payload == 'auto' then
      for name in pairs(decoded) do
        envelope = envelope and (name == 'event' or name == 'data' or name == 'from' or name == 'tags' or name == 'key' or name == 'ts')
      end
    end
    if envelope then
      return decoded.event, decoded, (payload:gsub('}%s*$', ''))
    end
  end
  if class.payload == 'envelope' then
    return nil
  end
  local data = known and payload or cjson.encode(payload)
  return 'message', { data = known and decoded or payload }, '{"event":"message","data":' .. data
end

local function find(decoded, path)
  local value = decoded
  for _, step in ipairs(path) do
    if type(value) ~= 'table' then
      return nil
    end
    value = value[step]
  end
  if value == cjson.null then
    return nil
  end
  return value
end

-- A number as the text of a key; nothing where a double does not hold it.
local function decimal(number)
  if number ~= number or math.abs(number) >= 2 ^ 53 then
    return nil
  end
  if number == math.floor(number) then
    return string.format('%.0f', number)
  end
  for digits = 1, 17 do
    local text = string.format('%.' .. digits .. 'g', number)
    if tonumber(text) == number then
      return not text:find('e') and text or nil
    end
  end
end

local function key_of(class, decoded)
  local key = class.key and find(decoded, class.key)
  if key == nil then
    key = find(decoded, { 'key' })
  end
  if type(key) == 'number' then
    key = decimal(key)
    if not key then
      return nil, 'a number that is not exact: write it as a string'
    end
  end
  if type(key) ~= 'string' then
    return nil, 'missing, or neither a string nor a number'
  end
  if key == '' or #key > MAX_KEY_BYTES then
    return nil, 'not of 1 to ' .. MAX_KEY_BYTES .. ' bytes'
  end
  return key
end

local function is_place(value)
  return type(value) == 'number' and value == value and math.abs(value) < math.huge
end

-- For services: publishes a payload as PUBLISH would, and keeps the state of entities.
local function publish(keys, args)
  local channel, payload = keys[1], args[1]
  if not channel or not payload then
    return redis.error_reply('BADPAYLOAD usage: FCALL drawbridge_publish 1 <channel> <payload>')
  end
  if #payload > EXTERNAL_BYTES then
    return redis.error_reply('TOOLARGE a payload has at most ' .. EXTERNAL_BYTES .. ' bytes')
  end
  local class
  for _, candidate in ipairs(CLASSES) do
    if channel:find(candidate.match) then
      class = candidate
      break
    end
  end
  if not class or not class.max then
    redis.call('PUBLISH', channel, payload)
    return 0
  end
  local event, decoded, body = read(class, payload)
  if not event then
    return redis.error_reply('BADPAYLOAD the payload is not a JSON object with a string `event`')
  end
  local key, problem = key_of(class, decoded)
  if not key then
    return redis.error_reply('BADKEY ' .. class.key_name .. ' is ' .. problem)
  end
  local remove = event == 'remove'
  if not remove and class.position then
    for at, path in ipairs(class.position) do
      if not is_place(find(decoded, path)) then
        return redis.error_reply('BADPOSITION ' .. class.position_names[at] .. ' is not a finite number')
      end
    end
  end
  return commit(channel, class.max, class.ttl, key, remove, body .. ',"key":' .. cjson.encode(key), 'db1.')
end

-- A player's view of a channel is kept (an empty one: no longer), and nodes are told; with '1' at the end only where
-- it was another.
local function view(keys, args)
  local name, channel, expression, nodes, command = keys[1], args[1], args[2], args[3], args[4]
  if args[5] == '1' and (redis.call('HGET', name, channel) or '') == expression then
    return 0
  end
  if expression == '' then
    redis.call('HDEL', name, channel)
  else
    if redis.call('HEXISTS', name, channel) == 0 and redis.call('HLEN', name) >= MAX_VIEWS then
      return redis.error_reply('LIMIT_EXCEEDED a player has at most ' .. MAX_VIEWS .. ' views')
    end
    redis.call('HSET', name, channel, expression)
  end
  redis.call('PUBLISH', nodes, command)
  return 1
end

redis.register_function('drawbridge_commit', server_commit)
redis.register_function('drawbridge_publish', publish)
redis.register_function('drawbridge_view', view)
