-- Records of sessions: one hash for each, in its player's slot. `n` names the node that has the session, by its start; `g`
-- counts the claims; `c` is what the session consists of, opaque here. The record of a live node has no TTL: who saves or
-- claims it takes the TTL away, and a node that ends, or who cleans up behind one that died, sets it.
-- Every function's only key is the record.

-- What a record's content takes at most; longer is not read.
local MAX_CONTENT_BYTES = 64 * 1024
-- What the name of a start of a node takes at most.
local MAX_NODE_BYTES = 128

-- Whether it can be the name of a start of a node: short text without white space and control characters.
local function is_node(name)
  return #name >= 1 and #name <= MAX_NODE_BYTES and not name:find('[%s%c]') and is_text(name)
end

-- The node that has a session and the generation under which it does; nil where there is none that can be right. A key of
-- another type is removed.
local function session_of(record)
  local stored = redis.pcall('HMGET', record, 'n', 'g')
  if stored.err then
    redis.call('UNLINK', record)
    return nil
  end
  local generation = whole(stored[2], MAX_COUNT - 1)
  if type(stored[1]) ~= 'string' or not is_node(stored[1]) or not generation or generation < 1 then
    return nil
  end
  return stored[1], generation
end

-- Whether somebody else's claim is as late as this node's, or later.
local function is_taken_over(record, node, generation)
  local owner, stored = session_of(record)
  return owner and (stored > generation or (stored == generation and owner ~= node)), owner, stored
end

-- Stores a session of this node: <node> <generation> <content>. A record that Redis has lost, or an older one that a lost
-- claim has left, is written again. The error where another one has it: TAKENOVER <generation> <1 if it waits to be claimed, or 0>
-- <node>.
local function session_save(keys, args)
  local record, node, generation, content = keys[1], args[1], whole(args[2], MAX_COUNT - 1), args[3]
  if #keys ~= 1 or #args ~= 3 or not generation then
    return redis.error_reply('BADARGS usage: <node> <generation> <content>')
  end
  local is_lost, owner, claimed = is_taken_over(record, node, generation)
  if is_lost then
    -- A node without the right to read it counts the session as another connection's.
    local left = redis.pcall('PTTL', record)
    local is_free = type(left) == 'number' and left >= 0 and 1 or 0
    return redis.error_reply('TAKENOVER ' .. digits(claimed) .. ' ' .. is_free .. ' ' .. owner)
  end
  redis.call('HSET', record, 'n', node, 'g', digits(generation), 'c', content)
  redis.call('PERSIST', record)
  return { MARK, 1 }
end

-- Claims a session for this node: <node> <channel> <announcement> ['own'], a JSON object that is published on the channel with
-- the generation of the claim, so that whoever had the session lets it go. Returns the generation and, if there is a session, who
-- had it before and its content; 0: there is none, or with 'own' another node has it. Why the announcement first: where it is
-- forbidden, nothing is claimed.
local function session_claim(keys, args)
  local record, node, channel, announcement = keys[1], args[1], args[2], args[3]
  if #keys ~= 1 or #args < 3 or #args > 4 then
    return redis.error_reply("BADARGS usage: <node> <channel> <announcement> ['own']")
  end
  local owner, generation = session_of(record)
  if not owner or generation + 1 >= MAX_COUNT or (args[4] == 'own' and owner ~= node) then
    return { MARK, 0 }
  end
  local bytes = redis.call('HSTRLEN', record, 'c')
  local content = bytes <= MAX_CONTENT_BYTES and redis.call('HGET', record, 'c') or ''
  redis.call('PUBLISH', channel, announcement:sub(1, -2) .. ',"generation":' .. digits(generation + 1) .. '}')
  redis.call('HSET', record, 'n', node, 'g', digits(generation + 1))
  redis.call('PERSIST', record)
  return { MARK, generation + 1, owner, digits(generation), content }
end

-- Removes the record of a session that has ended: <node> <generation> [<window>]. With a window it may be claimed for so many
-- milliseconds: no connection has taken the session up. Returns whether it was this node's.
local function session_end(keys, args)
  local record, node, generation = keys[1], args[1], whole(args[2], MAX_COUNT - 1)
  local window = whole(args[3] or '0', MAX_COUNT)
  if #keys ~= 1 or #args < 2 or #args > 3 or not generation or not window then
    return redis.error_reply('BADARGS usage: <node> <generation> [<window>]')
  end
  local is_lost, owner = is_taken_over(record, node, generation)
  if is_lost or not owner then
    return { MARK, 0 }
  end
  if window > 0 then
    redis.call('PEXPIRE', record, digits(window))
  else
    redis.call('UNLINK', record)
  end
  return { MARK, 1 }
end

-- Lets a record of a node that ends or has died go after so many milliseconds: <node> <window> <deadline>. Nothing is done
-- behind the deadline, in milliseconds of Redis' clock: by then the node may be back ('' is none). Returns whether it was
-- that node's.
local function session_window(keys, args)
  local record, node, window = keys[1], args[1], tonumber(args[2])
  if #keys ~= 1 or #args ~= 3 or not window then
    return redis.error_reply('BADARGS usage: <node> <window> <deadline>')
  end
  if args[3] ~= '' and now_ms() > tonumber(args[3]) then
    return redis.error_reply('TOOLATE the node may have come back')
  end
  if session_of(record) ~= node then
    return { MARK, 0 }
  end
  if window < 1 then
    redis.call('UNLINK', record)
  else
    redis.call('PEXPIRE', record, args[2])
  end
  return { MARK, 1 }
end

redis.register_function('drawbridge_session_save', session_save)
redis.register_function('drawbridge_session_claim', session_claim)
-- Why the flag: what frees memory works also while Redis is full.
redis.register_function({ function_name = 'drawbridge_session_end', callback = session_end, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'drawbridge_session_window', callback = session_window, flags = { 'allow-oom' } })
