"""Whoever is turned away: a share for each address, a counter for each reason, and a log line that says which key of the
configuration would allow it. And what outsiders write never gets more than its one line in the log."""

import socket

import pytest

from harness.node import API_KEY, http
from harness.process import Process
from harness.tokens import mint
from harness.wait import until
from harness.websocket import Closed, Refused, TimedOut, WebSocket

HEADERS = {"Authorization": f"Bearer {mint()}"}


def refusals(node, reason):
    return node.metrics()[f'drawbridge_refused_total{{reason="{reason}"}}']


def line_of(node, reason):
    """The first log line of a refusal for this reason."""
    return until(
        lambda: next((line for line in node.process.lines if "connection_refused" in line and f'reason="{reason}"' in line), None),
        f"a line about {reason}",
    )


def refused(port, status, **options):
    with pytest.raises(Refused) as error:
        WebSocket(port, **options).connect()
    assert error.value.status == status
    return error.value


def host_header(port, headers):
    """A handshake with these headers in place of its own; its status."""
    ws = WebSocket(port, headers=HEADERS)
    ws.send_handshake(**headers)
    try:
        ws.read_handshake()
        return 101
    except Refused as error:
        return error.status


def test_a_refused_origin_is_counted_and_logged_with_the_key_that_would_allow_it(redis, start):
    node = start(redis)
    refused(node.port, 403, headers={**HEADERS, "Origin": "https://evil.example"})
    assert refusals(node, "origin") == 1
    line = line_of(node, "origin")
    assert "WARN" in line and "https://evil.example" in line and "connection.allowed_origins" in line


def test_a_refused_token_is_counted_and_logged(redis, start):
    node = start(redis)
    foreign = mint("alice", key="of another service, 32 bytes or more")
    for token, key in [("not a token", "joined by dots"), (foreign, "auth.hmac_secret"), (None, "auth.allow_anonymous")]:
        player = node.connect(token)
        if token is None:
            player.send({"type": "CONNECT", "id": 1})
        player.closes_with(4500)
        until(lambda key=key: any("token" in line and key in line for line in node.process.lines), f"a line that names {key}")
    assert refusals(node, "token") == 3
    assert "not a token" not in node.log and foreign not in node.log


def test_what_a_player_may_not_do_is_logged_with_the_rule_that_decides(redis, start):
    node = start(redis)
    player = node.player("alice", rooms=["42"], team=7)
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="room:43")
    player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="news:1", event="say")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="nowhere:1")
    for parts in (
        ["CHANNEL_SUBSCRIBE", "room:43", "class `room:{room}`: subscribe = `params.room in me.rooms`"],
        ["PUBLISH_EVENT", "news:1", "class `news:*`: publish = `false`"],
        ["CHANNEL_SUBSCRIBE", "nowhere:1", "no class matches"],
    ):
        parts += ["request_refused", "FORBIDDEN", "player=alice", "drawbridge explain"]
        until(lambda parts=parts: any(all(part in line for part in parts) for line in node.process.lines), f"a line with {parts}")
    for number in range(30):
        player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel=f"nowhere:{number}")
    player.subscribe("room:42")
    assert sum("request_refused" in line for line in node.process.lines) <= 20


def test_an_address_over_its_limit_is_counted_and_logged(redis, start):
    node = start(redis, limits={"connections_per_address": 1})
    node.player("alice")
    refused(node.port, 429, headers={**HEADERS, "X-Forwarded-For": "198.51.100.1"})
    assert refusals(node, "address") == 1
    line = line_of(node, "address")
    assert "limits.connections_per_address" in line and "127.0.0.1" in line
    assert "X-Forwarded-For" in line and "trusted_proxies" in line


def test_an_offer_of_unknown_subprotocols_is_counted_and_not_repeated(redis, start):
    node = start(redis)
    refused(node.port, 400, subprotocols=("bearer", "secret-token"))
    assert refusals(node, "subprotocol") == 1
    assert "drawbridge.v1.json" in line_of(node, "subprotocol")
    assert "secret-token" not in node.log


def test_refusals_are_logged_a_few_times_and_counted_always(redis, start):
    node = start(redis)
    for number in range(30):
        refused(node.port, 403, headers={**HEADERS, "Origin": f"https://evil{number}.example"})
    assert refusals(node, "origin") == 30
    assert sum("connection_refused" in line for line in node.process.lines) <= 20


def test_an_origin_is_logged_once_however_often_its_pages_try(redis, start):
    node = start(redis)
    for _ in range(5):
        refused(node.port, 403, headers={**HEADERS, "Origin": "https://evil.example"})
    refused(node.port, 403, headers={**HEADERS, "Origin": "https://other.example"})
    assert refusals(node, "origin") == 6
    line_of(node, "origin")
    until(lambda: "https://other.example" in node.log, "the other origin is logged")
    assert node.log.count("https://evil.example") == 1
    assert "unlogged=4" in node.log


def test_a_page_that_looks_for_a_server_is_no_refused_handshake(redis, start):
    node = start(redis)
    answer = http("HEAD", f"http://127.0.0.1:{node.port}/ws")
    assert (answer.status, answer.headers["Upgrade"]) == (426, "websocket")
    assert refusals(node, "handshake") == 0


def test_what_is_no_websocket_is_counted_and_logged_with_what_is_missing(redis, start):
    node = start(redis)
    answer = node.get("/ws")
    assert answer.status == 426
    assert refusals(node, "handshake") == 1
    line = line_of(node, "handshake")
    assert "Upgrade" in line and "proxy" in line


@pytest.mark.parametrize(
    "hostile", ["https://a\x1b[2Jb", "https://a\tb", "https://\u202eb"], ids=["escape", "tab", "direction"]
)
def test_nothing_from_outside_steers_the_log(redis, start, hostile):
    node = start(redis)
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as raw:
        ws = WebSocket(node.port, headers=HEADERS)
        request = ws.handshake_bytes().replace(b"\r\n\r\n", b"\r\nOrigin: " + hostile.encode() + b"\r\n\r\n")
        raw.sendall(request)
        raw.recv(4096)
    node.player("alice\nWARN forged\x1b[31m", rooms=["1"], room="bad\nname:\x1b[2J")
    for line in node.process.lines:
        assert not line.startswith("WARN forged") and "\x1b" not in line and "\u202e" not in line


# behind proxies


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Host": "play.example", "Origin": "https://play.example"}, 101),
        ({"Host": "play.example:443", "Origin": "https://play.example"}, 101),
        ({"Host": "play.example:80", "Origin": "http://play.example"}, 101),
        ({"Host": "[2001:DB8:0::1]:8000", "Origin": "http://[2001:db8::1]:8000"}, 101),
        ({"Host": "play.example", "Origin": "https://play.example:8443"}, 403),
        ({"Host": "upstream", "X-Forwarded-Host": "play.example", "Origin": "https://play.example"}, 403),
    ],
    ids=str,
)
def test_the_same_origin_without_a_trusted_proxy(node, headers, status):
    assert host_header(node.port, headers) == status


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"X-Forwarded-Host": "play.example", "X-Forwarded-Proto": "https", "Origin": "https://play.example"}, 101),
        ({"X-Forwarded-Host": "play.example:8443", "Origin": "https://play.example:8443"}, 101),
        ({"Forwarded": 'for=1.2.3.4;host="play.example";proto=https', "Origin": "https://play.example"}, 101),
        ({"Host": "play.example", "X-Forwarded-Port": "8443", "Origin": "https://play.example:8443"}, 101),
        ({"X-Forwarded-Host": "play.example", "X-Forwarded-Proto": "https", "Origin": "http://play.example"}, 403),
        ({"X-Forwarded-Host": "play.example", "Origin": "https://evil.example"}, 403),
    ],
    ids=str,
)
def test_the_same_origin_as_a_trusted_proxy_names_it(redis, start, headers, status):
    node = start(redis, trusted_proxies=["127.0.0.1"])
    assert host_header(node.port, headers) == status


# shares


def silent(port, source):
    """A socket past its handshake, without a token; `None` where it is refused."""
    try:
        return WebSocket(port, source=source, timeout=10).connect()
    except (Refused, Closed, TimedOut, OSError, AssertionError):
        return None


def test_one_address_leaves_places_for_others_to_log_in(redis, start):
    node = start(redis, connection={"connect_timeout": "1m"})
    held = []
    for _ in range(1_200):
        ws = silent(node.port, "127.0.0.2")
        if ws is None:
            break
        held.append(ws)
    assert 16 <= len(held) < 1_200
    assert refusals(node, "unauthenticated") >= 1
    assert "127.0.0.2" in line_of(node, "unauthenticated")
    other = silent(node.port, "127.0.0.3")
    assert other is not None
    node.player("alice", source="127.0.0.4").sync()
    for ws in held:
        ws.vanish()
    until(lambda: node.metric("drawbridge_connections_unauthenticated") <= 2, "the places are free again")


def test_whoever_authenticated_holds_no_place_of_those_who_have_not(node):
    player = node.connect(None)
    until(lambda: node.metric("drawbridge_connections_unauthenticated") >= 1, "it counts")
    player.send({"type": "CONNECT", "id": 1, "token": mint()})
    player.welcome()

    def freed():
        # The request that asks counts too, until it is answered.
        return node.metric("drawbridge_connections_unauthenticated") <= 1

    until(freed, "it does not count any more")


# files


def test_at_the_limit_of_files_the_node_says_so_and_recovers(redis, tmp_path):
    from harness.node import Node, base_config, binary, merged, write_config

    config = merged(base_config(redis.url), {"connection": {"connect_timeout": "1m"}})
    path = write_config(config, tmp_path)

    class Limited(Node):
        def __init__(self):
            self.config, self.path, self.players, self.ready = config, path, [], None
            self.process = Process(["sh", "-c", f"ulimit -n 200; exec {binary()} serve --config {path}"])
            self.wait_ready_line()

    node = Limited()
    try:
        held = []

        def refuses():
            ws = silent(node.port, "127.0.0.2")
            if ws is None:
                return True
            held.append(ws)
            return False

        until(refuses, "sockets are refused", timeout=30)
        ready = node.get("/readyz")
        assert ready.status == 503 and b"open files" in ready.body
        assert refusals(node, "files") >= 1
        assert "ulimit" in line_of(node, "files")
        # What is kept back serves services and those who are in.
        assert node.publish("chat:1").status == 200
        for ws in held:
            ws.vanish()
        until(lambda: node.get("/readyz").status == 200, "the node is ready again")
        node.player("alice").sync()
        assert sum("connection_refused" in line for line in node.process.lines) <= 20
    finally:
        node.close()


# the admin listener


def test_half_a_request_body_holds_the_admin_api_up_for_a_while_only(node):
    with socket.create_connection(("127.0.0.1", node.admin_port), timeout=30) as raw:
        head = f"POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {API_KEY}\r\nContent-Length: 100\r\n\r\n"
        raw.sendall(head.encode() + b'{"chan')
        assert b"408" in raw.recv(4096).split(b"\r\n")[0]


def test_half_open_admin_connections_of_one_address_leave_room_for_others(node):
    held = []
    try:
        for _ in range(400):
            raw = socket.socket()
            raw.bind(("127.0.0.2", 0))
            raw.connect(("127.0.0.1", node.admin_port))
            raw.sendall(b"GET /healthz HTTP/1.1\r\n")
            held.append(raw)
        until(lambda: refusals(node, "admin") > 0, "some are refused")
        assert node.publish("chat:1").status == 200
    finally:
        for raw in held:
            raw.close()


# dev


@pytest.mark.parametrize("host, allowed", [("localhost:1", True), ("127.0.0.1", True), ("[::1]:5", True), ("evil.example", False), ("evil.example:8001", False)])
def test_dev_answers_no_request_that_names_another_host(dev, host, allowed):
    players, admin = dev.port, dev.admin_port
    for port, path in [(players, "/"), (players, "/dev/session"), (admin, "/api/openapi.json"), (admin, "/api/players/a")]:
        status = http("GET", f"http://127.0.0.1:{port}{path}", headers={"Host": host, "Authorization": "Bearer x"}).status
        assert (status == 403) is not allowed, (path, status)
    ws = WebSocket(players)
    ws.send_handshake(Host=host)
    if allowed:
        ws.read_handshake()
    else:
        with pytest.raises(Refused):
            ws.read_handshake()
