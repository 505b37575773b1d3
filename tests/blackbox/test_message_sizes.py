"""How long messages to a client may be: those that the server composes, and those that a client takes."""

import json

import pytest

from harness.player import Player
from harness.tokens import mint
from harness.websocket import JSON, MSGPACK

COMPOSED = 32 * 1024
PAD = "p" * 300

CLASSES = {
    "channel": [
        {"name": "world:{world}", "subscribe": "true", "kind": "entity", "key": "data.id"},
        {
            "name": "fast:{world}", "subscribe": "true", "kind": "entity", "key": "data.id", "batch": "50ms",
            "view": "data.side == me.side",
        },
        {"name": "news:{name}", "subscribe": "true", "patterns": True, "batch": "200ms"},
        {"name": "chat:{name}", "subscribe": "true", "patterns": True},
        {"name": "small:{name}", "subscribe": "true", "message_bytes_out": "2KiB"},
        {"name": "latest:{name}", "subscribe": "true", "patterns": True, "key": "data.id", "slow_consumer": "latest"},
    ]
}  # fmt: skip


@pytest.fixture
def node(redis, start):
    return start(redis, **CLASSES)


def put(redis, channel, *entities):
    pipe = redis.client.pipeline(transaction=False)
    for entity in entities:
        event = {"event": "at", "data": entity}
        pipe.execute_command("FCALL", "drawbridge_publish", 1, channel, json.dumps(event))
    assert all(pipe.execute())


def takes(node, bytes, sub="bob", encoding=JSON, **claims):
    """A player whose `CONNECT` says how long a message it takes."""
    player = Player(node.port, encoding=encoding)
    node.players.append(player)
    player.send({"type": "CONNECT", "token": mint(sub, **claims), "max_message_bytes": bytes})
    player.welcome()
    return player


def longest(player):
    return max(len(message.raw) for message in player.received if message.type != "WELCOME")


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_a_snapshot_comes_in_messages_of_at_most_32_kib(node, redis, encoding):
    put(redis, "world:1", *({"id": f"e{n}", "pad": PAD} for n in range(1_000)))
    player = node.player(encoding=encoding)
    player.subscribe("world:1")
    player.sees("world:1", {f"e{n}" for n in range(1_000)})
    assert longest(player) <= COMPOSED


def test_what_enters_and_leaves_a_view_together_comes_in_messages_of_at_most_32_kib(node, redis):
    keys = [f"{'k' * 240}{n:04}" for n in range(400)]
    player = node.player(side="red")
    player.subscribe("fast:1")
    put(redis, "fast:1", *({"id": key, "side": "red"} for key in keys))
    player.sees("fast:1", keys)
    put(redis, "fast:1", *({"id": key, "side": "blue"} for key in keys))
    player.sees("fast:1", ())
    assert longest(player) <= COMPOSED


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
@pytest.mark.parametrize("deflate", [False, True])
def test_a_batch_has_at_most_32_kib_unless_one_event_has_more(node, redis, encoding, deflate):
    player = node.player(encoding=encoding, deflate=deflate)
    player.subscribe("news:1")
    for n in range(60):
        redis.publish("news:1", json.dumps({"event": "n", "data": {"n": n, "pad": PAD * 8}}))
    redis.publish("news:1", json.dumps({"event": "long", "data": "x" * 50_000}))
    redis.publish("news:1", '{"event":"end"}')
    events = player.events_until("end")
    assert [event["event"] for event in events] == ["n"] * 60 + ["long"]
    composed = [message for message in player.received if message.in_array]
    assert composed and max(len(message.raw) for message in composed) <= COMPOSED


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
@pytest.mark.parametrize("channel", ["chat:1", "news:1"])
@pytest.mark.parametrize("subject", ["name", "pattern"])
def test_an_event_that_is_too_long_for_its_client_is_a_resync(node, redis, encoding, channel, subject):
    player = takes(node, 1_024, encoding=encoding)
    player.subscribe(channel if subject == "name" else channel.replace("1", "*"))
    redis.publish(channel, '{"event":"first"}')
    redis.publish(channel, json.dumps({"event": "long", "data": "x" * 2_000}))
    redis.publish(channel, '{"event":"last"}')
    first = player.event(event="first")
    resync = player.expect("RESYNC", channel=channel)
    last = player.event(event="last")
    assert resync["reason"] == "too_large"
    assert (resync["epoch"], resync["offset"]) == (resync["epoch"], first["offset"] + 1)
    assert last["offset"] == first["offset"] + 2
    assert not [message for message in player.received if message.get("event") == "long"]


def test_a_client_may_take_longer_messages_than_its_class_says(node, redis):
    long = json.dumps({"event": "long", "data": "x" * 4_000})
    one, other = node.player("alice"), takes(node, 64 * 1024)
    for player in (one, other):
        player.subscribe("small:1")
    redis.publish("small:1", long)
    redis.publish("small:1", '{"event":"end"}')
    assert one.expect("RESYNC", channel="small:1")["reason"] == "too_large"
    assert one.events_until("end") == []
    assert [event["event"] for event in other.events_until("end")] == ["long"]


@pytest.mark.parametrize("channel", ["world:1", "fast:1"])
def test_an_entity_that_is_too_large_for_its_client_is_left_out(node, redis, channel):
    def entity(key, size):
        return {"id": key, "side": "red", "pad": "x" * size}

    put(redis, channel, entity("small", 10), entity("large", 3_000), entity("grows", 10))
    player = takes(node, 2_048, side="red")
    player.subscribe(channel)
    player.sees(channel, {"small", "grows"})
    put(redis, channel, entity("grows", 3_000))
    player.sees(channel, {"small"})
    put(redis, channel, entity("grows", 2_500), entity("large", 20))
    assert player.sees(channel, {"small", "large"})["large"]["pad"] == "x" * 20
    put(redis, channel, entity("large", 21), entity("new", 5_000), entity("end", 1))
    player.sees(channel, {"small", "large", "end"})
    assert player.entities(channel)["large"]["pad"] == "x" * 21
    assert longest(player) <= 2_048


@pytest.mark.parametrize("bad", [0, 511, -1, 1.5, "4096", True, 2**31, [], {}])
def test_a_length_that_is_none_is_refused_with_what_would_be_right(node, bad):
    player = Player(node.port)
    node.players.append(player)
    player.send({"type": "CONNECT", "id": 1, "token": mint("bob"), "max_message_bytes": bad})
    error = player.expect("ERROR", id=1)
    assert error["code"] == "BAD_MESSAGE" and "max_message_bytes" in error["message"] and "512" in error["message"]


def test_latest_drops_no_event_of_a_stream_for_a_client_that_reads(node, redis):
    """A burst blocks the socket for a moment; what waits stays below `outbound_bytes`, so every event is sent."""
    player = node.player(receive_buffer=16 * 1024)
    player.subscribe("latest:*")
    pipe = redis.client.pipeline(transaction=False)
    for n in range(2_000):
        pipe.publish("latest:1", json.dumps({"event": "n", "data": {"id": n % 10, "n": n, "pad": PAD[:150]}}))
    pipe.execute()
    redis.publish("latest:1", '{"event":"end"}')
    assert [event["data"]["n"] for event in player.events_until("end")] == list(range(2_000))
