-- What services call.

-- For services: publishes a payload as PUBLISH would, and keeps the state of entities.
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
  local class
  local name = channel:sub(#environment.prefix + 1)
  for _, candidate in ipairs(environment.classes) do
    if name:find(candidate.match) then
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
  local limits =
    { max = class.max, ttl = class.ttl, bytes = class.bytes or DEFAULT_MAX_BYTES, environment = environment }
  local answer = commit(channel, limits, key, remove, body .. ',"key":' .. cjson.encode(key), 'db1.')
  outlive(channel, limits)
  return answer
end

redis.register_function('drawbridge_publish', publish)
