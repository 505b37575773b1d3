-- Logs of channels with `history`: an event gets its offset, is published and stored in one step. All keys of a channel share
-- its hash tag:
--
--   `…{CHANNEL}:log`       a stream. An entry's id is `<offset>-0`; its fields are `t`, when it was appended (Redis' clock,
--                          milliseconds), and `p`, what was published
--   `…{CHANNEL}:position`  a string: `<epoch> <last offset> <replication id> <time> <offset>`, then a pair for each of the last
--                          epochs, ` <epoch> <the offset at which it ended>`, the newest last. The time and offset before them
--                          are a mark: that was the last offset then
--   `…{CHANNEL}:once:…`    a string for each idempotency key: the position that its event got
--
-- An epoch names one history of the log: a life of its keys, and a replication id of Redis, which changes when a replica is
-- promoted and when a master starts again. Events after that continue the offsets under the next epoch, so a client whose
-- position is within what is stored misses nothing, and one that has seen more is recognised.
--
-- Nothing that is stored is trusted: a log whose keys contradict each other begins again, without its past. An append reads the
-- position alone; that the stream holds nothing beyond it is proven by `XADD`, which refuses an id that is not the last.

-- What the offset, the epoch and the version in the id take behind an event and its id, at most.
local POSITION_BYTES = 96
-- Of so many ended epochs the end is kept.
local MAX_ENDED = 8
-- The longest string at `position` that can be right. `GETRANGE` reads one byte more.
local MAX_POSITION_BYTES = 511
local POSITION_END = '511'
-- No log has it.
local NO_EPOCH = '0000000000000000'
-- A repeat is recognised for this time.
local ONCE_MS = '120000'
-- How long what `INFO` says is taken for known. A process that is promoted has called no function before, so it knows nothing.
local SERVER_KNOWN_MS = 100
-- One append in so many also cuts the stream to the class's number of events.
local TRIMMED_EVERY = 16
-- Entries that are copied at once, at most, before their bytes are counted.
local READ_AT_ONCE = 16
-- So many logs are remembered at most; then all are forgotten.
local MAX_KNOWN_LOGS = 10000
-- And what a class says of them, for so many classes.
local MAX_KNOWN_LIMITS = 1000

-- What `INFO` said last: the replication id, and whether this is a master of a Cluster.
local server = { replication = nil, is_cluster = nil, read_ms = 0 }
local epochs_begun = 0
-- The logs that this process wrote last, by the key of the position, so that their positions need not be parsed. Invariant: an
-- entry counts only while its `stored` is exactly what is at the position, so no one has written the log since; it has no
-- `stored` while the log is open.
local known_logs, known_count = {}, 0

local function read_server(now)
  if not server.replication or now < server.read_ms or now - server.read_ms >= SERVER_KNOWN_MS then
    local info = redis.call('INFO', 'replication', 'cluster')
    local _, name_ends = info:find('master_replid:', 1, true)
    local id = name_ends and info:match('^%x+', name_ends + 1)
    if not id then
      error({ err = 'UNSUPPORTED INFO replication names no master_replid' })
    end
    server.replication, server.read_ms = id, now
    server.is_cluster = not info:find('cluster_enabled:0', 1, true)
  end
end

local function log_of(environment, channel)
  local name = environment.prefix .. environment.keys .. '{' .. channel .. '}'
  return name .. ':log', name .. ':position'
end

-- 16 hexadecimal digits that no other log and no other life of this one has.
local function new_log_epoch(log)
  epochs_begun = epochs_begun + 1
  local time = redis.call('TIME')
  local unique = { server.replication, time[1], time[2], epochs_begun, log.stream }
  return redis.sha1hex(table.concat(unique, ' ')):sub(1, 16)
end

-- The log begins again, and nothing of it before counts.
local function begin_log(log)
  log.epoch, log.offset, log.ended, log.mark_ms, log.mark = new_log_epoch(log), 0, '', log.now, 0
  log.number, log.replication, log.tail = nil, server.replication, nil
  log.is_fresh, log.is_changed = true, true
end

-- The log goes on under a new epoch; the one of now ends where it is.
local function end_epoch(log)
  local pairs_of = {}
  for pair in (log.ended .. ' ' .. log.epoch .. ' ' .. digits(log.offset)):gmatch(' [0-9a-f]+ %d+') do
    pairs_of[#pairs_of + 1] = pair
  end
  log.ended = table.concat(pairs_of, '', math.max(1, #pairs_of - MAX_ENDED + 1))
  log.epoch, log.replication, log.tail, log.is_changed = new_log_epoch(log), server.replication, nil, true
end

-- Whether the stream has an entry after the last offset, or any entry if there is no last offset. Raises an error if the key is not a
-- stream.
local function is_beyond(log)
  local from = log.offset and '(' .. digits(log.offset) .. '-0' or '-'
  return #redis.call('XRANGE', log.stream, from, '+', 'COUNT', '1') > 0
end

-- What a position says, or a log without an epoch where it cannot be right.
local function parsed_position(stored)
  local epoch, offset, replication, mark_ms, mark, ended =
    stored:match('^([0-9a-f]+) (%d+) (%x+) (%d+) (%d+)([ 0-9a-f]*)$')
  offset, mark_ms = whole(offset, MAX_COUNT - 1), whole(mark_ms, MAX_COUNT)
  mark = whole(mark, offset or 0)
  if not (offset and mark_ms and mark and #epoch == 16) or #stored > MAX_POSITION_BYTES then
    return { offset = offset }
  end
  return { epoch = epoch, offset = offset, replication = replication, ended = ended, mark_ms = mark_ms, mark = mark }
end

-- The log as its position says, taken from `known` where that still counts; or a new one. Writes nothing: a refused event leaves nothing behind. Raises before anything is
-- published where the position's key holds something else. `now`: Redis' clock, for which `read_server` was called.
local function open_log(stream, position, limits, now, known)
  local stored = redis.call('GETRANGE', position, '0', POSITION_END)
  local log = known[position]
  if not log or log.stored ~= stored or log.stream ~= stream then
    log = parsed_position(stored)
  end
  log.stored, log.stream, log.position, log.limits, log.now = nil, stream, position, limits, now
  log.is_fresh, log.is_changed, log.is_appended, log.is_created, log.may_publish = nil, nil, nil, nil, nil
  if not log.epoch then
    log.is_absent = not is_beyond(log) and stored == ''
    begin_log(log)
  elseif log.replication ~= server.replication then
    end_epoch(log)
  end
  return log
end

-- Stores an event as the only one of the stream, whatever the stream's last id is.
local function store_first(log, number, time, payload)
  redis.call('UNLINK', log.stream)
  redis.call('XADD', log.stream, number, 't', time, 'p', payload)
  log.is_fresh, log.is_created = nil, true
end

-- Stores an event under the next offset, and trims. Returns whether it did; false: the log has begun again. Why `~`: Redis then
-- drops whole nodes of the stream, where an exact bound would mark one entry as deleted and walk over the ones before it each
-- time; readers count exactly.
local function store(log, number, payload)
  local time = digits(log.now)
  if log.is_fresh then
    store_first(log, number, time, payload)
    return true
  end
  local added
  if (log.offset + 1) % TRIMMED_EVERY == 0 then
    added = redis.pcall(
      'XADD', log.stream, 'NOMKSTREAM', 'MAXLEN', '~', log.limits.events_text, number, 't', time, 'p', payload)
  else
    added = redis.pcall('XADD', log.stream, 'NOMKSTREAM', number, 't', time, 'p', payload)
  end
  if not added then
    redis.call('XADD', log.stream, number, 't', time, 'p', payload)
    log.is_created = true
  elseif type(added) == 'table' then
    if is_beyond(log) then
      begin_log(log)
      return false
    elseif not redis.acl_check_cmd('XADD', log.stream, number, 'p', '') then
      error(added)
    end
    -- Somebody has moved the stream's last id on without an entry: what is in it is not ours to vouch for.
    store_first(log, number, time, payload)
  end
  return true
end

-- The position that an idempotency key has, or nil.
local function position_once(once)
  local epoch, offset = redis.call('GETRANGE', once, '0', '63'):match('^([0-9a-f]+) (%d+)$')
  offset = whole(offset, MAX_COUNT)
  if offset and #epoch == 16 then
    return epoch, offset
  end
end

local function too_large(limit)
  error({ err = 'TOOLARGE an event has at most ' .. limit .. ' bytes, with its envelope' })
end

-- Appends one event to the log and publishes it. `body` is a JSON object without its last brace, and without an id. Returns the
-- event's epoch and offset. Raises what is wrong. Why the right to publish is checked first: Redis takes nothing back within a
-- function, so what may not be published must not be stored.
local function append(log, channel, body, id, once)
  if once then
    local epoch, offset = position_once(once)
    if epoch then
      return epoch, offset
    end
  end
  local limits = log.limits
  if #body + #id + POSITION_BYTES > limits.bytes then
    too_large(limits.bytes)
  end
  if not log.may_publish and not redis.acl_check_cmd(limits.publishes_by, channel, '') then
    -- Raises, in Redis' words.
    redis.call(limits.publishes_by, channel, '')
  end
  log.may_publish = true
  local number, payload
  repeat
    number = digits(log.offset + 1)
    payload = body .. ',"offset":' .. number .. ',"epoch":"' .. log.epoch .. '","id":"' .. id .. '@' .. log.epoch .. '.'
      .. number .. '"}'
  until store(log, number, payload)
  redis.call(limits.publishes_by, channel, payload)
  log.offset, log.number, log.is_appended = log.offset + 1, number, true
  if once then
    redis.call('SET', once, log.epoch .. ' ' .. number, 'PX', ONCE_MS)
  end
  return log.epoch, log.offset
end

-- Takes out what is too old. Invariant: all up to the mark is at least as old as the mark. So no entry is read to find out
-- how old it is, and whole nodes of the stream are dropped when they are about twice as old; readers look at the time.
local function trim(log)
  local passed = log.now - log.mark_ms
  if passed >= 0 and passed < log.limits.age then
    return
  end
  if passed < 0 or log.mark == 0
    or redis.call('XTRIM', log.stream, 'MINID', '~', digits(log.mark + 1) .. '-0') == 0 then
    log.mark_ms, log.mark, log.tail = log.now, log.offset, nil
  end
end

-- Writes the position. The stream lives for `age` from the last event on, epoch and last offset for a day more; or up to a
-- quarter of `age` longer, so that few appends set these times.
local function keep_log(log)
  local limits, position, lives = log.limits, log.position, log.lives_until
  if log.is_fresh then
    redis.call('UNLINK', log.stream)
  end
  if log.is_appended then
    trim(log)
    if log.is_created or not lives or lives < log.now + limits.age then
      redis.call('PEXPIRE', log.stream, limits.stream_lives)
      log.lives_until, lives = log.now + limits.age + limits.slack, nil
    end
  else
    lives, log.lives_until = nil, nil
  end
  log.tail = log.tail
    or ' ' .. log.replication .. ' ' .. digits(log.mark_ms) .. ' ' .. digits(log.mark) .. log.ended
  local text = log.epoch .. ' ' .. (log.number or digits(log.offset)) .. log.tail
  if lives then
    redis.call('SET', position, text, 'KEEPTTL')
  else
    redis.call('SET', position, text, 'PX', limits.position_lives)
  end
  log.stored = text
  if not known_logs[position] then
    if known_count >= MAX_KNOWN_LOGS then
      known_logs, known_count = {}, 0
    end
    known_count = known_count + 1
  end
  known_logs[position] = log
end

local DAY_MS = 24 * 3600 * 1000

-- What a class says of its logs. The last event is kept for `age`, and epoch and offset for a day more, or twice the age.
local function log_limits(events, age, bytes, publishes_by)
  local slack = math.floor(age / 4)
  return {
    events = events,
    events_text = digits(events),
    age = age,
    slack = slack,
    bytes = bytes,
    stream_lives = digits(age + slack),
    position_lives = digits(age + slack + math.max(DAY_MS, 2 * age)),
    publishes_by = publishes_by,
  }
end

-- What nodes state of their classes, by their words.
local known_limits, limits_count = {}, 0

-- The limits in a call of a node, or nil where they cannot be right.
local function limits_stated(events, age, bytes, publishes_by)
  local stated = publishes_by .. events .. ' ' .. age .. ' ' .. bytes
  local limits = known_limits[stated]
  if not limits then
    local most, age_ms, largest = whole(events, MAX_COUNT), whole(age, MAX_COUNT), whole(bytes, MAX_COUNT)
    if not (most and age_ms and largest) then
      return nil
    end
    if limits_count >= MAX_KNOWN_LIMITS then
      known_limits, limits_count = {}, 0
    end
    limits = log_limits(most, age_ms, largest, publishes_by)
    known_limits[stated], limits_count = limits, limits_count + 1
  end
  return limits
end

-- Appends events one after the other: for each of them its body, its id, and the number of its idempotency key among
-- `onces`, or 0. Returns for each its epoch and offset behind `MARK`, or what is wrong.
local function append_all(log, channel, events, first, onces)
  local answers = {}
  for at = first, #events, 3 do
    -- What fails undoes nothing of what was done before it.
    local known, epoch, offset =
      pcall(append, log, channel, events[at], events[at + 1], onces[tonumber(events[at + 2])])
    if known then
      answers[#answers + 1] = { MARK, epoch, offset }
    else
      answers[#answers + 1] = type(epoch) == 'table' and epoch.err or tostring(epoch)
    end
  end
  -- What was refused leaves nothing behind.
  if log.is_appended then
    keep_log(log)
  end
  return answers
end

-- For nodes. Keys: the stream, the position, and that of each idempotency key. Arguments: the channel, the most events, their
-- age, the bytes of one, and the events as `append_all` has them. Invariant: a function's arguments never change.
local function server_append(publishes_by, keys, args)
  local limits = #args >= 7 and limits_stated(args[2], args[3], args[4], publishes_by)
  if #keys < 2 or not limits or #args % 3 ~= 1 then
    return redis.error_reply('BADARGS usage: <channel> <events> <age> <bytes> { <body> <id> <once> }')
  end
  local now = now_ms()
  read_server(now)
  local log = open_log(keys[1], keys[2], limits, now, known_logs)
  return append_all(log, args[1], args, 5, { unpack(keys, 3) })
end

-- The offset, time and payload of an entry, or nothing where no function has written it.
local function entry_of(entry)
  local fields = entry[2]
  local offset, time = whole(entry[1]:match('^(%d+)%-0$'), MAX_COUNT), whole(fields[2], MAX_COUNT)
  if offset and time and #fields == 4 and fields[1] == 't' and fields[3] == 'p' then
    return offset, time, fields[4]
  end
end

-- The first of the entries from this offset on: its offset and time.
local function entry_from(log, offset)
  local found = redis.call('XRANGE', log.stream, digits(offset) .. '-0', '+', 'COUNT', 1)[1]
  if found then
    return entry_of(found)
  end
end

-- The oldest offset that is kept by the class's bounds; one beyond the last where none is. Nothing: the stream is not as the
-- functions write it.
local function first_kept(log)
  local low, time = entry_from(log, math.max(1, log.offset - log.limits.events + 1))
  if not low then
    return redis.call('XLEN', log.stream) == 0 and log.offset + 1 or nil
  end
  if log.now - time < log.limits.age then
    return low
  end
  -- Invariant: `low` is too old, and `high` is not, or is beyond the last.
  local high = log.offset + 1
  while high - low > 1 do
    local middle = math.floor((low + high) / 2)
    local offset, appended = entry_from(log, middle)
    if offset ~= middle then
      return nil
    elseif log.now - appended < log.limits.age then
      high = middle
    else
      low = middle
    end
  end
  return high
end

-- The payloads from one offset to another, in this order, as many as `limit` and `max_bytes` allow, and one at least.
-- Nothing: one of them is missing.
local function payloads_between(log, from, to, limit, max_bytes)
  local step = from <= to and 1 or -1
  local command, payloads, bytes = step == 1 and 'XRANGE' or 'XREVRANGE', {}, 0
  limit = math.min(limit, math.abs(to - from) + 1)
  while #payloads < limit do
    local count = math.min(READ_AT_ONCE, limit - #payloads)
    local entries = redis.call(command, log.stream, digits(from) .. '-0', digits(to) .. '-0', 'COUNT', count)
    if #entries < count then
      return nil
    end
    for _, entry in ipairs(entries) do
      local offset, _, payload = entry_of(entry)
      if offset ~= from then
        return nil
      end
      bytes = bytes + #payload
      if bytes > max_bytes and #payloads > 0 then
        return payloads
      end
      payloads[#payloads + 1], from = payload, from + step
    end
  end
  return payloads
end

-- The first offset that is kept, the offset of the first payload, and the payloads; nothing where the stream is damaged.
local function read_part(log, range, limit, max_bytes)
  local first = first_kept(log)
  if not first then
    return nil
  end
  local after = whole(range, MAX_COUNT)
  local from = math.max(first, (after or 0) + 1)
  if limit == 0 or from > log.offset then
    return first, from, {}
  elseif after then
    return first, from, payloads_between(log, from, log.offset, limit, max_bytes)
  end
  local newest = payloads_between(log, log.offset, from, limit, max_bytes)
  if not newest then
    return nil
  end
  local in_order = {}
  for at = #newest, 1, -1 do
    in_order[#in_order + 1] = newest[at]
  end
  return first, log.offset - #newest + 1, in_order
end

-- For nodes: a part of a log. Keys: the stream and the position. Arguments: the most events that are kept, their age, the
-- offset behind which it begins, or `newest`, how many events, how many bytes of them, and whether a log that never was begins
-- its first epoch (1), so that every subscription has a position, or nothing is written (0). Returns `MARK`, the epoch, the last offset, the first that is kept, the ended
-- epochs as they are stored, the offset of the first event returned, and the events.
local function server_read(keys, args)
  local events, age = whole(args[1], MAX_COUNT), whole(args[2], MAX_COUNT)
  local limit, max_bytes = whole(args[4], MAX_COUNT), whole(args[5], MAX_COUNT)
  if #keys ~= 2 or #args ~= 6 or not (events and age and limit and max_bytes) then
    return redis.error_reply('BADARGS usage: <events> <age> <after> <limit> <bytes> <begins>')
  end
  local now = now_ms()
  read_server(now)
  local log = open_log(keys[1], keys[2], log_limits(events, age, 0), now, {})
  if not log.is_fresh and is_beyond(log) then
    begin_log(log)
  end
  if log.is_absent and args[6] == '0' then
    return { MARK, NO_EPOCH, 0, 1, '', 1 }
  end
  local first, from, payloads = log.offset + 1, log.offset + 1, {}
  if not log.is_fresh then
    first, from, payloads = read_part(log, args[3], limit, max_bytes)
  end
  if not payloads then
    begin_log(log)
    first, from, payloads = 1, 1, {}
  end
  if log.is_changed then
    keep_log(log)
  end
  local answer = { MARK, log.epoch, log.offset, first, log.ended, from }
  for _, payload in ipairs(payloads) do
    answer[#answer + 1] = payload
  end
  return answer
end

redis.register_function('drawbridge_append', function(keys, args)
  return server_append('PUBLISH', keys, args)
end)
-- The same for the channels of sharded classes.
redis.register_function('drawbridge_append_sharded', function(keys, args)
  return server_append('SPUBLISH', keys, args)
end)
-- Why the flag: who subscribes while Redis is full is to have a position; a few bytes are written where there was none.
redis.register_function({ function_name = 'drawbridge_log', callback = server_read, flags = { 'allow-oom' } })
