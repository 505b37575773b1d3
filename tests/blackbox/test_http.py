"""Contract §9: health, readiness, metrics, the admin listener and its key, publishing over HTTP, TLS."""

import json
import ssl

import pytest

from harness import names
from harness.node import API_KEY, http
from harness.tokens import mint
from harness.wait import until
from harness.websocket import MSGPACK, Closed, Refused, WebSocket


def test_health_and_readiness(node):
    assert node.get("/healthz").status == 200
    until(lambda: node.get("/readyz").status == 200, "ready")


def test_metrics_are_prometheus_text(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1")
    answer = node.get("/metrics")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    asked = node.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
    assert asked.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    text, open_text = answer.body.decode(), asked.body.decode()
    assert "# TYPE drawbridge_connections gauge\n" in text and "# HELP drawbridge_connections " in text
    # In each format as its specification says, or scrapers take a counter for untyped.
    assert "# TYPE drawbridge_requests_total counter\n" in text and "# EOF" not in text
    assert "# TYPE drawbridge_requests counter\n" in open_text and open_text.endswith("# EOF\n")
    until(lambda: node.metric(names.CONNECTIONS) == 1, "one connection")
    assert node.metric(names.SUBSCRIPTIONS) == 2
    assert node.metric(names.TARGETS) == 2
    assert node.metric(names.HUB_SUBJECTS) - node.own_subjects == 2
    player.close()
    node.wait_idle()


def test_no_metric_is_named_by_a_player_or_a_channel(node):
    player = node.player("very-special-player")
    player.subscribe("chat:very-special-channel")
    player.publish("chat:very-special-channel")
    assert "very-special" not in node.get("/metrics").body.decode()


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/publish", "/api/openapi.json", "/admin"])
def test_serve_has_no_playground_and_no_admin_on_the_players_port(node, path):
    assert node.get(path).status == 404


def test_without_admin_there_is_none(redis, start):
    node = start(redis, admin=None)
    assert node.ready["admin"] is None
    node.player("alice").sync()


# the admin key


@pytest.mark.parametrize("key", [None, "", "wrong", API_KEY[:-1], API_KEY + "x", API_KEY.upper()])
def test_without_the_key_the_admin_api_is_closed(node, redis, key):
    player = node.player("alice")
    player.subscribe("chat:1")
    for method, path, body in (
        ("POST", "/api/publish", {"channel": "chat:1", "event": "x", "data": 1}),
        ("POST", "/api/players/alice/disconnect", {}),
        ("POST", "/api/players/alice/subscribe", {"channel": "chat:2"}),
    ):
        assert node.admin(method, path, body, key=key).status == 401
    redis.publish("chat:1", '{"event":"end"}')
    assert player.events_until("end") == []


def test_other_schemes_are_no_key(node):
    url = f"http://127.0.0.1:{node.admin_port}/api/publish"
    for value in (API_KEY, f"Basic {API_KEY}", f"Token {API_KEY}"):
        assert http("POST", url, {"channel": "chat:1", "event": "x"}, {"Authorization": value}).status == 401


def test_the_api_describes_itself(node):
    answer = node.admin("GET", "/api/openapi.json")
    assert answer.status == 200
    document = answer.json
    assert document["openapi"].startswith("3.")
    for path in ("/api/publish", "/api/players/{player}/subscribe", "/api/players/{player}/unsubscribe", "/api/players/{player}/disconnect"):
        assert "post" in document["paths"][path]


def test_an_unknown_admin_path_is_not_found_and_the_method_matters(node):
    assert node.admin("GET", "/api/nothing").status == 404
    assert node.admin("GET", "/api/publish").status == 405


# publish


def test_publish(two_nodes, redis):
    players = [node.player("alice") for node in two_nodes]
    for player in players:
        player.subscribe("chat:1")
    answer = two_nodes[0].publish("chat:1", "hit", {"damage": 12345678901234567890}, tags={"zone": "n"}, key="e7")
    assert 200 <= answer.status < 300, answer.body
    for player in players:
        event = player.event("chat:1", "hit")
        assert b"12345678901234567890" in event.raw
        assert event["tags"] == {"zone": "n"} and event["key"] == "e7"
        assert "from" not in event


def test_publish_knows_no_class_and_no_rule(node):
    player = node.player("alice")
    assert 200 <= node.publish("player:alice", "hello").status < 300
    player.event("player:alice", "hello")
    assert 200 <= node.publish("nobody:1", "hello").status < 300


def test_publish_with_absent_data(node):
    player = node.player("alice")
    player.subscribe("chat:1")
    assert 200 <= node.admin("POST", "/api/publish", {"channel": "chat:1", "event": "x"}).status < 300
    assert player.event("chat:1", "x")["data"] is None


def test_published_events_are_filtered_like_any_other(node):
    player = node.player("alice", team="red")
    player.subscribe("team:1")
    node.publish("team:1", "theirs", {"team": "blue"})
    node.publish("team:1", "ours", {"team": "red"})
    assert player.events_until("ours") == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"channel": "chat:1"},
        {"event": "x"},
        {"channel": 1, "event": "x"},
        {"channel": "bad name", "event": "x"},
        {"channel": "", "event": "x"},
        {"channel": "chat:*", "event": "x"},
        {"channel": "chat:1", "event": 1},
        {"channel": "drawbridge:control", "event": "x"},
        [],
        ["chat:1", "x", 1],
        {"channel": "chat:1", "event": "x", "key": True},
        "text",
        b"not json",
        b"",
        b'{"channel":"chat:1","event":"x","data":' + b"[" * 100 + b"]" * 100 + b"}",
    ],
    ids=repr,
)
def test_a_bad_publish_is_a_client_error_that_explains_itself(node, redis, body):
    player = node.player("alice")
    player.subscribe("chat:1")
    answer = node.admin("POST", "/api/publish", body)
    assert 400 <= answer.status < 500 and answer.body
    redis.publish("chat:1", '{"event":"end"}')
    assert player.events_until("end") == []


def test_of_duplicate_names_in_a_body_the_last_counts(node):
    player = node.player("alice")
    player.subscribe("chat:1")
    data = b'{"n": 9007199254740993, "x":1.0,"x":"\\ud800" }'
    body = b'{"channel":7,"event":"a","data":[1],"channel":"chat:1","\\u0065vent":"b","data": ' + data + b" }"
    assert node.admin("POST", "/api/publish", body).status == 200
    assert data in player.event("chat:1", "b").raw


@pytest.mark.parametrize("number, text", [("9007199254740993", "9007199254740993"), ("100000000000000000000", "100000000000000000000"), ("1e-7", "0.0000001"), ("1.0", "1")])
def test_a_key_that_is_a_number_counts_as_its_decimal_text(node, number, text):
    player = node.player("alice")
    player.subscribe("chat:1")
    assert node.admin("POST", "/api/publish", b'{"channel":"chat:1","event":"a","key":%s}' % number.encode()).status == 200
    assert player.event("chat:1", "a")["key"] == text


def test_a_huge_publish_is_refused(node):
    """The answer may be cut off with the connection, as the rest of the body is never read."""
    try:
        assert node.publish("chat:1", "x", "y" * 20_000_000).status == 413
    except OSError:
        pass
    assert 200 <= node.publish("chat:1", "x", "y").status < 300


def test_an_idempotency_key_is_not_supported_without_history(node):
    answer = node.admin("POST", "/api/publish", {"channel": "chat:1", "event": "x", "idempotency_key": "k"})
    assert answer.status in (400, 422, 501) and b"UNSUPPORTED" in answer.body


@pytest.mark.parametrize("method, path", [("GET", "/api/rooms"), ("GET", "/api/channels/chat:1/presence")])
def test_what_is_not_built_is_not_there(node, method, path):
    assert node.admin(method, path, {} if method == "POST" else None).status in (404, 501)


def test_publish_while_redis_is_away(own_redis, start):
    node = start(own_redis)
    own_redis.kill()
    player = node.player("alice")
    del player
    answer = node.publish("reject:1", "x")
    assert answer.status in (502, 503, 504) and b"BROKER_UNAVAILABLE" in answer.body


# TLS


@pytest.fixture
def tls_node(redis, start, certificates):
    return start(redis, tls={"cert_file": str(certificates.cert), "key_file": str(certificates.key)})


@pytest.mark.parametrize("encoding", ["drawbridge.v1.json", MSGPACK])
def test_players_over_tls(tls_node, redis, certificates, encoding):
    player = tls_node.player("alice", tls=certificates.context, encoding=encoding)
    player.subscribe("chat:1")
    player.publish("chat:1", "own", "x" * 50_000)
    assert len(player.event("chat:1", "own")["data"]) == 50_000
    for number in range(300):
        redis.publish("chat:1", json.dumps({"event": "n", "data": [number, "y" * 1000]}))
    assert [player.event("chat:1", "n")["data"][0] for _ in range(300)] == list(range(300))
    assert player.close().code == 1000


def test_http_over_tls(tls_node, certificates):
    answer = http("GET", f"https://localhost:{tls_node.port}/healthz", context=certificates.context)
    assert answer.status == 200


def test_plain_text_on_the_tls_port_is_closed(tls_node, certificates):
    with pytest.raises((Closed, Refused, OSError, IndexError, ValueError)):
        WebSocket(tls_node.port, timeout=10).connect()
    tls_node.player("alice", tls=certificates.context)


def test_a_tls_handshake_that_never_ends_is_closed(redis, start, certificates):
    node = start(
        redis,
        connection={"connect_timeout": "500ms"},
        tls={"cert_file": str(certificates.cert), "key_file": str(certificates.key)},
    )
    before = node.process.open_files()
    silent = [WebSocket(node.port) for _ in range(50)]
    for ws in silent[:25]:
        ws.send_raw(b"\x16\x03\x01\x02")
    until(lambda: node.process.open_files() <= before + 5, "they are closed", timeout=30)
    node.player("alice", tls=certificates.context)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused(tls_node, certificates):
    context = certificates.context
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, OSError)):
        WebSocket(tls_node.port, tls=context)


def test_a_slow_consumer_over_tls_is_closed_too(redis, start, certificates):
    node = start(
        redis,
        lifecycle={"stream": "life"},
        connection={"outbound_bytes": "64KiB"},
        tls={"cert_file": str(certificates.cert), "key_file": str(certificates.key)},
    )
    slow = node.player("slow", tls=certificates.context, receive_buffer=4096)
    slow.subscribe("chat:1")

    def closed():
        for _ in range(50):
            redis.publish("chat:1", json.dumps({"event": "n", "data": "x" * 10_000}))
        return [e["code"] for e in redis.stream("life") if e["event"] == "disconnected"]

    assert until(closed, "the slow one is closed", timeout=60) == ["4001"]


def test_a_token_on_the_upgrade_over_tls(tls_node, certificates):
    player = tls_node.connect(tls=certificates.context)
    assert player.ask("CONNECT", token=mint("alice"))["player"] == "alice"


def test_the_proxy_protocol_comes_before_tls(redis, start, certificates):
    node = start(
        redis,
        proxy_protocol=True,
        trusted_proxies=["127.0.0.0/8"],
        limits={"connections_per_address": 1},
        tls={"cert_file": str(certificates.cert), "key_file": str(certificates.key)},
    )
    header = b"PROXY TCP4 198.51.100.1 127.0.0.1 5555 8000\r\n"
    node.player("alice", tls=certificates.context, preamble=header).sync()
    with pytest.raises(Refused):
        node.player("bob", tls=certificates.context, preamble=header)
