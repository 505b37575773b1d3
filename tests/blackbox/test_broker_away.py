"""Contract §7 as far as it is built: Redis away is a declared mode. Connections stay; loss is never silent."""

import json

import pytest

from harness.tokens import mint
from harness.wait import until


@pytest.fixture
def link(own_redis, proxy):
    """A proxy between the node and its Redis, so that Redis can be away for the node only."""
    return proxy(own_redis.port)


@pytest.fixture
def node(link, start):
    return start(f"redis://127.0.0.1:{link.port}")


def degraded(*players):
    for player in players:
        assert player.expect("STATUS", timeout=30)["broker"] == "degraded"


def away(node, link, *players):
    """Takes Redis away from the node; what is asked from now on is not under way when a connection breaks."""
    node.loses_redis(link.away)
    degraded(*players)


def ok(*players):
    for player in players:
        assert player.expect("STATUS", timeout=30)["broker"] == "ok"


def listening(redis, channel):
    """A subscriber of the test's own, straight at Redis."""
    listener = redis.client.pubsub()
    listener.subscribe(channel)
    assert listener.get_message(timeout=10)["type"] == "subscribe"
    return listener


def heard(listener, count):
    """The data of the next so many events in Redis."""
    messages = []

    def enough():
        message = listener.get_message(timeout=0.05)
        if message:
            messages.append(json.loads(message["data"])["data"])
        return len(messages) >= count

    until(enough, f"{count} messages in Redis", timeout=30)
    return messages


# breaks


@pytest.mark.parametrize("how", ["kill", "stop", "restart"])
def test_connections_stay_and_subscriptions_are_restored(own_redis, start, how):
    node = start(own_redis)
    alice, bob = node.player("alice"), node.player("bob")
    alice.subscribe("chat:1")
    alice.subscribe("chat:?")
    bob.subscribe("chat:1", filter="data == 1 || event == 'end'")
    getattr(own_redis, how)()
    if how != "restart":
        degraded(alice, bob)
        alice.sync(), bob.sync()
        own_redis.start()
        ok(alice, bob)
    for player in (alice, bob):
        resync = player.expect("RESYNC", channel="chat:1", timeout=30)
        assert resync["reason"] == "broker" and "offset" in resync and "epoch" in resync
    until(lambda: own_redis.subscribers("chat:1") == {"chat:1": 1} and own_redis.patterns() == 1, "restored", timeout=30)
    for data in (2, 1):
        own_redis.publish("chat:1", '{"event":"n","data":%d}' % data)
    own_redis.publish("chat:1", '{"event":"end"}')
    assert [m["data"] for m in alice.events_until("end")] == [2, 1]
    assert [m["data"] for m in bob.events_until("end")] == [1]


def test_every_channel_and_pattern_gets_a_resync_at_the_gap(own_redis, node, link):
    player = node.player("alice")
    names = [f"chat:{n}" for n in range(20)]
    for name in names:
        player.subscribe(name)
    player.subscribe("team:*")
    for name in names:
        own_redis.publish(name, '{"event":"before"}')
        player.event(name, "before")
    away(node, link, player)
    for name in names:
        own_redis.publish(name, '{"event":"missed"}')
    link.flow()
    for name in [*names, "player:alice", "team:*"]:
        assert player.expect("RESYNC", channel=name, timeout=30)["reason"] == "broker"
    for name in names:
        own_redis.publish(name, '{"event":"after"}')
        player.event(name, "after")
    # On each channel: before, the signal, after, in this order.
    for name in names:
        mine = [m.get("event", m.type) for m in player.received if m.get("channel") == name and m.type in ("EVENT", "RESYNC")]
        assert mine == ["before", "RESYNC", "after"]


def test_redis_cutting_off_its_subscribers_is_a_break_too(own_redis, start):
    """As at its output-buffer limit."""
    node = start(own_redis)
    player = node.player("alice")
    player.subscribe("chat:1")
    own_redis.cut_clients("pubsub")
    assert player.expect("RESYNC", channel="chat:1", timeout=30)["reason"] == "broker"
    own_redis.publish("chat:1", '{"event":"after"}')
    player.event("chat:1", "after")


def test_thousands_of_subscriptions_are_restored(own_redis, start):
    node = start(own_redis, limits={"subscriptions": 100_000})
    player = node.player("alice")
    names = [f"chat:{n}" for n in range(3000)]
    for begin in range(0, len(names), 50):
        batch = names[begin : begin + 50]
        player.send([{"type": "CHANNEL_SUBSCRIBE", "id": name, "channel": name} for name in batch])
        for name in batch:
            assert player.expect(id=name).type == "CHANNEL_SUBSCRIBED"
    own_redis.restart()
    until(lambda: len(own_redis.channels()) == 3001, "all are restored", timeout=60)
    own_redis.publish("chat:2999", '{"event":"after"}')
    player.event("chat:2999", "after")


# half-dead


def test_a_stopped_redis_is_noticed_within_seconds(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    player.subscribe("chat:1")
    own_redis.pause()
    degraded(player)
    player.sync()
    own_redis.resume()
    ok(player)
    until(lambda: own_redis.subscribers("chat:1") == {"chat:1": 1}, "restored", timeout=30)
    own_redis.publish("chat:1", '{"event":"after"}')
    player.event("chat:1", "after")


def test_a_link_on_which_nothing_moves_is_noticed_within_seconds(own_redis, node, link):
    player = node.player("alice")
    player.subscribe("chat:1")
    link.stall()
    degraded(player)
    own_redis.publish("chat:1", '{"event":"missed"}')
    link.cut()
    link.flow()
    ok(player)
    player.expect("RESYNC", channel="chat:1", timeout=30)
    own_redis.publish("chat:1", '{"event":"after"}')
    player.event("chat:1", "after")


# subscribing while Redis is away


def test_a_subscribe_waits_for_its_confirmation(own_redis, node, link):
    player = node.player("alice")
    away(node, link, player)
    id = player.start("CHANNEL_SUBSCRIBE", channel="chat:1")
    player.sync()
    assert not [m for m in player.received if m.get("id") == id]
    link.flow()
    assert player.reply(id, timeout=30).type == "CHANNEL_SUBSCRIBED"
    own_redis.publish("chat:1", '{"event":"e"}')
    player.event("chat:1", "e")


def test_rights_are_judged_while_redis_is_away(node, link):
    player = node.player("alice")
    away(node, link, player)
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="room:1")
    player.refusal("CHANNEL_SUBSCRIBE", "FILTER_INVALID", channel="chat:1", filter="(")


def test_who_comes_while_redis_is_away_is_welcome_and_pending(own_redis, node, link):
    first = node.player("first")
    away(node, link, first)
    player = node.connect()
    welcome = player.ask("CONNECT", token=mint("alice"), subscribe=[{"channel": "chat:1"}])
    assert welcome.type == "WELCOME"
    listed = {s["channel"]: s for s in welcome["subscriptions"]}
    assert listed["player:alice"]["pending"] is True and listed["chat:1"]["pending"] is True
    link.flow()
    for channel in ("player:alice", "chat:1"):
        player.expect("CHANNEL_SUBSCRIBED", channel=channel, timeout=30)
        own_redis.publish(channel, '{"event":"e"}')
        player.event(channel, "e")


def test_an_unsubscribe_works_while_redis_is_away(own_redis, node, link):
    player = node.player("alice")
    player.subscribe("chat:1")
    player.subscribe("chat:2")
    away(node, link, player)
    player.unsubscribe("chat:1")
    link.flow()
    ok(player)
    until(lambda: own_redis.subscribers("chat:1", "chat:2") == {"chat:1": 0, "chat:2": 1}, "only one is restored", timeout=30)


def test_many_patterns_come_and_go_while_redis_is_away(own_redis, node, link):
    player = node.player("alice")
    away(node, link, player)
    names = [f"chat:{n}*" for n in range(16)]
    for name in names:
        player.send({"type": "CHANNEL_SUBSCRIBE", "id": f"s{name}", "channel": name})
    for name in names:
        player.send({"type": "CHANNEL_UNSUBSCRIBE", "id": f"u{name}", "channel": name})
    player.sync()
    link.flow()
    for name in names:
        assert player.expect(id=f"u{name}").type == "CHANNEL_UNSUBSCRIBED"
    until(lambda: own_redis.patterns() == 0, "Redis holds no pattern")


def test_who_leaves_while_redis_is_away_leaves_nothing(own_redis, node, link):
    stays, leaves = node.player("stays"), node.player("leaves")
    leaves.subscribe("chat:1")
    away(node, link, stays)
    leaves.vanish()
    until(lambda: node.metric("drawbridge_connections") == 1, "it is gone")
    link.flow()
    ok(stays)
    until(lambda: own_redis.channels() == {"player:stays"}, "nothing of it is left", timeout=30)


# publishing while Redis is away


def test_queued_publishes_are_acknowledged_in_order_when_they_are_in(own_redis, node, link):
    listener = listening(own_redis, "chat:1")
    player = node.player("alice")
    away(node, link, player)
    ids = [player.start("PUBLISH_EVENT", channel="chat:1", event="n", data=n) for n in range(20)]
    player.sync()
    assert not [m for m in player.received if m.get("id") in ids[:-1] and m.type != "PONG"]
    link.flow()
    for id in ids:
        reply = player.reply(id, timeout=30)
        assert reply.type == "EVENT_PUBLISHED", (reply, node.log)
    assert heard(listener, 20) == list(range(20))


def test_a_full_queue_is_broker_unavailable(link, start):
    node = start(f"redis://127.0.0.1:{link.port}", broker={"queue_bytes": "8KiB"})
    player = node.player("alice")
    away(node, link, player)
    ids = [player.start("PUBLISH_EVENT", channel="chat:1", event="n", data="x" * 1000) for n in range(30)]
    error = player.expect("ERROR")
    assert error["code"] == "BROKER_UNAVAILABLE" and error["outcome"] == "not_done"
    link.flow()
    replies = [player.reply(id, timeout=30) if id != error.get("id") else error for id in ids]
    assert {"EVENT_PUBLISHED", "ERROR"} == {r.type for r in replies}, (replies, node.log)
    assert all(r["outcome"] == "not_done" for r in replies if r.type == "ERROR")


def test_local_is_delivered_on_this_node_alone_and_never_published(own_redis, link, start):
    classes = [
        {"name": "emote:{room}", "subscribe": "true", "publish": "true", "patterns": True, "when_broker_down": "local"},
        {"name": "team:{team}", "subscribe": "true", "publish": "true", "view": "data.team == me.team", "when_broker_down": "local"},
    ]
    node = start(f"redis://127.0.0.1:{link.port}", channel=classes, shards=2)
    elsewhere = start(own_redis, channel=classes)
    alice, bob, carol = node.player("alice", team="red"), node.player("bob", team="blue"), elsewhere.player("carol")
    for player in (alice, carol):
        player.subscribe("emote:1")
    bob.subscribe("emote:*")
    for player in (alice, bob):
        player.subscribe("team:1")
    listener = listening(own_redis, "emote:1")
    before = alice.publish("emote:1", "wave", "before")
    assert "local" not in before
    for player in (alice, bob, carol):
        assert "offset" in player.event("emote:1", "wave")

    away(node, link, alice, bob)
    late = node.player("late")
    late.start("CHANNEL_SUBSCRIBE", channel="emote:1")
    for number in range(20):
        publisher = (alice, bob)[number % 2]
        assert publisher.publish("emote:1", "wave", number)["local"] is True
    answer = node.publish("emote:1", "wave", "by http")
    assert answer.status == 200 and answer.json == {"channel": "emote:1", "local": True}
    orders = [[player.event("emote:1", "wave") for _ in range(21)] for player in (alice, bob)]
    assert [event["data"] for event in orders[0]] == [event["data"] for event in orders[1]]
    assert [event["data"] for event in orders[0]] == [*range(20), "by http"]
    assert not any("offset" in event for order in orders for event in order)
    # Views hold here too.
    assert alice.publish("team:1", "plan", {"team": "red"})["local"] is True
    alice.event("team:1", "plan")
    bob.silent_but_for("EVENT_PUBLISHED")
    late.silent_but_for("STATUS"), carol.silent_but_for()
    until(lambda: node.metric("drawbridge_publishes_local") == 22, "all are counted")

    link.flow()
    ok(alice, bob)
    assert "local" not in alice.publish("emote:1", "wave", "after")
    for player in (alice, carol, bob):
        assert player.event("emote:1", "wave")["data"] == "after"
    assert heard(listener, 2) == ["before", "after"]


def test_reject_refuses_at_once(node, link):
    player = node.player("alice")
    away(node, link, player)
    error = player.refusal("PUBLISH_EVENT", "BROKER_UNAVAILABLE", channel="reject:1", event="x")
    assert error["outcome"] == "not_done" and error["retryable"] is True
    link.flow()
    ok(player)
    until(lambda: player.ask("PUBLISH_EVENT", channel="reject:1", event="x").type == "EVENT_PUBLISHED", "it works again", timeout=30)


def test_forwarded_events_wait_too(own_redis, node, link):
    player = node.player("alice")
    away(node, link, player)
    ids = [player.start("PUBLISH_EVENT", channel="act:1", event="n", data={"ok": True, "n": n}) for n in range(5)]
    link.flow()
    for id in ids:
        reply = player.reply(id, timeout=30)
        assert reply.type == "EVENT_PUBLISHED", (reply, node.log)
    assert len(own_redis.stream("actions:1")) == 5


def test_a_break_while_the_answer_is_out_is_unknown_and_never_repeated(own_redis, node, link):
    listener = listening(own_redis, "chat:1")
    player = node.player("alice")
    player.publish("chat:1", "n", 0)
    link.stalled_to_client = True
    id = player.start("PUBLISH_EVENT", channel="chat:1", event="n", data=1)
    assert heard(listener, 2) == [0, 1]  # Redis has taken it, the answer is stuck
    link.away()
    error = player.reply(id)
    assert error["code"] == "BROKER_UNAVAILABLE" and error["outcome"] == "unknown"
    link.flow()
    ok_again = player.ask("PUBLISH_EVENT", channel="chat:1", event="n", data=2, timeout=30)
    assert ok_again.type == "EVENT_PUBLISHED"
    assert heard(listener, 1) == [2]


def test_a_redis_that_does_not_answer_for_five_seconds_is_unknown(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    player.publish("chat:1", "n", 0)
    own_redis.pause()
    reply = player.ask("PUBLISH_EVENT", channel="chat:1", event="n", data=1, timeout=30)
    assert reply["code"] == "BROKER_UNAVAILABLE" and reply["outcome"] == "unknown"
    own_redis.resume()


# readiness


def test_readiness_follows_redis_after_its_grace(link, start):
    node = start(f"redis://127.0.0.1:{link.port}", ready_grace="500ms")
    until(lambda: node.get("/readyz").status == 200, "ready")
    link.away()
    until(lambda: node.get("/readyz").status == 503, "not ready")
    assert node.get("/healthz").status == 200
    link.flow()
    until(lambda: node.get("/readyz").status == 200, "ready again", timeout=30)


def test_within_the_grace_the_node_stays_ready(link, start):
    node = start(f"redis://127.0.0.1:{link.port}", ready_grace="10m")
    until(lambda: node.get("/readyz").status == 200, "ready")
    player = node.player("alice")
    away(node, link, player)
    assert node.get("/readyz").status == 200


def test_a_node_starts_without_redis_and_is_ready_when_it_comes(own_redis, start):
    own_redis.stop()
    node = start(own_redis, wait_ready_line=False, ready_grace="100ms")
    try:
        node.wait_ready_line(timeout=5)
        assert node.get("/readyz").status == 503
        player = node.connect(mint("alice"))
        welcome = player.welcome()
        assert all(s["pending"] for s in welcome["subscriptions"])
    except AssertionError as unready:
        assert "not within" in str(unready) and node.process.running, unready
    own_redis.start()
    node.wait_ready_line(timeout=30)
    until(lambda: node.get("/readyz").status == 200, "ready", timeout=30)
    node.player("bob").subscribe("chat:1")


def test_a_slow_redis_is_not_an_absent_one(own_redis, node, link):
    link.delay = 0.3
    player = node.player("alice")
    player.subscribe("chat:1")
    for number in range(5):
        player.publish("chat:1", "n", number)
    assert [player.event("chat:1")["data"] for _ in range(5)] == list(range(5))
    assert not [m for m in player.received if m.type in ("STATUS", "RESYNC")]


def test_what_players_may_see_cannot_be_read(own_redis, start):
    """Only the connection on which views are read is not to be had: whoever joins waits, is told so, and gets it all."""
    node = start(own_redis)
    until(lambda: node.get("/readyz").status == 200, "ready")
    maxclients = own_redis.client.info("clients")["maxclients"]
    # The test's own, and those of the node that are open all the time, with those for views and leases; no other may hold a place that
    # is free later.
    held = 3 + node.redis_connections
    until(lambda: own_redis.client.info("clients")["connected_clients"] == held, "the node holds its connections")
    own_redis.client.config_set("maxclients", held - 1)
    reader = next(client for client in own_redis.client.client_list() if client["name"].endswith(":views"))
    own_redis.client.client_kill_filter(_id=reader["id"])
    player = node.player("alice", timeout=30)
    welcome = next(message for message in player.received if message.type == "WELCOME")
    assert welcome["subscriptions"] and all(subscription.get("pending") for subscription in welcome["subscriptions"])
    own_redis.client.config_set("maxclients", maxclients)
    for subscription in welcome["subscriptions"]:
        player.expect("CHANNEL_SUBSCRIBED", channel=subscription["channel"], timeout=30)
    until(lambda: node.get("/readyz").status == 200, "ready again", timeout=30)
