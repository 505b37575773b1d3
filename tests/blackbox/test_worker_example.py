"""`examples/worker`, in both languages: forwarded actions become state and events, once each, whoever dies."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from harness.node import ROOT, Node
from harness.process import Process
from harness.wait import until

EXAMPLE = ROOT / "examples" / "worker"
SECRET = "a-secret-for-the-worker-test-that-is-long-enough"


def command(language):
    if language == "python":
        return [sys.executable, EXAMPLE / "python" / "worker.py"]
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (EXAMPLE / "node" / "node_modules" / "redis").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=EXAMPLE / "node", check=True, timeout=120)
    return ["node", EXAMPLE / "node" / "worker.js"]


class ExampleNode(Node):
    """A node with the example's own configuration; only addresses and the secret are laid over it."""

    def __init__(self, redis):
        from harness.node import binary

        self.players, self.ready = [], None
        env = {
            "DRAWBRIDGE_LISTEN": "127.0.0.1:0",
            "DRAWBRIDGE_BROKER__URL": redis.url,
            "DRAWBRIDGE_AUTH__HMAC_SECRET": SECRET,
        }
        self.process = Process([binary(), "serve", "--config", EXAMPLE / "drawbridge.toml"], env=env)
        self.wait_ready_line()


@pytest.fixture
def game(redis):
    node = ExampleNode(redis)
    yield node
    node.close()


@pytest.fixture(params=["python", "node"])
def worker(request, redis):
    """Starts workers: `worker(claim_ms=…)`."""
    workers = []

    def start_worker(tick_ms=100, claim_ms=60_000):
        env = {"REDIS_URL": redis.url, "ROOMS": "41,42", "TICK_MS": str(tick_ms), "CLAIM_MS": str(claim_ms)}
        process = Process(command(request.param), env={**os.environ, **env})
        workers.append(process)
        until(lambda: "worker ready" in process.output or not process.running, "the worker is ready", timeout=30)
        assert process.running, process.output
        return process

    yield start_worker
    for process in workers:
        process.kill()


def join(game, sub, room="42"):
    from harness.tokens import mint

    player = game.connect(mint(sub, key=SECRET, room=room))
    player.welcome()
    return player


def state(redis, room="42"):
    return {player.decode(): json.loads(at) for player, at in redis.client.hgetall(f"state:{room}").items()}


def test_a_move_becomes_state_and_an_event(game, redis, worker):
    worker()
    alice, bob, elsewhere = join(game, "alice"), join(game, "bob"), join(game, "carol", "41")
    alice.publish("room:42", "move", {"dx": 3, "dy": 1})
    for player in (alice, bob):
        moved = player.event("room:42", "moved")
        assert moved["data"] == {"player": "alice", "x": 3, "y": 1}
    assert state(redis) == {"alice": {"x": 3, "y": 1}}
    assert redis.client.xpending("actions:42", "game")["pending"] == 0
    elsewhere.event("room:41", "state")
    assert "moved" not in [m.get("event") for m in elsewhere.received]


def test_the_service_publishes_on_its_own_clock(game, redis, worker):
    worker()
    alice = join(game, "alice")
    alice.publish("room:42", "move", {"dx": 5, "dy": 5})
    until(lambda: alice.event("room:42", "state")["data"] == {"alice": {"x": 5, "y": 5}}, "the state with the move")


@pytest.mark.parametrize("data", [None, 7, "up", [], {}, {"dx": 1}, {"dx": "much", "dy": 0}, {"dx": None, "dy": 1}])
def test_a_bad_move_is_refused_to_its_player_alone(game, redis, worker, data):
    worker()
    alice, bob = join(game, "alice"), join(game, "bob")
    alice.publish("room:42", "move", data)
    alice.event("player:alice", "refused")
    alice.publish("room:42", "move", {"dx": 1, "dy": 1})
    bob.event("room:42", "moved")
    assert "refused" not in [m.get("event") for m in bob.received]
    assert redis.client.xpending("actions:42", "game")["pending"] == 0


def test_what_may_not_be_published_never_reaches_the_service(game, redis, worker):
    worker()
    alice = join(game, "alice")
    alice.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="room:42", event="teleport", data={})
    alice.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="room:41", event="move", data={"dx": 1, "dy": 1})
    assert redis.stream("actions:42") == [] and redis.stream("actions:41") == []


def test_each_action_is_applied_once_by_several_workers(game, redis, worker):
    worker(), worker()
    alice = join(game, "alice")
    for begin in range(0, 90, 30):
        ids = [alice.start("PUBLISH_EVENT", channel="room:42", event="move", data={"dx": 1, "dy": 2}) for _ in range(30)]
        for id in ids:
            assert alice.reply(id).type == "EVENT_PUBLISHED"
        until(lambda done=begin + 30: state(redis).get("alice") == {"x": done, "y": 2 * done}, "all moves are made")
    moved = [alice.event("room:42", "moved")["data"]["x"] for _ in range(90)]
    assert moved == list(range(1, 91))


def test_a_dead_workers_actions_are_claimed(game, redis, worker):
    """Some actions are read by a worker that dies before it acts."""
    alice = join(game, "alice")
    redis.client.xgroup_create("actions:42", "game", id="0", mkstream=True)
    for _ in range(5):
        alice.publish("room:42", "move", {"dx": 1, "dy": 0})
    read = redis.client.xreadgroup("game", "dead", {"actions:42": ">"}, count=5)
    assert len(read[0][1]) == 5
    worker(claim_ms=50)
    until(lambda: state(redis).get("alice") == {"x": 5, "y": 0}, "they are made")
    assert redis.client.xpending("actions:42", "game")["pending"] == 0
    # The dead one was only slow, and acts after all: nothing is applied twice.
    script = (EXAMPLE / "move.lua").read_text()
    for entry, _ in read[0][1]:
        assert redis.client.eval(script, 2, "actions:42", "state:42", "game", entry, "alice", 1, 0, "room:42") == 0
    assert state(redis)["alice"] == {"x": 5, "y": 0}


def test_a_killed_worker_is_replaced(game, redis, worker):
    first = worker()
    alice = join(game, "alice")
    alice.publish("room:42", "move", {"dx": 1, "dy": 0})
    alice.event("room:42", "moved")
    first.kill()
    alice.publish("room:42", "move", {"dx": 1, "dy": 0})
    worker(claim_ms=50)
    until(lambda: state(redis)["alice"] == {"x": 2, "y": 0}, "the second move is made")
