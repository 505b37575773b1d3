"""The upgrade itself, and everything that is not quite one: each costs the node nothing but a clear answer."""

import socket

import pytest

from harness.tokens import mint
from harness.wait import until
from harness.websocket import CLOSE, Closed, Refused, TimedOut, WebSocket, frame


@pytest.mark.parametrize(
    "change",
    [
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": "short"},
        {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Version": "8"},
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Connection": "close"},
    ],
    ids=str,
)
def test_a_wrong_upgrade_is_refused(node, change):
    ws = WebSocket(node.port, headers={"Authorization": f"Bearer {mint()}"})
    ws.send_handshake(**change)
    with pytest.raises(Refused) as refused:
        ws.read_handshake()
    assert refused.value.status in (400, 426)
    if change.get("Sec_WebSocket_Version") == "8":
        assert refused.value.headers.get("sec-websocket-version") == "13"


def test_header_names_and_values_are_read_without_regard_to_case(node):
    ws = WebSocket(node.port, headers={"AUTHORIZATION": f"Bearer {mint()}"})
    ws.send_handshake(Upgrade="WebSocket", Connection="keep-alive, upgrade")
    ws.read_handshake()
    assert b"WELCOME" in ws.receive()[1]


def test_frames_right_behind_the_handshake_are_read(node):
    """In one segment, before the server has answered."""
    from harness.websocket import TEXT, frame

    ws = WebSocket(node.port, headers={"Authorization": f"Bearer {mint()}"})
    ws.send_raw(ws.handshake_bytes() + frame(TEXT, b'{"type":"PING","id":"early"}'))
    ws.read_handshake()
    while b'"early"' not in ws.receive()[1]:
        pass


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_other_methods_do_not_upgrade(node, method):
    ws = WebSocket(node.port)
    ws.method = method
    ws.send_handshake()
    with pytest.raises(Refused) as refused:
        ws.read_handshake()
    assert 400 <= refused.value.status < 500


def test_an_unknown_path_is_not_found(node):
    with pytest.raises(Refused) as refused:
        WebSocket(node.port, path="/socket").connect()
    assert refused.value.status == 404


def ended_by_server(ws):
    """Waits until the server ends the connection, in whatever way it says so."""
    try:
        while True:
            ws.receive(timeout=30)
    except (Closed, AssertionError):
        return True
    except TimedOut:
        return False


@pytest.fixture
def impatient(redis, start):
    return start(redis, connection={"connect_timeout": "500ms"})


def test_a_connection_that_says_nothing_is_closed(impatient):
    ws = WebSocket(impatient.port)
    assert ended_by_server(ws)


def test_half_a_handshake_is_closed(impatient):
    ws = WebSocket(impatient.port)
    ws.send_raw(ws.handshake_bytes()[:-4])
    assert ended_by_server(ws)


def test_a_slow_loris_is_closed(impatient):
    """A header byte now and then must not keep the connection."""
    ws = WebSocket(impatient.port)
    ws.send_raw(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
    ws.socket.settimeout(0.1)

    def closed():
        try:
            ws.socket.sendall(b"X-A: b\r\n")
            return ws.socket.recv(4096) == b""
        except (TimeoutError, socket.timeout):
            return False
        except OSError:
            return True

    until(closed, "the server has had enough", timeout=30)


def test_many_half_open_handshakes_leave_room_for_players(impatient):
    half = [WebSocket(impatient.port) for _ in range(300)]
    for ws in half:
        ws.send_raw(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
    player = impatient.player("alice")
    player.sync()
    for ws in half:
        assert ended_by_server(ws)
    until(lambda: impatient.process.open_files() < 150, "their files are closed")


def test_endless_headers_are_refused(node):
    ws = WebSocket(node.port)
    with pytest.raises((Refused, Closed, ConnectionError)):
        ws.send_raw(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        for _ in range(2000):
            ws.send_raw(b"X-Filler: " + b"y" * 1000 + b"\r\n")
        ws.send_raw(b"\r\n")
        ws.read_handshake()


def test_a_very_long_url_is_refused(node):
    with pytest.raises((Refused, Closed, ConnectionError)):
        WebSocket(node.port, path="/ws?x=" + "y" * 1_000_000).connect()
    node.player("alice")


@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"\x16\x03\x01\x02\x00\x01\x00", b"HELO\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 10_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_garbage_is_answered_or_closed(impatient, garbage):
    ws = WebSocket(impatient.port)
    try:
        ws.send_raw(garbage)
        assert ended_by_server(ws)
    except OSError:
        pass
    impatient.player("alice").sync()


def test_http_requests_and_sockets_share_one_port(node):
    player = node.player("alice")
    for path in ("/healthz", "/readyz", "/metrics"):
        assert node.get(path).status == 200
    player.sync()


def test_two_requests_on_one_kept_alive_connection(node):
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as raw:
        for _ in range(2):
            raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += raw.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200")


def test_a_close_frame_right_behind_the_upgrade_leaves_nothing(node):
    before = node.process.open_files()
    held = []
    for _ in range(20):
        ws = WebSocket(node.port, headers={"Authorization": f"Bearer {mint()}"})
        ws.send_raw(ws.handshake_bytes() + frame(CLOSE, b"\x03\xe8"))
        held.append(ws)
    # They keep their side open, and say nothing more.
    until(lambda: node.process.open_files() <= before + 2, "the files are closed")
    for ws in held:
        ws.vanish()


COOKIE = {"auth": {"cookie": "access"}}


def cookie_of(sub="alice", name="access"):
    return ("Cookie", f"theme=dark; {name}={mint(sub)}; a=b")


def test_a_token_is_taken_from_the_cookie_of_the_servers_own_pages(redis, start):
    node = start(redis, **COOKIE)
    own = ("Origin", f"http://127.0.0.1:{node.port}")
    assert node.connect(headers=[cookie_of(), own]).welcome()["player"] == "alice"
    # The header wins.
    assert node.connect(mint("bob"), headers=[cookie_of(), own]).welcome()["player"] == "bob"


def test_a_token_is_taken_from_the_cookie_where_the_origin_is_named(redis, start):
    node = start(redis, connection={"allowed_origins": ["https://play.example", "*", "null"]}, **COOKIE)
    assert node.connect(headers=[cookie_of(), ("Origin", "https://play.example")]).welcome()["player"] == "alice"
    for origin in ([("Origin", "https://evil.example")], [("Origin", "null")], []):
        player = node.connect(headers=[cookie_of(), *origin])
        player.start("CONNECT")
        assert player.expect("ERROR")["message"] == "CONNECT: `token` is missing"
        player.closes_with(4500)


def test_a_cookie_that_nobody_asked_for_is_not_looked_at(redis, start):
    for config, name in (({}, "access"), (COOKIE, "Access"), (COOKIE, "token")):
        node = start(redis, **config)
        player = node.connect(headers=[cookie_of(name=name), ("Origin", f"http://127.0.0.1:{node.port}")])
        player.start("CONNECT", token=mint("bob"))
        assert player.welcome()["player"] == "bob"


def test_a_bad_token_in_a_cookie_is_answered_like_any_other(redis, start):
    node = start(redis, **COOKIE)
    player = node.connect(headers=[("Cookie", "access=nonsense"), ("Origin", f"http://127.0.0.1:{node.port}")])
    assert player.expect("ERROR")["code"] == "UNAUTHENTICATED"
    player.closes_with(4500)
