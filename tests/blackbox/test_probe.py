"""Delivery probes: a link that answers pings, and to which nothing is published any more, is noticed by that alone. The links
are left on a former master, as after a DNS name has moved: a proxy is the name."""

import pytest

from harness.redis_server import RedisServer
from harness.wait import until

PROBE_EVERY = "100ms"
MISSING = 'drawbridge_redis_probes_missing_total{link="%d"}'
ARRIVED = 'drawbridge_redis_probe_seconds_count{link="%d"}'


@pytest.fixture
def masters():
    """The former master, and the one that the name leads to afterwards."""
    servers = [RedisServer(), RedisServer()]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def moved(masters, proxy, start):
    """Starts a node by a name that leads to the first Redis."""

    def start_node(**broker):
        name = proxy(masters[0].port)
        node = start(f"redis://127.0.0.1:{name.port}", broker={"probe": PROBE_EVERY, **broker})
        until(lambda: node.get("/readyz").status == 200, "ready")
        return node, name

    return start_node


def move(name, masters):
    """From now on the name leads to the second Redis. What was connected to the first by commands notices; subscribers do
    not, and the first answers them as before."""
    name.target = masters[1].port
    masters[0].cut_clients("normal")


def test_links_that_are_left_on_a_former_master_find_the_new_one(masters, moved):
    node, name = moved()
    alice = node.player("alice")
    channels = [f"chat:{number}" for number in range(8)]  # of both links
    for channel in channels:
        alice.subscribe(channel)
    before = masters[0].node_clients()
    move(name, masters)
    until(lambda: len(masters[1].node_clients()) == 2, "both links are on the new master", timeout=30)
    for channel in channels:
        alice.expect("RESYNC", channel=channel, reason="broker")
        masters[1].publish(channel, '{"event":"here"}')
        alice.event(channel, "here")
    assert not before & masters[0].node_clients(), "nobody is left"
    until(lambda: node.get("/readyz").status == 200, "ready again")
    for link in range(2):
        assert node.metrics()[MISSING % link] == 3
    cut_off = [line for line in node.log.splitlines() if "cut off: 3 delivery probes in a row were published" in line]
    assert len(cut_off) == 2 and all("WARN" in line and f"127.0.0.1:{name.port}" in line for line in cut_off)


def test_a_node_is_not_ready_until_a_probe_arrives(masters, moved):
    # Slow probes, so that the name leads back before three are missing.
    node, name = moved(subscriber_pool=1, probe="1s")
    alice = node.player("alice")
    alice.subscribe("chat:1")
    move(name, masters)
    names = lambda: [client["name"] for client in masters[1].client.client_list()]
    until(lambda: "drawbridge:n1:publisher" in names(), "the publisher is on the new master")
    # To the link's next attempt the name leads where it led before.
    name.target = masters[0].port
    until(lambda: node.get("/readyz").status == 503, "not ready, though ready_grace is 30 s")
    missing = node.metrics()[MISSING % 0]
    until(lambda: node.metrics()[MISSING % 0] >= missing + 6, "it is connected to the old one again, and again", timeout=30)
    unready = node.get("/readyz")
    assert unready.status == 503 and b"does not arrive" in unready.body, unready.body
    name.target = masters[1].port
    until(lambda: node.get("/readyz").status == 200, "ready", timeout=30)
    alice.publish("chat:1", "hello")
    alice.event("chat:1", "hello")


def test_probes_arrive_and_are_measured_and_players_see_none(redis, start):
    node = start(redis, broker={"probe": "20ms"}, channel=[{"name": "d*", "subscribe": "true", "patterns": True}])
    alice = node.player("alice")
    alice.subscribe("d*")
    until(lambda: all(node.metrics()[ARRIVED % link] >= 10 for link in range(2)), "ten on each link")
    assert all(node.metrics()[MISSING % link] == 0 for link in range(2))
    redis.publish("dawn:1", '{"event":"end"}')
    assert alice.events_until("end") == []
    assert node.dropped() == 0


def test_a_user_without_rights_to_the_channel_is_served_without_probes(own_redis, start):
    rights = ["+@all", "allkeys", "resetchannels", "&chat:*", "&drawbridge:nodes:*", "&player:*"]
    own_redis.client.execute_command("ACL", "SETUSER", "bridge", "on", ">pw", *rights)
    node = start(own_redis, broker={"probe": PROBE_EVERY, "username": "bridge", "password": "pw"})
    until(lambda: "delivery probes are refused" in node.log, "it says so")
    until(lambda: node.get("/readyz").status == 200, "ready")
    alice = node.player("alice")
    alice.subscribe("chat:1")
    alice.publish("chat:1", "hello")
    alice.event("chat:1", "hello")
    assert node.log.count("delivery probes are refused") == 2, "once a link"


def test_without_probes_there_are_none(redis, start):
    node = start(redis, broker={"probe": "0s"})
    until(lambda: node.get("/readyz").status == 200, "ready")
    assert not any("probe" in name for name in node.metrics())
    assert not any(b"probe" in name for name in redis.client.pubsub_channels())
