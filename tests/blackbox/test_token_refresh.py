"""Contract §2: `TOKEN_REFRESH` renews in place, for the same player, and rights are judged anew."""

import time

import pytest

from harness.tokens import mint, mint_expiring_at
from harness.wait import until

TEMPLATES = ["player:{sub}", "room:{room}"]


@pytest.fixture
def node(redis, start):
    return start(redis, connection={"auto_subscribe": TEMPLATES})


def refresh(player, **claims):
    reply = player.ask("TOKEN_REFRESH", token=mint("alice", **claims))
    assert reply.type == "TOKEN_REFRESHED", reply
    return reply


def test_the_reply_says_when_the_new_token_expires(node):
    player = node.player("alice")
    exp = int(time.time()) + 500
    reply = player.ask("TOKEN_REFRESH", token=mint_expiring_at(exp))
    assert reply.type == "TOKEN_REFRESHED" and reply["expires_ms"] == exp * 1000


def test_a_refreshed_connection_outlives_its_first_token(redis, start):
    node = start(redis, auth={"leeway": "0s"})
    exp = time.time() + 3
    player = node.player(token=mint_expiring_at(exp))
    refresh(player)
    until(lambda: player.sync()["server_time_ms"] > exp * 1000 + 500, "the first token has expired")
    player.sync()


def test_a_refresh_may_shorten_too(redis, start):
    node = start(redis, auth={"leeway": "0s"})
    player = node.player("alice")
    player.ask("TOKEN_REFRESH", token=mint_expiring_at(time.time() + 2))
    player.closes_with(4004)


def test_another_player_is_forbidden(node):
    player = node.player("alice")
    player.refusal("TOKEN_REFRESH", "FORBIDDEN", token=mint("bob"))
    player.sync()


BAD = {
    "nonsense": (lambda: "nonsense", "UNAUTHENTICATED"),
    "another key": (lambda: mint("alice", key="z" * 64), "UNAUTHENTICATED"),
    "expired": (lambda: mint("alice", expires_in=-1000), "TOKEN_EXPIRED"),
}


@pytest.mark.parametrize("token, code", BAD.values(), ids=BAD.keys())
def test_a_bad_token_changes_nothing(node, token, code):
    player = node.player("alice", rooms=["1"])
    player.refusal("TOKEN_REFRESH", code, token=token())
    player.subscribe("room:1")


def test_new_claims_give_new_rights(node):
    player = node.player("alice", rooms=["1"])
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="room:2")
    refresh(player, rooms=["1", "2"])
    player.subscribe("room:2")


def test_subscriptions_no_longer_allowed_end(node, redis):
    player = node.player("alice", rooms=["1", "2"])
    for channel in ("room:1", "room:2", "chat:1"):
        player.subscribe(channel)
    refresh(player, rooms=["2"])
    ended = player.expect("CHANNEL_UNSUBSCRIBED")
    assert (ended["channel"], ended["reason"]) == ("room:1", "forbidden")
    redis.publish("room:1", '{"event":"secret"}')
    redis.publish("room:2", '{"event":"open"}')
    assert player.events_until("open") == []
    player.refusal("PUBLISH_EVENT", "FORBIDDEN", channel="room:1", event="x")
    player.silent_but_for()


@pytest.mark.parametrize("before, after", [(["1"], []), ([], ["1"])], ids=["taken", "given"])
def test_a_publish_that_waits_has_the_rights_under_which_it_was_sent(start, own_redis, before, after):
    """It waits for the subscription before it, and that for Redis; the token behind both does not."""
    node = start(own_redis)
    player = node.player("alice", rooms=before)
    own_redis.kill()
    player.expect("STATUS", broker="degraded")
    subscribe = player.start("CHANNEL_SUBSCRIBE", channel="chat:1")
    pattern = player.start("CHANNEL_SUBSCRIBE", channel="room:*")
    publish = player.start("PUBLISH_EVENT", channel="room:1", event="waited")
    refresh(player, rooms=after)
    behind = player.start("PUBLISH_EVENT", channel="room:1", event="behind")
    player.sync()
    own_redis.start()
    assert player.reply(subscribe).type == player.reply(pattern).type == "CHANNEL_SUBSCRIBED"
    expected = {True: "EVENT_PUBLISHED", False: "ERROR"}
    assert player.reply(publish).type == expected[bool(before)]
    assert player.reply(behind).type == expected[bool(after)]


def test_templates_no_longer_filled_end_and_newly_filled_ones_begin(node, redis):
    player = node.player("alice", room="1")
    refresh(player, room="2")
    ended = player.expect("CHANNEL_UNSUBSCRIBED")
    assert (ended["channel"], ended["reason"]) == ("room:1", "forbidden")
    begun = player.expect("CHANNEL_SUBSCRIBED", channel="room:2")
    assert "id" not in begun
    redis.publish("room:1", '{"event":"old"}')
    redis.publish("room:2", '{"event":"new"}')
    assert player.events_until("new") == []


def test_what_stays_allowed_is_not_touched(node, redis):
    player = node.player("alice", room="1", rooms=["1"])
    player.subscribe("chat:1", filter="data == 1")
    refresh(player, room="1", rooms=["1"])
    player.silent_but_for()
    redis.publish("chat:1", '{"event":"hidden","data":2}')
    redis.publish("chat:1", '{"event":"shown","data":1}')
    assert player.events_until("shown") == []


def test_a_pattern_shows_what_the_new_claims_allow(node, redis):
    player = node.player("alice", rooms=["1"])
    player.subscribe("room:*")
    redis.publish("room:2", '{"event":"before"}')
    redis.publish("room:1", '{"event":"one"}')
    assert player.events_until("one") == []
    refresh(player, rooms=["2"])
    redis.publish("room:1", '{"event":"after"}')
    redis.publish("room:2", '{"event":"two"}')
    assert player.events_until("two") == []


def test_a_view_is_judged_by_the_new_claims(node, redis):
    player = node.player("alice", team="red")
    player.subscribe("team:1")
    refresh(player, team="blue")
    redis.publish("team:1", '{"event":"r","data":{"team":"red"}}')
    redis.publish("team:1", '{"event":"b","data":{"team":"blue"}}')
    assert player.events_until("b") == []


def test_me_in_a_clients_filter_is_the_new_me(node, redis):
    player = node.player("alice", level=1)
    player.subscribe("chat:1", filter="data.level <= me.level")
    refresh(player, level=5)
    redis.publish("chat:1", '{"event":"high","data":{"level":6}}')
    redis.publish("chat:1", '{"event":"fits","data":{"level":4}}')
    assert player.events_until("fits") == []
