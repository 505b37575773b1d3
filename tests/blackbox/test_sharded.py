"""`sharded = true` on a standalone Redis: SSUBSCRIBE and SPUBLISH on every way in and out, and nothing else."""

import json

import pytest

from harness.node import run, write_config
from harness.wait import until
from test_sessions_elsewhere import KEPT, listed, position, returns

OPEN = {"subscribe": "true", "publish": "true", "sharded": True}
CLASSES = [
    {"name": "arena:{x}", **OPEN},
    {"name": "world:{x}", **OPEN, "kind": "entity", "key": "data.id"},
    {"name": "log:{x}", **OPEN, "history": {"events": 100, "age": "10m"}},
    {"name": "open:hot:{x}", **OPEN},
    {"name": "open:*", "subscribe": "true", "publish": "true", "patterns": True},
    {"name": "here:{x}", **OPEN, "presence": "notify"},
]


@pytest.fixture
def node(redis, start):
    return start(redis, channel=CLASSES)


def message(event, data=None):
    return json.dumps({"event": event, "data": data})


def spublish(redis, channel, event, data=None):
    return redis.client.execute_command("SPUBLISH", channel, message(event, data))


def fcall(redis, channel, event, data=None):
    return redis.client.fcall("drawbridge_publish", 1, channel, message(event, data))


@pytest.fixture
def service(redis):
    """Another client of Redis that is subscribed by SSUBSCRIBE: `service(channel)` returns a function that reads one message."""
    opened = []

    def subscribe(channel):
        pubsub = redis.client.pubsub()
        opened.append(pubsub)
        pubsub.execute_command("SSUBSCRIBE", channel)
        assert read(pubsub)[0] == b"ssubscribe"
        return lambda: json.loads(read(pubsub)[2])

    def read(pubsub):
        return until(lambda: pubsub.parse_response(block=False, timeout=0.1), "a message")

    yield subscribe
    for pubsub in opened:
        pubsub.close()


def test_a_services_spublish_arrives_and_its_publish_does_not(node, redis):
    alice = node.player("alice")
    alice.subscribe("arena:1")
    redis.publish("arena:1", message("classic"))
    assert spublish(redis, "arena:1", "first", 1) == 1
    assert redis.sharded_channels() == {"arena:1"}
    assert redis.subscribers("arena:1") == {"arena:1": 0}
    assert alice.event("arena:1")["event"] == "first"


@pytest.mark.parametrize("way", ["player", "http", "fcall"])
def test_what_is_published_reaches_players_of_all_nodes_and_other_clients(redis, start, service, way):
    first, second = start(redis, channel=CLASSES), start(redis, channel=CLASSES)
    hears = service("arena:1")
    alice, bob = first.player("alice"), second.player("bob")
    for player in (alice, bob):
        player.subscribe("arena:1")
    for number in range(20):
        if way == "player":
            alice.publish("arena:1", "hit", number)
        elif way == "http":
            assert first.publish("arena:1", "hit", number).status == 200
        else:
            assert fcall(redis, "arena:1", "hit", number) == 0
    for player in (alice, bob):
        assert [player.event("arena:1")["data"] for _ in range(20)] == list(range(20))
    assert [hears()["data"] for _ in range(20)] == list(range(20))


@pytest.mark.parametrize("way", ["player", "http", "fcall"])
def test_entities_of_a_sharded_class(node, redis, service, way):
    hears = service("world:1")
    alice, author = node.player("alice"), node.player("bob")
    alice.subscribe("world:1")
    alice.sees("world:1", [])
    ways = {
        "player": lambda data: author.publish("world:1", "move", data),
        "http": lambda data: node.publish("world:1", "move", data),
        "fcall": lambda data: fcall(redis, "world:1", "move", data),
    }
    for number in range(3):
        ways[way]({"id": f"e{number}", "n": number})
    assert set(alice.sees("world:1", ["e0", "e1", "e2"])) == {"e0", "e1", "e2"}
    assert [hears()["data"]["n"] for _ in range(3)] == [0, 1, 2]
    late = node.player("carol")
    late.subscribe("world:1")
    late.sees("world:1", ["e0", "e1", "e2"])


@pytest.mark.parametrize("way", ["player", "http", "fcall"])
def test_history_of_a_sharded_class(node, redis, way):
    alice, author = node.player("alice"), node.player("bob")
    alice.subscribe("log:1")
    for number in range(5):
        if way == "player":
            assert author.publish("log:1", "hit", number)["offset"] == number + 1
        elif way == "http":
            assert node.publish("log:1", "hit", number).json["offset"] == number + 1
        else:
            assert fcall(redis, "log:1", "hit", number) == number + 1
    assert [alice.event("log:1")["offset"] for _ in range(5)] == [1, 2, 3, 4, 5]
    page = alice.ask("HISTORY_GET", channel="log:1")
    assert [event["data"] for event in page["events"]] == list(range(5))


def test_a_session_resumes_on_another_node_with_what_it_missed(redis, start):
    first, second = (start(redis, node=f"n{at}", channel=CLASSES, connection=KEPT) for at in (1, 2))
    player = first.player("alice")
    session = player.hello["session"]
    player.subscribe("arena:1")
    start_of_log = position(player.subscribe("log:1"))
    player.vanish()
    for number in range(4):
        second.publish("log:1", "hit", number)
    player, welcome = returns(second, session, {"log:1": start_of_log})
    assert set(listed(welcome)) >= {"log:1", "arena:1"}
    assert [player.event("log:1")["data"] for _ in range(4)] == [0, 1, 2, 3]
    spublish(redis, "arena:1", "live")
    assert player.event("arena:1")["event"] == "live"


def test_clients_have_no_patterns_there_and_patterns_of_others_show_nothing_of_it(node, redis):
    alice, bob = node.player("alice"), node.player("bob")
    alice.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="arena:*")
    alice.subscribe("open:*")
    bob.subscribe("open:hot:1")
    redis.publish("open:hot:1", message("classic"))
    spublish(redis, "open:hot:1", "sharded")
    assert bob.event("open:hot:1")["event"] == "sharded"
    redis.publish("open:1", message("end"))
    assert alice.events_until("end") == []


def test_the_last_subscriber_ends_the_subscription(node, redis):
    alice = node.player("alice")
    for channel in ("arena:1", "log:1", "world:1"):
        alice.subscribe(channel)
    assert redis.sharded_channels() == {"arena:1", "log:1", "world:1"}
    alice.close()
    until(lambda: not redis.sharded_channels(), "nothing is subscribed")


def test_presence_of_a_sharded_class_is_notified(node):
    alice = node.player("alice")
    alice.subscribe("here:1")
    bob = node.player("bob")
    bob.subscribe("here:1")
    until(lambda: "bob" in str(alice.expect("PRESENCE_CHANGED")), "bob has joined")


def test_a_lost_link_is_restored_and_signalled(own_redis, start):
    node = start(own_redis, channel=CLASSES)
    alice = node.player("alice")
    alice.subscribe("arena:1")
    alice.subscribe("log:1")
    own_redis.cut_clients("pubsub")
    fcall(own_redis, "log:1", "hit", 1)
    assert alice.expect("RESYNC", channel="arena:1")
    assert alice.event("log:1")["data"] == 1
    until(lambda: spublish(own_redis, "arena:1", "back") == 1, "it is subscribed again")
    assert alice.event("arena:1")["event"] == "back"


def test_check_config_refuses_patterns_of_a_sharded_class(redis, tmp_path):
    config = {"channel": [{"name": "room:{x}", "sharded": True, "patterns": True}]}
    done = run("check-config", write_config(config, tmp_path))
    assert done.returncode == 1
    assert "`sharded = true`: Redis has no patterns of sharded channels" in done.stderr
