"""The faults of a chaos run, drawn from its seed. They come as cards of a deck: every kind is dealt once before any is dealt
again. Each is over after a bounded time, some are dealt while the one before is still there, and at least one node keeps
running."""

import asyncio
import time
from collections import Counter

EXIT = 30.0  # how long a drain may take to end


class Faults:
    def __init__(self, cluster, ledger, rng, say):
        self.cluster, self.ledger, self.rng, self.say = cluster, ledger, rng, say
        self.counts = Counter()
        self._deck = []
        self._running = set()
        self._redis = asyncio.Lock()  # one fault of Redis itself at a time

    async def run(self, seconds):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(self.rng.uniform(0.3, 3.0))
            task = asyncio.create_task(self._deal())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            if self.rng.random() > 0.35:
                await task
        if self._running:
            await asyncio.gather(*self._running)

    async def _deal(self):
        if not self._deck:
            self._deck = list(KINDS)
            self.rng.shuffle(self._deck)
        kind = self._deck.pop()
        name = kind.__name__.lstrip("_").replace("_", " ")
        node = self._free_node() if kind in OF_A_NODE else None
        if kind in OF_A_NODE and node is None:
            self._deck.insert(0, kind)
            return
        self.counts[name] += 1
        self.say(f"{name}{' ' + node.name if node else ''}")
        if node is None:
            async with self._redis:
                await kind(self)
            return
        node.is_busy = True
        try:
            await kind(self, node)
        finally:
            node.is_busy = False

    def _free_node(self):
        """A node that no fault is at; `None` where another must keep running."""
        free = [node for node in self.cluster.nodes if not node.is_busy]
        return self.rng.choice(free) if len(free) > 1 else None

    async def _for(self, low, high):
        await asyncio.sleep(self.rng.uniform(low, high))

    # a node's process

    async def _kill_9(self, node):
        await asyncio.to_thread(node.process.kill)
        await self._for(0.2, 4)
        await node.start()

    async def _stop_and_continue(self, node):
        """SIGSTOP: connections stay and nothing answers; longer than the lease of a node, too."""
        node.process.pause()
        await self._for(0.5, 14)
        node.process.resume()

    async def _drain(self, node):
        node.process.signal(15)
        code = await asyncio.to_thread(self._exit_code, node)
        if code != 0:
            self.ledger.breach("drain", node.name, "", f"ended with {code}", node.process.lines[-30:])
        await self._for(0, 1)
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
        trouble = self.ledger.trouble()
        node.redis_proxy.refuse()
        node.redis_proxy.cut()
        await self._for(0, 2.5)
        node.redis_proxy.flow()
        self.ledger.over(trouble)

    async def _stall_redis_link(self, node):
        trouble = self.ledger.trouble()
        node.redis_proxy.stall()
        await self._for(0.5, 9)
        if self.rng.random() < 0.5:
            node.redis_proxy.cut()
        node.redis_proxy.flow()
        self.ledger.over(trouble)

    async def _cut_players(self, node):
        node.player_proxy.cut(self.rng.choice([0.1, 0.5, 1.0]), self.rng)

    async def _stall_players(self, node):
        node.player_proxy.stall()
        await self._for(0.5, 8)
        if self.rng.random() < 0.5:
            node.player_proxy.cut()
        node.player_proxy.flow()

    # Redis

    async def _restart_redis_with_data(self):
        await self._restart_redis(False)

    async def _restart_redis_without_data(self):
        await self._restart_redis(True)

    async def _restart_redis(self, loses):
        trouble = self.ledger.trouble()
        redis = self.cluster.redis
        await redis.kill()
        if loses:
            redis.lose_data()
            self.ledger.wipes.append(time.monotonic())
        await self._for(0, 2.5)
        await redis.start()
        self.ledger.over(trouble)

    async def _stop_redis(self):
        trouble = self.ledger.trouble()
        self.cluster.redis.process.pause()
        await self._for(0.3, 6)
        self.cluster.redis.process.resume()
        self.ledger.over(trouble)

    async def _client_kill_subscribers(self):
        await self._client_kill("pubsub")

    async def _client_kill_commands(self):
        await self._client_kill("normal")

    async def _client_kill(self, kind):
        """Redis itself closes connections of the nodes, as at its output-buffer limit. Services' stay."""
        trouble = self.ledger.trouble()
        client = self.cluster.redis.client
        for each in await client.client_list():
            subscribes = int(each["sub"]) + int(each["psub"]) > 0
            if each["name"] != "chaos" and subscribes == (kind == "pubsub"):
                await client.client_kill_filter(_id=each["id"])
        self.ledger.over(trouble)


OF_A_NODE = (
    Faults._kill_9,
    Faults._stop_and_continue,
    Faults._drain,
    Faults._cut_redis_link,
    Faults._stall_redis_link,
    Faults._cut_players,
    Faults._stall_players,
)
OF_REDIS = (
    Faults._restart_redis_with_data,
    Faults._restart_redis_without_data,
    Faults._stop_redis,
    Faults._client_kill_subscribers,
    Faults._client_kill_commands,
)
KINDS = OF_A_NODE + OF_REDIS
