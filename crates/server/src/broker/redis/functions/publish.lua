-- What services call.

-- The first class of an environment that a channel belongs to.
local function class_of(environment, channel)
  local name = channel:sub(#environment.prefix + 1)
  for _, class in ipairs(environment.classes) do
    if name:find(class.match) then
      return class
    end
  end
end

-- Why a call cannot be carried out yet, or nil: in a Cluster the channel's slot is being moved here, and some of these two keys
-- may still be on the other side; what began here would be a second table or log. Redis refuses a command with several keys
-- then, where one of them is missing, with the first of these words before Redis 8 and with the second since. A user without the
-- right to `EXISTS` is not refused for that.
local function not_yet(one, other)
  local found = redis.pcall('EXISTS', one, other)
  local refusal = type(found) == 'table' and found.err or ''
  if refusal:find('non local key', 1, true) or refusal:find('undeclared keys', 1, true) then
    return redis.error_reply('TRYAGAIN the slot of this channel is being moved')
  end
end

-- Writes an entity's event into its channel's table and publishes it; returns the table's version.
local function publish_entity(environment, class, channel, payload)
  local event, decoded, body = read(class, payload, MAX_DATA_DEPTH)
  if not event then
    return redis.error_reply('BADPAYLOAD the payload is ' .. decoded)
  end
  local key, problem = key_of(class, decoded, body)
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
  local limits = {
    max = class.max,
    ttl = class.ttl,
    bytes = class.bytes or DEFAULT_MAX_BYTES,
    environment = environment,
    publishes_by = publish_command(class),
  }
  local delay = not_yet(table_of(environment, channel))
  if delay then
    return delay
  end
  local answer = commit(channel, limits, key, remove, body .. ',"key":' .. cjson.encode(key), 'db1.')
  outlive(channel, limits)
  return answer
end

-- Appends an event to its channel's log and publishes it; returns its offset.
local function publish_logged(environment, class, channel, payload)
  local body, problem = event_of(class, payload, environment.bytes)
  if not body then
    return redis.error_reply('BADPAYLOAD the payload is ' .. problem)
  end
  local stream, position = log_of(environment, channel)
  local now = now_ms()
  read_server(now)
  local delay = server.is_cluster and not_yet(stream, position)
  if delay then
    return delay
  end
  class.limits = class.limits or log_limits(class.events, class.age, environment.bytes, publish_command(class))
  local log = open_log(stream, position, class.limits, now, known_logs)
  local answer = append_all(log, channel, { body, 'db1.', 0 }, 1, {})[1]
  return type(answer) == 'table' and answer[3] or redis.error_reply(answer)
end

-- For services: publishes a payload as PUBLISH would, and keeps the state of entities and the events of logs.
local function publish(keys, args)
  local channel, payload = keys[1], args[1]
  if not channel or not payload then
    return redis.error_reply('BADPAYLOAD usage: FCALL drawbridge_publish 1 <channel> <payload>')
  end
  local environment = environment_for(channel)
  if not environment then
    return redis.error_reply('NOENVIRONMENT the channel\'s name begins with no channel_prefix of a Drawbridge here')
  end
  if #payload > environment.bytes then
    return redis.error_reply('TOOLARGE a payload has at most ' .. environment.bytes .. ' bytes')
  end
  local class = class_of(environment, channel)
  if class and class.max then
    return publish_entity(environment, class, channel, payload)
  elseif class and class.events then
    return publish_logged(environment, class, channel, payload)
  end
  redis.call(publish_command(class), channel, payload)
  return 0
end

redis.register_function('drawbridge_publish', publish)
