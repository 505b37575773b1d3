"""Contract §4 and §9: what is published on channels with history, by players, over HTTP and by the Redis Function."""

import json

import pytest


LOGGED = {"name": "log:{x}", "subscribe": "true", "publish": "true", "patterns": True, "history": {"events": 20, "age": "10m"}}
PLAIN = {"name": "chat:{x}", "subscribe": "true", "publish": "true"}
CLASSES = [LOGGED, PLAIN]


@pytest.fixture(params=["redis", "memory"])
def node(request, start):
    """A node on Redis, and one on the memory broker: both keep logs."""
    redis = request.getfixturevalue("redis") if request.param == "redis" else None
    return start(redis, channel=CLASSES)


@pytest.fixture
def logged(redis, start):
    """Two nodes on one Redis."""
    return start(redis, channel=CLASSES), start(redis, channel=CLASSES)


def history(node, channel="log:1", **parameters):
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    answer = node.admin("GET", f"/api/channels/{channel}/history?{query}")
    assert answer.status == 200, answer.body
    return answer.json


def data_of(page):
    return [event["data"] for event in page["events"]]


def test_a_publish_is_acknowledged_with_its_offset(node):
    alice, bob = node.player("alice"), node.player("bob")
    bob.subscribe("log:1")
    offsets = [alice.publish("log:1", "hit", n)["offset"] for n in range(3)]
    assert offsets == [1, 2, 3]
    events = [bob.event("log:1", "hit") for _ in range(3)]
    assert [(event["offset"], event["data"], event["from"]) for event in events] == [(1, 0, "alice"), (2, 1, "alice"), (3, 2, "alice")]
    assert set(events[0]) <= {"type", "channel", "event", "data", "from", "offset", "ts"}
    page = history(node)
    assert [event["offset"] for event in page["events"]] == [1, 2, 3] and page["offset"] == 3
    assert page["events"][0]["from"] == "alice" and "next" not in page and "gap" not in page


def test_offsets_are_the_same_on_every_node(logged, redis):
    first, second = logged
    alice, bob = first.player("alice"), second.player("bob")
    alice.subscribe("log:1")
    bob.subscribe("log:1")
    for n in range(5):
        alice.publish("log:1", "hit", n)
        bob.publish("log:1", "hit", n + 100)
    second.publish("log:1", "http", 1)
    assert redis.client.fcall("drawbridge_publish", 1, "log:1", '{"event":"end"}') == 12
    seen = [[(event["offset"], event["data"]) for event in (player.event("log:1") for _ in range(12))] for player in (alice, bob)]
    assert seen[0] == seen[1] and [offset for offset, _ in seen[0]] == list(range(1, 13))


def test_what_is_published_is_readable_in_redis(logged, redis):
    listener = redis.client.pubsub()
    listener.subscribe("log:1")
    listener.get_message(timeout=10)
    logged[0].player("alice").publish("log:1", "hi", {"x": 1})
    payload = json.loads(listener.get_message(timeout=10)["data"])
    assert payload["event"] == "hi" and payload["data"] == {"x": 1} and payload["from"] == "alice"
    assert payload["offset"] == 1 and len(payload["epoch"]) == 16
    entries = redis.client.xrange("drawbridge:{log:1}:log")
    assert [entry.decode() if isinstance(entry, bytes) else entry for entry, _ in entries] == ["1-0"]
    listener.close()


def test_a_repeat_is_done_once_and_gets_the_first_answer(logged):
    first, second = logged
    listener = first.player("zoe")
    listener.subscribe("log:1")
    offset = first.player("alice").publish("log:1", "buy", 1, idempotency_key="k")["offset"]
    again = second.player("alice").publish("log:1", "buy", 1, idempotency_key="k")["offset"]
    other_key = second.player("alice").publish("log:1", "buy", 2, idempotency_key="l")["offset"]
    other_player = second.player("bob").publish("log:1", "buy", 3, idempotency_key="k")["offset"]
    other_channel = second.player("alice").publish("log:2", "buy", 4, idempotency_key="k")["offset"]
    assert [offset, again, other_key, other_player, other_channel] == [1, 1, 2, 3, 1]
    assert [listener.event("log:1")["data"] for _ in range(3)] == [1, 2, 3]


def test_scopes_of_idempotency_keys_do_not_run_into_each_other(node):
    assert node.player("a:b").publish("log:1", "x", 1, idempotency_key="c")["offset"] == 1
    assert node.player("a").publish("log:1", "x", 2, idempotency_key="b:c")["offset"] == 2
    answer = node.publish("log:1", "x", 3, idempotency_key="c").json
    assert answer["offset"] == 3


def test_an_idempotency_key_is_checked(node):
    alice = node.player("alice")
    alice.refusal("PUBLISH_EVENT", "UNSUPPORTED", channel="chat:1", event="x", idempotency_key="k")
    for key in ("x" * 65, "é" * 33, ""):
        alice.refusal("PUBLISH_EVENT", "BAD_MESSAGE", channel="log:1", event="x", idempotency_key=key)
        assert node.publish("log:1", "x", idempotency_key=key).status == 400
    assert node.publish("chat:1", "x", idempotency_key="k").status == 501
    assert alice.publish("log:1", "x", idempotency_key="x" * 64)["offset"] == 1


def test_http_publishes_into_the_log(node):
    answers = [node.publish("log:1", "hit", n, idempotency_key=f"k{n % 2}").json for n in range(4)]
    assert [answer["offset"] for answer in answers] == [1, 2, 1, 2]
    assert len({answer["epoch"] for answer in answers}) == 1
    assert node.publish("chat:1", "hit").json == {"channel": "chat:1"}
    too_large = node.publish("log:1", "hit", "x" * (1 << 20))
    assert too_large.status == 413 and b"TOO_LARGE" in too_large.body
    assert history(node)["offset"] == 2


def test_a_log_is_paged_forward(node):
    for n in range(30):
        node.publish("log:1", "hit", n)
    newest = history(node, limit=5)
    assert data_of(newest) == [25, 26, 27, 28, 29] and "next" not in newest
    epoch, seen, at = newest["epoch"], [], 10
    while at is not None:
        page = history(node, limit=7, since_epoch=epoch, since_offset=at)
        assert "gap" not in page
        seen += data_of(page)
        at = page.get("next", {}).get("offset")
    assert seen == list(range(10, 30))
    trimmed = history(node, since_epoch=epoch, since_offset=3)
    assert trimmed["gap"] is True and data_of(trimmed) == list(range(10, 30))
    assert history(node, since_epoch=epoch, since_offset=30)["events"] == []
    for unknown in ({"since_epoch": "0" * 16, "since_offset": 29}, {"since_epoch": "x", "since_offset": 0}, {"since_epoch": epoch, "since_offset": 31}):
        page = history(node, limit=2, **unknown)
        assert page["gap"] is True and data_of(page) == [10, 11] and page["next"]["offset"] == 12


def test_history_of_nothing_and_of_channels_without(node):
    page = history(node, "log:9")
    assert page["events"] == [] and page["offset"] == 0 and len(page["epoch"]) == 16
    answer = node.admin("GET", "/api/channels/chat:1/history")
    assert answer.status == 501 and b"UNSUPPORTED" in answer.body
    for query in ("limit=0", "limit=1001", "limit=x", "since_epoch=a", "since_offset=1", "since=1"):
        answer = node.admin("GET", f"/api/channels/log:1/history?{query}")
        assert answer.status == 400 and b"BAD_MESSAGE" in answer.body, query
    assert node.admin("GET", "/api/channels/log:*/history").status == 400
    assert node.admin("GET", "/api/channels/log:1/history", key="wrong").status == 401


def test_a_service_appends_what_publish_would_take(logged, redis):
    player = logged[0].player("alice")
    player.subscribe("log:1")
    for at, (payload, event, data) in enumerate(
        [
            ('{"event":"hit","data":{"n":1}}', "hit", {"n": 1}),
            ("plain text", "message", "plain text"),
            ('{"event":"hit","offset":99,"epoch":"0123456789abcdef"}', "message", {"event": "hit", "offset": 99, "epoch": "0123456789abcdef"}),
            (b"\xff\xfe", "message", "//4="),
        ],
        start=1,
    ):
        assert redis.client.fcall("drawbridge_publish", 1, "log:1", payload) == at
        seen = player.event("log:1")
        assert (seen["offset"], seen["event"], seen["data"]) == (at, event, data)
    assert seen["encoding"] == "base64"


def test_a_plain_publish_is_delivered_and_not_logged(logged, redis):
    player = logged[0].player("alice")
    player.subscribe("log:1")
    redis.publish("log:1", '{"event":"volatile"}')
    assert "offset" not in player.event("log:1", "volatile")
    assert player.publish("log:1", "logged")["offset"] == 1
    assert player.event("log:1", "logged")["offset"] == 1
    assert [event["event"] for event in history(logged[1])["events"]] == ["logged"]


def test_history_while_redis_is_away(own_redis, start):
    node = start(own_redis, channel=CLASSES)
    node.publish("log:1", "hit", 1)
    own_redis.kill()
    answer = node.admin("GET", "/api/channels/log:1/history")
    assert answer.status == 503 and b"BROKER_UNAVAILABLE" in answer.body
