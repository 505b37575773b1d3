"""What patterns cost Redis and the node: Redis holds a minimal cover of them, and every event comes once while it changes."""

import random

import pytest

from harness import names
from harness.tokens import mint
from harness.wait import until


@pytest.fixture
def commands(redis):
    """How often Redis was sent a command since the test began."""

    def calls():
        stats = redis.client.info("commandstats")
        return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}

    before = calls()
    return lambda name: calls().get(name, 0) - before.get(name, 0)


def spellings(count, prefix="room:"):
    """As many different patterns that all match what begins with the prefix."""
    return [prefix + "*" * (1 + n % 16) + "?" * (n // 16) for n in range(count)]


def numbers(player, end="end"):
    return [message["data"] for message in player.events_until(end)]


def send(redis, channel, count, end="end"):
    for number in range(count):
        redis.publish(channel, '{"event":"n","data":%d}' % number)
    redis.publish(channel, '{"event":"%s"}' % end)


# what Redis holds


@pytest.mark.one_server("it counts the commands and copies of one server")
def test_240_spellings_of_one_pattern_are_one_subscription(node, redis, commands):
    well = node.player("well", rooms=["1"])
    well.subscribe("room:1")
    for n in range(8):
        player = node.player(f"p{n}")
        for pattern in spellings(240)[30 * n : 30 * n + 30]:
            player.subscribe(pattern)
    assert redis.patterns() == 1
    assert commands("psubscribe") == 1
    # One copy for the name and one for all patterns, and the link holds.
    assert redis.publish("room:1", '{"event":"n","data":0}') == 2
    cuts = node.metric(names.RECONNECTS)
    assert well.event("room:1")["data"] == 0
    send(redis, "room:1", 2_000)
    assert numbers(well) == list(range(2_000))
    assert node.metric(names.RECONNECTS) == cuts
    assert not any(message.type == "STATUS" for message in well.received)


def test_ten_thousand_events_through_many_patterns_cut_no_link(node, redis):
    well, many = node.player("well"), [node.player(f"p{n}") for n in range(4)]
    well.subscribe("chat:1")
    for player, at in zip(many, range(0, 128, 32)):
        for pattern in spellings(128, "chat:")[at : at + 32]:
            player.subscribe(pattern, filter="false")
    pipeline = redis.client.pipeline(transaction=False)
    for number in range(10_000):
        pipeline.publish("chat:1", '{"event":"n","data":%d}' % number)
    pipeline.execute()
    redis.publish("chat:1", '{"event":"end"}')
    assert numbers(well) == list(range(10_000))
    assert not any(message.type in ("STATUS", "RESYNC") for message in well.received)


@pytest.mark.parametrize(
    "patterns, held",
    [
        (["chat:4*", "chat:4[a-c]?", "chat:42*"], 1),
        (["chat:4*", "chat:5*"], 2),
        (["chat:4*", "chat:5*", "chat:*"], 1),
        (["chat:*", "chat:4*"], 1),
        (["chat:\\*x*", "chat:\\*y*", "chat:\\*[ab]"], 1),
        (["chat:4*", "team:4*"], 2),
    ],
)
def test_no_prefix_lies_under_another(node, redis, patterns, held):
    player = node.player("alice")
    for pattern in patterns:
        player.subscribe(pattern)
    until(lambda: redis.patterns() == held, f"Redis holds {held} patterns")
    until(
        lambda: node.metrics()["drawbridge_redis_patterns"] == held,
        f"the node counts {held} patterns",
    )


def test_beyond_64_prefixes_the_class_is_subscribed_to(redis, start):
    node = start(redis, limits={"patterns_per_player": 200})
    player = node.player("alice")
    for number in range(64):
        player.subscribe(f"chat:{number:03}*")
    assert redis.patterns() == 64
    player.subscribe("chat:x*")
    until(lambda: redis.patterns() == 1, "the class's prefix takes the place of all")
    for number in range(100, 164):
        player.subscribe(f"chat:{number}*")
    assert redis.patterns() == 1
    for channel in ("chat:007", "chat:x", "chat:163"):
        redis.publish(channel, '{"event":"seen"}')
        assert player.event(channel)["event"] == "seen"
    redis.publish("chat:999", '{"event":"unseen"}')
    redis.publish("chat:x", '{"event":"end"}')
    assert player.events_until("end") == []


@pytest.mark.one_server("a publish counts the patterns of one server")
def test_a_cover_narrows_when_the_wide_pattern_has_left(node, redis):
    wide, narrow = node.player("wide"), node.player("narrow")
    wide.subscribe("chat:*")
    narrow.subscribe("chat:4*")
    assert redis.publish("chat:5", "{}") == 1
    wide.unsubscribe("chat:*")
    until(lambda: redis.publish("chat:5", "{}") == 0, "chat:5 is sent to nobody")
    send(redis, "chat:4", 3)
    assert numbers(narrow) == [0, 1, 2]


# churn


def test_patterns_under_a_prefix_cost_redis_nothing(node, redis, commands):
    steady = node.player("steady")
    steady.subscribe("chat:*")
    first = commands("psubscribe")
    for n in range(100):
        player = node.player(f"p{n}")
        for pattern in (f"chat:{n}*", f"chat:*{n}", "chat:?"):
            player.subscribe(pattern)
            player.unsubscribe(pattern)
        player.close()
    assert (commands("psubscribe"), commands("punsubscribe")) == (first, 0)


def test_every_event_comes_once_while_covers_change(redis, start):
    node = start(redis, limits={"patterns_per_player": 100}, connection={"linger": "0s"})
    dice = random.Random(20)
    by_name, by_pattern, churner = (node.player(name) for name in ("name", "pattern", "churner"))
    by_name.subscribe("chat:42")
    by_pattern.subscribe("chat:4[0-9]")
    held, number = set(), 0
    names = ["chat:*", "chat:4*", "chat:42*", "chat:?2", "chat:[4]*"] + [f"chat:{n:02}*" for n in range(70)]
    for _ in range(400):
        name = dice.choice(names)
        if name in held:
            held.remove(name)
            churner.start("CHANNEL_UNSUBSCRIBE", channel=name)
        else:
            held.add(name)
            churner.start("CHANNEL_SUBSCRIBE", channel=name)
        for _ in range(5):
            redis.publish("chat:42", '{"event":"n","data":%d}' % number)
            number += 1
    redis.publish("chat:42", '{"event":"end"}')
    assert numbers(by_name) == list(range(number))
    assert numbers(by_pattern) == list(range(number))
    churner.sync()
    heard = [message["data"] for message in churner.received if message.type == "EVENT" and message["event"] == "n"]
    assert heard == sorted(set(heard))


def test_a_confirmed_pattern_misses_nothing(node, redis):
    """Narrow before wide before narrow: what is published behind the confirmation comes."""
    player = node.player("alice")
    for number, pattern in enumerate(["chat:4*", "chat:*", "chat:42*", "chat:[4]2", "chat:?2"]):
        player.subscribe(pattern)
        redis.publish("chat:42", '{"event":"n","data":%d}' % number)
        assert player.event("chat:42")["data"] == number


def test_a_break_restores_the_cover(node, redis):
    player = node.player("alice")
    patterns = ["chat:4*", "chat:42?", "team:*"]
    for pattern in patterns:
        player.subscribe(pattern)
    redis.cut_clients("pubsub")
    told = {player.expect("RESYNC", reason="broker")["channel"] for _ in range(4)}
    assert told == {*patterns, "player:alice"}
    assert redis.patterns() == 2
    send(redis, "chat:421", 3)
    assert numbers(player) == [0, 1, 2]


# rights at Redis


def limited(own_redis, start, *channels):
    rules = ["on", ">pw", "resetchannels", "&player:*", "&drawbridge:*", *channels, "allkeys", "+@all"]
    own_redis.client.execute_command("ACL", "SETUSER", "bridge", "reset", *rules)
    return start(f"redis://bridge:pw@127.0.0.1:{own_redis.port}")


def test_the_class_is_used_where_the_acl_refuses_a_narrower_prefix(own_redis, start):
    node = limited(own_redis, start, "&chat:*")
    player = node.player("alice")
    player.subscribe("chat:4*")
    assert own_redis.patterns() == 1
    own_redis.publish("chat:5", '{"event":"unseen"}')
    send(own_redis, "chat:4", 3)
    assert numbers(player) == [0, 1, 2]
    before = own_redis.client.info("commandstats")["cmdstat_psubscribe"]["calls"]
    node.player("bob").subscribe("chat:6*")
    assert own_redis.client.info("commandstats")["cmdstat_psubscribe"]["calls"] == before


def test_what_the_acl_refuses_is_refused_to_who_asked(own_redis, start):
    node = limited(own_redis, start, "&chat:4*")
    player = node.player("alice")
    player.subscribe("chat:4*")
    node.player("bob").refusal("CHANNEL_SUBSCRIBE", "BROKER_REFUSED", channel="chat:5*")
    node.player("carol").subscribe("chat:4?")
    own_redis.client.execute_command("ACL", "SETUSER", "bridge", "&chat:5*")
    node.player("dave").subscribe("chat:5*")
    send(own_redis, "chat:4", 2)
    assert numbers(player) == [0, 1]


# limits


@pytest.mark.parametrize("shards", [1, 2])
def test_patterns_are_counted_over_all_connections_of_a_player(redis, start, shards):
    node = start(redis, shards=shards, limits={"patterns_per_player": 3})
    first, second = node.player("alice"), node.player("alice")
    first.subscribe("chat:1*")
    first.subscribe("chat:1*")
    first.subscribe("chat:2*")
    second.subscribe("chat:1*")
    for player in (first, second):
        player.refusal("CHANNEL_SUBSCRIBE", "LIMIT_EXCEEDED", channel="chat:4*")
        player.subscribe("chat:4")
    node.player("bob").subscribe("chat:4*")
    first.unsubscribe("chat:2*")
    second.subscribe("chat:4*")
    second.refusal("CHANNEL_SUBSCRIBE", "LIMIT_EXCEEDED", channel="chat:5*")
    second.close()
    until(lambda: first.ask("CHANNEL_SUBSCRIBE", channel="chat:5*").type == "CHANNEL_SUBSCRIBED", "there is room again")


def test_32_patterns_are_the_default(node):
    player = node.player("alice")
    for number in range(32):
        player.subscribe(f"chat:{number}*")
    player.refusal("CHANNEL_SUBSCRIBE", "LIMIT_EXCEEDED", channel="chat:x*")


def test_an_anonymous_player_has_the_same_limit(redis, start):
    node = start(redis, auth={"allow_anonymous": True}, limits={"patterns_per_player": 1})
    one, other = node.connect(None), node.connect(None)
    for player in (one, other):
        player.start("CONNECT")
        player.welcome()
        player.subscribe("chat:*")
        player.refusal("CHANNEL_SUBSCRIBE", "LIMIT_EXCEEDED", channel="chat:4*")


def test_patterns_in_connect_count_too(redis, start):
    node = start(redis, limits={"patterns_per_player": 1})
    player = node.connect(None)
    subscribe = [{"channel": "chat:1*"}, {"channel": "chat:2*"}, {"channel": "chat:3"}]
    player.start("CONNECT", token=mint("alice"), subscribe=subscribe)
    names = [entry["channel"] for entry in player.welcome()["subscriptions"]]
    assert "chat:1*" in names and "chat:3" in names and "chat:2*" not in names
    assert player.expect("ERROR")["code"] == "LIMIT_EXCEEDED"


def test_expensive_patterns_are_bounded(node, redis):
    player = node.player("alice")
    costly = ["chat:*" + "[a-b]" * 45 + str(n) for n in range(32)]
    replies = [player.ask("CHANNEL_SUBSCRIBE", channel=pattern) for pattern in costly]
    refused = [reply for reply in replies if reply.type == "ERROR"]
    assert replies[0].type == "CHANNEL_SUBSCRIBED" and refused
    assert {reply["code"] for reply in refused} == {"LIMIT_EXCEEDED"}
    node.player("bob").subscribe("chat:*x")


def test_filters_of_a_classs_patterns_share_a_budget(node):
    """One pattern's filters may cost so much; the same filters on other patterns of the class cost it no less."""
    walk = " || ".join(f"size(data.t{n}) == {{at}}" for n in range(30))
    accepted = 0
    for at in range(1_000):
        if at % 8 == 0:  # fewer than one player's share of the budget
            player = node.player(f"p{at}")
        reply = player.ask("CHANNEL_SUBSCRIBE", channel=f"chat:{'?' * (at % 7)}{at}*", filter=walk.format(at=at))
        if reply.type == "ERROR":
            assert reply["code"] == "LIMIT_EXCEEDED"
            break
        accepted += 1
    assert 10 < accepted < 999
    player.subscribe("team:*", filter=walk.format(at=1))


# configuration


@pytest.mark.parametrize("name", ["*", "{kind}", "{kind}:{id}"])
def test_a_class_without_a_beginning_has_no_patterns(redis, start, name):
    node = start(redis, wait_ready_line=False, channel=[{"name": name, "subscribe": "true", "patterns": True}])
    until(lambda: not node.process.running, "the node ends")
    until(lambda: "channel.patterns" in node.process.output, "the node says what is wrong")
    assert "fixed beginning" in node.process.output


# access


@pytest.mark.one_server("it expects one order over all channels")
def test_access_is_right_over_more_channels_than_are_remembered(node, redis):
    mine = [str(n) for n in range(0, 3_000, 3)]
    player = node.player("alice", rooms=mine)
    player.subscribe("room:*")
    player.subscribe("room:?*")
    for end in ("first", "second"):
        pipeline = redis.client.pipeline(transaction=False)
        for n in range(3_000):
            pipeline.publish(f"room:{n}", '{"event":"n","data":%d}' % n)
        pipeline.execute()
        redis.publish("room:0", '{"event":"%s"}' % end)
        assert numbers(player, end) == [int(n) for n in mine]


def test_a_new_token_changes_what_comes_through_patterns(node, redis):
    player = node.player("alice", rooms=["1"])
    player.subscribe("room:*")
    for rooms, seen in ((["1"], [1]), (["2"], [2]), (["1", "2"], [1, 2])):
        player.ask("TOKEN_REFRESH", token=mint("alice", rooms=rooms))
        for n in (1, 2):
            redis.publish(f"room:{n}", '{"event":"n","data":%d}' % n)
        end = f"end-{len(rooms)}-{rooms[0]}"
        redis.publish(f"room:{rooms[-1]}", '{"event":"%s"}' % end)
        assert numbers(player, end) == seen
