"""The Redis of a chaos run: its servers, each behind a proxy by which everybody else reaches it, who is the master of what, and
how services reach it. What it acknowledged outlives a kill of the server. `Standalone` is here; Sentinel and Cluster, with the
faults that only they have, are in `failovers` and `slots`."""

import asyncio
import re
import shutil

import redis.asyncio
from redis.exceptions import AskError

from harness.redis_server import TEST_CLIENT, RedisServer
from network import Proxy

DURABLE = ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]


# From these addresses servers connect to one another.
SOURCES = "127.0.2."
NODE = re.compile(rb"drawbridge:([^:\s]+):")


def who(address, data):
    """Who connects to a server: another server, by its address, or a node, by the name that it gives the connection."""
    if address.startswith(SOURCES):
        return f"redis{address.removeprefix(SOURCES)}"
    found = NODE.search(data)
    return found and found[1].decode()


class Server:
    """What the run knows of one server beside its process: its name, its proxies, and a client that no fault cuts off."""

    def __init__(self, name, process, proxies):
        self.name, self.process, self.proxies = name, process, proxies
        self.client = redis.asyncio.Redis(
            unix_socket_path=str(process.unix_socket), socket_timeout=5, retry=None, client_name=TEST_CLIENT
        )

    @property
    def port(self):
        return self.process.known_port

    async def kill(self):
        await asyncio.to_thread(self.process.kill)
        await self.client.connection_pool.disconnect(inuse_connections=True)

    async def start(self):
        await asyncio.to_thread(self.process.start)

    def pause(self):
        self.process.pause()

    def resume(self):
        self.process.resume()


class Topology:
    """What all have in common. `kinds` are its faults: methods that are given the `Faults`, one of which runs at a time.
    `node_kinds` are faults of one node's ways to it, and are given the node too."""

    kinds = node_kinds = ()
    sharded = ()  # the classes whose channels are sharded

    def __init__(self):
        self.servers = []
        self._made = 0
        self.deposed = set()  # servers that others may have replaced: what they acknowledge now may be undone
        self._loop = None

    async def start(self):
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.create)

    def make(self, kind, *options, proxies=("announced",), **more):
        """A server of this kind of the harness, behind a proxy for each of its ports. Called outside the event loop."""
        made = [asyncio.run_coroutine_threadsafe(Proxy(None, who).start(), self._loop).result(10) for _ in proxies]
        self._made += 1
        options += ("--bind-source-addr", f"{SOURCES}{self._made}")
        process = kind(*options, *DURABLE, **{name: proxy.port for name, proxy in zip(proxies, made)}, **more)
        for proxy, port in zip(made, (process.port, getattr(process, "bus", None))):
            proxy.target = port
        self.servers.append(Server(f"redis{self._made}", process, made))
        return process

    def of(self, process):
        return next(server for server in self.servers if server.process is process)

    def at(self, port):
        """The server that others know by this port."""
        return next((server for server in self.servers if server.port == port), None)

    @property
    def running(self):
        return [server for server in self.servers if server.process.process.running]

    @property
    def proxies(self):
        """The ways of clients to each server."""
        return [server.proxies[0] for server in self.servers]

    async def each(self, *command):
        """The answers of all servers that run."""
        return [await server.client.execute_command(*command) for server in self.running]

    def publish_command(self, channel):
        return "SPUBLISH" if channel.split(":")[0] in self.sharded else "PUBLISH"

    def service(self):
        """The connections of one service."""
        return Service(self)

    async def close(self):
        for server in self.servers:
            await asyncio.to_thread(server.process.close)
            for proxy in server.proxies:
                await proxy.close()

    # faults

    async def client_kill_subscribers(self, faults):
        await self._client_kill(faults, True)

    async def client_kill_commands(self, faults):
        await self._client_kill(faults, False)

    async def _client_kill(self, faults, of_subscribers):
        """Redis itself closes connections of the nodes, as at its output-buffer limit. Services' stay."""
        with faults.trouble():
            for server in self.running:
                for each in await server.client.client_list():
                    subscribes = int(each["sub"]) + int(each["psub"]) + int(each.get("ssub", 0)) > 0
                    if each["name"].startswith("drawbridge:") and subscribes == of_subscribers:
                        await server.client.client_kill_filter(_id=each["id"])


class Standalone(Topology):
    name = "one server"

    def create(self):
        self.make(RedisServer)
        self.server = self.servers[0]

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.server.port}"

    def owner(self, key):
        return self.server

    def masters(self):
        return self.servers

    async def restart_redis_with_data(self, faults):
        await self._restart(faults, False)

    async def restart_redis_without_data(self, faults):
        await self._restart(faults, True)

    async def _restart(self, faults, loses):
        with faults.trouble():
            await self.server.kill()
            if loses:
                shutil.rmtree(self.server.process.directory / "appendonlydir", ignore_errors=True)
            await faults.wait(0, 2.5)
            await self.server.start()

    async def stop_redis(self, faults):
        with faults.trouble():
            self.server.pause()
            await faults.wait(0.3, 6)
            self.server.resume()

    kinds = (
        restart_redis_with_data,
        restart_redis_without_data,
        stop_redis,
        Topology.client_kill_subscribers,
        Topology.client_kill_commands,
    )


class Undone(ConnectionError):
    """Acknowledged by a server that others have replaced meanwhile, or may have."""


class Service:
    """A service's connections, one to each server that it needs: it goes where the channel's master is, and repeats nothing
    by itself."""

    def __init__(self, topology):
        self.topology = topology
        self._clients = {}

    async def execute(self, channel, *command):
        server = self.topology.owner(channel)
        try:
            answer = await self._client(server.port).execute_command(*command)
        except AskError as ask:
            answer = await self._asking(self.topology.at(ask.port) or server, command)
        if server in self.topology.deposed:
            raise Undone
        return answer

    async def _asking(self, server, command):
        both = self._client(server.port).pipeline(transaction=False)
        both.execute_command("ASKING")
        both.execute_command(*command)
        return (await both.execute())[1]

    async def ping(self, channel):
        await self._client(self.topology.owner(channel).port).ping()

    def _client(self, port):
        if port not in self._clients:
            self._clients[port] = redis.asyncio.Redis(port=port, socket_timeout=4, retry=None, client_name="chaos")
        return self._clients[port]

    async def aclose(self):
        for client in self._clients.values():
            await client.aclose()
