"""Contract §3 with exact channels: names, rights, confirmation by Redis, replacing, unsubscribing, reference counts."""

import json

import pytest

from harness.redis_server import RedisServer
from harness.wait import until
from harness.websocket import MSGPACK


def test_the_reply_says_where_the_count_stands(node, redis):
    player = node.player("alice")
    reply = player.subscribe("chat:1")
    assert isinstance(reply["epoch"], str) and reply["epoch"] and isinstance(reply["offset"], int)
    assert "pattern" not in reply and "by" not in reply
    redis.publish("chat:1", '{"event":"e"}')
    event = player.event("chat:1")
    assert event["offset"] == reply["offset"] + 1
    again = node.player("bob").subscribe("chat:1")
    assert (again["epoch"], again["offset"]) == (reply["epoch"], event["offset"])


def test_a_fresh_count_begins_at_0_under_an_epoch_of_its_own(redis, start):
    """However much was counted elsewhere: an offset says nothing of other channels."""
    node = start(redis, connection={"linger": "0s"})
    player = node.player("alice")
    busy = player.subscribe("chat:busy")
    for number in range(50):
        redis.publish("chat:busy", f'{{"event":"e","data":{number}}}')
    assert [player.event("chat:busy")["offset"] for _ in range(50)] == list(range(1, 51))
    player.unsubscribe("chat:busy")
    until(lambda: redis.subscribers("chat:busy") == {"chat:busy": 0}, "nobody is subscribed")
    fresh = player.subscribe("chat:fresh")
    again = player.subscribe("chat:busy")
    assert (fresh["offset"], again["offset"]) == (0, 0)
    assert len({reply["epoch"] for reply in (busy, fresh, again)}) == 3


def test_redis_has_confirmed_before_the_reply(node, redis):
    player = node.player("alice")
    for round in range(50):
        channel = f"chat:confirmed-{round}"
        player.subscribe(channel)
        assert redis.subscribers(channel) == {channel: 1}
        redis.publish(channel, '{"event":"first"}')
        assert player.event(channel)["event"] == "first"


def test_the_reply_waits_for_redis(redis, start, proxy):
    link = proxy(redis.port)
    node = start(f"redis://127.0.0.1:{link.port}")
    player = node.player("alice")
    link.delay = 0.2
    player.send({"type": "CHANNEL_SUBSCRIBE", "id": "s", "channel": "chat:slow"})
    while not (reply := [m for m in player.received if m.get("id") == "s"]):
        confirmed = redis.subscribers("chat:slow")["chat:slow"] == 1
        player.start("PING")
        player.pump(5)
        reply = [m for m in player.received if m.get("id") == "s"]
        assert confirmed or not reply or redis.subscribers("chat:slow")["chat:slow"] == 1
    assert reply[0].type == "CHANNEL_SUBSCRIBED"


@pytest.mark.parametrize("name", ["chat:1", "chat:münchen", "chat:😀", "chat:a.b-c_d/e@f,g;h!$&'()+=~`|<>\"#%^", "chat:" + "x" * 250])
def test_well_formed_names(node, redis, name):
    player = node.player("alice")
    player.subscribe(name)
    redis.publish(name, '{"event":"e"}')
    assert player.event(name)["event"] == "e"


BAD_NAMES = {
    "empty": "",
    "a space": "chat:a b",
    "a tab": "chat:\t",
    "a line feed": "chat:\n",
    "a no-break space": "chat:\u00a0",
    "an ideographic space": "chat:\u3000",
    "NUL": "chat:\x00",
    "DEL": "chat:\x7f",
    "C1": "chat:\x85",
    "opening brace": "chat:{1",
    "closing brace": "chat:1}",
    "256 bytes": "chat:" + "x" * 251,
    "256 bytes in fewer characters": "chat:" + "é" * 126,
    "only a space": " ",
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_names_that_are_not_well_formed(node, name):
    player = node.player("alice")
    error = player.refusal("CHANNEL_SUBSCRIBE", "CHANNEL_INVALID", channel=name)
    assert error["id"] == 1
    player.refusal("PUBLISH_EVENT", "CHANNEL_INVALID", channel=name, event="x")
    player.silent_but_for()


def test_publishing_to_a_pattern_is_channel_invalid(node):
    for name in ("chat:*", "chat:?", "chat:[ab]"):
        node.player("alice").refusal("PUBLISH_EVENT", "CHANNEL_INVALID", channel=name, event="x")


# rights


def test_a_channel_of_no_class_is_forbidden(node, redis):
    player = node.player("alice")
    for channel in ("nobody:1", "chat", "chat:1:2", "CHAT:1", "xchat:1"):
        error = player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel=channel)
        assert error.get("channel", channel) == channel
    assert redis.channels() == {"player:alice"}


def test_the_classs_rule_decides(node):
    player = node.player("alice", rooms=["1", "2"])
    player.subscribe("room:1")
    player.subscribe("room:2")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="room:3")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="room:12")
    node.player("bob").refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="room:1")


def test_subscribe_is_false_by_default(redis, start):
    node = start(redis, channel=[{"name": "quiet:{x}", "publish": "true"}])
    node.player("alice").refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="quiet:1")


def test_the_first_class_that_matches_wins(redis, start):
    node = start(
        redis,
        channel=[{"name": "a:open", "subscribe": "true"}, {"name": "a:{x}", "subscribe": "false"}, {"name": "a:*", "subscribe": "true"}],
    )
    player = node.player("alice")
    player.subscribe("a:open")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="a:other")
    player.subscribe("a:two:parts")


def test_a_final_star_takes_the_rest(node):
    player = node.player("alice")
    player.subscribe("news:sport")
    player.subscribe("news:sport:football:today")


def test_a_rule_sees_me_channel_and_params(redis, start):
    rule = 'me.player == params.owner && channel.startsWith("box:") && me.level >= 3'
    node = start(redis, channel=[{"name": "box:{owner}:{n}", "subscribe": rule}])
    node.player("alice", level=3).subscribe("box:alice:1")
    node.player("alice", level=3).refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="box:bob:1")
    node.player("alice", level=2).refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="box:alice:1")
    node.player("alice").refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="box:alice:1")


def test_the_servers_own_channels_are_nobodys(redis, start):
    node = start(redis, control_channel=True, channel=[{"name": "*", "subscribe": "true", "publish": "true"}])
    player = node.player("alice")
    player.subscribe("anything")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="drawbridge:control")
    player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="drawbridge:control", event="x")


def test_forbidden_costs_redis_nothing(node, redis):
    before = redis.client.info("commandstats").get("cmdstat_subscribe", {}).get("calls", 0)
    player = node.player("alice")
    for number in range(20):
        player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel=f"room:{number}")
    after = redis.client.info("commandstats")["cmdstat_subscribe"]["calls"]
    assert after - before <= 2


def test_redis_refusing_a_channel_is_told(start):
    redis = RedisServer()
    try:
        redis.client.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "resetchannels", "&chat:*", "&player:*", "&drawbridge:*")
        node = start(redis, broker={"url": f"redis://limited:secret@127.0.0.1:{redis.port}"})
        player = node.player("alice")
        player.subscribe("chat:1")
        player.refusal("CHANNEL_SUBSCRIBE", "BROKER_REFUSED", channel="news:1")
        player.refusal("PUBLISH_EVENT", "BROKER_REFUSED", channel="raw:1", event="x")
        player.subscribe("chat:2")
        player.publish("chat:2")
        player.event("chat:2")
    finally:
        redis.close()


# replacing and ending


def test_subscribing_again_replaces_the_filter(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1", filter="data == 1")
    player.subscribe("chat:1", filter="data == 2")
    for data in (1, 3, 2):
        redis.publish("chat:1", '{"event":"n","data":%d}' % data)
    # What is on its way when the filter changes may be judged by either: wait for the last.
    assert player.event("chat:1")["data"] == 2
    player.subscribe("chat:1")
    redis.publish("chat:1", '{"event":"n","data":4}')
    redis.publish("chat:1", '{"event":"end"}')
    assert [m["data"] for m in player.events_until("end")] == [4]


def test_a_bad_replacement_changes_nothing(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1", filter="data == 1")
    player.refusal("CHANNEL_SUBSCRIBE", "FILTER_INVALID", channel="chat:1", filter="data ==")
    redis.publish("chat:1", '{"event":"no","data":2}')
    redis.publish("chat:1", '{"event":"yes","data":1}')
    assert player.events_until("yes") == []


def test_subscribing_twice_counts_once(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1")
    player.subscribe("chat:1")
    redis.publish("chat:1", '{"event":"one"}')
    redis.publish("chat:1", '{"event":"end"}')
    assert [m["event"] for m in player.events_until("end")] == ["one"]
    player.unsubscribe("chat:1")
    player.refusal("CHANNEL_UNSUBSCRIBE", "NOT_SUBSCRIBED", channel="chat:1")


def test_after_unsubscribed_nothing_follows(node, redis):
    player, other = node.player("alice"), node.player("bob")
    other.subscribe("chat:1")
    for round in range(30):
        player.subscribe("chat:1")
        redis.publish("chat:1", '{"event":"in"}')
        player.start("CHANNEL_UNSUBSCRIBE", channel="chat:1")
        redis.publish("chat:1", '{"event":"out"}')
        player.expect("CHANNEL_UNSUBSCRIBED")
        at = len(player.received)
        redis.publish("chat:1", '{"event":"after"}')
        other.event("chat:1", "after")
        player.sync()
        assert [m for m in player.received[at:] if m.type == "EVENT"] == []


@pytest.mark.parametrize("channel", ["chat:1", "nobody:1", "chat:*", "room:7"])
def test_unsubscribing_from_what_is_not_subscribed(node, channel):
    node.player("alice").refusal("CHANNEL_UNSUBSCRIBE", "NOT_SUBSCRIBED", channel=channel)


def test_an_auto_subscription_may_be_left(node, redis):
    player = node.player("alice")
    player.unsubscribe("player:alice")
    player.subscribe("chat:1")
    redis.publish("player:alice", '{"event":"unheard"}')
    redis.publish("chat:1", '{"event":"end"}')
    assert player.events_until("end") == []


# the limit


def test_the_limit_of_subscriptions(redis, start):
    node = start(redis, limits={"subscriptions": 5})
    player = node.player("alice")
    assert player.hello["limits"]["subscriptions"] == 5
    for number in range(4):  # and player:alice
        player.subscribe(f"chat:{number}")
    player.refusal("CHANNEL_SUBSCRIBE", "LIMIT_EXCEEDED", channel="chat:4")
    player.subscribe("chat:3", filter="true")  # a replacement is no new one
    player.unsubscribe("chat:0")
    player.subscribe("chat:4")
    player.refusal("CHANNEL_SUBSCRIBE", "LIMIT_EXCEEDED", channel="chat:*")
    node.player("bob").subscribe("chat:4")


def test_the_limit_holds_in_connect_too(redis, start):
    from harness.tokens import mint

    node = start(redis, limits={"subscriptions": 3})
    player = node.connect()
    player.start("CONNECT", token=mint("alice"), subscribe=[{"channel": f"chat:{n}"} for n in range(6)])
    welcome = player.welcome()
    assert len(welcome["subscriptions"]) == 3
    assert [player.expect("ERROR")["code"] for _ in range(4)] == ["LIMIT_EXCEEDED"] * 4


# one Redis subscription per node


def test_a_node_holds_one_redis_subscription_however_many_share_it(two_nodes, redis):
    first, second = two_nodes
    for number in range(10):
        first.player(f"a{number}").subscribe("chat:1")
    assert redis.subscribers("chat:1") == {"chat:1": 1}
    others = [second.player(f"b{number}") for number in range(10)]
    for player in others:
        player.subscribe("chat:1")
    assert redis.subscribers("chat:1") == {"chat:1": 2}
    assert redis.publish("chat:1", '{"event":"e"}') == 2
    for player in first.players + second.players:
        player.event("chat:1", "e")


def test_it_is_dropped_when_the_last_one_unsubscribes(node, redis):
    alice, bob = node.player("alice"), node.player("bob")
    alice.subscribe("chat:1")
    bob.subscribe("chat:1")
    alice.unsubscribe("chat:1")
    redis.publish("chat:1", '{"event":"still"}')
    bob.event("chat:1", "still")
    assert redis.subscribers("chat:1") == {"chat:1": 1}
    bob.unsubscribe("chat:1")
    until(lambda: redis.subscribers("chat:1") == {"chat:1": 0}, "Redis is unsubscribed")


@pytest.mark.parametrize("how", ["close", "vanish"])
def test_it_is_dropped_when_the_last_one_disconnects(node, redis, how):
    alice, bob = node.player("alice"), node.player("bob")
    for player in (alice, bob):
        player.subscribe("chat:1")
        player.subscribe("chat:*")
    getattr(alice, how)()
    redis.publish("chat:1", '{"event":"still"}')
    bob.event("chat:1", "still")
    getattr(bob, how)()
    until(lambda: redis.channels() == set() and redis.patterns() == 0, "nothing is left in Redis")
    node.wait_idle()


def test_a_subscription_lingers(redis, start):
    node = start(redis, connection={"linger": "60s"})
    player = node.player("alice")
    player.subscribe("chat:1")
    player.unsubscribe("chat:1")
    player.sync()
    for _ in range(20):
        player.subscribe("chat:1")
        player.unsubscribe("chat:1")
    calls = redis.client.info("commandstats")
    assert redis.subscribers("chat:1") == {"chat:1": 1}
    assert calls.get("cmdstat_unsubscribe", {"calls": 0})["calls"] == 0 or redis.subscribers("chat:1") == {"chat:1": 1}


def test_events_of_a_lingering_subscription_are_not_delivered_and_its_count_goes_on(redis, start):
    node = start(redis, connection={"linger": "60s"})
    player = node.player("alice")
    first = player.subscribe("chat:1")
    player.unsubscribe("chat:1")
    redis.publish("chat:1", '{"event":"unheard"}')
    player.subscribe("chat:2")
    redis.publish("chat:2", '{"event":"fence"}')
    player.event("chat:2")
    again = player.subscribe("chat:1")
    assert again["epoch"] == first["epoch"] and again["offset"] >= first["offset"]
    redis.publish("chat:1", '{"event":"heard"}')
    assert player.events_until("heard") == []


def test_without_linger_a_flapping_client_is_still_served(redis, start):
    node = start(redis, connection={"linger": "0s"})
    player = node.player("alice")
    for number in range(50):
        player.subscribe("chat:1")
        redis.publish("chat:1", '{"event":"e%d"}' % number)
        player.event("chat:1", f"e{number}")
        player.unsubscribe("chat:1")
    until(lambda: redis.subscribers("chat:1") == {"chat:1": 0}, "Redis is unsubscribed")


# messages of other kinds


def test_an_area_on_a_channel_without_positions_is_refused(node):
    node.player("alice").refusal("CHANNEL_SUBSCRIBE", "FILTER_INVALID", channel="chat:1", area={"x": 0, "y": 0, "radius": 1})


def test_null_filter_and_area_are_none(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1", filter=None, area=None)
    redis.publish("chat:1", '{"event":"e"}')
    player.event("chat:1", "e")


def test_many_subscribers_all_hear_the_same_in_the_same_order(two_nodes, redis):
    players = [node.player(f"p{n}", encoding=encoding) for n in range(5) for node in two_nodes for encoding in ("drawbridge.v1.json", MSGPACK)]
    for player in players:
        player.subscribe("chat:1")
    for number in range(200):
        publisher = players[number % len(players)]
        publisher.start("PUBLISH_EVENT", channel="chat:1", event="n", data=number)
        if number % 7 == 0:
            redis.publish("chat:1", '{"event":"n","data":%d}' % (1000 + number))
    orders = []
    for player in players:
        while len([m for m in player.received if m.type == "EVENT"]) < 229:
            player.pump(15)
        orders.append([m["data"] for m in player.received if m.type == "EVENT"])
    assert all(order == orders[0] for order in orders) and len(set(orders[0])) == 229


def test_a_rule_that_compares_a_text_with_a_number_is_named_in_the_log(node):
    """Ids in claims are often numbers, and what a channel's name holds is a text."""
    player = node.player("alice", rooms=[42, 43])
    for type, fields in (("CHANNEL_SUBSCRIBE", {}), ("PUBLISH_EVENT", {"event": "x"})):
        error = player.refusal(type, "FORBIDDEN", channel="room:42", **fields)
        assert error["message"] == "not allowed"
    until(lambda: node.log.count("write `int(params.room) in me.rooms`") == 2, "the log says what would be right")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="nowhere:1")
    assert node.log.count("write `") == 2


def test_integer_ids_in_claims_are_converted(redis, start):
    rules = [
        {"name": "int:{id}", "subscribe": "int(params.id) in me.ids", "publish": "int(params.id) == me.id"},
        {"name": "text:{id}", "subscribe": "params.id == string(me.id)", "view": "string(data.to) == me.player"},
    ]
    node = start(redis, channel=rules)
    player = node.player("7", id=7, ids=[1, 9007199254740993])
    player.subscribe("int:1")
    player.subscribe("int:9007199254740993")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="int:9007199254740992")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="int:x")
    player.publish("int:7")
    player.subscribe("text:7", filter="int(data.n) > 5")
    for n, to in ((6, 7), ("6", "7"), (5, 7), ("x", 7), (6, 8)):
        redis.publish("text:7", '{"event":"e","data":{"n":%s,"to":%s}}' % (json.dumps(n), json.dumps(to)))
    redis.publish("text:7", '{"event":"end","data":{"n":9,"to":7}}')
    assert [event["data"]["n"] for event in player.events_until("end")] == [6, "6"]
