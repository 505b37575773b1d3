"""Contract §8: token buckets and the ladder from an error to a close."""

import time

import pytest

from harness.tokens import mint
from harness.wait import until
from harness.websocket import Closed, Refused

SLOW = {"per_second": 1, "burst": 5}


def codes(player, count):
    """The reply codes (`None`: success) to requests 0 to `count`."""
    return [player.expect(id=n).get("code") for n in range(count)]


def test_messages_over_the_burst_are_rate_limited_and_not_acted_on(redis, start):
    node = start(redis, limits={"messages": SLOW})
    alice, bob = node.player("alice"), node.player("bob")
    bob.subscribe("chat:1")
    alice.send([{"type": "PUBLISH_EVENT", "id": n, "channel": "chat:1", "event": "n", "data": n} for n in range(12)])
    replies = [alice.expect(id=n) for n in range(12)]
    assert [r.type for r in replies[:5]] == ["EVENT_PUBLISHED"] * 5
    limited = [r for r in replies if r.type == "ERROR"]
    assert len(limited) >= 5 and {r["code"] for r in limited} == {"RATE_LIMITED"}
    assert all(1 <= r["retry_after_ms"] <= 10_000 for r in limited)
    done = [r["id"] for r in replies if r.type == "EVENT_PUBLISHED"]
    redis.publish("chat:1", '{"event":"end"}')
    assert [m["data"] for m in bob.events_until("end")] == done


def test_after_a_while_it_works_again(redis, start):
    node = start(redis, limits={"messages": SLOW})
    player = node.player("alice")
    player.send([{"type": "PING", "id": n} for n in range(10)])
    assert "RATE_LIMITED" in codes(player, 10)
    until(lambda: player.ask("PING").type == "PONG", "a message is allowed again")


def test_a_limit_is_per_connection(redis, start):
    node = start(redis, limits={"messages": SLOW})
    loud, calm = node.player("alice"), node.player("bob")
    loud.send([{"type": "PING", "id": n} for n in range(20)])
    assert codes(loud, 20).count("RATE_LIMITED") >= 10
    calm.sync()


def test_subscribes_have_a_bucket_of_their_own(redis, start):
    node = start(redis, limits={"subscribes": SLOW})
    player = node.player("alice")
    player.send([{"type": "CHANNEL_SUBSCRIBE", "id": n, "channel": f"chat:{n}"} for n in range(20)])
    got = codes(player, 20)
    assert got[:5] == [None] * 5 and got.count("RATE_LIMITED") >= 10
    player.sync()


def test_bytes_have_a_bucket_of_their_own(redis, start):
    node = start(redis, limits={"bytes": {"per_second": "1KiB", "burst": "4KiB"}})
    player = node.player("alice")
    for n in range(20):
        player.send({"type": "PING", "id": n, "t": "x" * 900})
    got = codes(player, 20)
    assert got[0] is None and got.count("RATE_LIMITED") >= 10


def test_publishes_are_limited_per_class(redis, start):
    node = start(
        redis,
        channel=[
            {"name": "few:{x}", "publish": "true", "publishes": {"per_second": 1, "burst": 3}},
            {"name": "many:{x}", "publish": "true"},
        ],
    )
    player = node.player("alice")
    player.send([{"type": "PUBLISH_EVENT", "id": n, "channel": f"few:{n % 2}", "event": "x"} for n in range(10)])
    got = codes(player, 10)
    assert got[:3] == [None] * 3 and got.count("RATE_LIMITED") >= 5
    player.next_id = 100
    player.publish("many:1")


def test_messages_per_player_count_over_all_connections(redis, start):
    node = start(redis, limits={"messages_per_player": SLOW})
    first, second, other = node.player("alice"), node.player("alice"), node.player("bob")
    first.send([{"type": "PING", "id": n} for n in range(5)])
    first_codes = codes(first, 5)
    second.send([{"type": "PING", "id": n} for n in range(10)])
    assert (first_codes + codes(second, 10)).count("RATE_LIMITED") >= 5
    other.sync()


def test_messages_per_address_count_over_all_players(redis, start):
    node = start(redis, limits={"messages_per_address": SLOW})
    first, second = node.player("alice", source="127.0.0.7"), node.player("bob", source="127.0.0.7")
    other = node.player("carol", source="127.0.0.8")
    first.send([{"type": "PING", "id": n} for n in range(5)])
    first_codes = codes(first, 5)
    second.send([{"type": "PING", "id": n} for n in range(10)])
    assert (first_codes + codes(second, 10)).count("RATE_LIMITED") >= 5
    other.sync()


def admitted(node, **how):
    """Whether a connection gets as far as `WELCOME`."""
    try:
        node.player("alice", **how)
        return True
    except (Refused, Closed, ConnectionError):
        return False


def test_connections_per_address(redis, start):
    node = start(redis, limits={"connections_per_address": 3})
    assert [admitted(node, source="127.0.0.9") for _ in range(5)] == [True] * 3 + [False] * 2
    assert admitted(node, source="127.0.0.10")
    node.players[0].close()
    until(lambda: admitted(node, source="127.0.0.9"), "the place is free again")


def test_a_detached_session_counts_for_its_address_until_it_is_resumed_or_its_window_ends(redis, start):
    here = "127.0.0.9"
    node = start(redis, limits={"connections_per_address": 2}, connection={"resume_window": "8s"})
    first, second = node.player("alice", source=here), node.player("alice", source=here)
    for player in (first, second):
        player.vanish()
    until(lambda: node.metric("drawbridge_sessions_detached") == 2, "both sessions are detached")
    assert not admitted(node, source=here)
    assert admitted(node, source="127.0.0.10")
    # Whether it resumes a session is known when `CONNECT` has come.
    fresh = node.connect(source=here)
    error = fresh.ask("CONNECT", token=mint("alice"))
    assert error["code"] == "RATE_LIMITED" and error["retry_after_ms"] > 0 and "connections_per_address" in error["message"]
    fresh.closes_with(4003)
    back = node.connect(source=here)
    welcome = back.ask("CONNECT", token=mint("alice"), resume={"session": first.hello["session"], "positions": {}})
    assert welcome["resumed"] is True
    assert not admitted(node, source=here), "one is connected, and one is still away"
    until(lambda: admitted(node, source=here), "the window of the other one has ended", timeout=30)
    assert node.metric("drawbridge_sessions_expired_total") >= 1
    back.sync()


@pytest.mark.parametrize("shards", [1, 4])
def test_a_players_oldest_connection_makes_room(redis, start, shards):
    node = start(redis, shards=shards, limits={"connections_per_player": 2}, lifecycle={"stream": "life"})
    other = node.player("bob")
    players = [node.player("alice") for _ in range(2)]
    for _ in range(6):
        players.append(node.player("alice"))
        assert players.pop(0).closes_with(4506).reason == "too many connections of this player"
    for player in [*players, other]:
        player.sync()
    players[0].close()
    players[0].closing()
    players.append(node.player("alice"))
    for player in players[1:]:
        player.sync()
    assert node.metric("drawbridge_too_many_connections_total") == 6

    def ends():
        entries = [e for e in redis.stream("life") if e["event"] == "disconnected" and e["code"] == "4506"]
        return entries if len(entries) == 6 else None

    assert {entry["player"] for entry in until(ends, "six ends")} == {"alice"}


@pytest.mark.parametrize("shards", [1, 4])
def test_one_connection_too_many_may_be_refused(redis, start, shards):
    limits = {"connections_per_player": 1, "when_exceeded": "refuse"}
    node = start(redis, shards=shards, limits=limits)
    first = node.player("alice")
    for _ in range(3):
        late = node.connect(mint("alice"))
        late.closes_with(4506)
        assert "WELCOME" not in [message.type for message in late.received]
        by_message = node.connect()
        by_message.start("CONNECT", token=mint("alice"))
        by_message.closes_with(4506)
    first.sync()
    node.player("bob").sync()
    first.vanish()

    def welcomed():
        player = node.connect(mint("alice"))
        try:
            return player.welcome(timeout=2)
        except Closed:
            return None

    until(welcomed, "the place is free again")


def test_persistent_abuse_closes_with_4504(redis, start):
    node = start(redis, limits={"messages": {"per_second": 1, "burst": 1}})
    player, other = node.player("alice"), node.player("bob")
    try:
        for _ in range(100):
            player.send([{"type": "PING"} for _ in range(64)])
    except OSError:
        pass
    player.closes_with(4504)
    other.sync()


def test_moderate_excess_is_no_abuse(redis, start):
    node = start(redis, limits={"messages": {"per_second": 100, "burst": 10}})
    player = node.player("alice")
    for start_at in range(0, 320, 64):
        player.send([{"type": "PING", "id": n} for n in range(start_at, start_at + 64)])
    assert "RATE_LIMITED" in codes(player, 320)
    until(lambda: player.ask("PING").type == "PONG", "it is let in again")


@pytest.mark.parametrize("encoding", ["drawbridge.v1.json", "drawbridge.v1.msgpack"])
def test_a_flood_holds_nobody_else_up(redis, start, encoding):
    node = start(redis, limits={"messages": {"per_second": 50, "burst": 100}})
    flood, other = node.player("alice", encoding=encoding), node.player("bob")
    other.subscribe("chat:1")
    flood.ws.socket.settimeout(0.05)
    batch = [{"type": "PUBLISH_EVENT", "channel": "chat:2", "event": "x", "data": "y" * 50} for _ in range(64)]
    try:
        for _ in range(300):
            flood.send(batch)
    except (OSError, TimeoutError):
        pass
    redis.publish("chat:1", '{"event":"through"}')
    other.event("chat:1", "through")


def test_the_defaults_of_the_contract(redis, start):
    """50 a second with a burst of 100 for messages, 20 with 40 for subscribes."""
    node = start(redis, limits={"messages": None, "subscribes": None, "bytes": None})
    player = node.player("alice")
    for begin in (0, 50):
        player.send([{"type": "PING", "id": n} for n in range(begin, begin + 50)])
    assert codes(player, 100) == [None] * 100
    player = node.player("bob")
    player.send([{"type": "CHANNEL_SUBSCRIBE", "id": n, "channel": f"chat:{n}"} for n in range(40)])
    assert codes(player, 40) == [None] * 40


def test_an_unsubscribe_is_never_refused_for_what_waits(start, own_redis):
    """A bounded number of requests waits for Redis; whoever is at that bound can still ask for less."""
    node = start(own_redis)
    player = node.player("alice")
    own_redis.kill()
    player.expect("STATUS", broker="degraded")
    subscribe = player.start("CHANNEL_SUBSCRIBE", channel="chat:1")
    publishes = [player.start("PUBLISH_EVENT", channel="chat:1", event="e") for _ in range(600)]
    unsubscribe = player.start("CHANNEL_UNSUBSCRIBE", channel="chat:1")
    again = player.start("CHANNEL_UNSUBSCRIBE", channel="chat:1")
    other = player.start("CHANNEL_UNSUBSCRIBE", channel="chat:2")
    for request in (again, other):
        assert player.reply(request)["code"] == "NOT_SUBSCRIBED"
    player.sync()
    refused = [m for m in player.received if m.type == "ERROR" and m["code"] == "BROKER_UNAVAILABLE"]
    assert len(refused) == 600 - 512 and all(m["outcome"] == "not_done" for m in refused)
    # Redis is away: ending what it has not confirmed needs nothing from it.
    assert player.reply(unsubscribe).type == "CHANNEL_UNSUBSCRIBED"
    assert player.reply(subscribe)["code"] == "NOT_SUBSCRIBED"
    own_redis.start()
    for request in publishes[:512]:
        assert player.reply(request).type == "EVENT_PUBLISHED"
    player.refusal("CHANNEL_UNSUBSCRIBE", "NOT_SUBSCRIBED", channel="chat:1")


def limited(player, count):
    """The errors behind `WELCOME`, after a marker."""
    player.sync()
    errors = [m for m in player.received if m.type == "ERROR"]
    assert len(errors) == count, errors
    return errors


def reconnect(node, sub, channels, **how):
    player = node.connect(**how)
    player.start("CONNECT", token=mint(sub), subscribe=[{"channel": channel} for channel in channels])
    return player, len(player.welcome()["subscriptions"])


def test_subscriptions_in_connect_draw_from_a_bucket_of_the_player(redis, start):
    limits = {"subscribes": {"per_second": 1, "burst": 5}, "subscriptions": 50}
    node = start(redis, limits=limits, connection={"auto_subscribe": []})
    channels = [f"chat:{n}" for n in range(50)]
    first, granted = reconnect(node, "alice", channels)
    assert granted == 50, "a reconnect with all that a connection may hold passes"
    first.close()
    second, granted = reconnect(node, "alice", channels)
    errors = limited(second, 50 - granted)
    assert granted < 25 and {e["code"] for e in errors} == {"RATE_LIMITED"} and all(e["retryable"] for e in errors)
    assert [e["channel"] for e in errors] == channels[granted:]
    waits = [e["retry_after_ms"] for e in errors]
    assert waits == sorted(waits) and waits[-1] - waits[0] == 1000 * (len(waits) - 1), "each is named its turn"
    assert reconnect(node, "bob", channels)[1] == 50, "another player has a bucket of theirs"
    until(lambda: second.ask("CHANNEL_SUBSCRIBE", channel=channels[-1]).type == "CHANNEL_SUBSCRIBED", "it is granted later")


def test_a_storm_of_reconnects_subscribes_no_more_than_one_connection(redis, start):
    limits = {"subscribes": {"per_second": 1, "burst": 40}, "subscriptions": 100}
    node = start(redis, limits=limits, shards=2, connection={"auto_subscribe": ["room:{room}"]})
    token = mint("alice", room=[f"r{n}" for n in range(40)])
    began, granted, refused = time.monotonic(), 0, 0
    for n in range(12):
        player = node.connect()
        player.start("CONNECT", token=token, subscribe=[{"channel": f"chat:{n}:{m}"} for m in range(20)])
        listed = player.welcome()["subscriptions"]
        for m in range(20):
            player.send({"type": "CHANNEL_SUBSCRIBE", "channel": f"chat:more:{n}:{m}"})
        player.sync()
        granted += len(listed)
        refused += sum(m.type == "ERROR" and m["code"] == "RATE_LIMITED" for m in player.received)
        player.close()
    assert granted <= 100 + (time.monotonic() - began) + 1
    assert refused >= 12 * 80 - 100 - (time.monotonic() - began) - 1
