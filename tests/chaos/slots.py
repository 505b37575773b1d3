"""A Redis Cluster of a chaos run, and the faults that only a Cluster has: slots that move, masters that come and go, and masters
that one node alone does not reach. Most classes are sharded; those of patterns and two others are not."""

import asyncio

from redis.crc import key_slot

from failovers import FAILOVER, Replicated
from harness.redis_cluster import ClusterServer, RedisCluster
from harness.wait import until as wait_until

MASTERS = 3
MOVED = 6  # slots that a fault moves


class Slots(Replicated):
    name = "a Cluster of 3 masters, each with a replica"
    sharded = ("room", "ticker", "chat", "world")

    def create(self):
        self.cluster = RedisCluster(MASTERS, replicas=1, make=lambda: self.make(ClusterServer, proxies=("announced", "announced_bus")))
        self._ranges = []

    @property
    def url(self):
        return "redis-cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:MASTERS])

    def owner(self, key):
        slot = key_slot(key.encode())
        found = (server for first, last, server in self._ranges if first <= slot <= last)
        return next(found, self.servers[0])

    def masters(self):
        return sorted({server for _, _, server in self._ranges}, key=lambda server: server.name)

    async def _look(self):
        """The map, as a server has it that nobody replaces."""
        server = next(server for server in self.running if server not in self.deposed)
        said = await server.client.execute_command("CLUSTER SLOTS", NEVER_DECODE=True)
        ranges = [(first, last, self.at(master[1])) for first, last, master, *_ in said]
        if all(server for _, _, server in ranges):
            self._ranges = ranges

    def wait_whole(self):
        self.cluster.wait_ok()
        wait_until(self._has_all_masters, f"there are {MASTERS} masters", FAILOVER)
        self.cluster.wait_for_replicas()

    def _has_all_masters(self):
        self.cluster.take_roles()
        return len(self.cluster.masters) == MASTERS

    # faults

    async def failover_by_hand(self, faults):
        """`CLUSTER FAILOVER`: the old master helps, and nothing is lost."""
        master = faults.rng.choice(self.masters())
        replica, *_ = await self._replicas(master)
        with faults.trouble():
            await replica.client.execute_command("CLUSTER FAILOVER")
            await self._promoted(master)
            await self._whole()

    async def restart_all_masters(self, faults):
        """One after the other."""
        for master in self.masters():
            await self._restart(faults, master)

    async def move_slots_there_and_back(self, faults):
        with faults.trouble():
            target = faults.rng.choice(self.cluster.masters)
            homes = await self._move(faults, {slot: target for slot in self._slots(faults)})
            await faults.wait(0, 2)
            await self._move(faults, homes)

    async def add_and_remove_master(self, faults):
        with faults.trouble():
            added = await asyncio.to_thread(self.cluster.add_master)
            homes = await self._move(faults, {slot: added for slot in self._slots(faults)})
            await faults.wait(0.5, 3)
            await self._move(faults, homes)
            await asyncio.to_thread(self.cluster.remove_master, added)
            server = self.of(added)
            self.servers.remove(server)
            for proxy in server.proxies:
                await proxy.close()

    def _slots(self, faults):
        return sorted({key_slot(channel.encode()) for channel in faults.rng.sample(faults.channels, MOVED)})

    async def _move(self, faults, targets):
        """Each slot to its target, a few keys at a time; returns where they were."""
        homes = {}
        for slot, target in targets.items():
            home = next(server.process for first, last, server in self._ranges if first <= slot <= last)
            if home is not target:
                homes[slot] = home
                pause = faults.rng.uniform(0, 0.2)
                await asyncio.to_thread(self.cluster.migrate, slot, target, count=2, pause=pause)
        return homes

    async def half_out_of_reach(self, faults, node):
        """One node does not reach half of the servers."""
        ways = faults.rng.sample(self.proxies, len(self.servers) // 2)
        with faults.trouble():
            for way in ways:
                way.stall(node.name)
            await faults.wait(0.5, 9)
            for way in ways:
                way.cut(node.name)
                way.flow(node.name)

    kinds = (
        *Replicated.shared_kinds,
        failover_by_hand,
        restart_all_masters,
        move_slots_there_and_back,
        add_and_remove_master,
    )
    node_kinds = (half_out_of_reach,)
