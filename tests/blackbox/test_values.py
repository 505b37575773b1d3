"""Contract §1, values: payloads pass byte for byte, how deep they may be, and what MessagePack adds."""

import base64
import json

import msgpack
import pytest

from harness.websocket import MSGPACK

EXACT = [
    "12345678901234567890123456789",
    "-9007199254740993",
    "1.10",
    "1e400",
    "-0.0",
    '{"b":1,  "a" : [ 1,2 ],\t"c":"\\u00e9\\/"}',
    '"\\ud83d\\ude00 \\" \\\\ é 😀"',
    '{"a":1,"a":2}',
    "[]",
    "true",
    "null",
]


@pytest.mark.parametrize("data", EXACT)
def test_data_passes_byte_for_byte_between_json_peers(node, data):
    alice, bob = node.player("alice"), node.player("bob")
    bob.subscribe("chat:1")
    alice.send_json('{"type":"PUBLISH_EVENT","id":"p","channel":"chat:1","event":"exact","data":%s}' % data)
    alice.expect("EVENT_PUBLISHED", id="p")
    assert data.encode() in bob.event("chat:1").raw


@pytest.mark.parametrize("data", EXACT)
def test_data_of_a_service_passes_byte_for_byte_to_json_peers(node, redis, data):
    bob = node.player("bob")
    bob.subscribe("chat:1")
    redis.publish("chat:1", '{"event":"exact","data":%s}' % data)
    assert data.encode() in bob.event("chat:1").raw


def test_data_absent_or_null_is_null(node):
    player = node.player()
    player.subscribe("chat:1")
    for fields in ({}, {"data": None}):
        reply = player.ask("PUBLISH_EVENT", channel="chat:1", event="none", **fields)
        assert reply.type == "EVENT_PUBLISHED"
        event = player.event("chat:1")
        assert event["data"] is None


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("make", [nested, lambda d: '{"a":' * (d - 1) + "{}" + "}" * (d - 1)], ids=["lists", "maps"])
def test_data_may_be_64_deep_and_no_deeper(node, make):
    player = node.player()
    player.subscribe("chat:1")
    player.send_json('{"type":"PUBLISH_EVENT","id":"deep","channel":"chat:1","event":"d","data":%s}' % make(64))
    assert player.expect(id="deep").type == "EVENT_PUBLISHED"
    assert make(64).encode() in player.event("chat:1").raw
    player.send_json('{"type":"PUBLISH_EVENT","id":"deeper","channel":"chat:1","event":"d","data":%s}' % make(65))
    assert player.expect(id="deeper")["code"] == "BAD_MESSAGE"


@pytest.mark.parametrize("depth", [65, 1000, 100_000])
def test_a_services_deeper_payload_is_shown_as_a_string(node, redis, depth):
    player = node.player()
    player.subscribe("chat:1")
    redis.publish("chat:1", nested(depth))
    event = player.event("chat:1")
    assert event["event"] == "message" and event["data"] == nested(depth)


def test_brackets_in_strings_are_not_depth(node, redis):
    player = node.player()
    player.subscribe("chat:1")
    text = json.dumps({"event": "brackets", "data": '\\"' + "[" * 200})
    redis.publish("chat:1", text)
    assert player.event("chat:1", "brackets")["data"] == '\\"' + "[" * 200


# MessagePack


def test_the_same_flow_in_messagepack(node):
    alice, bob = node.player("alice", encoding=MSGPACK), node.player("bob", encoding=MSGPACK)
    assert alice.hello["player"] == "alice"
    bob.subscribe("chat:1", filter="data.n > 1")
    alice.publish("chat:1", "hit", {"n": 1})
    alice.publish("chat:1", "hit", {"n": 2, "list": [1, -1, 2**40, 1.5, None, True, "é"]})
    event = bob.event("chat:1")
    assert event["data"] == {"n": 2, "list": [1, -1, 2**40, 1.5, None, True, "é"]}
    assert event["from"] == "alice" and isinstance(event["ts"], int)
    bob.unsubscribe("chat:1")
    bob.refusal("CHANNEL_UNSUBSCRIBE", "NOT_SUBSCRIBED", channel="chat:1")
    alice.send([{"type": "PING", "id": 1000}, {"type": "NONSENSE", "id": 1001}])
    assert alice.expect(id=1000).type == "PONG"
    assert alice.expect(id=1001)["code"] == "BAD_MESSAGE"


def test_json_and_messagepack_peers_hear_each_other(node):
    alice, bob = node.player("alice"), node.player("bob", encoding=MSGPACK)
    alice.subscribe("chat:1")
    bob.subscribe("chat:1")
    data = {"int": 7, "neg": -7, "big": 2**63, "float": 0.5, "text": "é😀", "list": [[], {}], "none": None}
    alice.publish("chat:1", "from json", data)
    bob.publish("chat:1", "from msgpack", data)
    for player in (alice, bob):
        for name, sender in (("from json", "alice"), ("from msgpack", "bob")):
            event = player.event("chat:1", name)
            assert event["data"] == data and event["from"] == sender


@pytest.mark.parametrize("number", ["18446744073709551615", "-9223372036854775808", "4294967296", "0", "-1"])
def test_integers_that_messagepack_can_hold_stay_integers(node, redis, number):
    player = node.player(encoding=MSGPACK)
    player.subscribe("chat:1")
    redis.publish("chat:1", '{"event":"n","data":%s}' % number)
    data = player.event("chat:1")["data"]
    assert isinstance(data, int) and data == int(number)


def test_bin_becomes_base64_text_for_json_peers(node):
    alice, bob = node.player("alice"), node.player("bob", encoding=MSGPACK)
    alice.subscribe("chat:1")
    blob = bytes(range(256))
    bob.publish("chat:1", "blob", {"inside": blob})
    assert alice.event("chat:1")["data"] == {"inside": base64.b64encode(blob).decode()}


@pytest.mark.parametrize("blob", [b"", b"\xff\x00\x01", b"plain text", bytes(range(256)) * 64])
def test_bytes_as_the_whole_data_stay_bytes_between_messagepack_peers(node, redis, blob):
    text, binary, sender = node.player("alice"), node.player("bob", encoding=MSGPACK), node.player("eve", encoding=MSGPACK)
    for player in (text, binary):
        player.subscribe("chat:1")
    sender.publish("chat:1", "blob", blob)
    event = binary.event("chat:1")
    assert event["data"] == blob and "encoding" not in event
    event = text.event("chat:1")
    assert (event["data"], event["encoding"]) == (base64.b64encode(blob).decode(), "base64")
    assert event["from"] == "eve"


def test_an_entity_keeps_its_bytes(start, redis):
    node = start(redis, channel=[{"name": "blob:{b}", "subscribe": "true", "publish": "true", "kind": "entity"}])
    sender = node.player("eve", encoding=MSGPACK)
    sender.publish("blob:1", "state", b"\xff\x00\x01", key="a")
    for encoding, element in ((MSGPACK, {"data": b"\xff\x00\x01"}), (None, {"data": "/wAB", "encoding": "base64"})):
        player = node.player(f"late-{bool(encoding)}", **({"encoding": encoding} if encoding else {}))
        player.subscribe("blob:1")
        shown = player.expect("VIEW_ENTER", channel="blob:1")["entities"]
        assert [{name: one[name] for name in ("data", "encoding") if name in one} for one in shown] == [element]


def test_a_text_that_looks_like_base64_stays_text(node):
    text, binary = node.player("alice"), node.player("bob", encoding=MSGPACK)
    binary.subscribe("chat:1")
    text.publish("chat:1", "text", "/wAB", encoding="base64")
    binary.publish("chat:1", "text", "/wAB")
    for _ in range(2):
        event = binary.event("chat:1")
        assert event["data"] == "/wAB" and "encoding" not in event


BAD_MSGPACK = {
    "an ext type": {"data": msgpack.ExtType(5, b"x")},
    "a timestamp": {"data": msgpack.Timestamp(1, 2)},
    "NaN": {"data": float("nan")},
    "infinity": {"data": float("inf")},
    "minus infinity deep inside": {"data": [{"a": [float("-inf")]}]},
    "a number as a key": {"data": {1: "x"}},
    "a number as a key outside": {5: 1},
    "type is bin": {"type": b"PING"},
}


@pytest.mark.parametrize("fields", BAD_MSGPACK.values(), ids=BAD_MSGPACK.keys())
def test_what_messagepack_may_not_hold_is_a_bad_message(node, fields):
    player = node.player(encoding=MSGPACK)
    message = {"type": "PUBLISH_EVENT", "channel": "chat:1", "event": "e", **fields}
    player.send([{"type": "PING", "id": 1}, {**message, "id": 2}, {"type": "PING", "id": 3}])
    assert player.expect("PONG")["id"] == 1
    error = player.expect("ERROR")
    assert (error["id"], error["code"]) == (2, "BAD_MESSAGE")
    assert player.expect("PONG")["id"] == 3
    player.silent_but_for()


@pytest.mark.parametrize("field", ["type", "channel", "event", "id"])
def test_bin_is_no_string(node, field):
    player = node.player(encoding=MSGPACK)
    player.send({"type": "PUBLISH_EVENT", "channel": "chat:1", "event": "e", field: b"chat:1"})
    assert player.expect("ERROR")["code"] == "BAD_MESSAGE"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgpack.packb({"type": "PING", "id": 1})[:-1],
        msgpack.packb({"type": "PING", "id": 1}) + b"\x00",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xffabc",
        b"\x91" * 5000 + b"\x01",
        b"\x81\xa4type\xa4\xff\xff\xff\xff",
    ],
    ids=["nothing", "reserved", "cut off", "trailing", "huge map", "huge array", "huge text", "deep", "not UTF-8"],
)
def test_bytes_that_are_not_messagepack_are_a_bad_message(node, payload):
    player = node.player(encoding=MSGPACK)
    player.ws.send_binary(payload)
    assert player.expect("ERROR")["code"] == "BAD_MESSAGE"
    player.silent_but_for()


def test_messagepack_data_may_be_64_deep_and_no_deeper(node):
    player = node.player(encoding=MSGPACK)
    player.subscribe("chat:1")

    def deep(depth):
        value = []
        for _ in range(depth - 1):
            value = [value]
        return value

    player.publish("chat:1", "deep", deep(64))
    assert player.event("chat:1")["data"] == deep(64)
    player.refusal("PUBLISH_EVENT", "BAD_MESSAGE", channel="chat:1", event="deep", data=deep(65))
