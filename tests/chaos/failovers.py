"""Redis that fails over: the faults that Sentinel and Cluster share, and Sentinel's own. Each fault ends when all servers are
there again and every replica has what its master has, so that the next one finds somebody to promote."""

import asyncio
from contextlib import contextmanager

import redis.asyncio

from cluster import until
from harness.redis_server import RedisServer
from harness.sentinels import SERVICE, SentinelService
from harness.wait import until as wait_until
from topologies import Topology

FAILOVER = 60.0  # how long one may take on a loaded machine
POLL = 0.1  # seconds between two looks at who is the master


class Replicated(Topology):
    """Masters with replicas."""

    _following = None

    async def start(self):
        await super().start()
        await self._look()
        self._following = asyncio.create_task(self._follow())

    async def _follow(self):
        while True:
            await asyncio.sleep(POLL)
            try:
                await self._look()
            except (redis.RedisError, OSError, TimeoutError):
                pass  # the next look asks another one

    async def close(self):
        if self._following:
            self._following.cancel()
        await super().close()

    async def _replicas(self, master):
        """The servers that follow it."""
        roles = {server: await server.client.execute_command("ROLE") for server in self.running}
        return [server for server, role in roles.items() if role[0] == b"slave" and role[2] == master.port]

    @contextmanager
    def _deposing(self, faults, server):
        """While others may replace this master, and until it follows its successor."""
        with faults.trouble():
            self.deposed.add(server)
            try:
                yield
            finally:
                self.deposed.discard(server)

    async def _promoted(self, former):
        await until(lambda: former not in self.masters(), f"another one is master instead of {former.name}", FAILOVER)

    async def _whole(self):
        await asyncio.to_thread(self.wait_whole)

    # faults

    async def kill_master(self, faults):
        """It comes back when another one has taken its place."""
        await self._kill(faults, faults.rng.choice(self.masters()))

    async def kill_master_ahead_of_its_replicas(self, faults):
        """What it acknowledged last is lost with it."""
        master = faults.rng.choice(self.masters())
        way, replicas = master.proxies[0], await self._replicas(master)
        for replica in replicas:
            way.stall(replica.name)
        await faults.wait(0.2, 1)
        await self._kill(faults, master, replicas)

    async def _kill(self, faults, master, stalled=()):
        with self._deposing(faults, master):
            await master.kill()
            for replica in stalled:
                master.proxies[0].flow(replica.name)
            await self._promoted(master)
            await faults.wait(0, 3)
            await master.start()
            await self._whole()

    async def restart_master(self, faults):
        """At once, with its data."""
        await self._restart(faults, faults.rng.choice(self.masters()))

    async def _restart(self, faults, master):
        with self._deposing(faults, master):
            await master.kill()
            await master.start()
            await self._whole()

    async def stop_master(self, faults):
        """SIGSTOP, mostly for longer than a failover takes: then it comes back as a master, until it learns better."""
        master = faults.rng.choice(self.masters())
        with self._deposing(faults, master):
            master.pause()
            try:
                if faults.rng.random() < 0.3:
                    await faults.wait(0.1, 0.8)
                else:
                    await self._promoted(master)
                    await faults.wait(0, 3)
            finally:
                master.resume()
            await self._whole()

    async def cut_off_master(self, faults):
        """Nobody reaches it, nor it anybody, until another one has taken its place."""
        master = faults.rng.choice(self.masters())
        ways = [(proxy, {} if server is master else {"who": master.name}) for server in self.servers for proxy in server.proxies]
        with self._deposing(faults, master):
            for proxy, who in ways:
                proxy.stall(**who)
            try:
                await self._promoted(master)
                await faults.wait(0, 3)
            finally:
                for proxy, who in ways:
                    proxy.cut(**who)
                    proxy.flow(**who)
            await self._whole()

    shared_kinds = (
        kill_master,
        kill_master_ahead_of_its_replicas,
        restart_master,
        stop_master,
        cut_off_master,
        Topology.client_kill_subscribers,
        Topology.client_kill_commands,
    )


class Announcing(RedisServer):
    """A server that names its proxy's port to its master and to the sentinels."""

    def __init__(self, *options, announced, **more):
        super().__init__(*options, "--replica-announce-port", announced, announced=announced, **more)
        # It comes back as what sentinels make of it.
        if "--replicaof" in self.options:
            at = self.options.index("--replicaof")
            del self.options[at : at + 3]


class Sentinels(Replicated):
    name = "a master, 2 replicas, 3 sentinels"
    sentinels = _clients = ()

    def create(self):
        self.service_of = SentinelService(replicas=2, make=lambda *options, **more: self.make(Announcing, *options, **more))
        self.sentinels = self.service_of.sentinels
        self._clients = [redis.asyncio.Redis(port=each.port, socket_timeout=1, retry=None) for each in self.sentinels]
        self._master = self.servers[0]

    @property
    def url(self):
        return self.service_of.url

    def owner(self, key):
        return self._master

    def masters(self):
        return [self._master]

    async def _look(self):
        """The master of the newest configuration that a sentinel has."""
        asked = (client.execute_command("SENTINEL MASTER", SERVICE) for client in self._clients)
        said = [each for each in await asyncio.gather(*asked, return_exceptions=True) if isinstance(each, dict)]
        if said:
            newest = max(said, key=lambda state: state["config-epoch"])
            self._master = self.at(int(newest["port"])) or self._master

    def wait_whole(self):
        wait_until(self._is_whole, "all servers follow the master, and all sentinels know all of it", FAILOVER)

    def _is_whole(self):
        try:
            return self._are_all_well()
        except redis.ConnectionError:
            return False

    def _are_all_well(self):
        master = self._master
        replicas = [each.process.client.role() for each in self.servers if each is not master]
        written = master.process.client.role()
        return (
            written[0] == b"master"
            and all(role[0] == b"slave" and role[2] == master.port and role[3] == b"connected" for role in replicas)
            and all(role[4] >= written[1] for role in replicas)
            and self.service_of.is_discovered()
        )

    async def close(self):
        for client in self._clients:
            await client.aclose()
        for sentinel in self.sentinels:
            await asyncio.to_thread(sentinel.close)
        await super().close()

    # faults

    async def failover_by_hand(self, faults):
        """Without the old master's help: it accepts writes until it is demoted."""
        master = self._master
        with self._deposing(faults, master):
            await faults.rng.choice(self._clients).execute_command("SENTINEL FAILOVER", SERVICE)
            await self._promoted(master)
            await self._whole()

    async def stop_sentinel(self, faults):
        sentinel = faults.rng.choice(self.sentinels)
        sentinel.process.pause()
        await faults.wait(0.5, 5)
        sentinel.process.resume()
        await self._whole()

    kinds = (*Replicated.shared_kinds, failover_by_hand, stop_sentinel)
