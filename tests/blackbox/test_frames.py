"""RFC 6455 at its edges: every wrong frame has a clear answer, and costs the server nothing more."""

import struct

import pytest

from harness.websocket import BINARY, CLOSE, CONTINUATION, MSGPACK, PING, PONG, TEXT, frame

PING_MESSAGE = b'{"type":"PING","id":1}'

WRONG = {
    "unmasked": frame(TEXT, PING_MESSAGE, masked=False),
    "a reserved bit": frame(TEXT, PING_MESSAGE, rsv=4),
    "all reserved bits": frame(TEXT, PING_MESSAGE, rsv=7),
    "an unknown data opcode": frame(0x3, b"x"),
    "an unknown control opcode": frame(0xB, b"x"),
    "a fragmented ping": frame(PING, b"x", fin=False),
    "a ping of 126 bytes": frame(PING, b"x" * 126),
    "a continuation of nothing": frame(CONTINUATION, b"x"),
    "a new message inside a fragmented one": frame(TEXT, b"{", fin=False) + frame(TEXT, PING_MESSAGE),
    "a close of one byte": frame(CLOSE, b"\x03"),
    "a close code that nobody may send": frame(CLOSE, struct.pack(">H", 1005)),
    "a close code out of range": frame(CLOSE, struct.pack(">H", 999)),
    "a fragmented close": frame(CLOSE, struct.pack(">H", 1000), fin=False),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_protocol_error_closes_with_1002(node, wrong):
    player = node.player()
    player.ws.send_raw(wrong)
    player.closes_with(1002)


NOT_UTF8 = {
    "a stray byte": frame(TEXT, b'{"type":"\xff"}'),
    "an overlong form": frame(TEXT, b"\xc0\xaf"),
    "a surrogate": frame(TEXT, b"\xed\xa0\x80"),
    "cut off at the end": frame(TEXT, b'"\xe2\x82'),
    "over two fragments": frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\x41"),
    "in a close reason": frame(CLOSE, struct.pack(">H", 1000) + b"\xff"),
}


@pytest.mark.parametrize("wrong", NOT_UTF8.values(), ids=NOT_UTF8.keys())
def test_text_that_is_not_utf8_closes_with_1007(node, wrong):
    player = node.player()
    player.ws.send_raw(wrong)
    player.closes_with(1007)


def test_a_message_may_come_in_fragments_with_control_frames_between(node):
    player = node.player()
    text = '{"type":"PING","id":"é"}'.encode()
    cut = text.index("é".encode()) + 1  # inside the character
    player.ws.send_frame(TEXT, text[:cut], fin=False)
    player.ws.send_frame(PING, b"between")
    player.ws.send_frame(CONTINUATION, b"", fin=False)
    player.ws.send_frame(CONTINUATION, text[cut:])
    assert player.expect("PONG")["id"] == "é"
    assert player.ws.last_pong == b"between"


def test_a_message_may_come_byte_by_byte(node):
    player = node.player()
    for byte in frame(TEXT, PING_MESSAGE):
        player.ws.send_raw(bytes([byte]))
    assert player.expect("PONG")["id"] == 1


def test_many_messages_in_one_write_are_all_answered_in_order(node):
    player = node.player()
    player.ws.send_raw(b"".join(frame(TEXT, b'{"type":"PING","id":%d}' % i) for i in range(500)))
    assert [player.expect("PONG")["id"] for _ in range(500)] == list(range(500))


@pytest.mark.parametrize("payload", [b"", b"x" * 125])
def test_a_websocket_ping_is_answered_with_its_payload(node, payload):
    player = node.player()
    player.ws.send_frame(PING, payload)
    player.sync()
    assert player.ws.last_pong == payload


def test_an_unasked_pong_is_ignored(node):
    player = node.player()
    player.ws.send_frame(PONG, b"hello")
    player.sync()


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_a_close_is_answered_with_its_code(node, code):
    player = node.player()
    assert player.close(code).code == code


def test_a_close_without_code_is_answered(node):
    player = node.player()
    player.ws.send_close(None)
    assert player.closing().code in (1000, 1005)


# sizes


def message_of(size):
    head, tail = b'{"type":"PING","id":1,"t":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


@pytest.fixture
def narrow(redis, start):
    return start(redis, limits={"message_bytes": "4KiB"})


def test_welcome_says_the_limit(narrow):
    assert narrow.player().hello["limits"]["message_bytes"] == 4096


def test_a_message_of_exactly_the_limit_is_taken(narrow):
    player = narrow.player()
    player.ws.send_text(message_of(4096))
    player.expect("PONG")


@pytest.mark.parametrize("size", [4097, 8192, 4 * 4096])
def test_a_message_over_the_limit_is_discarded_and_the_connection_stays(narrow, size):
    player = narrow.player()
    player.ws.send_text(message_of(size))
    assert player.expect("ERROR")["code"] == "TOO_LARGE"
    player.silent_but_for()


def test_fragments_over_the_limit_are_discarded_and_the_connection_stays(narrow):
    player = narrow.player()
    whole = message_of(5000)
    player.ws.send_frame(TEXT, whole[:100], fin=False)
    for at in range(100, 4900, 100):
        player.ws.send_frame(CONTINUATION, whole[at : at + 100], fin=False)
    player.ws.send_frame(CONTINUATION, whole[4900:])
    assert player.expect("ERROR")["code"] == "TOO_LARGE"
    player.silent_but_for()


def test_past_four_times_the_limit_closes_with_1009(narrow):
    player = narrow.player()
    player.ws.send_text(message_of(4 * 4096 + 1))
    player.closes_with(1009)


def test_fragments_past_four_times_the_limit_close_with_1009(narrow):
    player = narrow.player()
    try:
        player.ws.send_frame(TEXT, b"x" * 4096, fin=False)
        for _ in range(4):
            player.ws.send_frame(CONTINUATION, b"x" * 4096, fin=False)
    except OSError:
        pass
    player.closes_with(1009)


@pytest.mark.parametrize("length", [1 << 20, 1 << 40, (1 << 63) - 1])
def test_a_frame_that_promises_too_much_closes_at_once(narrow, length):
    player = narrow.player()
    player.ws.send_raw(frame(TEXT, b"x", length=length))
    player.closes_with(1009)


def test_a_frame_length_with_its_top_bit_set_closes(narrow):
    player = narrow.player()
    player.ws.send_raw(frame(TEXT, b"x", length=(1 << 64) - 1))
    assert player.closing().code in (1002, 1009)


def test_too_large_works_on_messagepack_too(narrow):
    player = narrow.player(encoding=MSGPACK)
    player.ws.send_frame(BINARY, b"\xc0" * 5000)
    assert player.expect("ERROR")["code"] == "TOO_LARGE"
    player.silent_but_for()


def test_a_flood_of_empty_fragments_is_survived(narrow):
    other = narrow.player("bob")
    player = narrow.player()
    try:
        player.ws.send_frame(TEXT, b"", fin=False)
        player.ws.send_raw(frame(CONTINUATION, b"", fin=False) * 20_000)
    except OSError:
        pass
    other.sync()


def test_a_half_frame_holds_nobody_up(narrow):
    player, other = narrow.player(), narrow.player("bob")
    whole = frame(TEXT, PING_MESSAGE)
    player.ws.send_raw(whole[:5])
    other.sync()
    player.ws.send_raw(whole[5:])
    player.expect("PONG")
    assert [m.type for m in player.received] == ["WELCOME", "PONG"], "nothing was answered before it was whole"
