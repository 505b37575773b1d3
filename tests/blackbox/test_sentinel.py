"""Redis behind Sentinel: the start, failovers, former masters that come back, passwords and TLS, and clear errors."""

import json
import threading

import pytest
import redis
from harness import ports
from harness.sentinels import INSIDE, SERVICE, Sentinel, SentinelService
from harness.tokens import mint
from harness.wait import until

CLASSES = [
    {"name": "log:{x}", "subscribe": "true", "publish": "true", "history": {"events": 200, "age": "10m"}},
    {"name": "chat:{x}", "subscribe": "true", "publish": "true", "patterns": True},
    {"name": "world:{x}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"},
]
LOG = "drawbridge:{log:1}:log"


@pytest.fixture
def service():
    """A service of the test's own."""
    service = SentinelService()
    yield service
    service.close()


def status(expected, *players):
    for player in players:
        player.expect("STATUS", timeout=30, broker=expected)


def connections_of_nodes(server):
    return [client for client in server.client.client_list() if client["name"].startswith("drawbridge:")]


def resyncs(player, channel):
    return [message for message in player.received if message.type == "RESYNC" and message["channel"] == channel]


def test_a_node_starts_with_one_sentinel_of_two_and_learns_the_others(service, start):
    node = start(service.url_of([ports.free(), service.sentinels[1].port]), channel=CLASSES)
    assert node.get("/readyz").status == 200
    alice, bob = node.player("alice"), node.player("bob")
    for player in (alice, bob):
        for channel in ("chat:1", "chat:*", "log:1", "world:1"):
            player.subscribe(channel)
    alice.publish("chat:1", "said", 1)
    assert alice.publish("log:1", "kept", 2)["offset"] == 1
    alice.publish("world:1", "moved", {"id": "a"})
    for player in (alice, bob):
        assert player.event("chat:1", "said")["data"] == 1
        assert player.event("log:1", "kept")["offset"] == 1
        player.sees("world:1", {"a"})
    until(lambda: node.metric("drawbridge_redis_sentinels") == 3, "all three sentinels are followed")
    # Two sentinels go: the master is known, and nobody notices.
    service.sentinels[0].process.kill()
    service.sentinels[1].process.kill()
    until(lambda: node.metric("drawbridge_redis_sentinels") == 1, "one is left")
    alice.publish("chat:1", "still", 3)
    bob.event("chat:1", "still")
    assert not [message for message in bob.received if message.type in ("STATUS", "RESYNC")]


@pytest.mark.parametrize("how", ["kill", "pause"])
def test_players_stay_through_a_failover_and_nothing_goes_to_the_old_master(service, start, how):
    node = start(service.url, channel=CLASSES)
    alice, bob = node.player("alice"), node.player("bob")
    for player in (alice, bob):
        player.subscribe("log:1")
        player.subscribe("chat:1")
    for n in (1, 2, 3):
        alice.publish("log:1", "n", n)
    until(service.is_replicated, "the replica has all of it")
    node.loses_redis(getattr(service.master, how))
    status("degraded", alice, bob)
    waits = alice.start("PUBLISH_EVENT", channel="log:1", event="n", data=4)
    status("ok", alice, bob)
    until(service.has_failed_over, "the sentinels name the new master", timeout=30)
    assert node.metric("drawbridge_redis_master_changes_total") == 1
    assert alice.reply(waits, timeout=30)["offset"] == 4
    alice.publish("log:1", "n", 5)
    for player in (alice, bob):
        assert player.expect("RESYNC", channel="chat:1")["reason"] == "broker"
        assert [player.event("log:1", "n")["offset"] for _ in range(5)] == [1, 2, 3, 4, 5]

    # The former master is back, and takes itself for one until the sentinels demote it.
    old, new = service.master, service.replica
    old.start() if how == "kill" else old.resume()
    assert old.client.role()[0] == b"master"
    length = old.client.xlen(LOG)
    names = lambda: [client["name"] for client in old.client.client_list()]
    until(lambda: not connections_of_nodes(old), "the node has left the old master")
    old.publish("chat:1", '{"event":"astray"}')
    for n in range(6, 16):
        assert alice.publish("log:1", "n", n)["offset"] == n
    new.publish("chat:1", '{"event":"end"}')
    assert [event["event"] for event in bob.events_until("end")] == ["n"] * 10
    assert old.client.role()[0] == b"slave" or old.client.xlen(LOG) == length
    # A node that starts now is not misled either.
    other = start(service.url, channel=CLASSES)
    assert other.player("carol").publish("log:1", "n", 16)["offset"] == 16
    assert not [each for player in (alice, bob) for each in resyncs(player, "log:1")]


def test_a_failover_that_loses_acknowledged_events_is_an_epoch_for_those_who_saw_them(service, start):
    node = start(service.url, channel=CLASSES, connection={"resume_window": "60s"})
    alice, bob = node.player("alice"), node.player("bob")
    for player in (alice, bob):
        player.subscribe("log:1")
    for n in (1, 2):
        alice.publish("log:1", "n", n)
    until(service.is_replicated, "the replica has both")
    known = {"epoch": alice.ask("HISTORY_GET", channel="log:1")["epoch"], "offset": 2}
    assert [bob.event("log:1", "n")["offset"] for _ in range(2)] == [1, 2]
    # Bob is away when the others come, so what he has seen is in what is left.
    bob.vanish()
    service.replica.client.replicaof("127.0.0.1", ports.free())
    for n in (3, 4):
        assert alice.publish("log:1", "lost", n)["offset"] == n
    assert [alice.event("log:1")["offset"] for _ in range(4)] == [1, 2, 3, 4]
    service.master.kill()
    status("degraded", alice)
    status("ok", alice)
    resync = alice.expect("RESYNC", channel="log:1")
    assert resync["reason"] == "epoch" and resync["offset"] == 2 and resync["epoch"] != known["epoch"]
    assert alice.publish("log:1", "n", 3)["offset"] == 3
    assert alice.event("log:1", "n")["offset"] == 3
    again = node.connect()
    again.start("CONNECT", token=mint("bob"), resume={"session": bob.hello["session"], "positions": {"log:1": known}})
    welcome = again.welcome()
    assert next(each for each in welcome["subscriptions"] if each["channel"] == "log:1")["recovered"] is True
    assert again.event("log:1", "n")["offset"] == 3
    assert not resyncs(again, "log:1")


# networks that are cut


@pytest.fixture
def split():
    """A service whose network can be cut between its parts, and between them and nodes."""
    service = SentinelService(split=True)
    yield service
    service.close()


def is_replica(server):
    """Sentinels close all connections where they change a server's role."""
    try:
        return server.client.role()[0] == b"slave"
    except (redis.ConnectionError, redis.TimeoutError):
        return False


class Heard:
    """Who is subscribed to a channel on this server, beside the nodes."""

    def __init__(self, server, channel):
        self.data, self._pubsub = set(), server.own_client().pubsub()
        self._pubsub.subscribe(**{channel: lambda message: self.data.add(json.loads(message["data"])["data"])})
        # Sentinels close it where they change a server's role.
        ended = lambda error, pubsub, thread: thread.stop()
        self._thread = self._pubsub.run_in_thread(sleep_time=0.05, daemon=True, exception_handler=ended)
        until(lambda: server.subscribers(channel)[channel] > 0, "it is subscribed")

    def close(self):
        self._thread.stop()
        self._thread.join(5)
        self._pubsub.close()


class Publishing:
    """Publishes numbers on a plain channel, one after the other, until it is closed."""

    def __init__(self, node, channel):
        self.begun, self.taken, self._stop = 0, set(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(node, channel))
        self._thread.start()

    def _run(self, node, channel):
        while not self._stop.wait(0.01):
            self.begun = number = self.begun + 1
            if node.publish(channel, "n", number).status == 200:
                self.taken.add(number)

    def since(self, number):
        return {each for each in set(self.taken) if each > number}

    def more(self, count=10):
        """Waits until so many that begin from now on are acknowledged; returns the first that could be."""
        begun = self.begun
        until(lambda: len(self.since(begun)) >= count, "publishes are acknowledged", 40)
        return begun + 1

    def close(self):
        self._stop.set()
        self._thread.join(30)


def test_a_master_that_is_cut_off_from_its_sentinels_is_left_though_it_takes_writes(split, start):
    node = start(split.url, channel=CLASSES)
    alice = node.player("alice")
    alice.subscribe("chat:1")
    old, new = split.master, split.replica
    publishing, on_old = Publishing(node, "chat:1"), Heard(old, "chat:1")
    try:
        publishing.more()
        split.proxy.stall_from(INSIDE)
        until(split.has_failed_over, "the sentinels name the new master", 40)
        on_new = Heard(new, "chat:1")
        until(lambda: node.metric("drawbridge_redis_master_changes_total") == 1, "the node follows", 40)
        until(lambda: not connections_of_nodes(old), "the node has left the old master", 40)
        first = publishing.more()
        assert old.client.role()[0] == b"master", "it would take writes"
        split.proxy.flow()
        until(lambda: is_replica(old), "it is back as a replica", 40)
        last = publishing.more()
    finally:
        publishing.close()
    acknowledged = publishing.since(first - 1)
    until(lambda: acknowledged <= on_new.data, "all that was acknowledged is published on the new master")
    assert not {number for number in on_old.data if first <= number < last - 1} - on_new.data
    # Of all that was acknowledged players miss nothing without knowing.
    node.publish("chat:1", "end")
    heard = {event["data"] for event in alice.events_until("end")}
    assert publishing.taken <= heard or resyncs(alice, "chat:1")
    assert publishing.since(first - 1) <= heard
    on_old.close()
    on_new.close()


def test_a_node_that_is_cut_off_with_its_master_reports_nothing_as_delivered_once_that_is_a_replica(split, start):
    """Longer than the failover: until the network is whole the former master takes writes that the new one never sees."""
    node = start(split.url, channel=CLASSES)
    alice = node.player("alice")
    alice.subscribe("chat:1")
    old, new = split.master, split.replica
    publishing = Publishing(node, "chat:1")
    try:
        publishing.more()
        for each in split.sentinels:
            each.proxy.stall_from("127.0.0.1")
        split.proxy.stall_from(INSIDE)
        until(split.has_failed_over, "the sentinels name the new master", 40)
        on_new = Heard(new, "chat:1")
        publishing.more()
        assert old.client.role()[0] == b"master" and connections_of_nodes(old), "nobody can tell the node"
        split.proxy.flow()
        until(lambda: is_replica(old), "it is a replica", 40)
        changed = publishing.begun
        for each in split.sentinels:
            each.proxy.flow()
        publishing.more()
    finally:
        publishing.close()
    acknowledged = publishing.since(changed)
    until(lambda: acknowledged <= on_new.data, "all that was acknowledged is published on the new master")
    status("degraded", alice)
    status("ok", alice)
    assert resyncs(alice, "chat:1")
    assert node.metric("drawbridge_redis_master_changes_total") == 1
    on_new.close()


def test_passwords_and_tls_of_both(start, certificates):
    service = SentinelService(password="of-redis", sentinel_password="of-sentinels", tls=certificates)
    try:
        broker = {"password": "of-redis", "sentinel_password": "of-sentinels", "tls_ca_file": str(certificates.ca)}
        node = start(service.url, channel=CLASSES, broker=broker)
        alice = node.player("alice")
        alice.subscribe("log:1")
        assert alice.publish("log:1", "n", 1)["offset"] == 1
        until(service.is_replicated, "the replica has it")
        service.master.kill()
        status("degraded", alice)
        status("ok", alice)
        assert alice.publish("log:1", "n", 2)["offset"] == 2
        assert [alice.event("log:1", "n")["offset"] for _ in range(2)] == [1, 2]
        assert "of-redis" not in node.log and "of-sentinels" not in node.log
    finally:
        service.close()


@pytest.mark.parametrize(
    "case, problem",
    [
        ("nobody", "onnection refused"),
        ("a Redis", "this is a Redis and no sentinel"),
        ("another service", f"it watches no master named `gmae`, with which `broker.url` ends; it watches {SERVICE}"),
        ("no password", "the sentinels' own password is `broker.sentinel_password`"),
    ],
)
def test_sentinels_that_name_no_master_are_a_clear_error(own_redis, start, case, problem):
    sentinel = Sentinel(own_redis, password="hunter2" if case == "no password" else None)
    try:
        port = {"nobody": ports.free(), "a Redis": own_redis.port}.get(case, sentinel.port)
        name = "gmae" if case == "another service" else SERVICE
        node = start(f"redis-sentinel://127.0.0.1:{port}/{name}")
        answer = node.get("/readyz")
        assert answer.status == 503
        assert "none of 1 sentinels names the master" in answer.body.decode() and problem in answer.body.decode()
        assert "hunter2" not in node.log and problem in node.log
    finally:
        sentinel.close()
