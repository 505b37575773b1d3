"""Contract §1: sub-protocols, kinds of frames, arrays, ids, what is a message and what is not."""

import json

import pytest

from harness.tokens import mint
from harness.websocket import BINARY, JSON, MSGPACK, TEXT, Refused, WebSocket


def bearer():
    return {"Authorization": f"Bearer {mint()}"}


# sub-protocols


def test_json_is_the_default_when_no_subprotocol_is_offered(node):
    ws = WebSocket(node.port, subprotocols=(), headers=bearer()).connect()
    assert ws.subprotocol is None
    opcode, payload = ws.receive()
    assert opcode == TEXT and json.loads(payload)["type"] == "WELCOME"


@pytest.mark.parametrize("offer, chosen", [((JSON,), JSON), ((MSGPACK,), MSGPACK), (("soap", MSGPACK), MSGPACK)])
def test_the_known_subprotocol_of_an_offer_is_chosen(node, offer, chosen):
    ws = WebSocket(node.port, subprotocols=offer, headers=bearer()).connect()
    assert ws.subprotocol == chosen
    assert ws.receive()[0] == (TEXT if chosen == JSON else BINARY)


def test_of_two_known_subprotocols_one_is_chosen_and_kept_to(node):
    ws = WebSocket(node.port, subprotocols=(MSGPACK, JSON), headers=bearer()).connect()
    assert ws.subprotocol in (MSGPACK, JSON)
    assert ws.receive()[0] == (TEXT if ws.subprotocol == JSON else BINARY)


@pytest.mark.parametrize("offer", [("drawbridge.v2.json",), ("soap", "wamp"), ("DRAWBRIDGE.V1.JSON",)])
def test_an_offer_with_no_known_subprotocol_is_refused_at_the_upgrade(node, offer):
    with pytest.raises(Refused) as refused:
        WebSocket(node.port, subprotocols=offer, headers=bearer()).connect()
    assert refused.value.status == 400


def test_json_in_a_binary_frame_is_read_on_a_json_connection(node):
    """Some engines send nothing else; the answers are text all the same."""
    player = node.player()
    player.ws.send_binary('{"type":"PING","id":"é"}'.encode())
    assert player.expect("PONG")["id"] == "é"
    player.ws.send_binary(b'[{"type":"PING","id":1},{"type":"PING","id":2}]')
    assert [player.expect("PONG")["id"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("payload", [b"\xff\xfe", b"\x81\xa4type\xa4PING", b"", b"2"], ids=str)
def test_a_binary_frame_that_is_not_json_is_a_bad_message_on_a_json_connection(node, payload):
    player = node.player()
    player.ws.send_binary(payload)
    assert player.expect("ERROR")["code"] == "BAD_MESSAGE"
    player.sync()


def test_a_text_frame_on_messagepack_closes_with_1003(node):
    player = node.player(encoding=MSGPACK)
    player.ws.send_text('{"type":"PING","id":1}')
    player.closes_with(1003)


def test_the_refusal_of_an_offer_names_the_subprotocols_that_exist(node):
    with pytest.raises(Refused) as refused:
        WebSocket(node.port, subprotocols=("graphql-ws",), headers=bearer()).connect()
    assert JSON.encode() in refused.value.body and MSGPACK.encode() in refused.value.body


# arrays


def test_an_array_is_handled_in_order_and_each_element_answered(node):
    player = node.player()
    player.send([{"type": "PING", "id": i} for i in range(64)])
    assert [player.expect("PONG")["id"] for _ in range(64)] == list(range(64))


def test_single_messages_and_arrays_may_alternate(node):
    player = node.player()
    player.send([{"type": "PING", "id": "a"}])
    player.send({"type": "PING", "id": "b"})
    player.send([{"type": "PING", "id": "c"}, {"type": "PING", "id": "d"}])
    assert [player.expect("PONG")["id"] for _ in range(4)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("size", [0, 65, 1000])
def test_an_empty_or_too_long_array_is_one_bad_message(node, size):
    player = node.player()
    player.send([{"type": "PING", "id": i} for i in range(size)])
    assert player.expect("ERROR")["code"] == "BAD_MESSAGE"
    player.silent_but_for()


def test_a_bad_element_is_answered_for_itself_and_the_others_are_handled(node):
    player = node.player()
    player.send(
        [
            {"type": "PING", "id": 1},
            {"type": "NONSENSE", "id": 2},
            "text",
            {"type": "CHANNEL_SUBSCRIBE", "id": 3},
            {"type": "PING", "id": 4},
        ]
    )
    assert player.expect("PONG")["id"] == 1
    assert player.expect("ERROR", id=2)["code"] == "BAD_MESSAGE"
    assert player.expect("ERROR", where=lambda m: "id" not in m)["code"] == "BAD_MESSAGE"
    assert player.expect("ERROR", id=3)["code"] == "BAD_MESSAGE"
    assert player.expect("PONG")["id"] == 4


def test_arrays_do_not_nest(node):
    player = node.player()
    player.send([{"type": "PING", "id": 1}, [{"type": "PING", "id": 2}], {"type": "PING", "id": 3}])
    assert player.expect("PONG")["id"] == 1
    assert player.expect("ERROR")["code"] == "BAD_MESSAGE"
    assert player.expect("PONG")["id"] == 3
    player.silent_but_for()


def test_a_publish_right_behind_a_subscribe_is_heard_by_its_sender(node):
    player = node.player()
    for round in range(50):
        channel = f"chat:behind-{round}"
        player.send({"type": "CHANNEL_SUBSCRIBE", "id": f"s{round}", "channel": channel})
        player.send({"type": "PUBLISH_EVENT", "id": f"p{round}", "channel": channel, "event": "own", "data": round})
    for round in range(50):
        player.expect("CHANNEL_SUBSCRIBED", id=f"s{round}")
        player.expect("EVENT_PUBLISHED", id=f"p{round}")
        assert player.event(f"chat:behind-{round}")["data"] == round


def test_messages_about_one_channel_take_effect_in_the_order_sent(node):
    player = node.player()
    player.send(
        [
            {"type": "CHANNEL_SUBSCRIBE", "id": 101, "channel": "chat:order"},
            {"type": "PUBLISH_EVENT", "id": 102, "channel": "chat:order", "event": "heard"},
            {"type": "CHANNEL_UNSUBSCRIBE", "id": 103, "channel": "chat:order"},
            {"type": "PUBLISH_EVENT", "id": 104, "channel": "chat:order", "event": "unheard"},
            {"type": "CHANNEL_SUBSCRIBE", "id": 105, "channel": "chat:order"},
            {"type": "PUBLISH_EVENT", "id": 106, "channel": "chat:order", "event": "heard again"},
        ]
    )
    for id in (101, 102, 103, 104, 105, 106):
        assert player.expect(id=id).type != "ERROR"
    player.expect("EVENT", event="heard again")
    assert [m.get("event") for m in player.received if m.type == "EVENT"] == ["heard", "heard again"]


@pytest.mark.one_server("the bus carries an event after its publish is acknowledged")
@pytest.mark.parametrize("name", ["chat:1", "chat:*"])
@pytest.mark.parametrize("broker", ["redis", "memory"])
def test_an_unsubscribe_does_not_overtake_a_publish(start, redis, broker, name):
    player = start(redis if broker == "redis" else None).player()
    for round in range(20):
        player.subscribe(name)
        messages = [{"type": "PUBLISH_EVENT", "id": f"p{round}", "channel": "chat:1", "event": "e", "data": round}]
        messages.append({"type": "CHANNEL_UNSUBSCRIBE", "id": f"u{round}", "channel": name})
        messages.append({"type": "CHANNEL_UNSUBSCRIBE", "id": f"v{round}", "channel": name})
        for message in messages if round % 2 else [messages]:
            player.send(message)
        assert player.event("chat:1")["data"] == round
        player.expect("CHANNEL_UNSUBSCRIBED", id=f"u{round}")
        assert player.expect("ERROR", id=f"v{round}")["code"] == "NOT_SUBSCRIBED"
        player.expect("EVENT_PUBLISHED", id=f"p{round}")
        order = [m.type for m in player.received[-4:]]
        assert order.index("EVENT") < order.index("CHANNEL_UNSUBSCRIBED")


@pytest.mark.one_server("the bus carries an event after its publish is acknowledged")
@pytest.mark.parametrize("name", ["chat:1", "chat:*"])
@pytest.mark.parametrize("kind", ["FILTER_UPDATE", "CHANNEL_SUBSCRIBE"])
@pytest.mark.parametrize("broker", ["redis", "memory"])
def test_a_new_filter_does_not_overtake_a_publish(start, redis, broker, kind, name):
    player = start(redis if broker == "redis" else None).player()
    for round in range(20):
        player.subscribe(name, filter="data == 1")
        messages = [{"type": "PUBLISH_EVENT", "channel": "chat:1", "event": f"a{round}", "data": n} for n in (1, 2)]
        messages.append({"type": kind, "id": f"f{round}", "channel": name, "filter": "data == 2"})
        messages += [
            {"type": "PUBLISH_EVENT", "id": f"{n}-{round}", "channel": "chat:1", "event": f"b{round}", "data": n}
            for n in (1, 2)
        ]
        for message in messages if round % 2 else [messages]:
            player.send(message)
        player.expect(id=f"f{round}")
        player.expect("EVENT", event=f"b{round}")
        shown = [(m["event"], m["data"]) for m in player.received if m.type == "EVENT"]
        assert shown[-2:] == [(f"a{round}", 1), (f"b{round}", 2)]


def test_a_name_that_is_no_name_waits_for_nothing(node):
    player = node.player()
    player.subscribe("chat:1")
    # Held against each other they would cost the product of their lengths.
    pattern, channel = "*[" + "a" * 15_000 + "b]", "b" * 15_000
    player.send(
        [
            {"type": "PUBLISH_EVENT", "id": 1, "channel": "chat:1", "event": "e"},
            {"type": "FILTER_UPDATE", "id": 2, "channel": pattern},
            {"type": "PUBLISH_EVENT", "id": 3, "channel": channel, "event": "e"},
            {"type": "CHANNEL_UNSUBSCRIBE", "id": 4, "channel": pattern},
        ]
    )
    for id in (2, 3, 4):
        assert player.expect("ERROR", id=id)["code"] in ("CHANNEL_INVALID", "NOT_SUBSCRIBED")
    assert [m.get("id") for m in player.received[-3:]] == [2, 3, 4]
    assert player.expect(id=1).type == "EVENT_PUBLISHED"


@pytest.mark.one_server("the bus carries an event after its publish is acknowledged")
def test_a_change_of_a_pattern_waits_behind_a_publish_that_waits(node):
    player = node.player()
    for round in range(10):
        for name in ("chat:*", "chat:?"):
            player.subscribe(name, filter="data == 1")
        player.send(
            [
                {"type": "PUBLISH_EVENT", "channel": "chat:22", "event": "e", "data": 0},
                {"type": "FILTER_UPDATE", "channel": "chat:*", "filter": "data == 2"},
                {"type": "PUBLISH_EVENT", "id": f"p{round}", "channel": "chat:1", "event": "e", "data": 1},
                {"type": "FILTER_UPDATE", "id": f"f{round}", "channel": "chat:?", "filter": "data == 2"},
            ]
        )
        player.expect("EVENT", data=1)
        player.expect("FILTER_UPDATED", id=f"f{round}")
        player.expect(id=f"p{round}")


def test_much_that_waits_for_one_subscription_is_done_behind_it(start, redis):
    player = start(redis, limits={"messages": {"per_second": 5000, "burst": 5000}}).player()
    player.send({"type": "CHANNEL_SUBSCRIBE", "id": "s", "channel": "chat:1"})
    for start_at in range(0, 500, 50):
        player.send(
            [
                {"type": "PUBLISH_EVENT", "id": n, "channel": "chat:1", "event": "e", "data": n}
                for n in range(start_at, start_at + 50)
            ]
        )
    for n in range(500):
        assert player.expect(id=n).type == "EVENT_PUBLISHED"
    player.expect("EVENT", data=499)
    assert [m["data"] for m in player.received if m.type == "EVENT"] == list(range(500))


def test_a_publish_behind_an_unsubscribe_that_waits_is_not_heard(node):
    player = node.player()
    for round in range(10):
        player.subscribe("chat:*")
        messages = [{"type": "PUBLISH_EVENT", "channel": "chat:1", "event": "e", "data": [round, 1]}]
        messages.append({"type": "CHANNEL_UNSUBSCRIBE", "id": f"u{round}", "channel": "chat:*"})
        messages += [{"type": "PUBLISH_EVENT", "id": f"p{round}-{n}", "channel": "chat:1", "event": "e", "data": [round, n]} for n in (2, 3)]
        player.send(messages)
        player.expect("EVENT_PUBLISHED", id=f"p{round}-3")
    assert [m["data"] for m in player.received if m.type == "EVENT"] == [[round, 1] for round in range(10)]


def test_an_unsubscribe_waits_for_no_redis_that_is_away(own_redis, start, proxy):
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}")
    player = node.player()
    player.subscribe("chat:1")
    node.loses_redis(link.away)
    player.expect("STATUS", broker="degraded")
    player.send({"type": "PUBLISH_EVENT", "id": 1, "channel": "chat:1", "event": "e"})
    player.send({"type": "CHANNEL_UNSUBSCRIBE", "id": 2, "channel": "chat:1"})
    player.expect("CHANNEL_UNSUBSCRIBED", id=2)
    assert not [m for m in player.received if m.type == "EVENT_PUBLISHED"], "the publish still waits for Redis"
    link.flow()
    player.expect("EVENT_PUBLISHED", id=1, timeout=30)


# ids


@pytest.mark.parametrize("id", [0, 1, 2**53 - 1, "", "x", "é" * 32, "a" * 64, "12"])
def test_the_reply_carries_the_same_id(node, id):
    player = node.player()
    player.send({"type": "PING", "id": id})
    reply = player.expect("PONG")
    assert reply["id"] == id and type(reply["id"]) is type(id)


@pytest.mark.parametrize("id", ["-1", "1.5", str(2**53), "1e30", json.dumps("a" * 65), json.dumps("é" * 33), "true", "[]", "{}"])
def test_an_ill_typed_id_is_a_bad_message(node, id):
    player = node.player()
    player.send_json('{"type":"PING","id":%s}' % id)
    assert player.expect("ERROR")["code"] == "BAD_MESSAGE"
    player.silent_but_for()


def test_an_id_of_null_counts_as_absent(node):
    player = node.player()
    player.send_json('{"type":"CHANNEL_SUBSCRIBE","id":null,"channel":"chat:1"}')
    player.send_json('{"type":"CHANNEL_SUBSCRIBE","id":null,"channel":"nobody:1"}')
    assert "id" not in player.expect("ERROR", code="FORBIDDEN")
    player.silent_but_for()


def test_a_request_without_id_gets_no_success_reply_but_its_errors(node):
    player = node.player()
    player.send({"type": "CHANNEL_SUBSCRIBE", "channel": "chat:1"})
    player.send({"type": "PUBLISH_EVENT", "channel": "chat:1", "event": "quiet"})
    player.event("chat:1", "quiet")
    player.send({"type": "CHANNEL_UNSUBSCRIBE", "channel": "chat:1"})
    player.send({"type": "CHANNEL_UNSUBSCRIBE", "channel": "chat:1"})
    error = player.expect("ERROR")
    assert error["code"] == "NOT_SUBSCRIBED" and "id" not in error
    player.silent_but_for()


# what is no message


BAD = {
    "not JSON": "hello",
    "half JSON": '{"type":"PING"',
    "trailing text": '{"type":"PING"} x',
    "empty text": "",
    "a string": '"PING"',
    "a number": "1",
    "null": "null",
    "no type": '{"id":1}',
    "type is a number": '{"type":1}',
    "type is null": '{"type":null}',
    "unknown type": '{"type":"SUBSCRIBE"}',
    "a server's type": '{"type":"WELCOME"}',
    "type in lower case": '{"type":"ping"}',
    "no channel": '{"type":"CHANNEL_SUBSCRIBE"}',
    "channel is a number": '{"type":"CHANNEL_SUBSCRIBE","channel":1}',
    "channel is null": '{"type":"CHANNEL_SUBSCRIBE","channel":null}',
    "filter is a number": '{"type":"CHANNEL_SUBSCRIBE","channel":"chat:1","filter":1}',
    "publish without event": '{"type":"PUBLISH_EVENT","channel":"chat:1"}',
    "event is a list": '{"type":"PUBLISH_EVENT","channel":"chat:1","event":[]}',
    "refresh without token": '{"type":"TOKEN_REFRESH"}',
    "token is a number": '{"type":"TOKEN_REFRESH","token":1}',
    "NaN": '{"type":"PUBLISH_EVENT","channel":"chat:1","event":"e","data":NaN}',
    "a lone surrogate in a name": '{"type":"CHANNEL_SUBSCRIBE","channel":"chat:\\ud800"}',
    "deep beyond all measure": '{"type":"PING","t":' + "[" * 20000 + "]" * 20000 + "}",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_what_is_no_message_is_answered_and_the_connection_stays(node, text):
    player = node.player()
    player.send_json(text)
    assert player.expect("ERROR")["code"] == "BAD_MESSAGE"
    player.silent_but_for()


def test_a_bad_message_names_the_field_and_carries_the_id(node):
    player = node.player()
    error = player.refusal("CHANNEL_SUBSCRIBE", "BAD_MESSAGE", channel=7)
    assert "channel" in error["message"]


def test_unknown_fields_are_ignored(node):
    player = node.player()
    player.subscribe("chat:1", colour="red", nested={"deep": [1, 2]})
    player.publish("chat:1", "hit", 1, offset=9, colour="blue")
    assert player.event("chat:1")["data"] == 1


def test_the_last_of_duplicate_keys_counts(node):
    player = node.player()
    player.send_json('{"type":"NONSENSE","id":7,"id":8,"type":"PING"}')
    assert player.expect("PONG")["id"] == 8


def test_ten_bad_messages_in_a_row_close_with_4503(node):
    player = node.player()
    for _ in range(10):
        player.send_json("nonsense")
    player.closes_with(4503)
    assert [m["code"] for m in player.received if m.type == "ERROR"].count("BAD_MESSAGE") >= 9


@pytest.mark.parametrize("text", ["ping", "2", "", "{}", '{"type":"ping"}'])
def test_a_foreign_heartbeat_is_a_bad_message_each_and_no_abuse(node, text):
    player = node.player()
    for _ in range(9):
        player.ws.send_text(text)
    for _ in range(9):
        assert player.expect("ERROR")["code"] == "BAD_MESSAGE"
    player.sync()


def test_a_good_message_ends_a_row_of_bad_ones(node):
    player = node.player()
    for _ in range(5):
        for _ in range(9):
            player.send_json("nonsense")
        player.sync()
    assert len([m for m in player.received if m.type == "ERROR"]) == 45


# ping


@pytest.mark.parametrize("t", [1, 1790000000000.5, "now", [1, {"a": 2}]])
def test_ping_is_answered_with_its_t_and_the_servers_clock(node, t):
    reply = node.player().ask("PING", t=t)
    assert reply.type == "PONG" and reply["t"] == t
    assert reply["server_time_ms"] > 1_600_000_000_000


def test_ping_without_t_is_answered_without(node):
    assert node.player().ask("PING").get("t") is None


def test_a_connection_that_says_nothing_is_told_nothing(node):
    player, other = node.player(), node.player("bob")
    other.subscribe("chat:1")
    other.publish("chat:1", "elsewhere")
    other.event("chat:1", "elsewhere")
    player.silent_but_for()
