"""A game service: reads what players do, decides, and publishes what follows. Start as many as you like."""

import json
import os
import socket
import time
from pathlib import Path

import redis

db = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"), decode_responses=True)
rooms = os.environ.get("ROOMS", "42").split(",")
tick_s = float(os.environ.get("TICK_MS", 1000)) / 1000
claim_ms = int(os.environ.get("CLAIM_MS", 10_000))
group, me = "game", f"{socket.gethostname()}-{os.getpid()}"
move = db.register_script((Path(__file__).parent.parent / "move.lua").read_text())


def act(room, entry, action):
    """One action of one player. A client's data is whatever the client sent: look before you use it."""
    try:
        step = json.loads(action["data"])
        dx, dy = max(-10, min(10, int(step["dx"]))), max(-10, min(10, int(step["dy"])))
    except (ValueError, TypeError, KeyError, OverflowError):
        db.xack(f"actions:{room}", group, entry)
        db.xdel(f"actions:{room}", entry)
        db.publish(f"player:{action['player']}", json.dumps({"event": "refused", "data": "move wants dx and dy"}))
        return
    move([f"actions:{room}", f"state:{room}"], [group, entry, action["player"], dx, dy, f"room:{room}"])


def tick(room):
    """The service's own clock: the whole state, now and then. One worker at a time does it."""
    if db.set(f"ticking:{room}", me, nx=True, px=max(1, int(tick_s * 900))):
        state = {player: json.loads(at) for player, at in db.hgetall(f"state:{room}").items()}
        db.publish(f"room:{room}", json.dumps({"event": "state", "data": state}))


for room in rooms:
    try:
        db.xgroup_create(f"actions:{room}", group, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
print("worker ready", flush=True)
next_tick = time.monotonic()
while True:
    if time.monotonic() >= next_tick:
        next_tick = time.monotonic() + tick_s
        for room in rooms:
            for entry, action in db.xautoclaim(f"actions:{room}", group, me, claim_ms)[1]:
                act(room, entry, action)
            tick(room)
    wait_ms = max(1, int((next_tick - time.monotonic()) * 1000))
    streams = {f"actions:{room}": ">" for room in rooms}
    for stream, entries in db.xreadgroup(group, me, streams, count=100, block=wait_ms):
        for entry, action in entries:
            act(stream.removeprefix("actions:"), entry, action)
