-- What nodes ask before they rely on the functions.

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
