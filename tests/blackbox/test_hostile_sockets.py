"""Sockets that cost more than they send: bombs, fragments, floods, and what comes after the close. Each is charged where
its cost arises, and nobody else waits for it. Measured by the node's own counters, never by a clock."""

import pytest

from harness.wait import until
from harness.websocket import CLOSE, CONTINUATION, PING, RSV1, TEXT, deflate, frame

INFLATED = "drawbridge_socket_inflated_bytes_total"
SKIPPED = "drawbridge_socket_skipped_bytes_total"
#: What one more chunk of the inflater makes before a bound is noticed.
CHUNK = 16 * 1024
BOMB = frame(TEXT, deflate(b" " * 200_000), rsv=RSV1)
PING_MESSAGE = b'{"type":"PING","id":1}'


def stubborn_send(ws, raw):
    try:
        ws.send_raw(raw)
    except OSError:
        pass


@pytest.mark.parametrize("in_one_write", [True, False])
def test_nothing_is_inflated_after_a_close_for_want_of_connect(node, in_one_write):
    other = node.player("bob")
    player = node.connect(None, deflate=True)
    first = frame(TEXT, PING_MESSAGE)
    if in_one_write:
        player.ws.send_raw(first + BOMB * 20)
    else:
        player.ws.send_raw(first)
        player.closes_with(4500)
        stubborn_send(player.ws, BOMB * 20)
    until(lambda: node.metric(SKIPPED) > 0, "what follows is skipped")
    other.sync()
    assert node.metric(INFLATED) == 0


@pytest.mark.parametrize(
    "closing, code",
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"x", rsv=2), 1002),
        (frame(TEXT, b"x", length=1 << 40), 1009),
        (frame(CLOSE, b"\x03\xe8"), 1000),
    ],
    ids=["not UTF-8", "a reserved bit", "too big", "the client's own close"],
)
def test_nothing_is_inflated_behind_what_closes(node, closing, code):
    player = node.player(deflate=True)
    player.ws.send_raw(closing + BOMB * 5)
    player.closes_with(code)
    assert node.metric(INFLATED) == 0


def test_the_clients_close_frame_is_found_behind_what_is_skipped(node):
    player = node.connect(None, deflate=True)
    payload = frame(TEXT, b"x" * 5_000, fin=False) + frame(PING, b"y") + frame(CONTINUATION, b"z") + BOMB
    player.ws.send_raw(frame(TEXT, PING_MESSAGE) + payload + frame(CLOSE, b"\x0f\xa0"))
    player.closes_with(4500)
    # It keeps its side open: the server has found the close frame, and ends first.
    node.wait_idle()


def test_whoever_goes_on_sending_after_the_close_is_dropped(redis, start):
    node = start(redis)
    player = node.connect(None)
    player.ws.send_raw(frame(TEXT, PING_MESSAGE))
    player.ws.socket.settimeout(2)

    def dropped():
        try:
            player.ws.send_raw(frame(TEXT, b"x" * 60_000))
            return False
        except OSError:
            return True

    until(dropped, "the socket is dropped")
    assert node.metric(SKIPPED) <= 2 * 1024 * 1024


def test_inflated_bytes_count_towards_the_limit_of_bytes(redis, start):
    node = start(redis, limits={"bytes": {"per_second": "1KiB", "burst": "4KiB"}})
    player = node.player(deflate=True)
    for n in range(20):
        player.ws.send_compressed(b'{"type":"PING","id":%d,"t":"%s"}' % (n, b"x" * 900))
    codes = [player.expect(id=n).get("code") for n in range(20)]
    assert codes[0] is None and codes.count("RATE_LIMITED") >= 10


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(TEXT, deflate(b" " * 15_000), rsv=RSV1), id="oversized when inflated"),
        pytest.param(frame(TEXT, b"\x00\x00\x00\xff\xff" * 700 + b"\x00", rsv=RSV1), id="blocks of nothing"),
        pytest.param(
            frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"x", fin=False) * 500 + frame(CONTINUATION, b""),
            id="tiny fragments",
        ),
        pytest.param(frame(PING, b"x" * 125), id="pings"),
        pytest.param(frame(TEXT, b"", rsv=RSV1), id="compressed messages of nothing"),
    ],
)
def test_a_flood_of_what_costs_more_than_it_says_is_closed(redis, start, flood):
    node = start(
        redis,
        limits={
            "message_bytes": "4KiB",
            "messages": {"per_second": 5, "burst": 10},
            "bytes": {"per_second": "1KiB", "burst": "4KiB"},
        },
    )
    player, other = node.player(deflate=True), node.player("bob")
    for _ in range(10):
        stubborn_send(player.ws, flood * 100)
    assert player.closing().code in (4503, 4504)
    other.sync()
    # Ten times the allowance over ten seconds, and the message that was one too many.
    assert node.metric(INFLATED) <= 10 * 10 * 1024 + 2 * CHUNK


def test_before_connect_little_is_inflated(node):
    player = node.connect(None, deflate=True)
    # Not one of them is over the limit of a message.
    stubborn_send(player.ws, frame(TEXT, deflate(b" " * 60_000), rsv=RSV1) * 9)
    player.closes_with(1009)
    assert node.metric(INFLATED) <= 64 * 1024 + CHUNK


def test_before_connect_a_bomb_closes_at_once(redis, start):
    node = start(redis, limits={"message_bytes": "1MiB"})
    player = node.connect(None, deflate=True)
    player.ws.send_raw(BOMB)
    player.closes_with(1009)
    assert node.metric(INFLATED) <= 64 * 1024 + CHUNK


def test_a_compressed_connect_is_read(node):
    from harness.tokens import mint

    player = node.connect(None, deflate=True)
    player.ws.send_compressed(b'{"type":"CONNECT","id":1,"token":"%s"}' % mint().encode())
    assert player.welcome()["id"] == 1


def test_twenty_hostile_sockets_hold_nobody_up(redis, start):
    node = start(redis)
    other = node.player("bob")
    other.subscribe("chat:1")
    hostile = [node.player(f"h{n}", deflate=True) for n in range(20)]
    many = frame(TEXT, b'{"type":"PING"}') * 2_000 + frame(TEXT, deflate(b"[%s1]" % (b"1," * 20_000)), rsv=RSV1) * 5
    for player in hostile:
        player.ws.send_raw(many)
    redis.publish("chat:1", '{"event":"through"}')
    other.event("chat:1", "through")
    # None of what they sent in a valid form is lost meanwhile.
    for player in hostile:
        player.sync()
