"""Delivery probes of sharded channels: a master's link to which nothing is published any more is noticed by that alone, and only
that link connects again."""

import functools

import pytest
from redis.crc import key_slot

from harness.redis_cluster import FAILOVER, ClusterServer, ProxiedServer, RedisCluster
from harness.wait import until
from test_cluster import by_master, flat
from test_sharded_cluster import CLASSES, spublish

PARTIAL = ("--cluster-require-full-coverage", "no")
MASTERS = 3


@pytest.fixture
def proxied():
    """Three masters, each of which nodes reach through its proxy."""
    cluster = RedisCluster(masters=MASTERS, make=functools.partial(ProxiedServer, *PARTIAL))
    yield cluster
    cluster.close()


def start_node(start, cluster):
    return start(cluster, channel=CLASSES, broker={"probe": "100ms", "subscriber_pool": 1})


def probe_channels(server):
    """The channels of sharded probes that are subscribed to on this master."""
    names = server.client.execute_command("PUBSUB", "SHARDCHANNELS", "drawbridge:sharded-probe:*")
    return [name.decode() for name in names]


def link_of(node, server):
    """The number of the link to this master."""
    named = f'master="{server.name}"'
    found = next(name for name in node.metrics() if name.startswith("drawbridge_redis_link_up{") and named in name)
    return found.split('link="')[1].split('"')[0]


def arrived(node, server):
    return node.metrics().get(f'drawbridge_redis_probe_seconds_count{{link="{link_of(node, server)}"}}', 0)


def missing(node, server):
    return node.metrics().get(f'drawbridge_redis_probes_missing_total{{link="{link_of(node, server)}"}}', 0)


def test_each_masters_link_is_probed_on_a_channel_of_its_own_slots(cluster, start):
    node = start_node(start, cluster)
    for server in cluster.masters:
        until(lambda: arrived(node, server) >= 5, f"probes of {server.name} arrive", FAILOVER)
        (channel,) = probe_channels(server)
        assert cluster.owner(channel) is server
        assert missing(node, server) == 0


def test_probes_leave_a_slot_that_leaves_their_master(own_cluster, start):
    node = start_node(start, own_cluster)
    source, target = own_cluster.masters[:2]
    (channel,) = until(lambda: probe_channels(source), "a probe is subscribed", FAILOVER)
    own_cluster.migrate(key_slot(channel.encode()), target)
    until(lambda: probe_channels(source) not in ([], [channel]), "it is on another channel", FAILOVER)
    (now,) = probe_channels(source)
    assert own_cluster.owner(now) is source
    count = arrived(node, source)
    until(lambda: arrived(node, source) >= count + 5, "its probes arrive", FAILOVER)
    assert "cut off" not in node.log and node.get("/readyz").status == 200


def test_a_link_that_is_left_on_a_former_master_finds_the_new_one_and_no_other_link_moves(proxied, start):
    node = start_node(start, proxied)
    alice = node.player("alice")
    arenas = by_master(proxied, "arena")
    for channel in flat(arenas):
        alice.subscribe(channel)
    # One that neither has the classic link nor the slot of its probe.
    home, probe = until(lambda: classic_probe(proxied), "the classic link is probed", FAILOVER)
    former = next(server for server in proxied.masters if server not in (home, proxied.owner(probe)))
    others = [server for server in proxied.masters if server is not former]
    until(lambda: arrived(node, former) >= 2, "its probes arrive", FAILOVER)
    before = {server: server.node_clients() for server in proxied.masters}
    new = ClusterServer(*PARTIAL, announced=former.announced)
    try:
        at = proxied.masters.index(former)
        new.cluster("ADDSLOTSRANGE", at * 16384 // MASTERS, (at + 1) * 16384 // MASTERS - 1)
        until(lambda: new.info()["cluster_state"] == "ok", "the other server has the slots", FAILOVER)
        # The address leads to another server. What commands used is closed; the link is not, and is answered as before.
        former.proxy.target = new.port
        former.cut_clients("normal")
        until(lambda: new.node_clients(), "the link is on the new one", FAILOVER)
        assert node.get("/readyz").status == 200, "the node serves, whatever one master does"
        for channel in arenas[former.port]:
            alice.expect("RESYNC", channel=channel, timeout=FAILOVER)
            until(lambda: new.client.execute_command("SPUBLISH", channel, '{"event":"here"}') == 1, "it is subscribed", FAILOVER)
            assert alice.event(channel, "here")
        alice.expect("STATUS", broker="ok", timeout=FAILOVER)
        assert not before[former] & former.node_clients(), "nobody is left"
        for server in others:
            assert before[server] <= server.node_clients(), "no other link has moved"
            for channel in arenas[server.port]:
                assert spublish(proxied, channel, "still") == 1
                assert alice.event(channel)["data"] == "still"
        cut_off = [line for line in node.log.splitlines() if "cut off: 3 delivery probes in a row were published" in line]
        assert len(cut_off) == 1 and "WARN" in cut_off[0] and former.name in cut_off[0], cut_off
        told = {m["channel"] for m in alice.received if m.type == "RESYNC"}
        assert told == set(arenas[former.port])
    finally:
        new.close()


def classic_probe(cluster):
    """The master with the classic link, and the channel of its probe."""
    for server in cluster.masters:
        for name in server.client.pubsub_channels("drawbridge:probe:*"):
            return server, name.decode()
    return None
