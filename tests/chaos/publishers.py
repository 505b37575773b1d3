"""Who publishes during a chaos run. Everyone numbers the events of a channel and publishes one at a time, so that the ledger
knows of each whether it was acknowledged. Players use idempotency keys and repeat until they are answered; services that
speak Redis do not repeat what may have happened."""

import asyncio
import json
import time
from collections import defaultdict

import redis

from cluster import http
from ledger import END
from player import ConnectionLost

REPEAT_FOR = 80.0  # within the two minutes for which a key is remembered


class Publishers:
    """Starts and stops all of them. `rate` scales how much is published."""

    def __init__(self, cluster, layout, players, ledger, rng, rate=1.0):
        self.cluster, self.layout, self.players, self.ledger, self.rng = cluster, layout, players, ledger, rng
        self.rate = rate
        self.is_stopping = False
        self._tasks = []
        self._locks = defaultdict(asyncio.Lock)

    def start(self):
        layout = self.layout
        services = [
            ([f"player:p{n}" for n in range(layout.clients)], layout.clients / 5),
            ([f"room:{n}" for n in range(layout.rooms)], layout.rooms / 5),
            ([c for c in layout.logged() if c.startswith("zone:")], layout.zones * layout.areas * 0.4),
            ([c for c in layout.logged() if c.startswith(("news:", "ticker:"))], layout.news + layout.tickers * 2),
        ]
        for number, (channels, per_second) in enumerate(services):
            self._spawn(self._service(f"f{number}", channels, per_second, self._fcall))
        self._spawn(self._service("s", list(layout.plain()), layout.chats * 0.4, self._plain))
        self._spawn(self._service("e", list(layout.entity()), layout.worlds * 0.8, self._entity))
        self._spawn(self._service("h", [f"room:{n}" for n in range(layout.rooms)], layout.rooms / 10, self._over_http))
        for n in range(layout.rooms):
            self._spawn(self._player(f"room:{n}", self.players[layout.members("room", n)[0]], 0.4, True))
        for n in range(layout.chats):
            if members := layout.members("chat", n):
                self._spawn(self._player(f"chat:{n}", self.players[members[0]], 0.2, False))

    def _spawn(self, coroutine):
        self._tasks.append(asyncio.create_task(coroutine))

    async def stop(self):
        """Everyone finishes the event in hand."""
        self.is_stopping = True
        await asyncio.gather(*self._tasks)

    async def end_channels(self):
        """Publishes the closing event of every channel but the entity channels'."""
        connection = self.cluster.redis.service()
        try:
            for channel in [*self.layout.logged(), *self.layout.plain()]:
                publish = self._plain if channel.startswith("chat:") else self._fcall
                await self._publish(connection, channel, END, "end", publish)
        finally:
            await connection.aclose()

    # services

    async def _service(self, name, channels, per_second, publish):
        connection = self.cluster.redis.service()
        pause = 1 / (per_second * self.rate)
        at = time.monotonic()
        try:
            while not self.is_stopping:
                at = max(at + pause * self.rng.uniform(0.5, 1.5), time.monotonic() - 1)
                await asyncio.sleep(max(0, at - time.monotonic()))
                channel = self.rng.choice(channels)
                if not await self._publish(connection, channel, name, "n", publish):
                    await self._until_redis_is_back(connection, channel)
        finally:
            await connection.aclose()

    async def _publish(self, connection, channel, publisher, event, publish):
        """One event, until it is acknowledged (true) or its outcome is unknown."""
        truth = self.ledger.channel(channel)
        number = truth.next(publisher)
        data = {"p": publisher, "n": number, "k": number % 3}
        self.ledger.counts["published"] += 1
        deadline = time.monotonic() + REPEAT_FOR
        while True:
            try:
                if await publish(connection, channel, event, data):
                    self.ledger.counts["acknowledged"] += 1
                    return True
            except redis.ResponseError as error:
                self.ledger.counts[f"refused by Redis: {type(error).__name__} {str(error).split()[0]}"] += 1
            except (redis.RedisError, OSError, TimeoutError, asyncio.IncompleteReadError):
                truth.unknown.add((publisher, number))
                self.ledger.counts["outcome unknown"] += 1
                return False
            if time.monotonic() > deadline:
                # Not done, and never will be: its number is missing for everybody.
                truth.unknown.add((publisher, number))
                self.ledger.counts["given up"] += 1
                return False
            await asyncio.sleep(0.2)

    async def _until_redis_is_back(self, connection, channel):
        """Where one of several masters is away, the others go on after a while."""
        deadline = time.monotonic() + (1 if len(self.cluster.redis.masters()) > 1 else REPEAT_FOR)
        while not self.is_stopping and time.monotonic() < deadline:
            try:
                await connection.ping(channel)
                return
            except (redis.RedisError, OSError, TimeoutError):
                await asyncio.sleep(0.1)

    async def _fcall(self, connection, channel, event, data):
        payload = json.dumps({"event": event, "data": data})
        await connection.execute(channel, "FCALL", "drawbridge_publish", 1, channel, payload)
        return True

    async def _plain(self, connection, channel, event, data):
        command = self.cluster.redis.publish_command(channel)
        await connection.execute(channel, command, channel, json.dumps({"event": event, "data": data}))
        return True

    async def _entity(self, connection, channel, event, data):
        number = data["n"] % 40
        # Now and then an entity goes.
        event = "remove" if data["n"] % 17 == 0 else "move"
        return await self._fcall(connection, channel, event, {**data, "id": f"e{number}"})

    async def _over_http(self, _connection, channel, event, data):
        """By `POST /api/publish`, with an idempotency key: repeated at any node until one answers."""
        body = {"channel": channel, "event": event, "data": data, "idempotency_key": f"h-{channel}-{data['n']}"}
        deadline = time.monotonic() + REPEAT_FOR
        while time.monotonic() < deadline:
            node = self.rng.choice(self.cluster.nodes)
            try:
                status, answer = await http(node.admin_port, "POST", "/api/publish", body)
            except (OSError, TimeoutError, ValueError, IndexError):
                status = None
            if status is not None and 200 <= status < 300:
                return True
            if status is not None and status not in (429, 502, 503, 504):
                self.ledger.breach("contract", "", channel, f"POST /api/publish: {status} {answer[:300]}")
                return True
            self.ledger.counts["repeated"] += 1
            await asyncio.sleep(self.rng.uniform(0.1, 0.5))
        raise TimeoutError

    # players

    async def _player(self, channel, player, per_second, is_logged):
        """A player that publishes on one of its channels; on a logged one it repeats until it is answered."""
        truth, publisher = self.ledger.channel(channel), player.name
        while not self.is_stopping:
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) / (per_second * self.rate))
            if self.is_stopping or not player.is_welcome:
                continue
            number = truth.next(publisher)
            data = {"p": publisher, "n": number, "k": number % 3}
            self.ledger.counts["published"] += 1
            fields = {"channel": channel, "event": "n", "data": data}
            if is_logged:
                fields["idempotency_key"] = f"{publisher}-{number}"
            if await self._until_answered(player, fields, is_logged):
                self.ledger.counts["acknowledged"] += 1
            else:
                truth.unknown.add((publisher, number))
                self.ledger.counts["outcome unknown"] += 1

    async def _until_answered(self, player, fields, repeats):
        deadline = time.monotonic() + REPEAT_FOR
        while time.monotonic() < deadline:
            delay = self.rng.uniform(0.05, 0.3)
            try:
                reply = await player.request("PUBLISH_EVENT", **fields)
                if reply["type"] == "EVENT_PUBLISHED":
                    self._check_position(player, fields, reply)
                    return True
                if not reply["retryable"]:
                    player.breach("contract", fields["channel"], f"a publish was refused: {reply}")
                    return False
                unknown = reply.get("outcome") == "unknown"
                delay = max(delay, reply.get("retry_after_ms", 0) / 1000)
            except (ConnectionLost, TimeoutError):
                unknown = True
            if unknown and not repeats:
                return False
            self.ledger.counts["repeated"] += 1
            await asyncio.sleep(delay)
        return False

    @staticmethod
    def _check_position(player, fields, reply):
        if "idempotency_key" in fields and not isinstance(reply.get("offset"), int):
            player.breach("contract", fields["channel"], f"a logged publish without an offset: {reply}")
