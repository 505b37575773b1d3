-- Tables of entity channels: an entity's state is written and published together. One hash per channel: `e` names the
-- table's life, `s` counts its changes, `b` the bytes of its rows, `r` says when it was last repaired and how often, and each
-- entity has `k` and its key, with the time of its last event (Redis' clock, milliseconds) and the event. A sorted set holds
-- the same fields by that time, so that expired ones are found without reading the rest. Nothing that is
-- stored is trusted: what cannot be right is repaired, seldom, or begins a new life of the table.

local MAX_KEY_BYTES = 255
-- What the rest of the envelope and a table's version take behind an event and its id, at most.
local VERSION_BYTES = 64
-- Expired entities taken out at once, and how often that is done for one event.
local PURGED_AT_ONCE = 64
local PURGES = 16
-- A table of more fields than this, and than four times its entities, is not ours any more. Nodes read no more.
local MIN_FIELD_BOUND = 65536
-- What a channel's rows take at most where its class does not say.
local DEFAULT_MAX_BYTES = 16 * 1024 * 1024
-- After the first few repairs, the pause before the next one doubles each time, up to a minute; after ten minutes without a
-- repair the count starts again.
local REPAIRS_AT_ONCE = 3
local REPAIR_PAUSE_MS = 1000
local REPAIR_PAUSE_MAX_MS = 60 * 1000
local REPAIRS_FORGOTTEN_MS = 600 * 1000
-- The rows' bytes are counted again after so long, whatever `b` says.
local COUNTED_AGAIN_MS = 3600 * 1000
-- Clocks of a master and its replica may differ by this.
local CLOCK_SLACK_MS = 60 * 1000
-- A member of the sorted set that is no entity's: a set without it was lost, or is not ours.
local SET_MARK = 's'
local HEADER = { e = true, s = true, b = true, r = true }

local function table_of(environment, channel)
  local name = environment.prefix .. environment.keys .. '{' .. channel .. '}'
  return name .. ':entities', name .. ':heard'
end

-- Names a table's life: no two begin in the same microsecond.
local function new_epoch()
  local time = redis.call('TIME')
  return string.format('%x%05x', tonumber(time[1]), tonumber(time[2]))
end

local function is_epoch(text)
  return type(text) == 'string' and #text <= 32 and text:find('^%w+$')
end

-- Whether a field of the hash can be an entity's.
local function is_row(field)
  return field:sub(1, 1) == 'k' and #field >= 2 and #field <= 1 + MAX_KEY_BYTES
end

-- The size of a row in bytes; 0 if there is no such row.
local function row_bytes(rows, field)
  local bytes = redis.call('HSTRLEN', rows, field)
  return bytes > 0 and #field + bytes or 0
end

local function set_bytes(rows, header, bytes)
  header.bytes = math.max(0, bytes)
  redis.call('HSET', rows, 'b', digits(header.bytes))
end

-- Marks the sorted set as ours; says whether it was not.
local function mark_set(heard)
  return redis.call('ZADD', heard, '+inf', SET_MARK) == 1
end

-- Records in the set the time of an entity's event. Returns whether the entity is new there, and whether the set was not
-- ours and so proves nothing. A key of another type is dropped: the set can be made from the hash.
local function note(heard, field, time)
  local added = redis.pcall('ZADD', heard, time, field)
  if type(added) == 'table' then
    redis.call('UNLINK', heard)
    added = redis.call('ZADD', heard, time, field)
  end
  return added == 1, added == 1 and mark_set(heard)
end

-- Whether a table may be repaired again. Reads when it last was, which is seldom asked.
local function may_repair(header, now)
  if not header.repaired then
    local repaired, repairs = tostring(header.history or ''):match('^(%d+) (%d+)$')
    header.repaired, header.repairs = whole(repaired, MAX_COUNT) or 0, whole(repairs, 1000) or 0
  end
  local pause = 0
  if header.repairs >= REPAIRS_AT_ONCE then
    pause = math.min(REPAIR_PAUSE_MAX_MS, REPAIR_PAUSE_MS * 2 ^ (header.repairs - REPAIRS_AT_ONCE))
  end
  return math.abs(now - header.repaired) >= pause
end

-- Lets the hash hold rows and the header only, the set the same rows and times that can be, and `b` their bytes. An
-- entity of which the set says nothing counts as heard now. `own` was noted just now, and its row is still to come.
-- `max_fields` bounds the work.
local function repair(rows, heard, header, own, now)
  if math.abs(now - header.repaired) >= REPAIRS_FORGOTTEN_MS then
    header.repairs = 0
  end
  header.repaired, header.repairs = now, header.repairs + 1
  if redis.call('ZCARD', heard) > header.max_fields then
    redis.call('UNLINK', heard)
    mark_set(heard)
    redis.call('ZADD', heard, now, own)
  end
  local times = {}
  local members = redis.call('ZRANGEBYSCORE', heard, '-inf', '+inf', 'WITHSCORES')
  for at = 1, #members, 2 do
    times[members[at]] = tonumber(members[at + 1])
  end
  times[SET_MARK], times[own] = nil, now
  local bytes = 0
  for _, field in ipairs(redis.call('HKEYS', rows)) do
    local taken = is_row(field) and row_bytes(rows, field) or 0
    if taken > 0 and taken <= header.payload_bytes + 2 * MAX_KEY_BYTES then
      local time = times[field]
      if not time or time ~= time or time > now + CLOCK_SLACK_MS then
        redis.call('ZADD', heard, now, field)
      end
      bytes = bytes + taken
      times[field] = nil
    elseif not HEADER[field] then
      redis.call('HDEL', rows, field)
    end
  end
  times[own] = nil
  for field in pairs(times) do
    redis.call('ZREM', heard, field)
  end
  redis.call('HSET', rows, 'r', digits(now) .. ' ' .. digits(header.repairs))
  set_bytes(rows, header, bytes)
end

-- The header of a table that can go on, repaired where it must be. What has none, none that can be right, or far more
-- fields than it may have, begins a new life, without rows. How many fields and members there are is looked at when an
-- entity is new in the set.
local function open(rows, heard, limits, own, is_new, is_lost, now)
  local stored = redis.call('HMGET', rows, 'e', 's', 'b', 'r')
  local header = { epoch = stored[1], seq = whole(stored[2], MAX_COUNT - 1), bytes = whole(stored[3], MAX_COUNT) }
  header.max_fields = math.max(MIN_FIELD_BOUND, 4 * limits.max)
  header.payload_bytes = limits.environment.bytes
  is_lost = is_lost or not header.bytes
  local is_counted = is_new or is_lost
  if not is_epoch(header.epoch) or not header.seq
    or (is_counted and redis.call('HLEN', rows) > header.max_fields) then
    redis.call('UNLINK', rows, heard)
    header.epoch, header.seq, header.bytes = new_epoch(), 0, 0
    redis.call('HSET', rows, 'e', header.epoch, 's', '0', 'b', '0', 'r', digits(now) .. ' 0')
    header.repaired, header.repairs = now, 0
    mark_set(heard)
    if is_new ~= nil then
      redis.call('ZADD', heard, now, own)
    end
    return header
  end
  header.history = stored[4]
  header.bytes = header.bytes or 0
  if (is_lost or is_new) and may_repair(header, now) and (is_lost or now - header.repaired > COUNTED_AGAIN_MS) then
    repair(rows, heard, header, own, now)
  end
  return header
end

-- Removes a few entities without an event for `ttl` milliseconds; returns whether there were any.
local function purge(rows, heard, header, ttl, now)
  local expired = redis.call('ZRANGEBYSCORE', heard, '-inf', now - ttl, 'LIMIT', 0, PURGED_AT_ONCE)
  if #expired == 0 then
    return false
  end
  local bytes = 0
  for _, field in ipairs(expired) do
    bytes = bytes + row_bytes(rows, field)
  end
  redis.call('ZREM', heard, unpack(expired))
  redis.call('HDEL', rows, unpack(expired))
  set_bytes(rows, header, header.bytes - bytes)
  return true
end

-- Whether the fields of the hash and the members of the set differ, or a member's time is still to come.
local function is_inconsistent(rows, heard, is_new, now)
  if #redis.call('ZRANGEBYSCORE', heard, now + CLOCK_SLACK_MS, '(+inf', 'LIMIT', 0, 1) > 0 then
    return true
  end
  local fields = redis.call('HLEN', rows)
  for name in pairs(HEADER) do
    fields = fields - redis.call('HEXISTS', rows, name)
  end
  return fields + (is_new and 1 or 0) ~= redis.call('ZCARD', heard) - 1
end

-- Makes room for a row that grows the table by so many bytes, and that was just noted where it is new: nil, or what is
-- full. A new one takes a few expired ones out also where there is room, so that there are a few rows less to read.
local function full(rows, heard, header, limits, own, is_new, grows, now)
  local function lacks()
    if is_new and redis.call('ZCARD', heard) - 1 > limits.max then
      return 'the channel holds ' .. limits.max .. ' entities already'
    elseif grows > 0 and header.bytes + grows > limits.bytes then
      return 'the channel\'s entities would take more than ' .. limits.bytes .. ' bytes'
    end
  end
  if is_new then
    purge(rows, heard, header, limits.ttl, now)
  end
  local lack, purges = lacks(), 1
  while lack and purges < PURGES and purge(rows, heard, header, limits.ttl, now) do
    lack, purges = lacks(), purges + 1
  end
  if lack and may_repair(header, now) and redis.call('HLEN', rows) <= header.max_fields
    and (is_inconsistent(rows, heard, is_new, now) or not lack:find('already', 1, true)) then
    repair(rows, heard, header, own, now)
    lack = lacks()
  end
  return lack
end

-- Publishes one event and writes it into the channel's table: in this order, for Redis takes nothing back when a user
-- may not publish what it may write. `body` is a JSON object without its last brace, and
-- without an id. Returns the table's version. What nodes would drop is refused before the version counts it: they would
-- miss it, and read the table again.
local function commit(channel, limits, key, remove, body, id)
  local max_bytes = limits.environment.bytes
  if #body + #id + VERSION_BYTES > max_bytes then
    return redis.error_reply('TOOLARGE an event has at most ' .. max_bytes .. ' bytes, with its envelope')
  end
  local rows, heard = table_of(limits.environment, channel)
  local field = 'k' .. key
  local now = now_ms()
  local time = digits(now)
  local is_new, is_lost
  if not remove then
    -- Raises before anything is written, where the key holds something else than a hash.
    redis.call('HEXISTS', rows, 'e')
    is_new, is_lost = note(heard, field, time)
  end
  local header = open(rows, heard, limits, field, is_new, is_lost, now)
  local seq = header.seq + 1
  local payload = body .. ',"id":"' .. id .. '@' .. header.epoch .. '.' .. digits(seq) .. '"}'
  local row = time .. ' ' .. payload
  local grows = (remove and 0 or #field + #row) - row_bytes(rows, field)
  local lack = not remove and full(rows, heard, header, limits, field, is_new, grows, now)
  if lack then
    -- An entity that is there already keeps its room a little longer: nodes go by the time in its row.
    if is_new then
      redis.call('ZREM', heard, field)
    end
    return redis.error_reply('LIMIT_EXCEEDED ' .. lack)
  end
  local published = redis.pcall(limits.publishes_by, channel, payload)
  if type(published) == 'table' and published.err then
    if is_new then
      redis.call('ZREM', heard, field)
    end
    return published
  end
  local bytes = digits(math.max(0, header.bytes + grows))
  if remove then
    redis.call('HDEL', rows, field)
    redis.call('ZREM', heard, field)
    redis.call('HSET', rows, 's', digits(seq), 'b', bytes)
  else
    redis.call('HSET', rows, 's', digits(seq), 'b', bytes, field, row)
  end
  return seq
end

-- A table expires when none of its entities has an event for `ttl` milliseconds.
local function outlive(channel, limits)
  local rows, heard = table_of(limits.environment, channel)
  local ttl = digits(limits.ttl)
  redis.call('PEXPIRE', rows, ttl)
  redis.call('PEXPIRE', heard, ttl)
end

-- Writes a node's events into one channel's table: for each of them, from `first` on, its key, whether it removes the
-- entity, the JSON object without its last brace, and the id. Returns for each what proves that it was written here, `MARK`
-- and the version, or what is wrong.
local function write(channel, limits, args, first)
  local answers = {}
  for at = first, #args, 4 do
    -- What fails undoes nothing of what was done before it.
    local known, answer = pcall(commit, channel, limits, args[at], args[at + 1] == '1', args[at + 2], args[at + 3])
    if known and type(answer) == 'number' then
      answers[#answers + 1] = { MARK, answer }
    else
      answers[#answers + 1] = type(answer) == 'table' and answer.err or tostring(answer)
    end
  end
  outlive(channel, limits)
  return answers
end

-- For nodes: max, ttl, bytes, the channel prefix, and the events as `write` has them, from argument `first` on. The prefix
-- chooses the environment, also where a longer one fits the channel: the node reads the table there. Invariant: a function's
-- arguments never change. Other arguments get another name, which older libraries do not know: they would write what they misread.
local function server_write(publishes_by, channel, args, first)
  local environment = environment_of(args[first + 3])
  if not environment then
    return redis.error_reply(NO_ENVIRONMENT)
  end
  local limits = {
    max = tonumber(args[first]),
    ttl = tonumber(args[first + 1]),
    bytes = tonumber(args[first + 2]),
    environment = environment,
    publishes_by = publishes_by,
  }
  return write(channel, limits, args, first + 4)
end

-- Keys: the table's two. Arguments: the channel, and those of `server_write`. Why the keys are stated though they follow from the
-- channel: a Cluster executes a call whole, or not at all, where it knows every key that the call needs.
local function entity_write(publishes_by)
  return function(keys, args)
    if #keys ~= 2 or #args < 9 or #args % 4 ~= 1 then
      return redis.error_reply('BADARGS usage: <channel> <max> <ttl> <bytes> <prefix> { <key> <remove> <body> <id> }')
    end
    return server_write(publishes_by, args[1], args, 2)
  end
end

-- For nodes of versions 5 and 6, whose key is the channel's name.
local function channel_write(keys, args)
  if #args < 8 or #args % 4 ~= 0 then
    return redis.error_reply('BADARGS usage: <max> <ttl> <bytes> <prefix> { <key> <remove> <body> <id> }')
  end
  return server_write('PUBLISH', keys[1], args, 1)
end

-- For nodes of versions 3 and 4, which know no prefixes: max, ttl, the bytes (version 3 does not state them), and the
-- events as `write` has them.
local function server_commit(keys, args)
  local stated = (#args - 2) % 4
  if #args < 6 or stated > 1 then
    return redis.error_reply('BADARGS usage: <max> <ttl> [<bytes>] { <key> <remove> <body> <id> }')
  end
  local bytes = stated == 1 and tonumber(args[3]) or DEFAULT_MAX_BYTES
  local environment = environment_of('') or UNNAMED
  local limits = {
    max = tonumber(args[1]),
    ttl = tonumber(args[2]),
    bytes = bytes,
    environment = environment,
    publishes_by = 'PUBLISH',
  }
  return write(keys[1], limits, args, 3 + stated)
end

redis.register_function('drawbridge_commit', server_commit)
redis.register_function('drawbridge_write', channel_write)
redis.register_function('drawbridge_entity_write', entity_write('PUBLISH'))
-- The same for the channels of sharded classes.
redis.register_function('drawbridge_entity_write_sharded', entity_write('SPUBLISH'))
