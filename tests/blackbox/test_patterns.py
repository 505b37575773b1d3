"""Contract §3 with patterns: Redis' glob rules, one delivery, rights and views of each real channel."""

import pytest

from harness.websocket import MSGPACK


@pytest.fixture
def open_node(redis, start):
    """Every name belongs to one open class."""
    return start(redis, channel=[{"name": "g:*", "subscribe": "true", "publish": "true", "patterns": True}])


PATTERNS = [
    "g:*",
    "g:a*",
    "g:*z",
    "g:a*z",
    "g:?",
    "g:??",
    "g:[ab]",
    "g:[a-c]",
    "g:[^a]",
    "g:[^a-c]x",
    "g:[c-a]",
    "g:[",
    "g:[a",
    "g:[]",
    "g:[^]",
    "g:[a-]",
    "g:[-a]",
    "g:[\\]]",
    "g:[a\\-c]",
    "g:\\*",
    "g:\\?*",
    "g:a\\b*",
    "g:*\\",
    "g:**",
    "g:*a*b*c*",
    "g:a:*",
    "g:*:b",
    "g:?é*",
    "g:[é]",
    "g:é?",
]
NAMES = [
    "a", "b", "c", "d", "z", "az", "abz", "ab", "aa", "ax", "bx", "dx", "*", "?", "?x", "[", "[a", "]", "-", "^", "\\",
    "a\\b", "ab\\", "a-c", "aXbYc", "abc", "cba", "a:b", "a:b:c", "aé", "é", "éa", "éé", "😀", "[]", "*a", "-a",
]  # fmt: skip


@pytest.mark.one_server("it expects one order over all channels")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_glob_rules_are_those_of_redis(open_node, redis, pattern):
    """Redis itself is the oracle: what its PSUBSCRIBE matches, but for channels that no client could name, because
    their names are patterns."""
    oracle = redis.client.pubsub()
    oracle.psubscribe(pattern)
    assert oracle.get_message(timeout=10)["type"] == "psubscribe"
    player = open_node.player("alice")
    reply = player.subscribe(pattern)
    assert reply["pattern"] is True and "offset" not in reply
    if pattern != "g:*":
        player.subscribe("g:*", filter="event == 'end'")
    oracle.subscribe("g:end")
    oracle.get_message(timeout=10)
    for name in NAMES:
        redis.publish(f"g:{name}", '{"event":"e"}')
    redis.publish("g:end", '{"event":"end"}')
    expected = []
    while (message := oracle.get_message(timeout=10)) and message["channel"] != b"g:end":
        expected.append(message["channel"].decode())
    oracle.close()
    nameable = [name for name in expected if not set(name) & set("*?[")]
    assert [m["channel"] for m in player.events_until("end")] == nameable


def test_a_client_matches_the_escaped_name_it_asked_for(open_node, redis):
    player = open_node.player("alice")
    player.subscribe("g:\\]\\x*")
    redis.publish("g:\\]x", '{"event":"no"}')
    redis.publish("g:]xy", '{"event":"yes"}')
    assert player.events_until("yes") == []


def test_the_channel_of_an_event_is_the_real_one(node, redis):
    player = node.player("alice")
    player.subscribe("chat:*")
    redis.publish("chat:7", '{"event":"e"}')
    assert player.event()["channel"] == "chat:7"


def test_unsubscribing_from_a_pattern(node, redis):
    player = node.player("alice")
    player.subscribe("chat:*")
    player.subscribe("news:x")
    player.unsubscribe("chat:*")
    redis.publish("chat:7", '{"event":"e"}')
    redis.publish("news:x", '{"event":"end"}')
    assert player.events_until("end") == []


# rights


@pytest.mark.parametrize("pattern", ["*", "?*", "[a-z]*", "*:1", "nobody:*", "news:*", "raw:*", "c*", "ch?t:1", "player:*"])
def test_patterns_without_a_class_that_allows_them_are_forbidden(node, redis, pattern):
    node.player("alice").refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel=pattern)
    assert redis.patterns() == 0


@pytest.mark.parametrize("pattern", ["chat:*", "chat:?", "chat:[ab]*", "chat:a*", "room:*"])
def test_patterns_of_a_class_that_allows_them(node, redis, pattern):
    node.player("alice").subscribe(pattern)
    assert redis.patterns() == 1


@pytest.mark.parametrize("pattern", ["chat:* ", "chat:{*}", "chat:\n*", "*" * 256, ""])
def test_patterns_that_are_not_well_formed(node, pattern):
    node.player("alice").refusal("CHANNEL_SUBSCRIBE", "CHANNEL_INVALID", channel=pattern)


def test_a_pattern_shows_only_channels_that_could_be_subscribed_to_by_name(node, redis):
    player = node.player("alice", rooms=["1", "3"])
    player.subscribe("room:*")
    for room in ("1", "2", "3", "12", "1:x"):
        redis.publish(f"room:{room}", '{"event":"e"}')
    redis.publish("room:1", '{"event":"end"}')
    assert [m["channel"] for m in player.events_until("end")] == ["room:1", "room:3"]


def test_rights_are_judged_for_each_player(node, redis):
    alice, bob = node.player("alice", rooms=["1"]), node.player("bob", rooms=["2"])
    for player in (alice, bob):
        player.subscribe("room:*")
    for _ in range(3):
        redis.publish("room:1", '{"event":"one"}')
        redis.publish("room:2", '{"event":"two"}')
    redis.publish("room:1", '{"event":"end"}')
    redis.publish("room:2", '{"event":"end"}')
    assert [m["event"] for m in alice.events_until("end")] == ["one"] * 3
    assert [m["event"] for m in bob.events_until("end")] == ["two"] * 3


def test_a_pattern_of_one_class_may_not_peep_into_another(redis, start):
    node = start(
        redis,
        channel=[
            {"name": "a:secret", "subscribe": "false"},
            {"name": "a:{x}", "subscribe": "true", "patterns": True},
            {"name": "a:{x}:{y}", "subscribe": "false"},
        ],
    )
    player = node.player("alice")
    player.subscribe("a:*")
    for name in ("secret", "deep:er", "open"):
        redis.publish(f"a:{name}", '{"event":"e"}')
    redis.publish("a:x", '{"event":"end"}')
    assert [m["channel"] for m in player.events_until("end")] == ["a:open"]


def test_the_view_of_each_real_channel_holds_through_a_pattern(node, redis):
    player = node.player("alice", team="red")
    player.subscribe("team:*")
    redis.publish("team:1", '{"event":"theirs","data":{"team":"blue"}}')
    redis.publish("team:2", '{"event":"ours","data":{"team":"red"}}')
    redis.publish("team:3", '{"event":"public","data":{"public":true}}')
    redis.publish("team:4", '{"event":"end","data":{"public":true}}')
    assert [m["event"] for m in player.events_until("end")] == ["ours", "public"]


def test_channels_with_ill_formed_names_are_never_shown(open_node, redis):
    player = open_node.player("alice")
    player.subscribe("g:*")
    for name in (b"g:a b", b"g:{x}", b"g:\xff", b"g:\n", b"g:\x00", b"g:" + b"x" * 300):
        redis.publish(name, '{"event":"e"}')
    redis.publish("g:end", '{"event":"end"}')
    assert player.events_until("end") == []


def test_the_servers_own_channels_are_not_shown_by_a_pattern(redis, start):
    channel = [{"name": name, "subscribe": "true", "publish": "true", "patterns": True} for name in ("chat:*", "drawbridge:*")]
    node = start(redis, control_channel=True, broker={"key_prefix": "chat:own:"}, channel=channel)
    player = node.player("alice")
    player.subscribe("chat:*")
    player.subscribe("drawbridge:*")
    redis.publish("drawbridge:control", '{"event":"secret"}')
    redis.publish("chat:own:x", '{"event":"secret"}')
    redis.publish("chat:x", '{"event":"end"}')
    assert player.events_until("end") == []


# one delivery


@pytest.mark.parametrize("encoding", ["drawbridge.v1.json", MSGPACK])
@pytest.mark.parametrize(
    "subscriptions",
    [
        ["chat:1", "chat:*"],
        ["chat:*", "chat:1"],
        ["chat:*", "chat:?", "chat:[0-9]", "chat:1"],
        ["chat:*", "chat:?"],
        ["chat:**", "chat:*", "chat:1*"],
    ],
)
def test_overlapping_subscriptions_deliver_once(node, redis, subscriptions, encoding):
    player = node.player("alice", encoding=encoding)
    for channel in subscriptions:
        player.subscribe(channel)
    for number in range(20):
        redis.publish("chat:1", '{"event":"n","data":%d}' % number)
    redis.publish("chat:1", '{"event":"end"}')
    assert [m["data"] for m in player.events_until("end")] == list(range(20))


def test_overlap_between_players_of_one_node_stays_one_delivery_each(node, redis):
    players = [node.player(f"p{n}") for n in range(4)]
    players[0].subscribe("chat:1")
    players[1].subscribe("chat:*")
    players[2].subscribe("chat:?")
    players[3].subscribe("chat:1")
    players[3].subscribe("chat:*")
    for number in range(10):
        redis.publish("chat:1", '{"event":"n","data":%d}' % number)
    redis.publish("chat:1", '{"event":"end"}')
    for player in players:
        assert [m["data"] for m in player.events_until("end")] == list(range(10))


def test_one_delivery_while_subscriptions_come_and_go(node, redis):
    """A stream of numbers, heard whole and once by a pattern while exact subscriptions flap under it."""
    steady, flapping = node.player("steady"), node.player("flapping")
    steady.subscribe("chat:*")
    for number in range(100):
        redis.publish("chat:1", '{"event":"n","data":%d}' % number)
        if number % 2:
            flapping.start("CHANNEL_UNSUBSCRIBE", channel="chat:1")
        else:
            flapping.start("CHANNEL_SUBSCRIBE", channel="chat:1")
    redis.publish("chat:1", '{"event":"end"}')
    assert [m["data"] for m in steady.events_until("end")] == list(range(100))
    flapping.sync()
    heard = [m["data"] for m in flapping.received if m.type == "EVENT" and m["event"] == "n"]
    assert heard == sorted(set(heard))


def test_delivered_if_any_filter_lets_it_through(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1", filter="data == 1")
    player.subscribe("chat:*", filter="data == 2")
    for data in (1, 2, 3):
        redis.publish("chat:1", '{"event":"n","data":%d}' % data)
    redis.publish("chat:1", '{"event":"end","data":1}')
    assert [m["data"] for m in player.events_until("end")] == [1, 2]


def test_unsubscribing_one_of_two_leaves_the_other(node, redis):
    player = node.player("alice")
    player.subscribe("chat:1")
    player.subscribe("chat:*")
    player.unsubscribe("chat:1")
    redis.publish("chat:1", '{"event":"a"}')
    player.event("chat:1", "a")
    player.subscribe("chat:1")
    player.unsubscribe("chat:*")
    redis.publish("chat:1", '{"event":"b"}')
    redis.publish("chat:2", '{"event":"unheard"}')
    redis.publish("chat:1", '{"event":"end"}')
    assert [m["event"] for m in player.events_until("end")] == ["b"]


def test_the_server_view_holds_even_where_a_client_filter_would_show(node, redis):
    player = node.player("alice", team="red")
    player.subscribe("team:1", filter="true")
    player.subscribe("team:*")
    redis.publish("team:1", '{"event":"theirs","data":{"team":"blue"}}')
    redis.publish("team:1", '{"event":"end","data":{"public":true}}')
    assert player.events_until("end") == []


def test_offsets_of_a_channel_are_the_same_by_name_and_by_pattern(node, redis):
    by_name, by_pattern = node.player("a"), node.player("b")
    by_name.subscribe("chat:1")
    by_pattern.subscribe("chat:*")
    for _ in range(5):
        redis.publish("chat:1", '{"event":"n"}')
        assert by_name.event("chat:1")["offset"] == by_pattern.event("chat:1")["offset"]


def test_auto_subscriptions_count_for_patterns_too(redis, start):
    """A template is a right by name, and so the channel may be seen through a pattern."""
    node = start(
        redis,
        connection={"auto_subscribe": ["zone:{zone}"]},
        channel=[{"name": "zone:{zone}", "subscribe": "false", "patterns": True}],
    )
    player = node.player("alice", zone="1")
    player.subscribe("zone:*")
    for number in range(3):
        redis.publish("zone:1", '{"event":"n","data":%d}' % number)
        redis.publish("zone:2", '{"event":"foreign"}')
    redis.publish("zone:1", '{"event":"end"}')
    assert [m["data"] for m in player.events_until("end")] == [0, 1, 2]
