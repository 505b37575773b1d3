"""Contract §7: loss is never silent. Numbers are published while the ways between Redis, nodes and players break;
a client that checks every event insists that each gap in the numbers has a `RESYNC` in it."""

import os
import random
import threading

import pytest

from harness.redis_server import RedisServer
from harness.wait import until

SEED = int(os.environ.get("DRAWBRIDGE_SEED", "20261123"))


class Publisher:
    """Another service: publishes numbers on each channel, for as long as it is let, in a thread of its own."""

    def __init__(self, redis, channels):
        self.client = redis.own_client()
        self.next = dict.fromkeys(channels, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(0.001):
            for channel in self.next:
                self.client.publish(channel, '{"event":"n","data":%d}' % self.next[channel])
                self.next[channel] += 1

    def stop(self):
        """Stops, and ends each channel with a marker."""
        self._stop.set()
        self._thread.join(10)
        for channel in self.next:
            self.client.publish(channel, '{"event":"end"}')


def check_no_silent_loss(player, channels):
    """Every step of more than one in a channel's numbers has a RESYNC of that channel (or pattern) in between."""
    last, signalled = {}, set()
    for message in player.received:
        if message.type == "RESYNC":
            signalled |= set(channels) if "*" in message["channel"] else {message["channel"]}
        elif message.type == "EVENT" and message["event"] == "n":
            channel, number = message["channel"], message["data"]
            before = last.get(channel)
            if before is not None and number != before + 1:
                assert number > before, f"{channel}: {number} after {before}"
                assert channel in signalled, f"{channel}: {before + 1} to {number - 1} were lost without a word"
            last[channel] = number
            signalled.discard(channel)
    assert set(last) == set(channels), "every channel was heard"


@pytest.mark.parametrize("round", range(3))
def test_no_event_is_lost_without_a_word(own_redis, start, proxy, round):
    rng = random.Random(SEED + round)
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}", broker={"subscriber_pool": 2})
    channels = [f"chat:{n}" for n in range(4)]
    named, pattern, both = node.player("named"), node.player("pattern"), node.player("both", encoding="drawbridge.v1.msgpack")
    for channel in channels:
        named.subscribe(channel)
        both.subscribe(channel)
    for player in (pattern, both):
        player.subscribe("chat:*")
    players = (named, pattern, both)
    publisher = Publisher(own_redis, channels)
    for player in players:
        player.event("chat:0", "n")
    for _ in range(6):
        fault = rng.choice(["cut", "refuse", "stall", "kill-pubsub", "kill-normal", "delay"])
        moment = rng.uniform(0.02, 0.3)
        if fault == "cut":
            link.cut()
        elif fault == "refuse":
            link.refuse()
            link.cut()
        elif fault == "stall":
            link.stall()
        elif fault == "delay":
            link.delay = moment
        else:
            own_redis.cut_clients(fault.removeprefix("kill-"))
        for player in players:
            player.read_for(moment)
        if fault == "stall":
            link.cut()
        link.delay = 0
        link.flow()
        for player in players:
            player.read_for(0.1)
    # Redis may count a dead connection's subscriptions for a while. What is published now can only come by one that works.
    now = dict(publisher.next)
    for player in players:
        for channel in channels:
            player.event(channel, "n", where=lambda m, n=now[channel]: m["data"] >= n, timeout=30)
    publisher.stop()
    for player in players:
        for channel in channels:
            player.event(channel, "end", timeout=30)
        check_no_silent_loss(player, channels)


def test_what_is_published_once_redis_has_the_subscription_again_is_delivered(own_redis, start, proxy):
    """The gap ends with the subscription: nothing else that a node makes good after a break swallows events behind it."""
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}")
    # Each has views of its own to be read again.
    players = [node.player(f"p{n}") for n in range(20)]
    for player in players:
        player.subscribe("chat:1")
    publisher = own_redis.own_client()
    for number in range(15):
        dead = own_redis.node_clients()
        link.cut()
        until(lambda: not dead & own_redis.node_clients(), "Redis has noticed the break too", pause=0)
        until(lambda: publisher.pubsub_numsub("chat:1")[0][1] == 1, "Redis has the subscription again", timeout=30, pause=0)
        publisher.publish("chat:1", '{"event":"n","data":%d}' % number)
        for player in players:
            player.expect("RESYNC", channel="chat:1")
            player.event("chat:1", "n", data=number)


def test_a_flood_from_a_service_is_delivered_whole_or_its_loss_is_told(redis, start):
    node = start(redis, connection={"outbound_bytes": "64MiB"})
    players = [node.player(f"p{n}", encoding=e) for n, e in enumerate(["drawbridge.v1.json", "drawbridge.v1.msgpack"] * 2)]
    for player in players:
        player.subscribe("chat:1")
    pipe = redis.client.pipeline(transaction=False)
    for number in range(5000):
        pipe.publish("chat:1", '{"event":"n","data":%d}' % number)
    pipe.execute()
    redis.publish("chat:1", '{"event":"end"}')
    for player in players:
        player.event("chat:1", "end", timeout=60)
        check_no_silent_loss(player, ["chat:1"])


def test_redis_cutting_the_node_off_at_its_output_buffer_limit_is_told(start):
    """A node that is held up while much is published: Redis closes its link, and the gap is told."""
    redis = RedisServer("--client-output-buffer-limit", "pubsub", "256kb", "0", "0")
    try:
        # What comes at once after the pause is much, and no fault of the reader's.
        node = start(redis, connection={"outbound_bytes": "64MiB"})
        player = node.player("alice")
        player.subscribe("chat:1")
        redis.publish("chat:1", '{"event":"n","data":0}')
        player.event("chat:1", "n")
        node.process.pause()

        def cut_off():
            for _ in range(50):
                redis.publish("chat:1", "x" * 100_000)
            return redis.subscribers("chat:1") == {"chat:1": 0}

        until(cut_off, "Redis has cut the node off", timeout=30)
        node.process.resume()
        player.expect("RESYNC", channel="chat:1", timeout=30)
        until(lambda: redis.subscribers("chat:1") == {"chat:1": 1}, "it is subscribed again", timeout=30)
        redis.publish("chat:1", '{"event":"after"}')
        player.event("chat:1", "after")
    finally:
        redis.close()


def test_losing_only_the_command_connection_costs_no_event(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    player.subscribe("chat:1")
    player.publish("chat:1", "before")
    own_redis.cut_clients("normal")
    until(lambda: player.ask("PUBLISH_EVENT", channel="chat:1", event="again").type == "EVENT_PUBLISHED", "it publishes again", timeout=30)
    own_redis.publish("chat:1", '{"event":"end"}')
    player.event("chat:1", "end")
    assert not [m for m in player.received if m.type == "RESYNC"]


def test_a_redis_that_became_read_only_is_away(own_redis, start):
    """As after a failover that left the node on the old master."""
    node = start(own_redis)
    player = node.player("alice")
    player.publish("act:1", "x", {"ok": True})
    own_redis.client.execute_command("REPLICAOF", "127.0.0.1", "1")
    waits = player.start("PUBLISH_EVENT", channel="act:1", event="x", data={"ok": True})
    assert player.expect("STATUS", timeout=30)["broker"] == "degraded"
    assert not [m for m in player.received if m.get("id") == waits]
    own_redis.client.execute_command("REPLICAOF", "NO", "ONE")
    assert player.reply(waits, timeout=30).type == "EVENT_PUBLISHED"
    assert len(own_redis.stream("actions:1")) == 2


def test_players_come_and_go_while_redis_comes_and_goes(own_redis, start, proxy):
    """Whoever is told `CHANNEL_SUBSCRIBED` hears what is published afterwards, or a RESYNC."""
    rng = random.Random(SEED)
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}")
    steady = node.player("steady")
    for number in range(25):
        if number % 5 == 4:
            link.cut()
        player = node.player(f"p{number}", timeout=30)
        channel = f"chat:{rng.randrange(3)}"
        player.subscribe(channel, timeout=30)
        own_redis.publish(channel, '{"event":"n","data":%d}' % number)
        player.expect(where=lambda m, c=channel, n=number: m.type == "RESYNC" or (m.type == "EVENT" and m["channel"] == c and m["data"] == n))
        player.vanish() if rng.random() < 0.5 else player.close()
    steady.read_for(0.05)
    steady.close()
    node.wait_idle(timeout=30)
    until(lambda: own_redis.channels() == set(), "Redis holds nothing", timeout=30)
