"""Contract §7: a session goes on where its player comes back: on another node, after its node was killed, on another shard."""

import pytest

from harness.tokens import mint
from harness.wait import until

CLASSES = [
    {
        "name": "log:{x}",
        "subscribe": "true",
        "publish": "true",
        "patterns": True,
        "history": {"events": 100, "age": "10m"},
    },
    {"name": "room:{x}", "subscribe": "true", "publish": "true"},
]
KEPT = {"resume_window": "30s"}


@pytest.fixture
def nodes(start, redis):
    return [start(redis, node=f"n{at}", channel=CLASSES, connection=KEPT) for at in (1, 2)]


def returns(node, session, positions, sub="alice", **fields):
    """A new connection that resumes; with its `WELCOME`."""
    player = node.connect(None, path="/ws?connect=1")
    resume = {"session": session, "positions": positions}
    welcome = player.ask("CONNECT", token=mint(sub), resume=resume, **fields)
    assert welcome.type == "WELCOME", welcome
    return player, welcome


def listed(welcome):
    return {each["channel"]: each for each in welcome["subscriptions"]}


def position(reply):
    return {"epoch": reply["epoch"], "offset": reply["offset"]}


def numbers(player, channel, count):
    return [player.event(channel)["data"] for _ in range(count)]


def numbered(node, numbers, channel="log:a"):
    for number in numbers:
        node.publish(channel, data=number)


@pytest.mark.parametrize("presence", ["off", "query", "notify"])
def test_a_killed_nodes_player_misses_nothing_logged_on_another(start, redis, presence):
    classes = [{**CLASSES[0], "presence": presence}, *CLASSES[1:]]
    first, second = [start(redis, node=f"n{at}", channel=classes, connection=KEPT) for at in (1, 2)]
    alice = first.player("alice")
    session = alice.hello["session"]
    log, room = alice.subscribe("log:a"), alice.subscribe("room:a")
    numbered(second, range(3))
    assert numbers(alice, "log:a", 3) == [0, 1, 2]
    first.kill()
    numbered(second, range(3, 6))
    positions = {"log:a": {"epoch": log["epoch"], "offset": 3}, "room:a": position(room)}
    alice, welcome = returns(second, session, positions, subscribe=[{"channel": "log:a"}, {"channel": "room:a"}])
    assert welcome["resumed"] is True and welcome["session"] == session
    assert listed(welcome)["log:a"]["recovered"] is True
    assert listed(welcome)["room:a"]["recovered"] is False
    resyncs = {alice.expect("RESYNC")["channel"] for _ in range(2)}
    assert resyncs == {"player:alice", "room:a"}
    assert numbers(alice, "log:a", 3) == [3, 4, 5]
    numbered(second, [6])
    assert numbers(alice, "log:a", 1) == [6]


@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_a_pattern_signals_what_may_be_lost_on_channels_that_its_player_never_saw(nodes, is_elsewhere):
    first, second = nodes
    alice = first.player("alice")
    session = alice.hello["session"]
    alice.subscribe("log:*")
    numbered(second, [1])
    position = alice.expect("POSITION")
    assert numbers(alice, "log:a", 1) == [1]
    positions = {"log:a": {"epoch": position["epoch"], "offset": 1}}
    alice.ws.close(1001)
    until(lambda: first.metric("drawbridge_sessions_detached") == 1, "the session is detached")
    numbered(second, [2])
    numbered(second, [3], channel="log:new")
    # Its node has the event when it has a later one.
    watcher = first.player("watcher")
    log = watcher.subscribe("log:new")
    if log["offset"] == 0:
        watcher.event("log:new")
    alice, welcome = returns(second if is_elsewhere else first, session, positions)
    assert welcome["resumed"] is True
    assert listed(welcome)["log:*"]["recovered"] is True
    resyncs = []
    while "log:*" not in resyncs:
        resyncs.append(alice.expect("RESYNC")["channel"])
    assert "log:a" not in resyncs
    assert numbers(alice, "log:a", 1) == [2]


def test_the_stored_subscriptions_stay_where_connect_names_none(nodes):
    first, second = nodes
    alice = first.player("alice")
    alice.subscribe("log:a", filter="data > 4")
    session = alice.hello["session"]
    alice.ws.close(1001)
    until(lambda: first.metric("drawbridge_sessions_detached") == 1, "the session is detached")
    alice, welcome = returns(second, session, {})
    assert welcome["resumed"] is True
    assert "log:a" in listed(welcome)
    numbered(second, [3, 5])
    assert numbers(alice, "log:a", 1) == [5]


def test_a_second_claim_closes_the_first_with_4505(nodes):
    first, second = nodes
    alice = first.player("alice")
    session = alice.hello["session"]
    again, welcome = returns(second, session, {})
    assert welcome["resumed"] is True and welcome["session"] == session
    alice.closes_with(4505)
    back, welcome = returns(first, session, {})
    assert welcome["resumed"] is True
    again.closes_with(4505)


def test_a_session_that_was_closed_with_1000_or_is_anothers_is_new(nodes, redis):
    first, second = nodes
    alice = first.player("alice")
    session = alice.hello["session"]
    _, welcome = returns(second, session, {}, sub="bob")
    assert welcome["resumed"] is False and welcome["session"] != session
    alice.ws.close(1000)
    until(lambda: not any(b":session:" in key and b"alice" in key for key in redis.client.keys("*")), "its record is gone")
    _, welcome = returns(second, session, {})
    assert welcome["resumed"] is False


@pytest.mark.parametrize("on_redis", [True, False])
def test_a_session_goes_on_on_another_shard(start, redis, on_redis):
    node = start(redis if on_redis else None, node="n1", shards=3, channel=CLASSES, connection=KEPT)
    alice = node.player("alice")
    session, log = alice.hello["session"], alice.subscribe("log:a")
    offset = log["offset"]
    for number in range(8):
        alice.ws.close(1001)
        node.publish("log:a", data=number)
        positions = {"log:a": {"epoch": log["epoch"], "offset": offset}}
        alice, welcome = returns(node, session, positions, subscribe=[{"channel": "log:a"}])
        assert welcome["resumed"] is True, number
        assert listed(welcome)["log:a"]["recovered"] is True
        assert numbers(alice, "log:a", 1) == [number]
        offset += 1


def test_players_who_were_taken_over_count_as_authenticated(nodes, redis):
    """An address has few places for connections without a token: a killed node's players must not fill them."""
    first, second = nodes
    alice = first.player("alice")
    session = alice.hello["session"]
    until(lambda: any(b":session:" in key and b"alice" in key for key in redis.client.keys("*")), "its record is stored")
    first.kill()
    alice, welcome = returns(second, session, {})
    assert welcome["resumed"] is True
    # What reads the metric counts itself.
    until(lambda: second.metric("drawbridge_connections_unauthenticated") <= 1, "the place is free again")
