"""Contract §4: what a client publishes, how it is checked, what the acknowledgement means, and forwarding."""

import json
import time

import pytest

from harness.wait import until
from harness.websocket import MSGPACK


def test_server_sets_from_and_ts(node):
    alice, bob = node.player("alice"), node.player("bob")
    bob.subscribe("chat:1")
    alice.send(
        {
            "type": "PUBLISH_EVENT", "id": 1, "channel": "chat:1", "event": "hi", "data": {"x": 1},
            "from": "mallory", "ts": 5, "tags": {"admin": True}, "offset": 99, "epoch": "e", "encoding": "base64",
        }
    )  # fmt: skip
    event = bob.event("chat:1", "hi")
    assert event["from"] == "alice" and event["data"] == {"x": 1}
    assert abs(event["ts"] - time.time() * 1000) < 60_000
    assert "tags" not in event and "encoding" not in event and event["offset"] < 99
    ack = alice.expect("EVENT_PUBLISHED")
    assert set(ack) == {"type", "id", "channel"}


def test_what_the_server_publishes_is_readable_in_redis(node, redis):
    listener = redis.client.pubsub()
    listener.subscribe("chat:1")
    listener.get_message(timeout=10)
    node.player("alice").publish("chat:1", "hi", {"x": 1})
    payload = json.loads(listener.get_message(timeout=10)["data"])
    assert payload["event"] == "hi" and payload["data"] == {"x": 1} and payload["from"] == "alice"
    assert isinstance(payload["ts"], int)
    assert set(payload) <= {"event", "data", "from", "ts", "id", "key"}
    listener.close()


def test_a_publisher_that_is_subscribed_gets_its_own_event(node):
    player = node.player("alice")
    player.subscribe("chat:1")
    player.publish("chat:1", "own", [1])
    event = player.event("chat:1", "own")
    assert event["from"] == "alice" and event["data"] == [1]


def test_from_not_me_filters_ones_own(node):
    alice, bob = node.player("alice"), node.player("bob")
    alice.subscribe("chat:1", filter="from != me.player")
    alice.publish("chat:1", "own")
    bob.publish("chat:1", "foreign")
    assert alice.events_until("foreign") == []


def test_it_reaches_players_of_other_nodes_in_one_order(two_nodes):
    first, second = two_nodes
    alice, bob = first.player("alice"), second.player("bob")
    for player in (alice, bob):
        player.subscribe("chat:1")
    for number in range(100):
        (alice if number % 3 else bob).start("PUBLISH_EVENT", channel="chat:1", event="n", data=number)
    alice.sync(), bob.sync()
    orders = [[player.event("chat:1")["data"] for _ in range(100)] for player in (alice, bob)]
    assert orders[0] == orders[1] and sorted(orders[0]) == list(range(100))


def test_one_publishers_events_keep_their_order(node):
    alice, bob = node.player("alice"), node.player("bob")
    bob.subscribe("chat:1")
    for start in range(0, 1024, 64):
        alice.send([{"type": "PUBLISH_EVENT", "channel": "chat:1", "event": "n", "data": n} for n in range(start, start + 64)])
    assert [bob.event("chat:1")["data"] for _ in range(1024)] == list(range(1024))


def test_publishing_needs_no_subscription(node, redis):
    node.player("alice").publish("chat:nobody-listens")


@pytest.mark.parametrize("event", ["x", "", "a b", "é😀", "E" * 200, "message"])
def test_event_names(node, event):
    player = node.player("alice")
    player.subscribe("chat:1")
    reply = player.ask("PUBLISH_EVENT", channel="chat:1", event=event)
    if reply.type == "EVENT_PUBLISHED":
        assert player.event("chat:1")["event"] == event
    else:
        assert event == "" and reply["code"] == "BAD_MESSAGE"


# acknowledgement


def test_the_acknowledgement_waits_for_redis(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    own_redis.pause()
    player.send({"type": "PUBLISH_EVENT", "id": "p", "channel": "chat:1", "event": "x"})
    player.sync()
    assert not [m for m in player.received if m.get("id") == "p"]
    own_redis.resume()
    assert player.expect(id="p", timeout=30).type in ("EVENT_PUBLISHED", "ERROR")


def test_redis_refusing_a_publish_is_told(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    own_redis.client.config_set("maxmemory", "1")
    player.refusal("PUBLISH_EVENT", "BROKER_REFUSED", channel="act:1", event="x", data={"ok": True})
    own_redis.client.config_set("maxmemory", "0")
    player.publish("act:1", "x", {"ok": True})


# rights


def test_publish_is_false_by_default(node):
    player = node.player("alice")
    player.subscribe("news:1")
    player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="news:1", event="x")


def test_the_publish_rule_decides(node):
    player = node.player("alice", rooms=["1"])
    player.publish("room:1")
    player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="room:2", event="x")
    player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="nobody:1", event="x")
    player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="player:alice", event="x")


def test_the_publish_rule_sees_event_data_key_me_and_params(redis, start):
    rule = "event in ['move', 'stop'] && data.x >= 0 && size(data.path) < 3 && me.player == params.who && (!has(data.k) || key == data.k)"
    node = start(redis, channel=[{"name": "p:{who}", "publish": rule}])
    player = node.player("alice")
    good = {"x": 1, "path": [1, 2]}
    player.publish("p:alice", "move", good)
    player.publish("p:alice", "stop", {**good, "k": "e1"}, key="e1")
    for channel, event, data, fields in (
        ("p:bob", "move", good, {}),
        ("p:alice", "jump", good, {}),
        ("p:alice", "move", {**good, "x": -1}, {}),
        ("p:alice", "move", {"x": 1, "path": [1, 2, 3]}, {}),
        ("p:alice", "move", {"x": 1}, {}),
        ("p:alice", "move", None, {}),
        ("p:alice", "move", {**good, "k": "e1"}, {"key": "e2"}),
    ):
        player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel=channel, event=event, data=data, **fields)


def test_a_duplicate_key_cannot_slip_past_a_rule(node, redis):
    player = node.player("alice")
    player.send_json('{"type":"PUBLISH_EVENT","id":"a","channel":"act:1","event":"x","data":{"ok":true,"ok":false}}')
    assert player.expect(id="a")["code"] == "FORBIDDEN"
    player.send_json('{"type":"PUBLISH_EVENT","id":"b","channel":"act:1","event":"x","data":{"ok":false,"ok":true}}')
    assert player.expect(id="b").type == "EVENT_PUBLISHED"
    player.send_json('{"type":"PUBLISH_EVENT","id":"c","channel":"act:1","event":"x","data":{"\\u006fk":true}}')
    assert player.expect(id="c").type == "EVENT_PUBLISHED"


def test_a_refused_publish_is_not_published(node, redis):
    alice, bob = node.player("alice"), node.player("bob", rooms=["1"])
    bob.subscribe("room:1")
    alice.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="room:1", event="x")
    redis.publish("room:1", '{"event":"end"}')
    assert bob.events_until("end") == []


# the order of the checks: size, rate limits, name, rule, way of acting


def test_checks_come_in_the_stated_order(redis, start):
    node = start(
        redis,
        limits={"message_bytes": "4KiB"},
        channel=[{"name": "few:{x}", "publish": "data.ok == true", "publishes": {"per_second": 1, "burst": 2}}],
    )
    player = node.player("alice")
    big = "x" * 5000
    player.send({"type": "PUBLISH_EVENT", "id": "size", "channel": "bad name", "event": "x", "data": big})
    assert player.expect("ERROR")["code"] == "TOO_LARGE"
    attempt = {"type": "PUBLISH_EVENT", "event": "x", "data": {"ok": False}}
    player.send([{**attempt, "id": n, "channel": "few:1"} for n in range(100, 120)])
    codes = [player.expect("ERROR", id=n)["code"] for n in range(100, 120)]
    assert codes[:2] == ["FORBIDDEN"] * 2 and codes[-1] == "RATE_LIMITED"
    player.refusal("PUBLISH_EVENT", "CHANNEL_INVALID", channel="other:{", event="x", data={"ok": False})


def test_the_message_rate_comes_before_the_name(redis, start):
    node = start(redis, limits={"messages": {"per_second": 1, "burst": 2}})
    player = node.player("alice")
    player.send([{"type": "PUBLISH_EVENT", "id": n, "channel": "bad name", "event": "x"} for n in range(20)])
    codes = [player.expect("ERROR", id=n)["code"] for n in range(20)]
    assert codes[0] == "CHANNEL_INVALID" and codes[-1] == "RATE_LIMITED"


def test_the_idempotency_key_is_unsupported_on_a_plain_channel(node):
    node.player("alice").refusal("PUBLISH_EVENT", "UNSUPPORTED", channel="chat:1", event="x", idempotency_key="k1")


@pytest.mark.parametrize("fields", [{"type": "HISTORY_GET", "channel": "chat:1"}, {"type": "PRESENCE_GET", "channel": "chat:1"}])
def test_what_the_class_does_not_have_is_unsupported(node, fields):
    player = node.player("alice")
    player.subscribe("chat:1")
    player.refusal(fields.pop("type"), "UNSUPPORTED", **fields)
    player.sync()


# forwarding


def test_a_forwarded_event_is_appended_to_the_stream_instead(node, redis):
    player = node.player("alice")
    player.subscribe("act:42")
    before = time.time() * 1000
    player.publish("act:42", "shoot", {"ok": True, "angle": 12345678901234567890})
    entries = redis.stream("actions:42")
    assert len(entries) == 1
    entry = entries[0]
    assert set(entry) == {"player", "channel", "event", "data", "id", "connection", "ts"}
    assert (entry["player"], entry["channel"], entry["event"]) == ("alice", "act:42", "shoot")
    assert entry["data"] == '{"ok": true, "angle": 12345678901234567890}'
    assert entry["connection"] == player.hello["connection"]
    assert abs(int(entry["ts"]) - before) < 60_000
    redis.publish("act:42", '{"event":"end"}')
    assert player.events_until("end") == []


def test_forwarded_bytes_say_that_they_are_base64(start, redis):
    blobs = {"name": "blob:{room}", "publish": "true", "forward": "actions:{room}"}
    player = start(redis, channel=[blobs]).player("alice", encoding=MSGPACK)
    player.publish("blob:43", "blob", b"\xff\x00\x01")
    entry = redis.stream("actions:43")[0]
    assert (entry["data"], entry["encoding"]) == ('"/wAB"', "base64")


def test_what_is_forwarded_on_an_entity_channel_is_for_the_service_to_say(start, redis):
    world = {"name": "world:{world}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"}
    player = start(redis, channel=[{**world, "position": ["data.x", "data.y"], "forward": "actions:{world}"}]).player("alice")
    player.subscribe("world:7")
    player.publish("world:7", "move", {"to": "north"})
    entry = redis.stream("actions:7")[0]
    assert (entry["player"], entry["event"], json.loads(entry["data"])) == ("alice", "move", {"to": "north"})
    state = {"id": "alice", "x": 1, "y": 2}
    redis.client.fcall("drawbridge_publish", 1, "world:7", json.dumps({"event": "moved", "data": state}))
    assert player.sees("world:7", ["alice"]) == {"alice": state}


@pytest.mark.parametrize("id", [7, "seven", None])
def test_the_id_of_a_forwarded_event(node, redis, id):
    player = node.player("alice")
    message = {"type": "PUBLISH_EVENT", "channel": "act:1", "event": "x", "data": {"ok": True}}
    player.send(message if id is None else {**message, "id": id})
    if id is not None:
        assert player.expect("EVENT_PUBLISHED")["id"] == id
    entry = until(lambda: redis.stream("actions:1"), "an entry")[0]
    assert entry["id"] == ("" if id is None else str(id))


def test_forwarded_events_keep_their_order(node, redis):
    player = node.player("alice")
    for start in range(0, 256, 64):
        player.send([{"type": "PUBLISH_EVENT", "channel": "act:1", "event": "n", "data": {"ok": True, "n": n}} for n in range(start, start + 64)])
    player.publish("act:1", "last", {"ok": True})
    numbers = [json.loads(e["data"]).get("n") for e in redis.stream("actions:1")]
    assert numbers == [*range(256), None]


def test_forwarding_is_checked_by_the_rule(node, redis):
    player = node.player("alice")
    player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="act:1", event="x", data={"ok": False})
    assert redis.stream("actions:1") == []


def test_forwarding_to_a_key_of_another_type_is_refused(node, redis):
    redis.client.set("actions:1", "not a stream")
    node.player("alice").refusal("PUBLISH_EVENT", "BROKER_REFUSED", channel="act:1", event="x", data={"ok": True})


# MessagePack


def test_forwarded_data_of_a_messagepack_player_is_json(node, redis):
    player = node.player("alice", encoding="drawbridge.v1.msgpack")
    player.publish("act:1", "x", {"ok": True, "list": [1, 2.5, "é"]})
    assert json.loads(redis.stream("actions:1")[0]["data"]) == {"ok": True, "list": [1, 2.5, "é"]}
