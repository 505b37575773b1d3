"""How a run ends: what must be true once the faults are over. Everything that was published has arrived, tables and presence
are what Redis and the players say, and after all players have left nothing of them remains, on the nodes or in Redis."""

import json
import time

from cluster import http, until
from harness import names
from ledger import END

ARRIVAL = 60.0  # how long events may take to arrive once everything works
LEASE = 15.0  # what a dead node leaves is gone at the latest so long after the windows


class Ending:
    def __init__(self, cluster, layout, players, publishers, ledger, say, window):
        self.cluster, self.layout, self.players = cluster, layout, players
        self.publishers, self.ledger, self.say, self.window = publishers, ledger, say, window

    async def run(self):
        self.say("all faults are over: waiting until every player is connected and subscribed")
        await self._settle()
        await self.publishers.stop()
        await self.publishers.end_channels()
        self.say("every channel is closed: waiting until everything has arrived")
        await self._arrive()
        await self._compare_tables()
        await self._compare_history()
        await self._compare_presence()
        self.say("all players leave")
        await self._leave()

    async def _wait(self, condition, what, timeout):
        """Waits; returns whether it became true."""
        try:
            await until(condition, what, timeout, pause=0.2)
            return True
        except TimeoutError:
            return False

    async def _settle(self):
        if not await self._wait(self.cluster.all_ready, "all nodes are ready", ARRIVAL):
            for node in self.cluster.nodes:
                if not await node.is_ready():
                    status, body = await http(node.port, "GET", "/readyz")
                    self.ledger.breach("recovery", node.name, "", f"not ready: {status} {body[:300]}", node.process.lines[-40:])
        if not await self._wait(lambda: not self._not_live(), "all players are subscribed", ARRIVAL):
            for player, channel in self._not_live()[:10]:
                player.breach("recovery", channel, "not subscribed, with everything working")

    def _not_live(self):
        return [
            (player, check.channel)
            for player in self.players
            for check in player.checks.values()
            if not (player.is_welcome and check.is_live)
        ]

    async def _arrive(self):
        if await self._wait(lambda: not self._not_arrived(), "everything has arrived", ARRIVAL):
            return
        for player, channel, place in self._not_arrived():
            player.breach("lost silently", channel, f"the last events never arrived; at {place}")

    def _not_arrived(self):
        found = []
        for player in self.players:
            for check in player.checks.values():
                if check.kind in ("logged", "plain") and not check.ended and self._is_wanted(check):
                    found.append((player, check.channel, check.position))
            if player.pattern:
                for channel in self._channels_of(player.pattern):
                    check = player.pattern.channels.get(channel)
                    if check is None or not check.ended:
                        found.append((player, channel, check and check.position))
        return found

    def _is_wanted(self, check):
        """Whether a filter lets the closing event through."""
        wanted = getattr(check, "wanted", None)
        return wanted is None or wanted(self.ledger.channel(check.channel).numbers["end"])

    def _channels_of(self, pattern):
        return [channel for channel in self.layout.logged() if pattern.covers(channel)]

    # tables and presence

    async def _compare_tables(self):
        stored = {channel: await self._stored_table(channel) for channel in self.layout.entity()}
        differ = lambda: self._differing_tables(stored)  # noqa: E731
        if not await self._wait(lambda: not differ(), "tables are equal", ARRIVAL):
            for player, channel, detail in differ()[:10]:
                player.breach("entity table", channel, detail)

    async def _stored_table(self, channel):
        """The table as Redis holds it (docs/redis.md, Keys): an entity's field is `k` and its key, its value the time and
        the event."""
        stored, cursor = {}, 0
        key = f"drawbridge:{{{channel}}}:entities"
        while True:
            cursor, fields = await self._client(key).hscan(key, cursor, count=1000)
            for name, value in fields.items():
                if name.startswith(b"k"):
                    stored[name[1:].decode()] = json.loads(value[value.index(b"{"):])["data"]
            if cursor == 0:
                return stored

    def _differing_tables(self, stored):
        found = []
        for player in self.players:
            for check in player.checks.values():
                if check.kind == "entity" and (check.entities != stored[check.channel] or not check.is_complete):
                    missing = sorted(set(stored[check.channel]) - set(check.entities))
                    extra = sorted(set(check.entities) - set(stored[check.channel]))
                    found.append((player, check.channel, f"missing {missing}, extra {extra}, complete {check.is_complete}"))
        return found

    async def _compare_history(self):
        """The log, as a few players read it: it ends with the closing event, has no hole, and names what everybody saw."""
        for player in self.players[:: max(1, len(self.players) // 20)]:
            for channel in (player.own_channel, f"room:{player.number % self.layout.rooms}"):
                reply = await player.request("HISTORY_GET", channel=channel, limit=100)
                if reply["type"] != "HISTORY":
                    player.breach("history", channel, f"{reply}")
                    continue
                if detail := self._wrong_history(channel, reply):
                    player.breach("history", channel, detail)

    def _wrong_history(self, channel, reply):
        at, events = self.ledger.channel(channel).at, reply["events"]
        if not events or events[-1]["event"] != END:
            return f"does not end with the closing event: {events[-1:]}"
        offsets = [event["offset"] for event in events]
        if offsets != list(range(offsets[0], offsets[0] + len(offsets))):
            return f"has holes: {offsets}"
        for event in events:
            seen = at.get((reply["epoch"], event["offset"]))
            if seen not in (None, (event["data"]["p"], event["data"]["n"])):
                return f"has {event} where players saw {seen}"
        return None

    async def _compare_presence(self):
        differing = {}

        async def equal():
            differing.clear()
            for index in range(self.layout.rooms):
                members = [self.players[n] for n in self.layout.members("room", index)]
                expected = sorted(player.name for player in members)
                reply = await members[0].request("PRESENCE_GET", channel=f"room:{index}")
                if reply["type"] != "PRESENCE":
                    differing[index] = reply
                elif [each["player"] for each in reply["players"]] != expected or any(each["connections"] != 1 for each in reply["players"]):
                    differing[index] = (expected, reply["players"])
            return not differing

        if not await self._wait(equal, "presence is who is connected", self.window + LEASE + 15):
            for index, detail in list(differing.items())[:5]:
                stored = await self._content(f"drawbridge:{{room:{index}}}:members")
                self.ledger.breach("presence", "", f"room:{index}", f"{detail}\nstored: {stored}")

    # what remains

    async def _leave(self):
        for player in self.players:
            player.close()
        left = {}

        async def nothing_remains():
            left.clear()
            left.update(await self._remains())
            return not left

        began = time.monotonic()
        patience = self.window + LEASE + 20
        if not await self._wait(nothing_remains, "nothing remains", patience):
            for what, detail in left.items():
                self.ledger.breach("clean-up", "", "", f"{what}: {detail}, {time.monotonic() - began:.0f} s after all players left")

    async def _remains(self):
        found = {}
        for node in self.cluster.nodes:
            samples = await node.metrics()
            held = {name: samples[name] for name in GAUGES if samples.get(name)}
            subjects = samples.get(names.HUB_SUBJECTS, 0)
            if held:
                found[f"gauges of {node.name}"] = held
            if subjects > OWN_SUBJECTS:
                found[f"subscriptions of {node.name}"] = subjects
        subscribed = [await self.cluster.redis.each("PUBSUB", kind) for kind in ("CHANNELS", "SHARDCHANNELS")]
        channels = {name.decode() for answers in subscribed for answer in answers for name in answer}
        if foreign := [name for name in channels if not name.startswith(("drawbridge:", "__sentinel__:"))]:
            found["Redis subscriptions"] = sorted(foreign)[:10]
        if patterns := sum(await self.cluster.redis.each("PUBSUB", "NUMPAT")):
            found["Redis patterns"] = patterns
        if keys := await self._keys():
            found["keys"] = keys
        leases = await self._client("drawbridge:{nodes}:leases").zrange("drawbridge:{nodes}:leases", 0, -1)
        if len(leases) != len(self.cluster.nodes):
            found["leases"] = leases
        return found

    async def _keys(self):
        """Keys that are neither of a log, of a table, nor of a node that runs."""
        foreign = []
        for master in self.cluster.redis.masters():
            async for key in master.client.scan_iter(count=1000):
                name = key.decode(errors="replace")
                if is_left_over(name):
                    foreign.append(f"{name} {await self._content(name)}")
        return sorted(foreign)[:20]

    def _client(self, key):
        """That of the master that has the key."""
        return self.cluster.redis.owner(key).client

    async def _content(self, key):
        """The beginning of a key's content, for the report."""
        client = self._client(key)
        kind = (await client.type(key)).decode()
        ttl = await client.pttl(key)
        read = {"hash": client.hgetall, "set": client.smembers, "zset": lambda key: client.zrange(key, 0, 20)}.get(kind)
        return f"({kind}, PTTL {ttl}): {str(await read(key) if read else '')[:1500]}"


# What the nodes are subscribed to for themselves.
OWN_SUBJECTS = 8
GAUGES = [name for name in names.IDLE_GAUGES if name not in (names.HUB_SUBJECTS, "drawbridge_timers")]


def is_left_over(key):
    """Whether a key belongs to a player or a node, and not to a channel's events (docs/redis.md, Keys)."""
    return "{node:" in key or ":session:" in key or key.endswith((":members", ":players"))
