"""Contract §2, auto-subscription: templates filled from claims, which no claim can widen."""

import pytest

from harness.tokens import mint
from harness.wait import until

TEMPLATES = ["player:{sub}", "room:{room}", "room:{rooms}", "game:{game}"]


@pytest.fixture
def auto(redis, start):
    return start(redis, connection={"auto_subscribe": TEMPLATES})


def channels(welcome):
    return sorted(s["channel"] for s in welcome["subscriptions"])


@pytest.mark.parametrize(
    "claims, expected",
    [
        ({}, []),
        ({"room": "42"}, ["room:42"]),
        ({"room": 42}, ["room:42"]),
        ({"rooms": ["1", "2", 3]}, ["room:1", "room:2", "room:3"]),
        ({"rooms": []}, []),
        ({"room": "1", "rooms": ["1", "2"]}, ["room:1", "room:2"]),
        ({"game": "chess", "room": "7"}, ["game:chess", "room:7"]),
        ({"room": "münchen-😀"}, ["room:münchen-😀"]),
        ({"room": "a.b_c-d/e@f"}, ["room:a.b_c-d/e@f"]),
    ],
)
def test_templates_are_filled_from_claims(auto, redis, claims, expected):
    welcome = auto.connect(mint("alice", **claims)).welcome()
    assert channels(welcome) == sorted(["player:alice", *expected])
    assert all(s["auto"] is True and isinstance(s.get("offset"), int) for s in welcome["subscriptions"]), welcome
    assert redis.channels() >= set(expected)


HOSTILE = ["*", "a*", "?", "[ab]", "a:b", ":", "", " ", "a b", "a\tb", "a\nb", "a\x00b", "\x7f", "{x}", "{", "}", "a\u2028b", "a\u00a0b"]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_claim_skips_its_channel_and_is_logged(auto, redis, value):
    welcome = auto.connect(mint("alice", room=value, rooms=["ok", value])).welcome()
    assert channels(welcome) == ["player:alice", "room:ok"]
    assert redis.patterns() == 0
    until(lambda: "room" in auto.log, "it is logged")


def test_all_templates_together_are_within_the_limit_of_subscriptions(redis, start):
    templates = ["player:{sub}", "room:{rooms}", "game:{games}"]
    node = start(redis, connection={"auto_subscribe": templates}, limits={"subscriptions": 8})
    names = [str(n) for n in range(10)]
    player = node.player("alice", rooms=names, games=names)
    listed = [s["channel"] for s in player.hello["subscriptions"]]
    assert listed == ["player:alice", *[f"room:{n}" for n in range(7)]]
    cut = ["room:7", "room:8", "room:9", *[f"game:{n}" for n in range(10)]]
    for channel in cut:
        assert player.expect("ERROR")["code"] == "LIMIT_EXCEEDED"
    told = [m["channel"] for m in player.received if m.type == "ERROR"]
    assert told == cut
    player.refusal("CHANNEL_SUBSCRIBE", "LIMIT_EXCEEDED", channel="chat:1")
    # The template still is the right, once there is room.
    player.unsubscribe("room:0")
    player.subscribe("game:9")
    player.silent_but_for()


def test_no_more_than_sixteen_are_told_to_be_too_many(redis, start):
    node = start(redis, connection={"auto_subscribe": ["room:{rooms}"]}, limits={"subscriptions": 2})
    player = node.player("alice", rooms=[str(n) for n in range(500)])
    player.sync()
    assert len([m for m in player.received if m.type == "ERROR"]) == 16
    assert len(player.hello["subscriptions"]) == 2


def test_a_refreshed_token_is_within_the_limit_too(redis, start):
    node = start(redis, connection={"auto_subscribe": ["room:{rooms}"]}, limits={"subscriptions": 3})
    player = node.player("alice", rooms=["1"])
    player.subscribe("chat:1")
    player.ask("TOKEN_REFRESH", token=mint("alice", rooms=["1", "2", "3", "4", "5"]))
    assert player.expect("CHANNEL_SUBSCRIBED")["channel"] == "room:2"
    cut = [player.expect("ERROR", code="LIMIT_EXCEEDED")["channel"] for _ in range(3)]
    assert cut == ["room:3", "room:4", "room:5"]
    player.silent_but_for()


@pytest.mark.parametrize("value", [True, None, {"a": 1}, [["42"]], [True], [None], [{}]])
def test_a_claim_that_is_no_string_or_number_skips_its_channel(auto, value):
    assert channels(auto.connect(mint("alice", room=value)).welcome()) == ["player:alice"]


@pytest.mark.parametrize("sub", ["*", "a:b", "a b", "{sub}"])
def test_a_hostile_player_id_gets_no_channel(auto, sub):
    assert channels(auto.connect(mint(sub)).welcome()) == []


def test_a_name_longer_than_a_channel_may_be_is_skipped(auto):
    assert channels(auto.connect(mint("alice", room="x" * 300)).welcome()) == ["player:alice"]


def test_the_template_is_the_right(redis, start):
    node = start(
        redis,
        connection={"auto_subscribe": ["closed:{room}"]},
        channel=[{"name": "closed:{room}", "subscribe": "false"}],
    )
    player = node.player("alice", room="1")
    redis.publish("closed:1", '{"event":"in"}')
    player.event("closed:1", "in")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="closed:2")


def test_what_a_template_gave_may_be_subscribed_to_again(redis, start):
    node = start(
        redis,
        connection={"auto_subscribe": ["closed:{room}"]},
        channel=[{"name": "closed:{room}", "subscribe": "false"}],
    )
    player = node.player("alice", room="1")
    player.unsubscribe("closed:1")
    player.subscribe("closed:1", filter="event == 'b'")
    redis.publish("closed:1", '{"event":"a"}')
    redis.publish("closed:1", '{"event":"b"}')
    assert player.events_until("b") == []


def test_the_classs_view_applies_to_auto_subscriptions(redis, start):
    node = start(redis, connection={"auto_subscribe": ["team:{group}"]})
    player = node.player("alice", group="g", team="red")
    redis.publish("team:g", '{"event":"theirs","data":{"team":"blue"}}')
    redis.publish("team:g", '{"event":"ours","data":{"team":"red"}}')
    assert player.events_until("ours") == []


def test_auto_subscriptions_are_live_when_welcome_comes(auto, redis):
    for round in range(20):
        player = auto.player("alice", room=f"r{round}")
        assert redis.publish(f"room:r{round}", '{"event":"first"}') == 1
        player.event(f"room:r{round}", "first")


def test_a_template_may_hold_several_claims(redis, start):
    node = start(redis, connection={"auto_subscribe": ["world:{game}:{room}"]})
    assert channels(node.connect(mint("alice", game="g", room=["1", "2"])).welcome()) == ["world:g:1", "world:g:2"]
    assert channels(node.connect(mint("alice", game="g")).welcome()) == []


def test_very_many_rooms_stay_within_the_limit_of_subscriptions(redis, start):
    node = start(redis, connection={"auto_subscribe": ["room:{rooms}"]}, limits={"subscriptions": 10})
    player = node.connect(mint("alice", rooms=[f"r{i}" for i in range(50)]))
    assert len(player.welcome()["subscriptions"]) <= 10
    player.sync()
