"""The faults of a chaos run, drawn from its seed. They come as cards of a deck: every kind is dealt once before any is dealt
again. Each is over after a bounded time, some are dealt while the one before is still there, and at least one node keeps
running."""

import asyncio
import time
from collections import Counter
from contextlib import contextmanager

EXIT = 30.0  # how long a drain may take to end
REDIS_ALONE = 5.0  # after that nodes have faults beside that of Redis


class Faults:
    """Of the nodes here, and those of the Redis that the run has. `channels`: all that are published on."""

    def __init__(self, cluster, channels, ledger, rng, say):
        self.cluster, self.channels, self.ledger, self.rng, self.say = cluster, channels, ledger, rng, say
        self.redis = cluster.redis
        self.counts = Counter()
        self._deck = []
        self._all = []
        self._redis = asyncio.Lock()  # one fault of Redis itself at a time

    async def run(self, seconds):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(self.rng.uniform(0.3, 3.0))
            task = self._spawn(self._deal())
            if self.rng.random() > 0.35:
                await task
        for task in self._all:  # also those that are added meanwhile
            await task

    def _spawn(self, coroutine):
        self._all.append(asyncio.create_task(coroutine))
        return self._all[-1]

    async def _deal(self):
        if not self._deck:
            self._deck = [*OF_A_NODE, *self.redis.node_kinds, *self.redis.kinds]
            self.rng.shuffle(self._deck)
        kind = self._deck.pop()
        node = self._free_node()
        if self._redis.locked() if kind in self.redis.kinds else node is None:
            self._deck.insert(0, kind)
            return
        if kind in self.redis.kinds:
            self._note(kind)
            # What it takes until all servers are well again does not hold up the nodes' faults.
            await asyncio.wait({self._spawn(self._of_redis(kind))}, timeout=REDIS_ALONE)
            return
        self._note(kind, node)
        node.is_busy = True
        try:
            await (kind(self, node) if kind in OF_A_NODE else kind(self.redis, self, node))
        finally:
            node.is_busy = False

    async def _of_redis(self, kind):
        async with self._redis:
            await kind(self.redis, self)

    def _note(self, kind, node=None):
        name = kind.__name__.lstrip("_").replace("_", " ")
        self.counts[name] += 1
        self.say(f"{name}{' ' + node.name if node else ''}")

    def _free_node(self):
        """A node that no fault is at; `None` where another must keep running."""
        free = [node for node in self.cluster.nodes if not node.is_busy]
        return self.rng.choice(free) if len(free) > 1 else None

    async def wait(self, low, high):
        await asyncio.sleep(self.rng.uniform(low, high))

    @contextmanager
    def trouble(self):
        """While Redis, or a way to it, is in trouble."""
        period = self.ledger.trouble()
        try:
            yield
        finally:
            self.ledger.over(period)

    # a node's process

    async def _kill_9(self, node):
        await asyncio.to_thread(node.process.kill)
        await self.wait(0.2, 4)
        await node.start()

    async def _stop_and_continue(self, node):
        """SIGSTOP: connections stay and nothing answers; longer than the lease of a node, too."""
        node.process.pause()
        await self.wait(0.5, 14)
        node.process.resume()

    async def _drain(self, node):
        node.process.signal(15)
        code = await asyncio.to_thread(self._exit_code, node)
        if code != 0:
            self.ledger.breach("drain", node.name, "", f"ended with {code}", node.process.lines[-30:])
        await self.wait(0, 1)
        await node.start()

    @staticmethod
    def _exit_code(node):
        try:
            return node.process.wait(EXIT)
        except AssertionError as late:
            node.process.kill()
            return str(late)[:60]

    # the ways of a node

    async def _cut_redis_link(self, node):
        with self.trouble():
            for way in self.redis.proxies:
                way.refuse(node.name)
                way.cut(node.name)
            await self.wait(0, 2.5)
            for way in self.redis.proxies:
                way.flow(node.name)

    async def _stall_redis_link(self, node):
        with self.trouble():
            for way in self.redis.proxies:
                way.stall(node.name)
            await self.wait(0.5, 9)
            is_cut = self.rng.random() < 0.5
            for way in self.redis.proxies:
                if is_cut:
                    way.cut(node.name)
                way.flow(node.name)

    async def _cut_players(self, node):
        node.player_proxy.cut(share=self.rng.choice([0.1, 0.5, 1.0]), rng=self.rng)

    async def _stall_players(self, node):
        node.player_proxy.stall()
        await self.wait(0.5, 8)
        if self.rng.random() < 0.5:
            node.player_proxy.cut()
        node.player_proxy.flow()


OF_A_NODE = (
    Faults._kill_9,
    Faults._stop_and_continue,
    Faults._drain,
    Faults._cut_redis_link,
    Faults._stall_redis_link,
    Faults._cut_players,
    Faults._stall_players,
)
