-- Leases of nodes, by Redis' clock. Three keys of one slot: `leases`, a sorted set of the nodes' starts by when each renewed
-- its lease; `about`, a hash of what each says of itself, as JSON; `claims`, a hash of the dead ones that somebody cleans up
-- behind: until when (milliseconds) and who. Every function's keys are these three.

-- Dead nodes returned at once.
local MAX_DEAD = 16
-- Nodes listed at once.
local MAX_LISTED = 1000
-- What a node says of itself is not listed where it is longer.
local MAX_ABOUT_BYTES = 4096
-- A lease that no node has written counts as so old.
local MAX_AGE_MS = 1e12

local function age_of(score, now)
  return math.floor(math.max(0, math.min(now - score, MAX_AGE_MS)))
end

-- A key of another type is removed: the next renewals write it again.
local function heal_leases(keys)
  for at, probe in ipairs({ 'ZCARD', 'HLEN', 'HLEN' }) do
    local length = redis.pcall(probe, keys[at])
    if type(length) == 'table' then
      redis.call('UNLINK', keys[at])
    end
  end
end

-- Renews a lease: <node> <about> <dead after, in milliseconds> <when this node renewed last, or ''>. Returns the time,
-- whether Redis has lost what this node had written or somebody has begun to clean up behind it, and the nodes that are
-- dead, each with its lease's age.
local function lease_renew(keys, args)
  local leases, about, claims = keys[1], keys[2], keys[3]
  local node, dead_after, last = args[1], tonumber(args[3]), tonumber(args[4])
  if #keys ~= 3 or #args ~= 4 or not dead_after then
    return redis.error_reply('BADARGS usage: <node> <about> <dead after> <last>')
  end
  heal_leases(keys)
  local now = now_ms()
  local before = tonumber(redis.call('ZSCORE', leases, node) or nil)
  local is_claimed = redis.call('HDEL', claims, node) == 1
  local is_lost = last and (is_claimed or not before or before < last)
  redis.call('ZADD', leases, now, node)
  redis.call('HSET', about, node, args[2])
  -- The clock went back: these count from now.
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', leases, now + CLOCK_SLACK_MS, '+inf', 'LIMIT', 0, MAX_DEAD)) do
    redis.call('ZADD', leases, now, other)
  end
  local answer = { MARK, now, is_lost and 1 or 0 }
  local dead = redis.call('ZRANGEBYSCORE', leases, '-inf', now - dead_after, 'WITHSCORES', 'LIMIT', 0, MAX_DEAD)
  for at = 1, #dead, 2 do
    if is_node(dead[at]) then
      answer[#answer + 1] = { dead[at], age_of(tonumber(dead[at + 1]), now) }
    else
      -- No node has written it, and so no one would clean it up: it would hide those that died.
      redis.call('ZREM', leases, dead[at])
    end
  end
  return answer
end

-- Ensures that a node has a lease before it writes what others clean up behind it: <node>. Where it has none Redis has lost it,
-- and the node's next renewal says so.
local function lease_hold(keys, args)
  if #keys ~= 3 or #args ~= 1 then
    return redis.error_reply('BADARGS usage: <node>')
  end
  heal_leases(keys)
  if redis.call('ZADD', keys[1], 'NX', now_ms(), args[1]) == 1 then
    redis.call('HSET', keys[3], args[1], '0 -')
  end
  return { MARK, 1 }
end

-- Claims a dead node, to clean up behind it: <dead node> <node> <dead after> <how long the claim lasts, in milliseconds>.
-- Returns the time, whether this node has the claim, and the age of the dead one's lease. A node that came back is not dead.
local function lease_claim(keys, args)
  local dead, node, dead_after, lasts = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  if #keys ~= 3 or #args ~= 4 or not dead_after or not lasts then
    return redis.error_reply('BADARGS usage: <dead node> <node> <dead after> <lasts>')
  end
  heal_leases(keys)
  local now = now_ms()
  local renewed = tonumber(redis.call('ZSCORE', keys[1], dead) or nil)
  if not renewed or now - renewed < dead_after then
    return { MARK, now, 0, 0 }
  end
  local ends, holder = tostring(redis.call('HGET', keys[3], dead) or ''):match('^(%d+) (.*)$')
  ends = whole(ends, MAX_COUNT)
  if ends and holder ~= node and ends > now and ends <= now + lasts then
    return { MARK, now, 0, 0 }
  end
  redis.call('HSET', keys[3], dead, digits(now + lasts) .. ' ' .. node)
  return { MARK, now, 1, age_of(renewed, now) }
end

-- Forgets a node behind which nothing is left: <dead node> <node>. Only who has the claim may, or the node itself.
local function lease_end(keys, args)
  local dead, node = args[1], args[2]
  if #keys ~= 3 or #args ~= 2 then
    return redis.error_reply('BADARGS usage: <dead node> <node>')
  end
  heal_leases(keys)
  local _, holder = tostring(redis.call('HGET', keys[3], dead) or ''):match('^(%d+) (.*)$')
  if dead ~= node and holder ~= node then
    return { MARK, 0 }
  end
  redis.call('ZREM', keys[1], dead)
  redis.call('HDEL', keys[2], dead)
  redis.call('HDEL', keys[3], dead)
  return { MARK, 1 }
end

-- The nodes whose leases are younger than this, each with its lease's age and what it says of itself: <dead after>.
local function lease_list(keys, args)
  local dead_after = tonumber(args[1])
  if #keys ~= 3 or not dead_after then
    return redis.error_reply('BADARGS usage: <dead after>')
  end
  local now = now_ms()
  local answer = { MARK, 1 }
  local live = redis.call('ZRANGEBYSCORE', keys[1], now - dead_after, '+inf', 'WITHSCORES', 'LIMIT', 0, MAX_LISTED)
  for at = 1, #live, 2 do
    local node = live[at]
    local about = redis.call('HSTRLEN', keys[2], node) <= MAX_ABOUT_BYTES and redis.call('HGET', keys[2], node)
    answer[#answer + 1] = { node, age_of(tonumber(live[at + 1]), now), about or '' }
  end
  return answer
end

-- Why the flags: a node's lease is renewed also while Redis is full.
redis.register_function({ function_name = 'drawbridge_lease_renew', callback = lease_renew, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'drawbridge_lease_hold', callback = lease_hold, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'drawbridge_lease_claim', callback = lease_claim, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'drawbridge_lease_end', callback = lease_end, flags = { 'allow-oom' } })
redis.register_function({ function_name = 'drawbridge_leases', callback = lease_list, flags = { 'no-writes', 'allow-oom' } })
