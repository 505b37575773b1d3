"""permessage-deflate (RFC 7692): what is agreed on, compressed messages from clients, and what must not get through."""

import json

import pytest

from harness.tokens import mint
from harness.websocket import CONTINUATION, PING, RSV1, TEXT, WebSocket, deflate, frame

BOTH = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
PING_MESSAGE = b'{"type":"PING","id":1}'

OFFERS = {
    "permessage-deflate": BOTH,
    "permessage-deflate; client_max_window_bits": BOTH,
    "permessage-deflate; server_max_window_bits=15": f"{BOTH}; server_max_window_bits=15",
    "permessage-deflate; server_max_window_bits=12": f"{BOTH}; server_max_window_bits=12",
    "permessage-deflate; server_max_window_bits=8": None,
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": BOTH,
    "permessage-deflate; unknown, permessage-deflate; server_no_context_takeover": BOTH,
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover": None,
    "x-webkit-deflate-frame": None,
}


def welcomed(node, **options):
    ws = WebSocket(node.port, headers={"Authorization": f"Bearer {mint()}"}, **options).connect()
    assert b"WELCOME" in ws.receive()[1]
    return ws


@pytest.mark.parametrize("offer", OFFERS, ids=str)
def test_an_offer_is_answered_by_what_is_kept_of_it(node, offer):
    assert welcomed(node, deflate=offer).extension == OFFERS[offer]


def test_offers_may_be_in_several_headers(node):
    ws = WebSocket(
        node.port,
        headers=[
            ("Authorization", f"Bearer {mint()}"),
            ("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=8"),
        ],
        deflate=True,
    ).connect()
    assert ws.extension == BOTH


def test_without_an_offer_there_is_no_extension(node):
    assert welcomed(node).extension is None


@pytest.fixture
def player(node):
    player = node.player(deflate=True)
    assert player.ws.extension
    return player


def test_a_compressed_message_is_read(player):
    player.ws.send_compressed(PING_MESSAGE)
    assert player.expect("PONG")["id"] == 1


def test_compressed_and_plain_messages_take_turns_each_from_nothing(player):
    for id in range(50):
        message = json.dumps({"type": "PING", "id": id, "t": "t" * 500})
        send = player.ws.send_text if id % 3 == 0 else player.ws.send_compressed
        send(message)
    assert [player.expect("PONG")["id"] for _ in range(50)] == list(range(50))


def test_a_compressed_message_may_come_in_fragments_with_control_frames_between(player):
    whole = deflate(b'{"type":"PING","id":"fragments","t":"%s"}' % (b"x" * 1000))
    player.ws.send_frame(TEXT, whole[:5], fin=False, rsv=RSV1)
    player.ws.send_frame(PING, b"between")
    player.ws.send_frame(CONTINUATION, b"", fin=False)
    player.ws.send_frame(CONTINUATION, whole[5:])
    assert player.expect("PONG")["id"] == "fragments"
    assert player.ws.last_pong == b"between"


def test_a_compressed_message_may_come_byte_by_byte(player):
    for byte in frame(TEXT, deflate(PING_MESSAGE), rsv=RSV1):
        player.ws.send_raw(bytes([byte]))
    assert player.expect("PONG")["id"] == 1


def test_what_is_published_compressed_is_heard_by_all(node, player):
    plain = node.player("other")
    for each in (player, plain):
        each.subscribe("chat:1")
    data = {"units": [{"id": f"unit-{i}", "hp": i} for i in range(100)]}
    message = {"type": "PUBLISH_EVENT", "channel": "chat:1", "event": "moved", "data": data}
    player.ws.send_compressed(json.dumps(message))
    for each in (player, plain):
        assert each.event("chat:1", "moved")["data"] == data


# what must not get through


def test_rsv1_without_negotiation_is_a_protocol_error(node):
    player = node.player()
    player.ws.send_compressed(PING_MESSAGE)
    player.closes_with(1002)


WRONG = {
    "a compressed ping": frame(PING, b"x", rsv=RSV1),
    "a compressed continuation": frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"}", rsv=RSV1),
    "another reserved bit": frame(TEXT, PING_MESSAGE, rsv=2),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_reserved_bits_elsewhere_are_a_protocol_error(player, wrong):
    player.ws.send_raw(wrong)
    player.closes_with(1002)


CORRUPT = {
    "no deflate at all": PING_MESSAGE,
    "cut short": deflate(PING_MESSAGE)[:-3],
    "a stored block with a wrong length": b"\x00\x05\x00\xfa\xfeHello\x00",
    "text that is not UTF-8": deflate(b'{"type":"\xff"}'),
}


@pytest.mark.parametrize("payload", CORRUPT.values(), ids=CORRUPT.keys())
def test_what_does_not_inflate_to_text_closes_with_1007(player, payload):
    player.ws.send_frame(TEXT, payload, rsv=RSV1)
    player.closes_with(1007)


@pytest.fixture
def narrow(redis, start):
    return start(redis, limits={"message_bytes": "4KiB"})


def message_of(size):
    head, tail = b'{"type":"PING","id":1,"t":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


def test_the_limit_is_for_what_a_message_inflates_to(narrow):
    player = narrow.player(deflate=True)
    player.ws.send_compressed(message_of(4096))
    player.expect("PONG")
    for size in (4097, 4 * 4096):
        player.ws.send_compressed(message_of(size))
        assert player.expect("ERROR")["code"] == "TOO_LARGE"
    player.silent_but_for()


def test_past_four_times_the_limit_closes_with_1009(narrow):
    player = narrow.player(deflate=True)
    player.ws.send_compressed(message_of(4 * 4096 + 1))
    player.closes_with(1009)


def test_a_bomb_closes_with_1009_and_harms_nobody(node):
    other = node.player("other", deflate=True)
    bomb = deflate(bytes(50_000_000), level=9)
    assert len(bomb) < 64 << 10, "within the limit as it is sent"
    for _ in range(5):
        player = node.player(deflate=True)
        player.ws.send_frame(TEXT, bomb, rsv=RSV1)
        player.closes_with(1009)
    other.sync()


# turned off


def test_without_compression_nothing_is_negotiated(redis, start):
    node = start(redis, connection={"compression": False})
    player = node.player(deflate=True)
    assert player.ws.extension is None
    player.sync()
    player.ws.send_compressed(PING_MESSAGE)
    player.closes_with(1002)


# what players get


def test_events_and_batches_are_compressed_where_it_pays(start, redis):
    node = start(redis, channel=[{"name": "fast:{x}", "subscribe": "true", "batch": "100ms"}, {"name": "chat:*", "subscribe": "true"}])
    players = [node.player(f"p{n}", deflate=offer) for n, offer in enumerate([True, "permessage-deflate; server_max_window_bits=9", False])]
    big = {"words": ["the same words"] * 40}
    for player in players:
        player.subscribe("chat:1")
        player.subscribe("fast:1")
    redis.publish("chat:1", json.dumps({"event": "big", "data": big}))
    for n in range(70):
        redis.publish("fast:1", json.dumps({"event": "tick", "data": {"n": n, **(big if n % 2 else {})}}))
    for player in players:
        assert player.event("chat:1", "big")["data"] == big
        for n in range(70):
            assert player.event("fast:1", "tick")["data"]["n"] == n
    assert [player.ws.compressed_frames > 1 for player in players] == [True, True, False]


def test_msgpack_is_compressed_too(node, redis):
    player = node.player("alice", deflate=True, encoding="drawbridge.v1.msgpack")
    player.subscribe("chat:1")
    redis.publish("chat:1", json.dumps({"event": "big", "data": ["word"] * 100}))
    assert player.event("chat:1", "big")["data"] == ["word"] * 100
    assert player.ws.compressed_frames == 1
