-- Who is present on a channel, in the channel's slot. `members` is a hash: for each session `m`, its hash (32 characters) and
-- the player, with the generation and the node that has it; for each player `c` and the player, with the number of sessions
-- there; for each node `n` and the node, with the number of its sessions there. `players` is a sorted set of equal scores,
-- so that it lists the players in their order. Every function's keys are these two.

-- What one message names, about.
local NOTICE_BYTES = 16 * 1024
local SESSION_BYTES = 32

-- A key of another type is removed, and a hash that counts no player; a lost list of players is written again.
local function heal_presence(members, players)
  local fields = redis.pcall('HLEN', members)
  if type(fields) == 'table' then
    redis.call('UNLINK', members, players)
    return
  end
  local listed = redis.pcall('ZCARD', players)
  if type(listed) == 'table' then
    redis.call('UNLINK', players)
    listed = 0
  end
  if listed == 0 and fields > 0 then
    local is_counted = false
    for _, field in ipairs(redis.call('HKEYS', members)) do
      if field:sub(1, 1) == 'c' then
        redis.call('ZADD', players, 0, field:sub(2))
        is_counted = true
      end
    end
    -- Else each write to an empty channel would look through what is not ours again.
    if not is_counted then
      redis.call('UNLINK', members)
    end
  end
end

-- Adds to a count of the hash, and returns it; one of nothing is removed.
local function count_members(members, field, by)
  local count = math.max(0, (whole(redis.call('HGET', members, field), MAX_COUNT) or 0) + by)
  if count == 0 then
    redis.call('HDEL', members, field)
  else
    redis.call('HSET', members, field, digits(count))
  end
  return count
end

-- The generation and the node of a member, or nil.
local function member_of(stored)
  local generation, node = tostring(stored or ''):match('^(%d+) (.*)$')
  generation = whole(generation, MAX_COUNT)
  if generation then
    return generation, node
  end
end

-- What changed on a channel for its players: those that one call adds and takes away again have not changed.
local function new_changes(members, players)
  local was_present, order = {}, {}
  local changes = {}

  local function note(player)
    if was_present[player] == nil then
      was_present[player] = redis.call('HEXISTS', members, 'c' .. player) == 1
      order[#order + 1] = player
    end
  end

  function changes.add(field, player, generation, node)
    note(player)
    local before, owner = member_of(redis.call('HGET', members, field))
    if before and before > generation then
      return
    end
    redis.call('HSET', members, field, digits(generation) .. ' ' .. node)
    if owner ~= node then
      count_members(members, 'n' .. node, 1)
      if owner then
        count_members(members, 'n' .. owner, -1)
      end
    end
    if not before and count_members(members, 'c' .. player, 1) == 1 then
      redis.call('ZADD', players, 0, player)
    end
  end

  function changes.remove(field, player, owner)
    note(player)
    redis.call('HDEL', members, field)
    count_members(members, 'n' .. owner, -1)
    if count_members(members, 'c' .. player, -1) == 0 then
      redis.call('ZREM', players, player)
    end
  end

  -- Publishes who came and who left, on this channel if it is one.
  function changes.publish(channel)
    if channel == '' then
      return
    end
    local lists, bytes = { joined = {}, left = {} }, 0
    local function flush()
      if bytes > 0 then
        local joined, left = table.concat(lists.joined, ','), table.concat(lists.left, ',')
        redis.call('PUBLISH', channel, '{"joined":[' .. joined .. '],"left":[' .. left .. ']}')
        lists, bytes = { joined = {}, left = {} }, 0
      end
    end
    for _, player in ipairs(order) do
      local is_present = redis.call('HEXISTS', members, 'c' .. player) == 1
      if is_present ~= was_present[player] then
        local list, name = lists[is_present and 'joined' or 'left'], cjson.encode(player)
        list[#list + 1] = name
        bytes = bytes + #name
        if bytes >= NOTICE_BYTES then
          flush()
        end
      end
    end
    flush()
  end

  return changes
end

-- Writes who is present, for a node: <node> <channel to notify, or ''> { <player> <session> <generation> <1 or 0> }, the last
-- of which says whether it is present. A session that another node has under a later generation stays as it is. Returns how
-- many sessions of the node are present now.
local function presence_write(keys, args)
  if #keys ~= 2 or #args < 6 or #args % 4 ~= 2 then
    return redis.error_reply('BADARGS usage: <node> <channel> { <player> <session> <generation> <is present> }')
  end
  local members, players, node = keys[1], keys[2], args[1]
  heal_presence(members, players)
  local changes = new_changes(members, players)
  for at = 3, #args, 4 do
    local player, session, generation = args[at], args[at + 1], whole(args[at + 2], MAX_COUNT)
    if #session ~= SESSION_BYTES or not generation then
      return redis.error_reply('BADARGS a session is named by ' .. SESSION_BYTES .. ' digits, a generation by a number')
    end
    local field = 'm' .. session .. player
    if args[at + 3] == '1' then
      changes.add(field, player, generation, node)
    else
      local stored, owner = member_of(redis.call('HGET', members, field))
      if stored and (stored < generation or (stored == generation and owner == node)) then
        changes.remove(field, player, owner)
      end
    end
  end
  changes.publish(args[2])
  return { MARK, whole(redis.call('HGET', members, 'n' .. node), MAX_COUNT) or 0 }
end

-- Takes away what a dead node left, a part at a time: <node> <channel to notify, or ''> <deadline> <cursor> <about how many
-- fields>. Nothing is done behind the deadline, as in `session_window`. Returns where the next part begins; '0': it was the
-- last; and how many sessions were removed.
local function presence_clean(keys, args)
  if #keys ~= 2 or #args ~= 5 then
    return redis.error_reply('BADARGS usage: <node> <channel> <deadline> <cursor> <count>')
  end
  local members, players, node = keys[1], keys[2], args[1]
  if now_ms() > tonumber(args[3]) then
    return redis.error_reply('TOOLATE the node may have come back')
  end
  heal_presence(members, players)
  if redis.call('HEXISTS', members, 'n' .. node) == 0 then
    return { MARK, 0, '0' }
  end
  local changes, removed = new_changes(members, players), 0
  local part = redis.call('HSCAN', members, args[4], 'COUNT', args[5])
  for at = 1, #part[2], 2 do
    local field = part[2][at]
    if field:sub(1, 1) == 'm' then
      local _, owner = member_of(part[2][at + 1])
      if owner == node then
        changes.remove(field, field:sub(2 + SESSION_BYTES), node)
        removed = removed + 1
      end
    end
  end
  changes.publish(args[2])
  if part[1] == '0' then
    redis.call('HDEL', members, 'n' .. node)
  end
  return { MARK, removed, part[1] }
end

-- A page of players in their order: <the player before the first, or ''> <how many>. Returns how many players there are, and
-- of each on the page the name and the number of sessions.
local function presence_page(keys, args)
  local members, players, after, limit = keys[1], keys[2], args[1], tonumber(args[2])
  if #keys ~= 2 or #args ~= 2 or not limit then
    return redis.error_reply('BADARGS usage: <after> <limit>')
  end
  local total = redis.pcall('ZCARD', players)
  if type(total) == 'table' then
    return { MARK, 0 }
  end
  local answer = { MARK, total }
  local from = after == '' and '-' or '(' .. after
  for _, player in ipairs(redis.call('ZRANGEBYLEX', players, from, '+', 'LIMIT', 0, limit)) do
    answer[#answer + 1] = player
    answer[#answer + 1] = whole(redis.pcall('HGET', members, 'c' .. player), MAX_COUNT) or 1
  end
  return answer
end

redis.register_function('drawbridge_presence_write', presence_write)
redis.register_function({ function_name = 'drawbridge_presence_clean', callback = presence_clean, flags = { 'allow-oom' } })
redis.register_function({
  function_name = 'drawbridge_presence_page', callback = presence_page, flags = { 'no-writes', 'allow-oom' },
})
