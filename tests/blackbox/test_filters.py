"""Contract §5 as far as subscribing uses it: filters, the server view, errors with position and hint."""

import json

import pytest


def shown(player, redis, filter, events):
    """Which of these events a filter shows. The fence comes on the same channel, through a pattern."""
    player.subscribe("chat:?", filter="event == 'fence'")
    player.subscribe("chat:1", filter=filter)
    for event in events:
        redis.publish("chat:1", json.dumps(event))
    redis.publish("chat:1", '{"event":"fence"}')
    return [m["event"] for m in player.events_until("fence")]


EVENT = {"event": "hit", "data": {"damage": 12, "who": "bob", "pos": [1, 2.5], "tags": ["a", "b"], "nil": None}, "from": "bob", "key": "e7", "tags": {"zone": "n"}}

# expression: whether it shows EVENT to alice, who has level 3 and rooms ["1"]
TABLE = {
    "true": True,
    "false": False,
    "event == 'hit'": True,
    'event == "hit"': True,
    "event != 'hit'": False,
    "event == 'hit' && data.damage > 10": True,
    "event == 'hit' && data.damage > 12": False,
    "data.damage >= 12": True,
    "data.damage == 12.0": True,
    "data.damage < 12.5": True,
    "data['damage'] == 12": True,
    "data.pos[0] == 1": True,
    "data.pos[1] == 2.5": True,
    "data.pos[9] == 1": False,
    "data.missing == 1": False,
    "data.missing != 1": False,
    "!(data.missing == 1)": False,
    "data.missing == 1 || true": True,
    "true || data.missing == 1": True,
    "data.missing == 1 && false": False,
    "!(data.missing == 1 && false)": True,
    "has(data.damage)": True,
    "has(data.missing)": False,
    "has(data.nil)": True,
    "data.nil == null": True,
    "size(data.tags) == 2": True,
    "size('héé') == 3": True,
    "size(data.who) == 3": True,
    "'a' in data.tags": True,
    "'z' in data.tags": False,
    "data.who in ['alice', 'bob']": True,
    "data.who.startsWith('b')": True,
    "data.who.endsWith('b')": True,
    "data.who.contains('o')": True,
    "data.who.contains('x')": False,
    "data.damage * 2 + 1 == 25": True,
    "data.damage / 5 == 2": True,
    "data.damage % 5 == 2": True,
    "-data.damage == -12": True,
    "data.damage / 0 == 1": False,
    "data.who > 'alice'": True,
    "data.who > 5": False,
    "data.damage == 'bob'": False,
    "data.who + '!' == 'bob!'": True,
    "data.damage > 10 ? true : false": True,
    "data.damage > 100 ? true : event == 'miss'": False,
    "from == 'bob'": True,
    "from != me.player": True,
    "me.player == 'alice'": True,
    "me.level == 3": True,
    "me.rooms[0] == '1'": True,
    "'1' in me.rooms": True,
    "me.missing == 1": False,
    "key == 'e7'": True,
    "channel == 'chat:1'": True,
    "tags.zone == 'n'": True,
    "data.damage": False,
    "(((((true)))))": True,
    "true && true && true || false": True,
    "!false": True,
    "!!true": True,
    "1 == 1.0": True,
    "9007199254740993 == 9007199254740992.0": False,
    "[1, 2] == [1, 2]": True,
}


@pytest.mark.parametrize("filter, expected", TABLE.items(), ids=TABLE.keys())
def test_expressions(redis, shared_node, filter, expected):
    player = shared_node.player("alice", level=3, rooms=["1"])
    assert shown(player, redis, filter, [EVENT]) == (["hit"] if expected else [])
    player.close()


@pytest.fixture(scope="module")
def shared_node(calm_redis, tmp_path_factory):
    """One node for the many rows of the tables."""
    from harness.node import Node, base_config

    node = Node(base_config(calm_redis.url), directory=tmp_path_factory.mktemp("node"))
    yield node
    node.close()


BAD = {
    "a text, where true or false is asked": "'text'",
    "empty": "",
    "blank": "   ",
    "half a comparison": "data.damage >",
    "unbalanced": "(true",
    "too many brackets": "true))",
    "two expressions": "true true",
    "an unknown variable": "damage > 10",
    "a single equals sign": "event = 'hit'",
    "an unclosed string": "event == 'hit",
    "an unknown function": "matches(event, 'x')",
    "an unknown method": "event.matches('x')",
    "a comprehension": "data.tags.exists(t, t == 'a')",
    "another comprehension": "[1].map(x, x)[0] == 1",
    "a wrong number of arguments": "size(1, 2) == 1",
    "params, which filters do not see": "params.room == '1'",
    "1025 bytes": "true || " + "x" * 0 + "event == '" + "y" * 1010 + "'",
    "too deep": "(" * 300 + "true" + ")" * 300,
    "too many nots": "!" * 900 + "true",
    "a strange character": "event == 'hit' @ 1",
    "a number out of range": "data.x == 99999999999999999999999",
    "a lone operator": "&&",
    "a control character": "event == '\x01' \x02",
}


@pytest.mark.parametrize("filter", BAD.values(), ids=BAD.keys())
def test_a_bad_filter_is_explained(shared_node, filter):
    player = shared_node.player("alice")
    error = player.refusal("CHANNEL_SUBSCRIBE", "FILTER_INVALID", channel="chat:1", filter=filter)
    assert 0 <= error["position"] <= len(filter.encode())
    assert error["message"]
    player.refusal("CHANNEL_UNSUBSCRIBE", "NOT_SUBSCRIBED", channel="chat:1")
    player.close()


@pytest.mark.parametrize(
    "filter, position",
    [("data.damage > ", 14), ("event == 'hit' && damage > 1", 18), ("event = 'hit'", 6), ("true )", 5)],
)
def test_the_position_is_where_the_fault_is(shared_node, filter, position):
    player = shared_node.player("alice")
    error = player.refusal("CHANNEL_SUBSCRIBE", "FILTER_INVALID", channel="chat:1", filter=filter)
    assert abs(error["position"] - position) <= 1, error
    player.close()


def test_a_hint_names_what_was_probably_meant(shared_node):
    player = shared_node.player("alice")
    for filter, word in (("event = 'hit'", "=="), ("damage > 10", "data")):
        error = player.refusal("CHANNEL_SUBSCRIBE", "FILTER_INVALID", channel="chat:1", filter=filter)
        assert word in error.get("hint", "") + error["message"], error
    player.close()


def test_a_filter_of_1_kib_is_taken(shared_node):
    player = shared_node.player("alice")
    filter = "event == '" + "x" * (1024 - 11) + "'"
    assert len(filter) == 1024
    player.subscribe("chat:1", filter=filter)
    player.close()


@pytest.mark.parametrize(
    "filter",
    ["1" + "+1" * 500 + " == 501", " && ".join(["data.a == 1"] * 60), "data" + ".a" * 200 + " == 1", "[" * 50 + "]" * 50 + " == []"],
    ids=["sum", "conjunction", "path", "list"],
)
def test_expensive_filters_are_refused_or_bounded_and_never_hurt(shared_node, redis, filter):
    player, other = shared_node.player("alice"), shared_node.player("bob")
    reply = player.ask("CHANNEL_SUBSCRIBE", channel="chat:1", filter=filter)
    assert reply.type == "CHANNEL_SUBSCRIBED" or reply["code"] == "FILTER_INVALID"
    other.subscribe("chat:1")
    redis.publish("chat:1", json.dumps(EVENT))
    other.event("chat:1", "hit")
    player.sync()
    player.close()
    other.close()


def test_filters_see_what_a_raw_payload_became(redis, shared_node):
    player = shared_node.player("alice")
    player.subscribe("chat:1", filter="event == 'message' && data.n == 1")
    redis.publish("chat:1", '{"n":1}')
    assert player.event("chat:1")["data"] == {"n": 1}
    player.subscribe("chat:1", filter="data.contains('ello')")
    redis.publish("chat:1", "hello")
    assert player.event("chat:1")["data"] == "hello"
    player.close()


def test_a_filter_over_large_integers_is_exact(redis, shared_node):
    player = shared_node.player("alice")
    player.subscribe("chat:1", filter="data == 9007199254740993")
    for number in (9007199254740992, 9007199254740993, 9007199254740994):
        redis.publish("chat:1", '{"event":"n%d","data":%d}' % (number, number))
    redis.publish("chat:1", '{"event":"x","data":9007199254740993}')
    assert [m["event"] for m in player.events_until("x")] == ["n9007199254740993"]
    player.close()


def test_many_players_with_filters_of_their_own(node, redis):
    players = {n: node.player(f"p{n}") for n in range(20)}
    for n, player in players.items():
        player.subscribe("chat:1", filter=f"data % 20 == {n} || event == 'end'")
    for number in range(100):
        redis.publish("chat:1", '{"event":"n","data":%d}' % number)
    redis.publish("chat:1", '{"event":"end"}')
    for n, player in players.items():
        assert [m["data"] for m in player.events_until("end")] == list(range(n, 100, 20))


# the server view


def test_the_server_view_holds_from_the_first_event(node, redis):
    red, blue = node.player("r", team="red"), node.player("b", team="blue")
    for player in (red, blue):
        player.subscribe("team:1")
    redis.publish("team:1", '{"event":"r","data":{"team":"red"}}')
    redis.publish("team:1", '{"event":"b","data":{"team":"blue"}}')
    redis.publish("team:1", '{"event":"none"}')
    redis.publish("team:1", '{"event":"end","data":{"public":true}}')
    assert [m["event"] for m in red.events_until("end")] == ["r"]
    assert [m["event"] for m in blue.events_until("end")] == ["b"]


def test_the_clients_filter_only_narrows_the_view(node, redis):
    player = node.player("r", team="red")
    player.subscribe("team:1", filter="data.team == 'blue' || data.n == 1 || event == 'end'")
    redis.publish("team:1", '{"event":"theirs","data":{"team":"blue"}}')
    redis.publish("team:1", '{"event":"one","data":{"team":"red","n":1}}')
    redis.publish("team:1", '{"event":"two","data":{"team":"red","n":2}}')
    redis.publish("team:1", '{"event":"end","data":{"public":true}}')
    assert [m["event"] for m in player.events_until("end")] == ["one"]


def test_a_player_without_the_claim_sees_only_what_needs_none(node, redis):
    player = node.player("nobody")
    player.subscribe("team:1")
    redis.publish("team:1", '{"event":"r","data":{"team":"red"}}')
    redis.publish("team:1", '{"event":"end","data":{"public":true}}')
    assert player.events_until("end") == []


def test_what_a_view_hides_still_counts(node, redis):
    player = node.player("r", team="red")
    start = player.subscribe("team:1")["offset"]
    redis.publish("team:1", '{"event":"hidden","data":{"team":"blue"}}')
    redis.publish("team:1", '{"event":"shown","data":{"team":"red"}}')
    assert player.event("team:1", "shown")["offset"] == start + 2


def test_ones_own_publish_is_judged_by_the_view_too(node):
    player = node.player("r", team="red")
    player.subscribe("team:1")
    player.publish("team:1", "to blue", {"team": "blue"})
    player.publish("team:1", "to red", {"team": "red"})
    assert player.events_until("to red") == []
