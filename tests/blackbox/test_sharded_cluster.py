"""Sharded classes in a Redis Cluster: each master carries its own channels, and what is subscribed follows the slots through
failover, migration and new masters, with every gap signalled and nothing delivered twice."""

import json
import threading

import pytest
from redis.crc import key_slot

from harness.redis_cluster import FAILOVER
from harness.wait import until

OPEN = {"subscribe": "true", "publish": "true", "sharded": True}
CLASSES = [
    {"name": "arena:{x}", **OPEN},
    {"name": "log:{x}", **OPEN, "history": {"events": 10000, "age": "10m"}},
    {"name": "world:{x}", **OPEN, "kind": "entity", "key": "data.id"},
    {"name": "chat:{x}", "subscribe": "true", "publish": "true", "patterns": True},
]
# As many as the clients of the comparison in the design notes lose.
ARENAS = [f"arena:{number}" for number in range(30)]


def start_node(start, cluster, **changes):
    return start(cluster, channel=CLASSES, **changes)


def spublish(cluster, channel, data, event="hit"):
    """As a service does that follows slots; returns how many connections of the master it reached."""
    payload = json.dumps({"event": event, "data": data})
    return cluster.owner(channel).client.execute_command("SPUBLISH", channel, payload)


def subscribed(cluster, channels):
    """How many of these channels have exactly one subscription, on their own master."""
    counts = {}
    for server in cluster.servers:
        if server.process.running:
            said = server.client.execute_command("PUBSUB", "SHARDNUMSUB", *channels)
            for name, count in zip(said[::2], said[1::2]):
                counts[name.decode()] = counts.get(name.decode(), 0) + count
    return sum(counts.get(channel) == 1 for channel in channels)


def channels_on(server):
    """The sharded channels of players on this server: without the nodes' own."""
    names = (name.decode() for name in server.client.execute_command("PUBSUB", "SHARDCHANNELS"))
    return sorted(name for name in names if not name.startswith("drawbridge:"))


def all_back(cluster, channels, within=FAILOVER):
    until(lambda: subscribed(cluster, channels) == len(channels), "every channel is subscribed once", within)


def all_arrive(cluster, player, channels, data):
    """What is published now arrives on each of the channels."""
    for channel in channels:
        until(lambda: spublish(cluster, channel, data) > 0, f"{channel} is subscribed", FAILOVER)
    for channel in channels:
        assert player.expect("EVENT", channel=channel, where=lambda m: m["data"] == data, timeout=FAILOVER)


def slots_of(cluster, server, channels):
    return [channel for channel in channels if cluster.owner(channel) is server]


def resynced(player, channels, timeout=FAILOVER):
    for channel in channels:
        player.expect("RESYNC", channel=channel, timeout=timeout)


def no_resync(player, channels):
    player.sync()
    told = [m["channel"] for m in player.received if m.type == "RESYNC" and m["channel"] in channels]
    assert told == []


@pytest.fixture
def arenas(own_cluster, start):
    """A node on a Cluster with replicas, and a player who is subscribed to thirty sharded channels."""
    node = start_node(start, own_cluster)
    alice = node.player("alice")
    for channel in ARENAS:
        alice.subscribe(channel)
    assert subscribed(own_cluster, ARENAS) == len(ARENAS)
    return node, alice


def test_each_master_carries_its_own_channels(cluster, start):
    first, second = start_node(start, cluster, node="n1"), start_node(start, cluster, node="n2")
    alice, bob = first.player("alice"), second.player("bob")
    for channel in ARENAS:
        alice.subscribe(channel)
    numbers = [len(channels_on(server)) for server in cluster.masters]
    assert all(numbers) and sum(numbers) == len(ARENAS)
    for number, channel in enumerate(ARENAS):
        bob.publish(channel, "player", number)
        assert spublish(cluster, channel, number) == 1
        assert second.publish(channel, "http", number).status == 200
    for number, channel in enumerate(ARENAS):
        for event in ("player", "hit", "http"):
            assert alice.event(channel, event)["data"] == number
    alice.close()
    until(lambda: subscribed(cluster, ARENAS) == 0, "nothing is left")


def test_tables_logs_and_functions_publish_sharded(cluster, start):
    node = start_node(start, cluster)
    alice = node.player("alice")
    for number in range(6):
        log, world = f"log:{number}", f"world:{number}"
        alice.subscribe(log)
        alice.subscribe(world)
        node.publish(log, "hit", 1)
        cluster.owner(log).client.fcall("drawbridge_publish", 1, log, '{"event":"hit","data":2}')
        node.publish(world, "move", {"id": "a"})
        cluster.owner(world).client.fcall("drawbridge_publish", 1, world, '{"event":"move","data":{"id":"b"}}')
        assert [alice.event(log)["offset"] for _ in range(2)] == [1, 2]
        alice.sees(world, {"a", "b"})


def test_a_view_that_a_service_sets_applies_to_what_is_published_after_it(cluster, start):
    first, second = start_node(start, cluster, node="n1"), start_node(start, cluster, node="n2")
    alice = second.player("alice")
    for number, channel in enumerate(ARENAS[:9]):
        alice.subscribe(channel)
        view = {"channel": channel, "view": "data > 1"}
        assert first.admin("POST", "/api/players/alice/view", view).status == 200
        for data in (1, 2):
            assert spublish(cluster, channel, data) == 1
        assert alice.event(channel)["data"] == 2


def test_a_killed_master_costs_its_own_channels_a_gap_and_no_others(own_cluster, arenas):
    _, alice = arenas
    victim = own_cluster.masters[0]
    hit = slots_of(own_cluster, victim, ARENAS)
    spared = [channel for channel in ARENAS if channel not in hit]
    assert hit and spared
    victim.kill()
    for channel in spared:
        assert spublish(own_cluster, channel, "meanwhile") == 1
        assert alice.event(channel)["data"] == "meanwhile"
    all_back(own_cluster, ARENAS)
    all_arrive(own_cluster, alice, ARENAS, "after")
    resynced(alice, hit)
    no_resync(alice, spared)


def test_a_stopped_master_is_left_for_the_promoted_one_and_comes_back_as_its_replica(own_cluster, arenas):
    node, alice = arenas
    victim = own_cluster.masters[1]
    hit = slots_of(own_cluster, victim, ARENAS)
    others = [server for server in own_cluster.servers if server is not victim]
    victim.pause()

    def back():
        counts = {}
        for server in others:
            said = server.client.execute_command("PUBSUB", "SHARDNUMSUB", *hit)
            for name, count in zip(said[::2], said[1::2]):
                counts[name] = counts.get(name, 0) + count
        return all(count == 1 for count in counts.values())

    until(back, "what it had is subscribed on the promoted one", FAILOVER)
    resynced(alice, hit)
    victim.resume()
    until(lambda: victim.client.execute_command("ROLE")[0] == b"slave", "it is a replica now", FAILOVER)
    all_back(own_cluster, ARENAS)
    all_arrive(own_cluster, alice, ARENAS, "after")
    no_resync(alice, [channel for channel in ARENAS if channel not in hit])
    up = {name: value for name, value in node.metrics().items() if name.startswith("drawbridge_redis_link_up{")}
    assert [value for name, value in up.items() if "master=" in name] == [1, 1, 1], up


def test_a_failover_by_hand_brings_every_channel_back(own_cluster, arenas):
    _, alice = arenas
    for replica, master in zip(own_cluster.replicas, own_cluster.masters):
        replica.cluster("FAILOVER")
        until(lambda: replica.client.execute_command("ROLE")[0] == b"master", "it is promoted", FAILOVER)
        all_back(own_cluster, ARENAS)
    all_arrive(own_cluster, alice, ARENAS, "after")
    resynced(alice, ARENAS)


def test_slots_that_migrate_there_and_back_take_their_channels_along(own_cluster, arenas):
    _, alice = arenas
    moving = ARENAS[:6]
    homes = {channel: own_cluster.owner(channel) for channel in moving}
    for round in range(2):
        for channel in moving:
            target = next(server for server in own_cluster.masters if server is not own_cluster.owner(channel))
            own_cluster.migrate(key_slot(channel.encode()), homes[channel] if round else target)
        all_back(own_cluster, ARENAS)
        all_arrive(own_cluster, alice, ARENAS, f"round {round}")
        resynced(alice, moving)
    no_resync(alice, ARENAS[6:])


def test_a_new_master_gets_a_link_when_it_gets_slots(own_cluster, arenas):
    node, alice = arenas
    added = own_cluster.add_master()
    for channel in ARENAS[:4]:
        own_cluster.migrate(key_slot(channel.encode()), added)
    all_back(own_cluster, ARENAS)
    assert channels_on(added) == sorted(ARENAS[:4])
    all_arrive(own_cluster, alice, ARENAS, "added")
    no_resync(alice, ARENAS[4:])


def test_a_log_misses_nothing_and_doubles_nothing_while_its_slot_migrates(own_cluster, start):
    node = start_node(start, own_cluster)
    alice = node.player("alice")
    channel = "log:1"
    alice.subscribe(channel)
    slot = key_slot(channel.encode())
    done, offsets = threading.Event(), []

    def publish():
        number = 0
        while not done.is_set():
            answer = node.publish(channel, "hit", number)
            if answer.status == 200:
                offsets.append(answer.json["offset"])
            number += 1

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        home = own_cluster.owner(channel)
        other = next(server for server in own_cluster.masters if server is not home)
        for target in (other, home, other, home):
            count = len(offsets)
            until(lambda: len(offsets) > count + 20, "events flow", FAILOVER)
            own_cluster.migrate(slot, target)
    finally:
        done.set()
        publisher.join()
    last = node.publish(channel, "end", 0).json["offset"]
    assert offsets == sorted(set(offsets)) and len(offsets) > 80
    seen = []
    while not seen or seen[-1] != last:
        message = alice.expect(where=lambda m: m["type"] in ("EVENT", "RESYNC"), channel=channel, timeout=FAILOVER)
        assert message.type == "EVENT", message
        seen.append(message["offset"])
    assert seen == list(range(1, last + 1))


def test_restarted_nodes_find_their_masters(own_cluster, start):
    own_cluster.migrate(key_slot(b"arena:0"), own_cluster.masters[1])
    node = start_node(start, own_cluster)
    alice = node.player("alice")
    for channel in ARENAS:
        alice.subscribe(channel)
    all_arrive(own_cluster, alice, ARENAS, "first")


def test_many_subscriptions_are_back_in_batches(own_cluster, start):
    node = start_node(start, own_cluster, limits={"subscriptions": 4000, "subscribes": {"per_second": 10000, "burst": 10000}})
    alice = node.player("alice")
    channels = [f"arena:{number}" for number in range(3000)]
    for channel in channels:
        alice.start("CHANNEL_SUBSCRIBE", channel=channel)
    all_back(own_cluster, channels)
    own_cluster.masters[2].kill()
    all_back(own_cluster, channels)
