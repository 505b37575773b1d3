"""What the chaos run is about: a Redis (`topologies`), three nodes, and HAProxy (deploy/haproxy.cfg) in front of a proxy for
each node. Everything is on loopback, is started here, and is ended by its process id."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import redis.asyncio

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/blackbox"))

from harness import ports  # noqa: E402
from harness.node import API_KEY, PLENTY, binary, write_config  # noqa: E402
from harness.process import Process  # noqa: E402
from harness.redis_server import program as redis_server  # noqa: E402
from harness.tokens import SECRET  # noqa: E402
from network import Proxy  # noqa: E402

START = 60.0  # how long anything may take to start: a loaded machine is slow


async def until(condition, what, timeout=START, pause=0.05):
    """Waits until `condition()` (which may be a coroutine function) is truthy, and returns its value."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
        except (OSError, redis.RedisError, TimeoutError):
            value = None
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(pause)


async def http(port, method, path, body=None, timeout=6.0):
    """`(status, body)` of one request, on a new connection."""
    async with asyncio.timeout(timeout):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            data = b"" if body is None else json.dumps(body).encode()
            head = f"{method} {path} HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\nAuthorization: Bearer {API_KEY}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
            answer = await reader.read()
        finally:
            writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head:
        raise ConnectionResetError("no answer")
    if b"chunked" in head.lower():
        rest = _unchunked(rest)
    return int(head.split()[1]), rest


def _unchunked(data):
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        size = int(size, 16)
        if not size:
            break
        whole, data = whole + data[:size], data[size + 2 :]
    return whole


class Node:
    """One node. It comes back to the same ports under the same name, as a deploy's would."""

    def __init__(self, name, directory, settings):
        self.name = name
        self.directory = directory / name
        self.directory.mkdir()
        self.port, self.admin_port = ports.free(), ports.free()
        self.player_proxy = Proxy(self.port)
        self.settings = settings
        self.process = None
        self.logs = []
        self.is_busy = False  # a fault of the process is under way

    async def prepare(self, redis_url):
        await self.player_proxy.start()
        self.path = write_config(self._config(redis_url), self.directory)

    def _config(self, redis_url):
        return {
            **self.settings,
            "node": self.name,
            "listen": f"127.0.0.1:{self.port}",
            "admin": {"listen": f"127.0.0.1:{self.admin_port}", "api_key": API_KEY},
            "broker": {"kind": "redis", "url": redis_url},
        }

    async def start(self):
        self.process = Process([binary(), "serve", "--config", self.path])
        self.logs.append(self.process)
        await until(self._has_started, f"{self.name} has started")

    def _has_started(self):
        if not self.process.running:
            raise RuntimeError(f"{self.name} ended with {self.process.child.returncode}:\n{self.process.output[-3000:]}")
        return any("drawbridge: ready" in line for line in list(self.process.lines))

    async def is_ready(self):
        return self.process.running and (await http(self.port, "GET", "/readyz", timeout=3))[0] == 200

    async def metrics(self):
        status, body = await http(self.port, "GET", "/metrics")
        samples = {}
        for line in body.decode().splitlines() if status == 200 else ():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def panics(self):
        """Lines of all its lives that say that it panicked."""
        return [line for process in self.logs for line in process.lines if "panicked at" in line]


class Cluster:
    """`topology`: the class of its Redis."""

    def __init__(self, directory, settings, topology, nodes=3):
        self.directory = directory
        self.nodes = [Node(f"n{number}", directory, settings) for number in range(1, nodes + 1)]
        self.redis = topology()
        self.port = ports.free()
        self.balancer = None

    async def start(self):
        await self.redis.start()
        for node in self.nodes:
            await node.prepare(self.redis.url)
        await asyncio.gather(*(node.start() for node in self.nodes))
        config = self.directory / "haproxy.cfg"
        config.write_text(self._haproxy((ROOT / "deploy/haproxy.cfg").read_text()))
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/sbin")
        self.balancer = Process([program, "-f", config, "-db"])
        await until(lambda: ports.is_open(self.port), "haproxy answers")
        await until(self.all_ready, "all nodes are ready")

    def _haproxy(self, text):
        """deploy/haproxy.cfg with this cluster's addresses. Players pass a proxy that can be cut, health checks do not."""
        for node, address in zip(self.nodes, ("10.0.0.11:8000", "10.0.0.12:8000", "10.0.0.13:8000"), strict=True):
            assert address in text, "deploy/haproxy.cfg has other addresses now"
            text = text.replace(address, f"127.0.0.1:{node.player_proxy.port} port {node.port}")
        assert "bind :8000" in text
        return text.replace("bind :8000", f"bind 127.0.0.1:{self.port}").replace("maxconn 100000", "maxconn 8000")

    async def all_ready(self):
        return all(await asyncio.gather(*(node.is_ready() for node in self.nodes)))

    def running(self):
        return [node for node in self.nodes if node.process.running and not node.is_busy]

    async def stop(self):
        """Ends every process; returns the panics that nodes logged."""
        for node in self.nodes:
            if node.process:
                node.process.resume()
        for process in [node.process for node in self.nodes] + [self.balancer]:
            if process and process.running:
                await asyncio.to_thread(process.kill)
        for node in self.nodes:
            await node.player_proxy.close()
        await self.redis.close()
        return [f"{node.name}: {line}" for node in self.nodes for line in node.panics()]


def versions():
    """What was tested, and with what."""

    def line(*command):
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip().splitlines()[0]
        except (OSError, IndexError, subprocess.SubprocessError):
            return "?"

    haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
    return {
        "drawbridge": line(str(binary()), "--version"),
        "commit": line("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "redis": line(redis_server(), "--version").split(" sha=")[0],
        "haproxy": line(haproxy, "-v").split(" - ")[0],
        "kernel": line("uname", "-r"),
        "host cores": line("nproc"),
    }


def settings(window, sharded=()):
    """The nodes' configuration, without what is each node's own. `sharded`: which classes are."""
    open_to_all = {"subscribe": "true", "publish": "true"}
    found = {
        "drain_delay": "3s",
        "drain_window": "3s",
        "auth": {"hmac_secret": SECRET},
        "connection": {
            "auto_subscribe": ["player:{sub}"],
            # All players are one process, which is slow where the machine is busy.
            "connect_timeout": "60s",
            "linger": "500ms",
            "heartbeat": "5s",
            "resume_window": f"{window}s",
        },
        "limits": {
            "messages": PLENTY,
            "subscribes": PLENTY,
            "work": PLENTY,
            "bytes": {"per_second": "512MiB", "burst": "512MiB"},
            "connections_per_address": 100_000,
        },
        "channel": [
            {"name": "player:{player}", "publish": "true", "history": {"events": 500, "age": "10m"}},
            {"name": "room:{room}", **open_to_all, "history": {"events": 2000, "age": "10m"}, "presence": "query"},
            {"name": "zone:{zone}:{area}", **open_to_all, "patterns": True, "history": {"events": 500, "age": "10m"}},
            {"name": "news:{news}", **open_to_all, "history": {"events": 2000, "age": "10m"}},
            {"name": "ticker:{ticker}", **open_to_all, "history": {"events": 16, "age": "10m"}},
            {"name": "chat:{chat}", **open_to_all},
            {"name": "world:{world}", **open_to_all, "kind": "entity", "key": "data.id"},
        ],
    }
    for channel in found["channel"]:
        if channel["name"].split(":")[0] in sharded:
            channel["sharded"] = True
    return found


class Layout:
    """How many channels of each kind there are, and who has which."""

    def __init__(self, clients):
        self.clients = clients
        self.rooms = max(1, clients // 10)
        self.zones = max(1, clients // 20)
        self.areas = 3
        self.chats = max(1, clients // 10)
        self.worlds = max(1, clients // 50)
        self.news = self.tickers = max(1, clients // 100)

    def plan(self, number):
        """`(channel, kind, options)` for each channel of a player."""
        channels = [
            (f"player:p{number}", "logged", {}),
            (f"room:{number % self.rooms}", "logged", {}),
            (f"zone:{number // 3 % self.zones}:*", "pattern", {}),
            (f"chat:{number * 7 % self.chats}", "plain", {}),
            (f"world:{number % self.worlds}", "entity", {}),
        ]
        if number % 5 == 0:
            channels.append((f"ticker:{number // 5 % self.tickers}", "logged", {"may_gap": True}))
        if number % 5 == 1:
            options = {"filter": "data.k == 0", "wanted": lambda n: n % 3 == 0}
            channels.append((f"news:{number // 5 % self.news}", "logged", options))
        return channels

    def members(self, prefix, index):
        """The players of a room or chat."""
        channel = f"{prefix}:{index}"
        return [n for n in range(self.clients) if any(name == channel for name, _, _ in self.plan(n))]

    def logged(self):
        yield from (f"player:p{n}" for n in range(self.clients))
        yield from (f"room:{n}" for n in range(self.rooms))
        yield from (f"zone:{n}:{area}" for n in range(self.zones) for area in range(self.areas))
        yield from (f"news:{n}" for n in range(self.news))
        yield from (f"ticker:{n}" for n in range(self.tickers))

    def plain(self):
        yield from (f"chat:{n}" for n in range(self.chats))

    def entity(self):
        yield from (f"world:{n}" for n in range(self.worlds))
