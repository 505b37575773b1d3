-- What all parts of the library share: who it serves, environments, names, numbers and time. The parts are joined into one
-- library, in the order of `library.rs`; VERSION and ENVIRONMENTS stand above; docs/redis.md describes what services see.
-- An environment is the configuration of the nodes with one channel prefix (`prefix`, may be empty): their key prefix
-- (`keys`), `external_bytes` and classes. Channels are named here as in Redis, with their prefix; classes match the rest of
-- the name.

-- Begins every answer to a node: other functions by the same names do not give it.
local MARK = 'drawbridge'
-- Nodes that know this version of the library, or a later one, can call this one.
local SERVES = 3
-- A node that gets this adds its entry.
local NO_ENVIRONMENT = 'NOENVIRONMENT nothing is known of this channel_prefix'

-- The largest whole number that is counted exactly.
local MAX_COUNT = 2 ^ 53 - 1

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

-- The command that publishes on the channels of a class, or of none.
local function publish_command(class)
  return class and class.sharded and 'SPUBLISH' or 'PUBLISH'
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A whole number up to `max` as it is stored, or nil.
local function whole(text, max)
  if type(text) == 'string' and #text <= 16 and text:find('^%d+$') then
    local number = tonumber(text)
    return number <= max and number or nil
  end
end

-- A whole number up to MAX_COUNT as it is stored. Why numbers are passed to commands as such texts: where a function is called for
-- every event, Redis' own conversion of a number costs nearly as much as a `PUBLISH`.
local function digits(number)
  return string.format('%d', number)
end
