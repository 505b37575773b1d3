-- How a service's payload is read, as nodes read it (docs/protocol.md): what Redis takes, every node takes.

-- How deep nodes take an event's data; deeper, they would see no key in it.
local MAX_DATA_DEPTH = 64

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

-- Whether it is printable ASCII, as most payloads are. Then it is UTF-8 without control characters: one walk over it instead of
-- several, each of which costs Redis more than publishing it.
local function is_printable(payload)
  return payload:match('^[ -~]*()') > #payload
end

local function is_ascii(text)
  return text:match('^[%z\1-\127]*()') > #text
end

-- Whether all of it is UTF-8; nodes show other bytes as base64, which has no key.
local function is_text(payload)
  for _, character in ipairs(UTF8) do
    if is_ascii(payload) then
      return true
    end
    payload = payload:gsub(character, ' ')
  end
  return is_ascii(payload)
end

local function is_digit(byte)
  return byte and byte >= 48 and byte <= 57
end

-- Whether a point, in a string or not, lacks a digit on either side.
local function has_bare_point(payload)
  local at = payload:find('.', 1, true)
  while at do
    local before, _, after = payload:byte(at - 1, at + 1)
    if not is_digit(before) or not is_digit(after) then
      return true
    end
    at = payload:find('.', at + 1, true)
  end
  return false
end

-- Whether cjson, in its strictest settings, accepts a text that is not JSON: `1.` and `-.5`, control characters in strings,
-- and anything behind a NUL.
local function is_lax(payload, printable)
  if (printable or not payload:find('%c')) and not has_bare_point(payload) then
    return false
  end
  local plain = payload:gsub('\\.', '')
  for text in plain:gmatch('"[^"]*"') do
    if text:find('[%z\1-\31]') then
      return true
    end
  end
  local bare = plain:gsub('"[^"]*"', '""')
  return bare:find('%z') or bare:find('%.%D') or bare:find('%D%.') or bare:find('%.$')
end

-- What nodes read: an escape of half a surrogate pair, which cjson refuses, means U+FFFD.
local function mended(payload)
  if not payload:find('\\', 1, true) or not payload:find('\\u[dD][89a-fA-F]') then
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
local function parse(payload, max_depth, printable)
  local parser = parsers[max_depth]
  if not parser then
    -- A separate parser, so that it can be configured. Made on first use: cjson is not available while the library is loaded.
    parser = cjson.new()
    parser.decode_invalid_numbers(false)
    parser.decode_max_depth(max_depth)
    parsers[max_depth] = parser
  end
  local known, decoded = pcall(parser.decode, payload)
  if known and is_lax(payload, printable) then
    return false, 'a number or a string is not as JSON has it'
  end
  return known, decoded
end

-- Whether nodes read an object as an event, and not as the data of one.
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

-- An object without its last brace.
local function without_brace(payload)
  if payload:byte(-1) == 125 then
    return payload:sub(1, -2)
  end
  return (payload:gsub('}%s*$', ''))
end

-- What a service's payload says, as docs/protocol.md has it: the event's name, its JSON members for keys and positions,
-- and the JSON object without its last brace; or nothing, and what is wrong. Its data is at most so deep.
local function read(class, payload, depth)
  local printable = is_printable(payload)
  if not printable and not is_text(payload) then
    return nil, 'not UTF-8'
  end
  local text = mended(payload)
  local known, decoded = parse(text, depth + 1, printable)
  if known and payload:find('^%s*{') and is_envelope(class, decoded) then
    return decoded.event, decoded, without_brace(payload)
  end
  if class.payload == 'envelope' then
    return nil, 'not a JSON object with a string `event`'
  end
  if known then
    known, decoded = parse(text, depth, printable)
  end
  if not known then
    return nil, 'not JSON of at most ' .. depth .. ' deep: ' .. tostring(decoded)
  end
  return 'message', { data = decoded }, '{"event":"message","data":' .. payload
end

-- As deep as JSON is read here at most where nothing in it is looked for; nodes show what is over 64 as its text.
local MAX_DEPTH = 1000
local BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

local function base64(bytes)
  return (bytes:gsub('..?.?', function(part)
    local first, second, third = part:byte(1, 3)
    local bits = first * 65536 + (second or 0) * 256 + (third or 0)
    local signs = {}
    for place = 1, #part + 1 do
      local digit = math.floor(bits / 64 ^ (4 - place)) % 64 + 1
      signs[place] = BASE64:sub(digit, digit)
    end
    return table.concat(signs) .. ('='):rep(3 - #part)
  end))
end

-- The event that nodes make of any payload, as a JSON object without its last brace; or nothing, and what is wrong.
local function event_of(class, payload, max_bytes)
  local event, problem, body = read(class, payload, MAX_DEPTH)
  if event then
    return body
  elseif class.payload == 'envelope' then
    return nil, problem
  elseif is_text(payload) then
    return '{"event":"message","data":' .. cjson.encode(payload)
  elseif #payload / 3 * 4 > max_bytes then
    -- Before it is encoded, which costs Redis more than anything else here.
    too_large(max_bytes)
  end
  return '{"event":"message","data":"' .. base64(payload) .. '","encoding":"base64"'
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
-- `body` and `path` locate its text: a double does not hold large numbers exactly.
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
