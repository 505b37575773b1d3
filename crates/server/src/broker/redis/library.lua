-- What must happen in Redis in one step: an entity's state is written and published together, and a player's view is
-- kept and published together. One hash per entity channel: `e` names the table's life, `s` counts its changes, `b` the
-- bytes of its rows, `r` says when it was last repaired and how often, and each entity has `k` and its key, with when it
-- was heard (Redis' clock, milliseconds) and what was published. Beside it a sorted set has the same fields by when they
-- were heard: what has expired is found without a look at the rest. Nothing that is stored is trusted: what cannot be
-- right is repaired, seldom, or begins a new life of the table.
-- VERSION and ENVIRONMENTS stand above; docs/redis.md describes what services see. An environment is what nodes of one
-- channel prefix (`prefix`, empty where there is none) have configured: their key prefix (`keys`), `external_bytes` and
-- classes. Channels are named here as in Redis, with their prefix; classes match what stands behind it.

-- Begins every answer to a node: other functions by the same names do not give it.
local MARK = 'drawbridge'
-- Nodes that know this version of the library, or a later one, can call this one.
local SERVES = 3
-- A node that gets this adds its entry.
local NO_ENVIRONMENT = 'NOENVIRONMENT nothing is known of this channel_prefix'

local MAX_KEY_BYTES = 255
local MAX_VIEWS = 256
-- How deep nodes take an event's data; deeper, they would see no key in it.
local MAX_DATA_DEPTH = 64
-- What the rest of the envelope and a table's version take behind an event and its id, at most.
local VERSION_BYTES = 64
-- Expired entities taken out at once, and how often that is done for one event.
local PURGED_AT_ONCE = 64
local PURGES = 16
-- The largest whole number that is counted exactly.
local MAX_COUNT = 2 ^ 53 - 1
-- A table of more fields than this, and than four times its entities, is not ours any more. Nodes read no more.
local MIN_FIELD_BOUND = 65536
-- What a channel's rows take at most where its class does not say.
local DEFAULT_MAX_BYTES = 16 * 1024 * 1024
-- Repairs that follow each other wait twice as long each time, up to a minute, but for the first few; after ten minutes
-- without one they count from the beginning.
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

-- What nodes that know no prefixes get where no entry is without a prefix: the defaults. They do not state their key prefix,
-- and cannot add an entry to a later library. An error would stop all of them, this only those with another key prefix.
local UNNAMED = { prefix = '', keys = 'drawbridge:', bytes = 1024 * 1024, classes = {} }

-- The environment of exactly this prefix, or nil.
local function environment_of(prefix)
  for _, environment in ipairs(ENVIRONMENTS) do
    if environment.prefix == prefix then
      return environment
    end
  end
end

-- The environment that a channel belongs to, or nil: that of the longest prefix that its name begins with.
local function environment_for(channel)
  local found
  for _, environment in ipairs(ENVIRONMENTS) do
    local prefix = environment.prefix
    if channel:sub(1, #prefix) == prefix and (not found or #prefix > #found.prefix) then
      found = environment
    end
  end
  return found
end

local function table_of(environment, channel)
  local name = environment.prefix .. environment.keys .. '{' .. channel .. '}'
  return name .. ':entities', name .. ':heard'
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

-- A whole number up to `max` as it is stored, or nil.
local function whole(text, max)
  if type(text) == 'string' and #text <= 16 and text:find('^%d+$') and tonumber(text) <= max then
    return tonumber(text)
  end
end

local function digits(number)
  return string.format('%.0f', number)
end

local function is_epoch(text)
  return type(text) == 'string' and #text <= 32 and text:find('^%w+$')
end

-- Whether a field of the hash can be an entity's.
local function is_row(field)
  return field:sub(1, 1) == 'k' and #field >= 2 and #field <= 1 + MAX_KEY_BYTES
end

-- What a row takes, or 0 where there is none.
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

-- Notes in the set that an entity was heard: whether it is new there, and whether the set was not ours, so that it says
-- nothing. It can be made from the hash: one of another type is dropped.
local function note(heard, field, now)
  local added = redis.pcall('ZADD', heard, now, field)
  if type(added) == 'table' then
    redis.call('UNLINK', heard)
    added = redis.call('ZADD', heard, now, field)
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

-- Takes out a few of those that nobody has heard of for `ttl` milliseconds; says whether there were any.
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
  local is_new, is_lost
  if not remove then
    -- Raises before anything is written, where the key holds something else than a hash.
    redis.call('HEXISTS', rows, 'e')
    is_new, is_lost = note(heard, field, now)
  end
  local header = open(rows, heard, limits, field, is_new, is_lost, now)
  local seq = header.seq + 1
  local payload = body .. ',"id":"' .. id .. '@' .. header.epoch .. '.' .. digits(seq) .. '"}'
  local row = digits(now) .. ' ' .. payload
  local grows = (remove and 0 or #field + #row) - row_bytes(rows, field)
  local lack = not remove and full(rows, heard, header, limits, field, is_new, grows, now)
  if lack then
    -- An entity that is there already keeps its room a little longer: nodes go by the time in its row.
    if is_new then
      redis.call('ZREM', heard, field)
    end
    return redis.error_reply('LIMIT_EXCEEDED ' .. lack)
  end
  local published = redis.pcall('PUBLISH', channel, payload)
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

-- A table ends when nothing is heard of any of its entities.
local function outlive(channel, limits)
  local rows, heard = table_of(limits.environment, channel)
  redis.call('PEXPIRE', rows, limits.ttl)
  redis.call('PEXPIRE', heard, limits.ttl)
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

-- For nodes: max, ttl, bytes, the channel prefix, and the events as `write` has them. The prefix chooses the environment,
-- also where a longer one fits the channel: the node reads the table there. Invariant: a function's arguments never change.
-- Other arguments get another name, which older libraries do not know: they would write what they misread.
local function server_write(keys, args)
  if #args < 8 or #args % 4 ~= 0 then
    return redis.error_reply('BADARGS usage: <max> <ttl> <bytes> <prefix> { <key> <remove> <body> <id> }')
  end
  local environment = environment_of(args[4])
  if not environment then
    return redis.error_reply(NO_ENVIRONMENT)
  end
  local limits = { max = tonumber(args[1]), ttl = tonumber(args[2]), bytes = tonumber(args[3]), environment = environment }
  return write(keys[1], limits, args, 5)
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
  local limits = { max = tonumber(args[1]), ttl = tonumber(args[2]), bytes = bytes, environment = environment }
  return write(keys[1], limits, args, 3 + stated)
end

-- The members of an event.
local ENVELOPE = { event = true, data = true, from = true, tags = true, key = true, ts = true }

-- The characters that are more than a byte, as UTF-8 has them.
local UTF8 = {
  '[\194-\223][\128-\191]',
  '\224[\160-\191][\128-\191]',
  '[\225-\236\238\239][\128-\191][\128-\191]',
  '\237[\128-\159][\128-\191]',
  '\240[\144-\191][\128-\191][\128-\191]',
  '[\241-\243][\128-\191][\128-\191][\128-\191]',
  '\244[\128-\143][\128-\191][\128-\191]',
}

-- Whether all of it is UTF-8; nodes show other bytes as base64, which has no key.
local function is_text(payload)
  if not payload:find('[\128-\255]') then
    return true
  end
  for _, character in ipairs(UTF8) do
    payload = payload:gsub(character, ' ')
  end
  return not payload:find('[\128-\255]')
end

-- What cjson takes, as strict as it can be told to be, though JSON does not: `1.` and `-.5`, control characters in
-- strings, and whatever stands behind a NUL.
local function is_lax(payload)
  local dots = payload:find('.', 1, true) and (payload:find('%.%D') or payload:find('%D%.'))
  if not dots and not payload:find('%c') then
    return false
  end
  local plain = payload:gsub('\\.', '')
  for text in plain:gmatch('"[^"]*"') do
    if text:find('[%z\1-\31]') then
      return true
    end
  end
  local bare = plain:gsub('"[^"]*"', '""')
  return bare:find('%z') or bare:find('%.%D') or bare:find('%D%.')
end

-- What nodes read: an escape of half a surrogate pair, which cjson refuses, means U+FFFD.
local function mended(payload)
  if not payload:find('\\u[dD][89a-fA-F]') then
    return payload
  end
  -- What is whole is put out of the way, as bytes that no text has.
  local text = payload:gsub('\\\\', '\255')
  text = text:gsub('\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)', '\254u%1\254u%2')
  text = text:gsub('\\u[dD][89a-fA-F]%x%x', '\\ufffd')
  return (text:gsub('\254', '\\'):gsub('\255', '\\\\'))
end

local parsers = {}

-- JSON as nodes read it, at most this deep: whether it is, and its value or what is wrong.
local function parse(payload, max_depth)
  local parser = parsers[max_depth]
  if not parser then
    -- One of our own, made late: it can be told, and is not there yet while the library is loaded.
    parser = cjson.new()
    parser.decode_invalid_numbers(false)
    parser.decode_max_depth(max_depth)
    parsers[max_depth] = parser
  end
  local known, decoded = pcall(parser.decode, payload)
  if known and is_lax(payload) then
    return false, 'a number or a string is not as JSON has it'
  end
  return known, decoded
end

-- Whether nodes take an object for an event of its own, and not for the data of one.
local function is_envelope(class, decoded)
  if type(decoded.event) ~= 'string' or class.payload == 'raw' then
    return false
  end
  if class.payload == 'auto' then
    for name in pairs(decoded) do
      if not ENVELOPE[name] then
        return false
      end
    end
  end
  return true
end

-- What a service's payload says, as docs/protocol.md has it: the event's name, its JSON members for keys and positions,
-- and the JSON object without its last brace; or nothing, and what is wrong. What is not JSON names no entity.
local function read(class, payload)
  if not is_text(payload) then
    return nil, 'not UTF-8'
  end
  local text = mended(payload)
  local known, decoded = parse(text, MAX_DATA_DEPTH + 1)
  if known and payload:find('^%s*{') and is_envelope(class, decoded) then
    return decoded.event, decoded, (payload:gsub('}%s*$', ''))
  end
  if class.payload == 'envelope' then
    return nil, 'not a JSON object with a string `event`'
  end
  if known then
    known, decoded = parse(text, MAX_DATA_DEPTH)
  end
  if not known then
    return nil, 'not JSON of at most ' .. MAX_DATA_DEPTH .. ' deep: ' .. tostring(decoded)
  end
  return 'message', { data = decoded }, '{"event":"message","data":' .. payload
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

-- Where the string ends that begins here.
local function end_of_string(text, at)
  local _, last = text:find('^"[^"\\]*', at)
  while text:sub(last + 1, last + 1) == '\\' do
    _, last = text:find('^[^"\\]*', last + 3)
  end
  return last + 1
end

-- Where the value ends that begins here.
local function end_of_value(text, at)
  local first = text:sub(at, at)
  if first == '"' then
    return end_of_string(text, at)
  end
  if first ~= '{' and first ~= '[' then
    local _, last = text:find('^[^%s,%]}]*', at)
    return last
  end
  local depth = 0
  repeat
    at = text:find('["%[{%]}]', at)
    local sign = text:sub(at, at)
    if sign == '"' then
      at = end_of_string(text, at)
    else
      depth = depth + ((sign == '{' or sign == '[') and 1 or -1)
    end
    at = at + 1
  until depth == 0
  return at - 1
end

-- Whether a name as it is written means this one.
local function means(written, name)
  if not written:find('\\', 1, true) then
    return written == '"' .. name .. '"'
  end
  local known, decoded = pcall(cjson.decode, '[' .. written .. ']')
  return known and decoded[1] == name
end

-- Where the value of a member begins, in the object that begins here; of duplicates the last counts.
local function find_member(text, at, name)
  local found
  at = text:find('%S', at + 1)
  while at and text:sub(at, at) == '"' do
    local ends = end_of_string(text, at)
    local value = text:find('[^%s:]', ends + 1)
    if means(text:sub(at, ends), name) then
      found = value
    end
    at = text:find('[^%s,]', end_of_value(text, value) + 1)
  end
  return found
end

-- What `find` has found, as it is written in a text that was parsed before. The text's last brace may be missing.
local function written_at(text, path)
  local at = text:find('{', 1, true)
  for _, step in ipairs(path) do
    at = find_member(text, at, step)
  end
  return text:sub(at, end_of_value(text, at))
end

-- A decimal fraction with one more in its last place: its digits behind the point, and the power of ten.
local function one_more(digits, power)
  local kept = digits:match('^(.-)9*$')
  if kept == '' then
    return '1', power + 1
  end
  return kept:sub(1, -2) .. string.char(kept:byte(-1) + 1), power
end

-- The fewest digits that a double reads back as the same, and of those the nearest, without an exponent: as nodes write
-- it, where `%.17g` writes too many and `%.16g` sometimes another.
local function shortest(number)
  local sign, first, others, exponent = string.format('%.40e', number):match('^(%-?)(%d)%.(%d+)e(.+)$')
  local all, power = first .. others, tonumber(exponent) + 1
  local function is_same(digits, power_of)
    return tonumber(sign .. '0.' .. digits .. 'e' .. power_of) == number
  end
  for count = 1, 17 do
    local digits, at = all:sub(1, count), power
    local more, more_at = one_more(digits, power)
    local is_below, is_above = is_same(digits, at), is_same(more, more_at)
    if is_above and not (is_below and all:sub(count + 1, count + 1) < '5') then
      digits, at, is_below = more, more_at, true
    end
    if is_below then
      if at <= 0 then
        return sign .. '0.' .. ('0'):rep(-at) .. digits
      elseif at >= #digits then
        return sign .. digits .. ('0'):rep(at - #digits)
      end
      return sign .. digits:sub(1, at) .. '.' .. digits:sub(at + 1)
    end
  end
end

-- A number as the text of a key, as nodes have it: a whole one as it is written, another by the double that it means.
-- `body` and `path` say where it stands: what is large is not what the double says.
local function decimal(number, body, path)
  if math.abs(number) < 2 ^ 53 then
    return number == math.floor(number) and string.format('%.0f', number) or shortest(number)
  end
  local written = written_at(body, path)
  if math.abs(number) == math.huge or not written:find('[.eE]') then
    return written
  end
  return shortest(number)
end

local OWN_KEY = { 'key' }

local function key_of(class, decoded, body)
  local path = class.key or OWN_KEY
  local key = find(decoded, path)
  if key == nil then
    path = OWN_KEY
    key = find(decoded, path)
  end
  if type(key) == 'number' then
    key = decimal(key, body, path)
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

-- For servers: keeps a player's view of a channel (an empty one: no longer) and notifies nodes; with '1' at the end only
-- where it was another. Returns `MARK` and whether it did.
local function view(keys, args)
  local name, channel, expression, nodes, command = keys[1], args[1], args[2], args[3], args[4]
  if args[5] == '1' and (redis.call('HGET', name, channel) or '') == expression then
    return { MARK, 0 }
  end
  -- Asked in any case: it raises before anything is published, where the key holds something else than a hash.
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

-- Proves that these are Drawbridge's functions, and says whom they serve; to who states a channel prefix also whether there
-- is an entry for it.
local function check(_, args)
  if args[1] then
    return { MARK, VERSION, SERVES, environment_of(args[1]) and 1 or 0 }
  end
  return { MARK, VERSION, SERVES }
end

-- Why the flags: it answers also while writes are paused and while Redis is full.
redis.register_function({ function_name = 'drawbridge_check', callback = check, flags = { 'no-writes', 'allow-oom' } })
redis.register_function('drawbridge_commit', server_commit)
redis.register_function('drawbridge_publish', publish)
redis.register_function('drawbridge_view', view)
redis.register_function('drawbridge_write', server_write)
