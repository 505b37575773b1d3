-- Players' views: kept and announced to nodes together.

local MAX_VIEWS = 256

-- For servers: keeps a player's view of a channel (an empty one: no longer) and notifies nodes; with '1' at the end only
-- where it was another. Returns `MARK` and whether it did.
local function view(keys, args)
  local name, channel, expression, nodes, command = keys[1], args[1], args[2], args[3], args[4]
  if args[5] == '1' and (redis.call('HGET', name, channel) or '') == expression then
    return { MARK, 0 }
  end
  -- Always called: it raises an error before anything is published, if the key is not a hash.
  local is_kept = redis.call('HEXISTS', name, channel) == 1
  if expression ~= '' and not is_kept and redis.call('HLEN', name) >= MAX_VIEWS then
    return redis.error_reply('LIMIT_EXCEEDED a player has at most ' .. MAX_VIEWS .. ' views')
  end
  redis.call('PUBLISH', nodes, command)
  if expression == '' then
    redis.call('HDEL', name, channel)
  else
    redis.call('HSET', name, channel, expression)
  end
  return { MARK, 1 }
end

redis.register_function('drawbridge_view', view)
