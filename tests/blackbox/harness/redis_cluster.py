"""A Redis Cluster of a test's own: masters, each with or without a replica, made without any tool, so that it is up in a
moment. Of its clients none repeats a command by itself except where a slot has moved. Tests themselves reach the servers by
their unix sockets, so what is done to the network concerns nodes alone."""

import time

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.crc import key_slot
from redis.retry import Retry

from . import ports
from .proxy import Proxy
from .redis_server import TEST_CLIENT, RedisServer
from .wait import until

SLOTS = 16384
NODE_TIMEOUT_MS = 1000
# A failover takes about three seconds; a busy machine is slow.
FAILOVER = 40.0


class ClusterServer(RedisServer):
    """One server of the Cluster. `announced`, `announced_bus`: the ports by which others reach it, if not its own."""

    def __init__(self, *options, announced=None, announced_bus=None, tls=None, password=None):
        self.bus = ports.free()
        self.known_bus = announced_bus or self.bus
        if announced:
            options += ("--cluster-announce-port", announced, "--cluster-announce-bus-port", self.known_bus)
        if tls:
            options += ("--tls-cluster", "yes", "--tls-replication", "yes")
        super().__init__(
            *("--cluster-enabled", "yes", "--cluster-port", self.bus, "--cluster-node-timeout", NODE_TIMEOUT_MS),
            *("--repl-diskless-sync-delay", 0, "--cluster-replica-validity-factor", 0, "--repl-ping-replica-period", 1),
            *options,
            announced=announced,
            tls=tls,
            password=password,
        )

    @property
    def port_in_slots(self):
        """The port that the Cluster names to clients without TLS, as those of tests are."""
        return self.announced or self.port

    @property
    def name(self):
        return f"127.0.0.1:{self.known_port}"

    def cluster(self, *words):
        return self.client.execute_command("CLUSTER " + words[0], *words[1:])

    @property
    def id(self):
        return self.cluster("MYID").decode()

    def info(self):
        return self.client.execute_command("CLUSTER INFO")

    def is_ok(self, known):
        info = self.info()
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == known


class ProxiedServer(ClusterServer):
    """One that others reach through its `proxy`; the bus needs none."""

    def __init__(self, *options, **more):
        self.proxy = Proxy(None)
        super().__init__(*options, announced=self.proxy.port, **more)
        self.proxy.target = self.port

    def close(self):
        self.proxy.close()
        super().close()


class RedisCluster:
    """`masters` masters with `replicas` replicas each. `make()` starts a server."""

    def __init__(self, masters=3, replicas=0, make=ClusterServer):
        self._make = make
        self.masters = [make() for _ in range(masters)]
        self.replicas = [make() for _ in range(masters * replicas)]
        self._client = None
        for at, server in enumerate(self.masters):
            server.cluster("ADDSLOTSRANGE", at * SLOTS // masters, (at + 1) * SLOTS // masters - 1)
            server.cluster("SET-CONFIG-EPOCH", at + 1)
        for server in self.servers[1:]:
            self._meet(server)
        self.wait_ok()
        for at, replica in enumerate(self.replicas):
            replica.cluster("REPLICATE", self.masters[at % masters].id)
        self.wait_for_replicas()

    @property
    def servers(self):
        return self.masters + self.replicas

    @property
    def url(self):
        scheme = "rediss-cluster" if self.masters[0].tls else "redis-cluster"
        return f"{scheme}://" + ",".join(server.name for server in self.masters)

    def _meet(self, server):
        self.masters[0].cluster("MEET", "127.0.0.1", server.known_port, server.known_bus)

    def wait_ok(self):
        """Until all servers know one another and every slot has a master."""
        known = len(self.servers)
        until(lambda: all(server.is_ok(known) for server in self.servers), "all servers know the Cluster", FAILOVER)

    def wait_for_replicas(self):
        """Until each replica has what its master has written so far: before, a failover would lose it."""
        written = {server.known_port: server.client.execute_command("ROLE") for server in self.servers}
        offsets = {port: role[1] for port, role in written.items() if role[0] == b"master"}

        def has_all(replica):
            role = replica.client.execute_command("ROLE")
            return role[0] == b"slave" and role[3] == b"connected" and role[4] >= offsets.get(role[2], 0)

        until(lambda: all(has_all(replica) for replica in self.replicas), "all replicas have all", FAILOVER)

    # what tests ask, as of a single server

    @property
    def client(self):
        """Follows the slots, for commands with keys; `flushall` and `function` commands go to all masters."""
        if self._client is None:
            self._client = self.own_client()
        return self._client

    def own_client(self):
        nodes = [ClusterNode("127.0.0.1", server.known_port) for server in self.masters]
        return _Client(self, startup_nodes=nodes, socket_timeout=10, retry=Retry(NoBackoff(), 3))

    def publish(self, channel, payload):
        """A plain PUBLISH, on the master that has the channel's slot. Returns how many subscribers by name all servers
        count, since the bus carries it to the others, and how many by pattern that one."""
        owner = self.owner(channel)
        counts = (server.client.pubsub_numsub(channel) for server in self.servers if server is not owner)
        return owner.client.publish(channel, payload) + sum(count for ((_, count),) in counts)

    def subscribers(self, *channels):
        """PUBSUB NUMSUB of all servers together, as a dict."""
        counts = [server.subscribers(*channels) for server in self.servers]
        return {name: sum(count[name] for count in counts) for name in channels}

    def channels(self):
        return set().union(*(server.channels() for server in self.servers))

    def sharded_channels(self):
        return set().union(*(server.sharded_channels() for server in self.servers))

    def patterns(self):
        return sum(server.patterns() for server in self.servers)

    def cut_clients(self, kind="normal"):
        for server in self.servers:
            server.cut_clients(kind)

    def stream(self, key):
        entries = self.client.xrange(key)
        return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in entries]

    # slots

    def owner(self, key, among=None):
        """The master that has the slot of this key, as the others say."""
        slot = key_slot(key if isinstance(key, bytes) else key.encode())
        for server in among or self.servers:
            if not server.process.running:
                continue
            if port := _master_port(slot, server):
                return next(each for each in self.servers if each.port_in_slots == port)
        raise AssertionError(f"nobody has slot {slot}")

    def add_master(self):
        """A master without slots."""
        server = self._make()
        self.masters.append(server)
        self._meet(server)
        self.wait_ok()
        return server

    def remove_master(self, server):
        """Of one that has no slots any more."""
        self.masters.remove(server)
        for other in self.servers:
            other.cluster("FORGET", server.id)
        server.close()
        self.wait_ok()

    def empty_master(self, leaving, target):
        """Moves all slots of a master to another one."""
        slots = sorted(_slots_of(leaving))
        _set_slots(target, slots, "IMPORTING", leaving.id)
        _set_slots(leaving, slots, "MIGRATING", target.id)
        for slot in sorted({key_slot(key) for key in leaving.client.keys("*")}):
            while self.migrate_keys(slot, leaving, target):
                pass
        # Not on that master itself: without slots it becomes a replica, by what the others say.
        for server in (target, *(each for each in self.servers if each not in (target, leaving))):
            _set_slots(server, slots, "NODE", target.id)
        until(lambda: not _slots_of(leaving), "it has no slots any more", FAILOVER)

    def take_roles(self):
        """`masters` and `replicas` as they are after failovers."""
        servers = self.servers
        self.masters = [server for server in servers if server.client.role()[0] == b"master"]
        self.replicas = [server for server in servers if server not in self.masters]

    def begin_migration(self, slot, source, target):
        target.cluster("SETSLOT", slot, "IMPORTING", source.id)
        source.cluster("SETSLOT", slot, "MIGRATING", target.id)

    def migrate_keys(self, slot, source, target, count=100):
        """Moves some keys; returns how many."""
        keys = source.cluster("GETKEYSINSLOT", slot, count)
        if keys:
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_migration(self, slot, source, target):
        for server in dict.fromkeys((target, source, *self.masters)):
            try:
                server.cluster("SETSLOT", slot, "NODE", target.id)
            except redis.ResponseError as error:
                # A master without slots becomes a replica by itself, perhaps before this: then it knows.
                if "only with masters" not in str(error):
                    raise

    def migrate(self, slot, target, count=100, pause=0):
        """The classic migration of one slot, as `redis-cli --cluster reshard` does it: `count` keys at a time."""
        others = [server for server in self.masters if server is not target]
        source = next(server for server in others if _master_port(slot, server) == server.port_in_slots)
        self.begin_migration(slot, source, target)
        while self.migrate_keys(slot, source, target, count):
            time.sleep(pause)
        self.end_migration(slot, source, target)
        return source

    def close(self):
        if self._client is not None:
            self._client.close()
        for server in self.servers:
            server.close()


def _slots_of(server):
    """The slots of a master, by what it says itself."""
    ranges = server.client.execute_command("CLUSTER SLOTS", **_RAW)
    mine = (each for each in ranges if each[2][1] == server.port_in_slots)
    return {slot for first, last, *_ in mine for slot in range(first, last + 1)}


def _set_slots(server, slots, *words):
    """CLUSTER SETSLOT for many slots."""
    pipeline = server.client.pipeline(transaction=False)
    for slot in slots:
        pipeline.execute_command("CLUSTER SETSLOT", slot, *words)
    pipeline.execute()


class _Client(redis.RedisCluster):
    """One that publishes on the master that has the channel's slot, also in what looks like a pipeline."""

    def __init__(self, cluster, **options):
        super().__init__(**options)
        self._cluster = cluster

    def publish(self, channel, payload):
        return self._cluster.owner(channel).client.publish(channel, payload)

    def keys(self, pattern="*"):
        return [key for server in self._cluster.masters for key in server.client.keys(pattern)]

    def pipeline(self, transaction=False):
        return _Pipeline(self)


class _Pipeline:
    """Says one command after the other."""

    def __init__(self, client):
        self._client, self._commands = client, []

    def __getattr__(self, name):
        def command(*arguments, **options):
            self._commands.append((name, arguments, options))
            return self

        return command

    def execute(self):
        commands, self._commands = self._commands, []
        return [getattr(self._client, name)(*arguments, **options) for name, arguments, options in commands]


# The client library would make a dictionary of ranges.
_RAW = {"NEVER_DECODE": True}


def _master_port(slot, server):
    """The port of the slot's master, as this server reports it; None if nobody has the slot."""
    ranges = server.client.execute_command("CLUSTER SLOTS", **_RAW)
    return next((master[1] for first, last, master, *_ in ranges if first <= slot <= last), None)
