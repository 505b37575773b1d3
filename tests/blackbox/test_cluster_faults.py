"""A Redis Cluster of which a node sees only a part, or that is being changed: masters that are away for good, that are removed or
cut off from one node, and slots that take long to move."""

import functools
import re

import pytest
from redis.crc import key_slot

from harness.redis_cluster import FAILOVER, ClusterServer, ProxiedServer, RedisCluster
from harness.wait import until
from test_cluster import CLASSES, by_master, flat, published

OPEN = {"subscribe": "true", "publish": "true"}
MORE = CLASSES + [
    {"name": "arena:{x}", **OPEN, "sharded": True},
    {"name": "now:{x}", **OPEN, "when_broker_down": "reject"},
    {"name": "nowlog:{x}", **OPEN, "when_broker_down": "reject", "history": {"events": 100, "age": "10m"}},
]
# Without it a Cluster that lacks a master refuses all keys.
PARTIAL = ("--cluster-require-full-coverage", "no")


def partial(kind=ClusterServer):
    """Starts such a server."""
    return functools.partial(kind, *PARTIAL)


def player_of(cluster, server):
    """A player whose views and sessions are with this master."""
    names = (f"player{number}" for number in range(1000))
    return next(name for name in names if cluster.owner(f"{{player:{name}}}", cluster.masters[:1]) is server)


def with_links(node, servers):
    """The one of these servers that has the node's classic links."""
    def has(server):
        names = [client["name"] for client in server.client.client_list()]
        return all(f"drawbridge:{node.config['node']}:link{link}" in names for link in range(2))

    return until(lambda: next(filter(has, servers), None), "one of them has the links", FAILOVER)


def is_ready_without(node, *away):
    """Whether the node is ready, and says to operators that one of these servers is not there; nobody else reads an address."""
    answer, said = node.admin("GET", "/readyz"), node.get("/readyz")
    assert not re.search(rb"127\.0\.0\.1|localhost|:\d", said.body), said.body
    return answer.status == said.status == 200 and any(server.name in answer.body.decode() for server in away)


def arrives(node, player, channel, data):
    """A publish of a service on this channel is taken and arrives; one that finds no link there is published again."""
    sent = []

    def done():
        sent.append(f"{data} {len(sent)}")
        if node.publish(channel, "on", sent[-1]).status != 200:
            return False
        player.sync()
        return any(m.type == "EVENT" and m["channel"] == channel and m["data"] in sent for m in player.received)

    until(done, f"what is published on {channel} arrives", FAILOVER, pause=0.1)


@pytest.fixture
def clusters(request):
    """Starts Clusters of the test's own: `clusters(masters=…)`."""
    started = []

    def start_cluster(**how):
        started.append(RedisCluster(**how))
        return started[-1]

    yield start_cluster
    for cluster in started:
        cluster.close()


def test_a_node_starts_without_a_master_that_is_away_for_good(clusters, start):
    cluster = clusters(make=partial())
    victim, *healthy = cluster.masters
    chats, logs, arenas = (by_master(cluster, kind, 1) for kind in ("chat", "log", "arena"))
    nows, rooms = by_master(cluster, "now", 1), by_master(cluster, "room", 1)
    alice_name, bob_name = player_of(cluster, healthy[0]), player_of(cluster, victim)
    victim.kill()
    node = start(cluster, channel=MORE)
    until(lambda: is_ready_without(node, victim), "the node is ready without the master", FAILOVER)
    assert victim.name in node.log
    alice = node.player(alice_name)
    alice.expect("STATUS", broker="degraded")
    for server in healthy:
        for channels in (chats, logs, arenas):
            (channel,) = channels[server.port]
            alice.subscribe(channel)
            alice.publish(channel, "hit", 1)
            assert alice.event(channel, "hit")["data"] == 1
        (room,) = rooms[server.port]
        assert alice.subscribe(room)
    # Only what is with the master that is away is held up, each as its class says.
    (chat,), (log,), (now,), (arena,) = (channels[victim.port] for channels in (chats, logs, nows, arenas))
    refused = alice.refusal("PUBLISH_EVENT", "BROKER_UNAVAILABLE", channel=now, event="hit", data=1)
    assert refused["outcome"] == "not_done"
    alice.subscribe(chat)
    waits = alice.start("PUBLISH_EVENT", channel=chat, event="hit", data="waited")
    pending = [alice.start("CHANNEL_SUBSCRIBE", channel=channel) for channel in (log, arena)]
    bob = node.player(bob_name)
    # Whose views are away is shown nothing until they can be read.
    bobs = bob.start("CHANNEL_SUBSCRIBE", channel=chats[healthy[0].port][0])
    node.publish(chats[healthy[0].port][0], "hit", "others go on")
    assert alice.event(chats[healthy[0].port][0], "hit")["data"] == "others go on"
    assert is_ready_without(node, victim)
    victim.start()
    alice.expect("STATUS", broker="ok", timeout=FAILOVER)
    assert alice.reply(waits, FAILOVER).type == "EVENT_PUBLISHED"
    assert alice.event(chat, "hit", timeout=FAILOVER)["data"] == "waited"
    for request in pending:
        assert alice.reply(request, FAILOVER).type == "CHANNEL_SUBSCRIBED"
    assert bob.reply(bobs, FAILOVER).type == "CHANNEL_SUBSCRIBED"
    for channel in (log, arena):
        published(node, channel, "back")
        assert alice.event(channel, timeout=FAILOVER)["data"] == "back"
    assert node.get("/readyz").body == b"ready\n"


@pytest.mark.parametrize("how", ["away", "stall"])
def test_half_of_the_cluster_that_one_node_cannot_reach_holds_up_only_its_own_channels(clusters, start, how):
    cluster = clusters(masters=4, make=partial(ProxiedServer))
    node = start(cluster, channel=MORE, ready_grace="1s")
    kinds = ("chat", "log", "arena")
    channels = {kind: by_master(cluster, kind, 1) for kind in kinds}
    first = with_links(node, cluster.masters)
    cut = [first, next(server for server in cluster.masters if server is not first)]
    near = [server for server in cluster.masters if server not in cut]
    alice = node.player(player_of(cluster, near[0]))
    for channel in (channel for kind in kinds for channel in flat(channels[kind])):
        alice.subscribe(channel)
    for server in cut:
        getattr(server.proxy, how)()
    alice.expect("STATUS", broker="degraded", timeout=FAILOVER)
    for server in near:
        for kind in kinds:
            arrives(node, alice, channels[kind][server.port][0], "meanwhile")
    with_links(node, near)
    # Longer than `ready_grace`: it serves.
    until(lambda: is_ready_without(node, *cut), "it is ready without the half", FAILOVER)
    for server in cut:
        answer = node.publish(channels["log"][server.port][0], "hit", "lost")
        assert answer.status == 503 and answer.json["error"]["outcome"] in ("not_done", "unknown"), answer.body
        assert cluster.owner(channels["log"][server.port][0]) is server, "the Cluster itself is whole"
    assert node.get("/readyz").status == 200
    for server in cut:
        server.proxy.flow()
    alice.expect("STATUS", broker="ok", timeout=FAILOVER)
    for kind in kinds:
        for channel in flat(channels[kind]):
            arrives(node, alice, channel, "after")
    for server in near:
        (arena,) = channels["arena"][server.port]
        assert not [m for m in alice.received if m.type == "RESYNC" and m["channel"] == arena]


def test_a_master_that_is_removed_leaves_its_channels_to_others(clusters, start):
    cluster = clusters()
    node = start(cluster, channel=MORE)
    alice = node.player("alice")
    chats, logs, arenas = (by_master(cluster, kind, 2) for kind in ("chat", "log", "arena"))
    for channel in flat(chats) + flat(logs) + flat(arenas):
        alice.subscribe(channel)
    for channel in flat(logs):
        published(node, channel, "before")
    leaving = with_links(node, cluster.masters)
    stay = [server for server in cluster.masters if server is not leaving]
    moved = arenas[leaving.port]
    cluster.empty_master(leaving, stay[0])
    cluster.remove_master(leaving)
    assert with_links(node, stay)
    for channel in flat(chats) + flat(arenas):
        arrives(node, alice, channel, "after")
    for channel in flat(logs):
        published(node, channel, "after")
        until(lambda: [e["data"] for e in alice.ask("HISTORY_GET", channel=channel)["events"]] == ["before", "after"], "both are kept")
        assert [alice.event(channel, timeout=FAILOVER)["data"] for _ in range(2)] == ["before", "after"]
    for channel in moved:
        alice.expect("RESYNC", channel=channel, timeout=FAILOVER)
    until(lambda: node.get("/readyz").body == b"ready\n", "all that is left is there", FAILOVER)
    up = {name: value for name, value in node.metrics().items() if name.startswith("drawbridge_redis_link_up{")}
    assert [value for name, value in up.items() if 'master="127' in name] == [1, 1], up
    assert not any(leaving.name in name for name in up)


def test_masters_without_replicas_that_restart_one_after_the_other_are_filled_again(clusters, start):
    """They come back empty, also without the functions."""
    cluster = clusters(make=partial())
    node = start(cluster, channel=MORE)
    alice = node.player("alice")
    arenas, logs = by_master(cluster, "arena", 2), by_master(cluster, "log", 1)
    for channel in flat(arenas) + flat(logs):
        alice.subscribe(channel)
    for server in cluster.masters:
        server.kill()
        alice.expect("STATUS", broker="degraded", timeout=FAILOVER)
        server.start()
        alice.expect("STATUS", broker="ok", timeout=FAILOVER)
        for channel in arenas[server.port]:
            alice.expect("RESYNC", channel=channel, timeout=FAILOVER)
        for channel in flat(arenas) + logs[server.port]:
            arrives(node, alice, channel, f"after {server.name}")
    told = [m["channel"] for m in alice.received if m.type == "RESYNC" and m["channel"] in flat(arenas)]
    assert sorted(told) == sorted(flat(arenas)), "each was interrupted once"


# slots that take long to move


def tries_again(*servers):
    """How often these have said TRYAGAIN."""
    found = [server.client.info("errorstats").get("errorstat_TRYAGAIN", {"count": 0}) for server in servers]
    return sum(int(each["count"]) for each in found)


@pytest.fixture
def slow(own_cluster, start):
    """A node, a player, and a slot of this channel that begins to move: `slow(channel, keys)` moves so many keys at once."""
    node = start(own_cluster, channel=MORE)
    alice = node.player("alice")

    def begin(channel, keys):
        slot, source = key_slot(channel.encode()), own_cluster.owner(channel)
        target = next(server for server in own_cluster.masters if server is not source)
        own_cluster.begin_migration(slot, source, target)
        if keys:
            assert own_cluster.migrate_keys(slot, source, target, keys) == keys

        def end():
            while own_cluster.migrate_keys(slot, source, target, 1):
                pass
            own_cluster.end_migration(slot, source, target)
            return target

        return end, source, target

    return node, alice, begin


@pytest.mark.parametrize("is_new", [False, True], ids=["keys are apart", "a new channel"])
@pytest.mark.parametrize("kind", ["log", "world"])
def test_what_is_published_while_the_keys_are_apart_arrives_once_they_are_together(slow, kind, is_new):
    node, alice, begin = slow
    channel, data = f"{kind}:slow", {"id": "a", "n": 1}
    alice.subscribe(channel)
    if not is_new:
        published(node, channel, {"id": "a", "n": 0})
    end, source, target = begin(channel, keys=0 if is_new else 1)
    before = tries_again(source, target)
    waits = alice.start("PUBLISH_EVENT", channel=channel, event="hit", data=data)
    until(lambda: tries_again(source, target) >= before + 3, "it is tried again and again", FAILOVER)
    # Others of the same master are not held up for good.
    alice.sync()
    end()
    reply = alice.reply(waits, FAILOVER)
    assert reply.type == "EVENT_PUBLISHED", reply
    if kind == "world":
        until(lambda: alice.sync() and alice.sees(channel, {"a"}, FAILOVER)["a"]["n"] == 1, "the state is there", FAILOVER)
        published(node, channel, {"id": "b", "n": 2})
        alice.sees(channel, {"a", "b"}, FAILOVER)
        return
    count = 1 if is_new else 2
    assert reply["offset"] == count
    published(node, channel, "last")
    seen = [alice.event(channel, timeout=FAILOVER) for _ in range(count + 1)]
    assert [event["offset"] for event in seen] == list(range(1, count + 2)), "none twice and none missing"
    page = alice.ask("HISTORY_GET", channel=channel)
    assert [event["offset"] for event in page["events"]] == list(range(1, count + 2))
    alice.sync()
    assert not [message for message in alice.unread if message.type == "EVENT"]


def test_a_publish_that_cannot_wait_any_longer_is_not_done_and_never_comes(slow):
    """A service's request waits for some seconds, and a class with `reject` hardly."""
    node, alice, begin = slow
    for channel, publish in (
        ("log:bound", lambda channel: node.publish(channel, "hit", "late")),
        ("nowlog:bound", lambda channel: node.publish(channel, "hit", "late")),
    ):
        alice.subscribe(channel)
        published(node, channel, "first")
        end, source, target = begin(channel, keys=1)
        answer = publish(channel)
        assert answer.status == 503 and answer.json["error"]["outcome"] == "not_done", answer.body
        end()
        published(node, channel, "last")
        assert [alice.event(channel, timeout=FAILOVER)["data"] for _ in range(2)] == ["first", "last"]
        assert [event["data"] for event in alice.ask("HISTORY_GET", channel=channel)["events"]] == ["first", "last"]


def test_a_slow_migration_holds_up_no_other_channel_of_its_master(slow, own_cluster):
    node, alice, begin = slow
    logs = by_master(own_cluster, "log", 6)
    moving, *others = logs[own_cluster.masters[0].port]
    for channel in (moving, *others):
        alice.subscribe(channel)
        published(node, channel, 0)
    end, source, target = begin(moving, keys=1)
    assert own_cluster.owner(others[0]) is source
    waits = [alice.start("PUBLISH_EVENT", channel=moving, event="hit", data=n) for n in range(1, 4)]
    before = tries_again(source, target)
    until(lambda: tries_again(source, target) > before, "the first is tried again", FAILOVER)
    for n in range(1, 21):
        for channel in others:
            alice.publish(channel, "hit", n)
    end()
    assert [alice.reply(wait, FAILOVER)["offset"] for wait in waits] == [2, 3, 4]
    for channel in others:
        assert [alice.event(channel, timeout=FAILOVER)["data"] for _ in range(21)] == list(range(21))
    assert [alice.event(moving, timeout=FAILOVER)["data"] for _ in range(4)] == [0, 1, 2, 3]


def test_a_cluster_with_tls_and_a_password(clusters, start, certificates):
    cluster = clusters(replicas=1, make=functools.partial(ClusterServer, tls=certificates, password="of-redis"))
    broker = {"password": "of-redis", "tls_ca_file": str(certificates.ca)}
    node = start(cluster, channel=MORE, broker=broker)
    alice = node.player("alice")
    channels = flat(by_master(cluster, "log", 1)) + flat(by_master(cluster, "arena", 1)) + flat(by_master(cluster, "chat", 1))
    for channel in channels:
        alice.subscribe(channel)
        alice.publish(channel, "hit", 1)
        assert alice.event(channel)["data"] == 1
    assert node.get("/readyz").body == b"ready\n", "the ports without TLS are no further masters"
    cluster.wait_for_replicas()
    cluster.masters[0].kill()
    alice.expect("STATUS", broker="degraded", timeout=FAILOVER)
    alice.expect("STATUS", broker="ok", timeout=FAILOVER)
    for channel in channels:
        arrives(node, alice, channel, "after")
    assert "of-redis" not in node.log
