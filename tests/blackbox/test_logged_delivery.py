"""Contract §4, §7 and §8: what subscribers of channels with history are sent, through breaks, views and pages of HISTORY."""

import pytest

from harness.wait import until


VIEW = "!has(data.team) || data.team == me.team"
CLASSES = [
    {"name": "log:{x}", "subscribe": "true", "publish": "true", "patterns": True, "history": {"events": 200, "age": "10m"}},
    {"name": "team:{x}", "subscribe": "true", "publish": "true", "view": VIEW, "history": {"events": 200, "age": "10m"}},
    {"name": "short:{x}", "subscribe": "true", "publish": "true", "history": {"events": 3, "age": "10m"}},
    {"name": "shut:{x}", "subscribe": "false", "publish": "true", "history": {"events": 3, "age": "10m"}},
    {"name": "chat:{x}", "subscribe": "true", "publish": "true"},
]


@pytest.fixture(params=["redis", "memory"])
def node(request, start):
    redis = request.getfixturevalue("redis") if request.param == "redis" else None
    return start(redis, channel=CLASSES)


def offsets(events):
    return [event["offset"] for event in events]


def history(player, channel="log:1", **fields):
    return player.ask("HISTORY_GET", channel=channel, **fields)


def test_a_subscription_says_where_the_log_is(node):
    for n in range(3):
        node.publish("log:1", "hit", n)
    subscribed = node.player("alice").subscribe("log:1")
    position = node.publish("log:1", "hit", 3).json
    assert (subscribed["offset"], subscribed["epoch"]) == (3, position["epoch"])


def ten_across_a_break(redis, player, first):
    """Ten events of log:1 behind a break of the link, the first of this offset: the player receives them, and no `RESYNC`."""
    redis.cut_clients("pubsub")
    for n in range(10):
        redis.client.fcall("drawbridge_publish", 1, "log:1", '{"event":"hit"}')
    got = [player.expect(where=lambda message: message["type"] in ("EVENT", "RESYNC"), channel="log:1") for _ in range(10)]
    assert [message["type"] for message in got] == ["EVENT"] * 10
    assert offsets(got) == list(range(first, first + 10))


def test_a_break_of_the_link_costs_no_logged_event_and_no_resync(own_redis, start):
    node = start(own_redis, channel=CLASSES)
    alice = node.player("alice")
    alice.subscribe("log:1")
    for round in range(3):
        ten_across_a_break(own_redis, alice, 10 * round + 1)


def test_a_channel_known_through_a_pattern_is_caught_up_after_a_break_without_another_event(own_redis, start):
    node = start(own_redis, channel=CLASSES)
    alice = node.player("alice")
    alice.subscribe("log:*")
    node.publish("log:1", "hit", 0)
    alice.event("log:1", "hit")
    for round in range(3):
        ten_across_a_break(own_redis, alice, 10 * round + 2)


def test_what_was_missed_is_sent_to_a_slow_reader_as_it_reads(own_redis, proxy, start):
    link = proxy(own_redis.port)
    big = {"name": "big:{x}", "subscribe": "true", "publish": "true", "history": {"events": 2000, "age": "10m"}}
    node = start(f"redis://127.0.0.1:{link.port}", channel=[big], connection={"outbound_bytes": "256KiB"})
    slow = node.player("slow", receive_buffer=4096)
    slow.subscribe("big:1")
    # What is missed is far more than the outbox and the kernel's buffers hold; the client reads none of it meanwhile.
    payload = '{"event":"hit","data":"%s"}' % ("x" * 10_000)
    link.away()
    pipeline = own_redis.client.pipeline(transaction=False)
    for n in range(1200):
        pipeline.fcall("drawbridge_publish", 1, "big:1", payload)
    pipeline.execute()
    link.flow()
    until(lambda: node.metric("drawbridge_sessions_catching_up") == 1, "it goes on alone", timeout=30)
    got = [slow.expect(where=lambda message: message["type"] in ("EVENT", "RESYNC"), channel="big:1") for _ in range(1200)]
    assert [message["type"] for message in got] == ["EVENT"] * 1200
    assert offsets(got) == list(range(1, 1201))


def test_a_log_that_lost_events_says_resync(own_redis, start):
    node = start(own_redis, channel=CLASSES)
    alice = node.player("alice")
    before = alice.subscribe("log:1")
    node.publish("log:1", "hit", 1)
    alice.event("log:1", "hit")
    own_redis.restart()
    resync = alice.expect("RESYNC", channel="log:1")
    assert resync["reason"] == "epoch" and resync["epoch"] != before["epoch"]
    alice.publish("log:1", "hit", 2)
    assert alice.event("log:1", "hit")["offset"] == resync["offset"] + 1


def test_what_is_in_no_log_has_no_offset(redis, start):
    node = start(redis, channel=CLASSES)
    alice = node.player("alice")
    alice.subscribe("log:1")
    redis.client.publish("log:1", '{"event":"plain"}')
    node.publish("log:1", "logged")
    assert "offset" not in alice.event("log:1", "plain")
    assert alice.event("log:1", "logged")["offset"] == 1


def test_a_place_that_the_log_does_not_have_is_dropped(redis, start):
    node = start(redis, channel=CLASSES)
    alice = node.player("alice")
    position = alice.subscribe("log:1")
    for offset in (2, 7):
        forged = '{"event":"forged","offset":%d,"epoch":"%s","id":"db1.x"}' % (offset, position["epoch"])
        redis.client.publish("log:1", forged)
    node.publish("log:1", "real")
    assert alice.expect("EVENT")["event"] == "real"
    assert node.metric("drawbridge_dropped_forged_total") >= 1


def test_a_pattern_says_where_a_channel_is_before_its_first_event(node):
    alice = node.player("alice")
    node.publish("log:1", "before")
    alice.subscribe("log:*")
    for n in range(2):
        node.publish("log:1", "hit", n)
    position = alice.expect("POSITION", channel="log:1")
    assert position["offset"] == 1
    assert offsets(alice.event("log:1", "hit") for _ in range(2)) == [2, 3]


def test_who_is_hidden_from_learns_how_far_it_is(node):
    red = node.player("red", team="red")
    red.subscribe("team:1")
    for n in range(3):
        node.publish("team:1", "hit", {"team": "blue"})
    position = red.expect("POSITION", channel="team:1", timeout=15)
    assert position["offset"] == 3


def test_history_comes_in_pages_and_by_views(node):
    red = node.player("red", team="red")
    for n in range(10):
        node.publish("team:1", "hit", {"n": n, "team": ["red", "blue"][n % 2]})
    page = history(red, "team:1")
    assert [event["data"]["n"] for event in page["events"]] == [0, 2, 4, 6, 8]
    assert set(page) == {"type", "id", "channel", "epoch", "events"}
    assert offsets(history(red, "team:1", limit=4)["events"]) == [7, 9]
    seen, since = [], {"epoch": page["epoch"], "offset": 0}
    while since:
        part = history(red, "team:1", since=since, limit=3)
        seen += offsets(part["events"])
        since = part.get("next")
    assert seen == [1, 3, 5, 7, 9]
    unknown = history(red, "team:1", since={"epoch": "other", "offset": 8})
    assert unknown["gap"] is True and offsets(unknown["events"]) == [1, 3, 5, 7, 9]


def test_a_page_of_history_ends_at_32_kib(node):
    alice = node.player("alice")
    for n in range(10):
        node.publish("log:1", "hit", "x" * 10_000)
    newest = history(alice)
    assert offsets(newest["events"]) == [8, 9, 10] and "next" not in newest
    page = history(alice, since={"epoch": newest["epoch"], "offset": 0})
    assert offsets(page["events"]) == [1, 2, 3] and page["next"]["offset"] == 3
    assert offsets(history(alice, since=page["next"])["events"]) == [4, 5, 6]


def test_history_that_is_no_longer_kept_is_a_gap(node):
    alice = node.player("alice")
    for n in range(8):
        node.publish("short:1", "hit", n)
    page = history(alice, "short:1", since={"epoch": history(alice, "short:1")["epoch"], "offset": 2})
    assert page["gap"] is True and offsets(page["events"]) == [6, 7, 8]


def test_history_is_refused_where_it_is_not_allowed(node):
    alice = node.player("alice")
    alice.refusal("HISTORY_GET", "UNSUPPORTED", channel="chat:1")
    alice.refusal("HISTORY_GET", "FORBIDDEN", channel="shut:1")
    alice.refusal("HISTORY_GET", "CHANNEL_INVALID", channel="log:*")
    alice.refusal("HISTORY_GET", "BAD_MESSAGE", channel="log:1", since=5)
