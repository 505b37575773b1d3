"""Contract §4, other services: whatever a service publishes, nothing breaks and every client understands."""

import base64
import json

import pytest

from harness.wait import until
from harness.websocket import MSGPACK

JSON = "drawbridge.v1.json"


def both(node, channel):
    """A JSON and a MessagePack player on one channel."""
    players = [node.player("j"), node.player("m", encoding=MSGPACK)]
    for player in players:
        player.subscribe(channel)
    return players


# payload: the event that it becomes, without channel and offset
AUTO = {
    '{"event":"hit"}': {"event": "hit", "data": None},
    '{"event":"hit","data":{"damage":12}}': {"event": "hit", "data": {"damage": 12}},
    '{"event":"","data":1}': {"event": "", "data": 1},
    '{"event":"hit","data":null}': {"event": "hit", "data": None},
    '{"event":"hit","data":1,"from":"bob"}': {"event": "hit", "data": 1, "from": "bob"},
    '{"event":"hit","from":null}': {"event": "hit", "data": None},
    '{"event":"hit","ts":1790000000123}': {"event": "hit", "data": None, "ts": 1790000000123},
    '{"event":"hit","key":"e7"}': {"event": "hit", "data": None, "key": "e7"},
    '{"event":"hit","tags":{"zone":"n"}}': {"event": "hit", "data": None, "tags": {"zone": "n"}},
    ' \n {"event" : "hit" , "data" : [ 1 , 2 ] } ': {"event": "hit", "data": [1, 2]},
    '{"\\u0065vent":"hit","data":1}': {"event": "hit", "data": 1},
    '{"event":"miss","event":"hit","data":1,"data":2}': {"event": "hit", "data": 2},
    '{"event":"hit","extra":1}': {"event": "message", "data": {"event": "hit", "extra": 1}},
    '{"event":"hit","type":"EVENT"}': {"event": "message", "data": {"event": "hit", "type": "EVENT"}},
    '{"event":1}': {"event": "message", "data": {"event": 1}},
    '{"event":null,"data":1}': {"event": "message", "data": {"event": None, "data": 1}},
    '{"data":1}': {"event": "message", "data": {"data": 1}},
    "{}": {"event": "message", "data": {}},
    "[]": {"event": "message", "data": []},
    '[{"event":"hit"}]': {"event": "message", "data": [{"event": "hit"}]},
    "1": {"event": "message", "data": 1},
    "null": {"event": "message", "data": None},
    "true": {"event": "message", "data": True},
    '"text"': {"event": "message", "data": "text"},
    "hello": {"event": "message", "data": "hello"},
    "": {"event": "message", "data": ""},
    "   ": {"event": "message", "data": "   "},
    '{"event":"hit"': {"event": "message", "data": '{"event":"hit"'},
    '{"event":"hit"}}': {"event": "message", "data": '{"event":"hit"}}'},
    '{"event":"hit"} {"event":"hit"}': {"event": "message", "data": '{"event":"hit"} {"event":"hit"}'},
    "{'event':'hit'}": {"event": "message", "data": "{'event':'hit'}"},
    "NaN": {"event": "message", "data": "NaN"},
    "01": {"event": "message", "data": "01"},
    "\ufeff{}": {"event": "message", "data": "\ufeff{}"},
    "line\nbreak\ttab \u0000 nul \" quote \\ é 😀 \u2028": {"event": "message", "data": "line\nbreak\ttab \u0000 nul \" quote \\ é 😀 \u2028"},
    '"\\ud800"': None,  # valid JSON grammar, no Unicode: any clear form will do
}


def shown(event):
    return {key: value for key, value in event.items() if key not in ("type", "channel", "offset")}


@pytest.mark.parametrize("payload, expected", AUTO.items(), ids=[repr(key)[:50] for key in AUTO])
def test_auto_payloads(node, redis, payload, expected):
    players = both(node, "chat:1")
    redis.publish("chat:1", payload)
    redis.publish("chat:1", '{"event":"end"}')
    for player in players:
        events = player.events_until("end")
        if expected is not None:
            assert [shown(event) for event in events] == [expected]


@pytest.mark.parametrize("payload", [b"\xff", b"\x00\xff\xfe", b"caf\xe9", bytes(range(256)), b"\xed\xa0\x80", b'{"event":"\xff"}'])
def test_bytes_that_are_not_utf8(node, redis, payload):
    json_player, msgpack_player = both(node, "chat:1")
    redis.publish("chat:1", payload)
    event = json_player.event("chat:1")
    assert shown(event) == {"event": "message", "data": base64.b64encode(payload).decode(), "encoding": "base64"}
    event = msgpack_player.event("chat:1")
    assert event["event"] == "message" and event["data"] == payload


RAW = {
    '{"event":"hit","data":1}': {"event": "hit", "data": 1},
    '{"x":1}': {"x": 1},
    "1": 1,
    "hello": "hello",
    "": "",
}


@pytest.mark.parametrize("payload, data", RAW.items())
def test_raw_takes_everything_as_data(node, redis, payload, data):
    for_json, for_msgpack = both(node, "raw:1")
    redis.publish("raw:1", payload)
    for player in (for_json, for_msgpack):
        assert shown(player.event("raw:1")) == {"event": "message", "data": data}


def test_envelope_takes_only_objects_with_an_event(node, redis):
    player = node.player("alice")
    player.subscribe("envelope:1")
    before = node.dropped()
    for payload in ("hello", "1", "{}", '{"data":1}', '{"event":1}', "[]", b"\xff", ""):
        redis.publish("envelope:1", payload)
    redis.publish("envelope:1", '{"event":"good","data":1,"further":2,"keys":[3]}')
    redis.publish("envelope:1", '{"event":"end"}')
    assert [shown(event) for event in player.events_until("end")] == [{"event": "good", "data": 1}]
    until(lambda: node.dropped() >= before + 8, "eight dropped payloads are counted")


@pytest.mark.parametrize("name", ["chat:1", "raw:1", "envelope:1"])
def test_ten_megabytes_are_dropped_counted_and_logged(node, redis, name):
    player = node.player("alice")
    player.subscribe(name)
    before, memory = node.dropped(), node.process.rss_kib()
    redis.publish(name, json.dumps({"event": "huge", "data": "x" * 10_000_000}))
    redis.publish(name, b"\xff" * 10_000_000)
    redis.publish(name, json.dumps({"event": "end", "data": 1}))
    end = player.event(name, where=lambda m: "huge" not in m["event"])
    assert end["data"] in (1, {"event": "end", "data": 1})
    assert [m for m in player.received if m.type == "EVENT"] == [end]
    until(lambda: node.dropped() >= before + 2, "two dropped payloads are counted")
    until(lambda: name in node.log, "it is logged")
    assert node.process.rss_kib() < memory + 64 * 1024


def test_external_bytes_is_the_bound(redis, start):
    node = start(redis, broker={"external_bytes": "2KiB"})
    player = node.player("alice")
    player.subscribe("chat:1")
    redis.publish("chat:1", "a" * 2048)
    redis.publish("chat:1", "b" * 2049)
    redis.publish("chat:1", "c")
    assert [player.event("chat:1")["data"][0] for _ in range(2)] == ["a", "c"]


def test_a_payload_over_external_bytes_is_a_gap_for_those_who_would_have_received_it(redis, start):
    node = start(redis, broker={"external_bytes": "2KiB"})
    by_name, by_pattern, elsewhere = (node.player(name) for name in ("name", "pattern", "elsewhere"))
    at = by_name.subscribe("chat:1")["offset"]
    by_pattern.subscribe("chat:*")
    elsewhere.subscribe("chat:2")
    redis.publish("chat:1", '{"event":"before"}')
    redis.publish("chat:1", "b" * 2049)
    redis.publish("chat:1", '{"event":"end"}')
    redis.publish("chat:2", '{"event":"end"}')
    for player in (by_name, by_pattern):
        player.event("chat:1", "end")
        seen = [m for m in player.received if m.get("channel") == "chat:1" and m.type in ("EVENT", "RESYNC")]
        assert [(m.type, m["offset"] - at) for m in seen] == [("EVENT", 1), ("RESYNC", 2), ("EVENT", 3)]
        assert seen[1]["reason"] == "gap"
    elsewhere.event("chat:2", "end")
    assert [m for m in elsewhere.received if m.type == "RESYNC"] == []


def test_an_entity_channel_is_sent_again_after_a_payload_over_external_bytes(redis, start):
    node = start(redis, broker={"external_bytes": "2KiB"})
    player = node.player("alice")
    player.subscribe("world:1")
    redis.client.fcall("drawbridge_publish", 1, "world:1", '{"event":"set","data":{"id":"e","n":1,"public":true}}')
    player.sees("world:1", ["e"])
    redis.publish("world:1", json.dumps({"event": "set", "data": {"id": "e", "n": 2, "public": True, "long": "x" * 2049}}))
    resync = player.expect("RESYNC")
    assert (resync["channel"], resync["reason"]) == ("world:1", "gap")
    player.expect("VIEW_ENTER", where=lambda m: [entity["key"] for entity in m["entities"]] == ["e"])
    assert player.sees("world:1", ["e"])["e"]["n"] == 1


def test_just_under_a_mebibyte_passes(node, redis):
    for player in both(node, "chat:1"):
        redis.publish("chat:1", "x" * (1 << 20))
        assert len(player.event("chat:1")["data"]) == 1 << 20
        redis.publish("chat:1", '{"event":"end"}')
        player.event("chat:1", "end")


def test_foreign_offsets_mean_nothing(node, redis):
    """`offset` and `epoch` make a message a logged one only on a channel with history; here they are foreign keys."""
    player = node.player("alice")
    at = player.subscribe("chat:1")["offset"]
    redis.publish("chat:1", '{"event":"hit","data":1,"offset":1000,"epoch":"x"}')
    event = player.event("chat:1")
    assert event["offset"] == at + 1
    assert event["event"] in ("message", "hit")


def test_a_flood_of_odd_payloads_breaks_nobody(node, redis):
    players = both(node, "chat:1")
    pipe = redis.client.pipeline(transaction=False)
    odd = [b"", b"\x00", b"\xff\xfe", b"{", b"[[[[", b'{"event":', b'"', b"1e999", b"-", b"[" * 10_000, b"\x80" * 1000, "é".encode()[:1]]
    for _ in range(100):
        for payload in odd:
            pipe.publish("chat:1", payload)
    pipe.execute()
    redis.publish("chat:1", '{"event":"end"}')
    for player in players:
        assert len(player.events_until("end")) == 100 * len(odd)


def test_a_megabyte_of_brackets_costs_nothing(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1", filter="data.x == 1 || event == 'end' || true")
    redis.publish("chat:1", "[" * 500_000 + "]" * 500_000)
    redis.publish("chat:1", '{"a":' * 150_000 + "1" + "}" * 150_000)
    redis.publish("chat:1", '{"event":"end"}')
    assert [type(event["data"]) for event in player.events_until("end")] == [str, str]


@pytest.mark.parametrize(
    "fields", ['"from":1', '"from":{}', '"ts":"now"', '"ts":1.5', '"ts":-1', '"key":7', '"key":{}', '"tags":"x"', '"tags":[1]', '"tags":null', '"key":null', '"ts":null']
)
def test_ill_typed_fields_of_an_envelope_do_no_harm(node, redis, fields):
    """The client is given an event of the contract, whatever becomes of the odd field."""
    for player in both(node, "chat:1"):
        redis.publish("chat:1", '{"event":"odd","data":1,%s}' % fields)
        redis.publish("chat:1", '{"event":"end"}')
        events = player.events_until("end")
        assert len(events) <= 1
