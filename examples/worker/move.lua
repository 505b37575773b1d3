-- One turn of the game, all or nothing: acknowledge the action, change the state, publish what follows.
-- An action may be delivered more than once (a worker died, another claimed it): who acknowledges it applies it.
-- KEYS: the room's stream and state. ARGV: group, entry, player, dx, dy, the room's channel.
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], ARGV[2])
local at = cjson.decode(redis.call('HGET', KEYS[2], ARGV[3]) or '{"x":0,"y":0}')
at.x = math.max(0, math.min(1000, at.x + tonumber(ARGV[4])))
at.y = math.max(0, math.min(1000, at.y + tonumber(ARGV[5])))
redis.call('HSET', KEYS[2], ARGV[3], cjson.encode(at))
redis.call('PUBLISH', ARGV[6], cjson.encode({ event = 'moved', data = { player = ARGV[3], x = at.x, y = at.y } }))
return 1
