"""Contract §6 and §8: a connection that does not read is closed with 4001 at its bound, and nobody else notices."""

import json

import pytest

from harness.wait import until
from harness.websocket import MSGPACK, Closed

BIG = "x" * 10_000


@pytest.fixture
def node(redis, start):
    return start(redis, lifecycle={"stream": "life"}, connection={"outbound_bytes": "256KiB"})


def ends(redis, player):
    return [e["code"] for e in redis.stream("life") if e["event"] == "disconnected" and e["player"] == player]


@pytest.mark.parametrize("encoding", ["drawbridge.v1.json", MSGPACK])
def test_a_reader_that_stops_is_closed_with_4001_and_others_go_on(node, redis, encoding):
    slow = node.player("slow", encoding=encoding, receive_buffer=4096)
    slow.subscribe("chat:1")
    good = node.player("good")
    good.subscribe("chat:1")
    before, sent = node.process.rss_kib(), 0

    def closed():
        nonlocal sent
        for _ in range(50):
            redis.publish("chat:1", json.dumps({"event": "n", "data": [sent, BIG]}))
            assert good.event("chat:1")["data"][0] == sent
            sent += 1
        return ends(redis, "slow")

    assert until(closed, "the slow one is closed", timeout=60) == ["4001"]
    assert node.process.rss_kib() < before + 32 * 1024
    while good.unread:
        good.unread.pop()
    redis.publish("chat:1", '{"event":"end"}')
    good.event("chat:1", "end")
    # What was sent before is in order and whole, then the end.
    try:
        while True:
            slow.pump(15)
    except Closed as end:
        assert end.code in (4001, 1006)
    numbers = [m["data"][0] for m in slow.received if m.type == "EVENT"]
    assert numbers == list(range(len(numbers)))


def test_many_slow_readers_cost_bounded_memory(node, redis):
    slow = [node.player(f"s{n}", receive_buffer=4096) for n in range(20)]
    for player in slow:
        player.subscribe("chat:1")
    good = node.player("good")
    good.subscribe("chat:1")
    before = node.process.rss_kib()

    def all_closed():
        for _ in range(50):
            redis.publish("chat:1", json.dumps({"event": "n", "data": BIG}))
        redis.publish("chat:1", '{"event":"mark"}')
        good.event("chat:1", "mark")
        good.unread.clear()
        good.received.clear()
        return all(ends(redis, f"s{n}") == ["4001"] for n in range(20))

    until(all_closed, "all slow ones are closed", timeout=60)
    assert node.process.rss_kib() < before + 20 * 256 + 48 * 1024


def test_replies_count_too(redis, start):
    """One who asks and asks and never reads the answers."""
    node = start(redis, lifecycle={"stream": "life"}, connection={"outbound_bytes": "64KiB"})
    player = node.player("asker", receive_buffer=4096)
    request = {"type": "PING", "id": 1, "t": "x" * 10_000}
    # Until it is cut off in the middle of one.
    with pytest.raises(ConnectionError):
        while True:
            player.send(request)
    assert until(lambda: ends(redis, "asker"), "it is closed") == ["4001"]


def test_a_reader_that_catches_up_loses_nothing(node, redis):
    player = node.player("alice", receive_buffer=65536)
    player.subscribe("chat:1")
    for number in range(20):
        redis.publish("chat:1", json.dumps({"event": "n", "data": [number, BIG]}))
    assert [player.event("chat:1")["data"][0] for _ in range(20)] == list(range(20))
    assert player.sync()
