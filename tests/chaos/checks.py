"""What one player insists on for one channel. Each kind of channel has its promise, and its check is written from the
contract alone. A check is given every message about its channel, in order; what breaks the promise it hands to
`breach(rule, channel, detail)`."""

from ledger import END

DOUBLED, LOST, DISORDER, MIXED = "delivered twice", "lost silently", "out of order", "two histories mixed"
UNPROVEN, UNSIGNALLED, TABLE = "recovered without proof", "recovered: false without RESYNC", "entity table"
NEEDLESS, PROTOCOL = "RESYNC without a loss", "contract"


class Sequence:
    """The numbers of each publisher on one channel, as one player receives them: always upwards, and none missing that
    was acknowledged, unless a gap is signalled in between."""

    def __init__(self, ledger_channel, wanted=None):
        self.truth, self.wanted = ledger_channel, wanted
        self.last = {}

    def forget(self):
        """A gap is signalled here: the next event may have any number."""
        self.last.clear()

    def take(self, publisher, number):
        """Returns `(rule, detail)` if a promise is broken."""
        last = self.last.get(publisher)
        given_up = (publisher, number) in self.truth.unknown
        if last is None and given_up:
            # Its node may have published it late, behind what its publisher has published since by another node.
            return None
        if last is not None and number <= last:
            if given_up:
                return None  # published late
            rule = DOUBLED if number == last else DISORDER
            return rule, f"{publisher} {number} after {last}"
        self.last[publisher] = number
        if last is not None and number > last + 1:
            missing = self.truth.missing(publisher, last, number, self.wanted)
            if missing:
                return LOST, f"{publisher}: {missing[:10]} ({len(missing)} acknowledged events) before {number}"
        return None


class LoggedCheck:
    """A channel with `history`: every logged event exactly once and in order, or a `RESYNC` at the place of the gap."""

    kind = "logged"

    def __init__(self, channel, ledger, breach, wanted=None, may_gap=False):
        self.channel, self.ledger, self.breach = channel, ledger, breach
        self.truth = ledger.channel(channel)
        self.sequence = Sequence(self.truth, wanted)
        self.wanted = wanted  # by which numbers a filter lets through
        self.may_gap = may_gap  # its log is too short for some outages
        self.epoch = self.offset = None
        self.unfinished = set()  # publishers that have not been seen yet in this epoch, and were in the one before
        self.is_live = False
        self.owes_resync = self.has_no_position = False
        self.ended = False

    @property
    def position(self):
        return None if self.offset is None else {"epoch": self.epoch, "offset": self.offset}

    def _enter(self, epoch):
        """What was acknowledged at the end of an epoch and not seen by anybody may be gone without a `RESYNC`: the failover
        that began the next epoch lost it, and nobody was shown what is not there."""
        if self.epoch not in (None, epoch):
            self.unfinished = set(self.sequence.last)
        self.epoch = epoch

    # the subscription

    def welcome(self, entry, resumed):
        self.is_live = entry is not None and not entry.get("pending")
        if not resumed:
            entry = entry or {}
            self.sequence.forget()
            self.owes_resync = False
            self.epoch, self.offset = entry.get("epoch"), entry.get("offset")
            if self.is_live and self.offset is None:
                self.breach(PROTOCOL, self.channel, f"a live logged channel without a position in WELCOME: {entry}")
            return
        if self.is_live:
            self._resume(entry)

    def subscribed(self, message):
        """Of a resumed session: the channel waited for Redis, and is resumed now."""
        if not self.is_live and (self.offset is not None or "recovered" in message):
            self._resume(message)
        self.is_live = True
        self._take_first_position(message)

    def _resume(self, entry):
        """What comes next continues the position that the client named, under the log's present epoch."""
        recovered = entry.get("recovered")
        if recovered is None and self.offset is not None:
            self.breach(PROTOCOL, self.channel, f"a resumed channel without `recovered`: {entry}")
        self.owes_resync = recovered is False and self.offset is not None
        # Of a subscription that never was live the client names no position.
        self.has_no_position = recovered is False and self.offset is None
        if recovered and self.offset is not None:
            self._enter(entry.get("epoch", self.epoch))
        self._take_first_position(entry)

    def _take_first_position(self, entry):
        if self.offset is None and "offset" in entry:
            self.epoch, self.offset = entry["epoch"], entry["offset"]

    # events

    def resync(self, message):
        self.owes_resync = False
        self.sequence.forget()
        self.ledger.resyncs[message["reason"]] += 1
        excused = self.may_gap or self.has_no_position
        if message["reason"] == "gap" and not excused or message["reason"] in ("broker", "slow_consumer"):
            self.breach(NEEDLESS, self.channel, f"{message}, at {self.position}")
        self.has_no_position = False
        self.epoch, self.offset = message.get("epoch"), message.get("offset")

    def place(self, message):
        """`POSITION`."""
        epoch, offset = message["epoch"], message["offset"]
        if self.offset is not None:
            if offset < self.offset:
                self.breach(DISORDER, self.channel, f"POSITION {epoch}/{offset} after {self.position}")
            if self.wanted is None and offset > self.offset:
                skipped = offset - self.offset
                self.breach(LOST, self.channel, f"POSITION {epoch}/{offset} skips {skipped} events behind {self.position}")
        self._enter(epoch)
        self.offset = offset

    def event(self, message):
        data, offset = message["data"], message.get("offset")
        if offset is None:
            self.breach(PROTOCOL, self.channel, f"a logged event without an offset: {message}")
            return
        if self.owes_resync:
            self.owes_resync = False
            self.breach(UNSIGNALLED, self.channel, f"{message}")
        if self.offset is not None:
            self._follow(offset)
        self._enter(message.get("epoch", self.epoch))
        self.offset = offset
        publisher, number = data["p"], data["n"]
        if self.epoch is not None:
            named = self.truth.at.setdefault((self.epoch, offset), (publisher, number))
            if named != (publisher, number):
                detail = f"{self.epoch}/{offset} is {named} for others, and {(publisher, number)} here"
                self.breach(MIXED, self.channel, detail)
        broken = self.sequence.take(publisher, number)
        if broken and broken[0] == LOST and self.ledger.may_undo and publisher in self.unfinished:
            self.ledger.counts["acknowledged and undone by a failover"] += 1
        elif broken:
            self.breach(broken[0], self.channel, broken[1])
        self.unfinished.discard(publisher)
        if message["event"] == END:
            self.ended = True

    def _follow(self, offset):
        if offset <= self.offset:
            self.breach(DOUBLED, self.channel, f"offset {offset} after {self.offset} of {self.epoch}")
        elif offset > self.offset + 1 and self.wanted is None:
            lost = offset - self.offset - 1
            self.breach(LOST, self.channel, f"{lost} offsets between {self.offset} and {offset} of {self.epoch}")


class PatternCheck:
    """Logged channels by a pattern: each from its first event on, under the promise of a logged channel."""

    kind = "pattern"

    def __init__(self, pattern, ledger, breach):
        self.channel, self.ledger, self.breach = pattern, ledger, breach
        self.is_live = False
        self.channels = {}

    def covers(self, channel):
        return channel.startswith(self.channel[:-1])

    def of(self, channel):
        found = self.channels.get(channel)
        if found is None:
            found = self.channels[channel] = LoggedCheck(channel, self.ledger, self.breach)
        return found

    def positions(self):
        return {name: check.position for name, check in self.channels.items() if check.position}

    def welcome(self, entry, resumed):
        self.is_live = entry is not None and not entry.get("pending")
        if not resumed:
            self.channels.clear()
        elif self.is_live and self.channels and entry.get("recovered") is None:
            self.breach(PROTOCOL, self.channel, f"a resumed pattern without `recovered`: {entry}")

    def subscribed(self, message):
        self.is_live = True

    def resync(self, message):
        """Channels that nobody has seen yet may have had events. Known channels go on, or get their own `RESYNC`."""
        self.ledger.resyncs["by pattern: " + message["reason"]] += 1

    def event(self, message):
        check = self.of(message["channel"])
        if check.offset is None and not check.sequence.last:
            self.breach(PROTOCOL, message["channel"], f"no POSITION before the first event through a pattern: {message}")
        check.event(message)


class PlainCheck:
    """A channel without history: in order and never twice; a hole is signalled by `RESYNC`, `recovered: false` or a new
    session, and `recovered: true` never has one behind it."""

    kind = "plain"

    def __init__(self, channel, ledger, breach):
        self.channel, self.ledger, self.breach = channel, ledger, breach
        self.truth = ledger.channel(channel)
        self.sequence = Sequence(self.truth)
        self.epoch = self.offset = None
        self.is_live = False
        self.was_recovered = False
        self.ended = False

    @property
    def position(self):
        return None if self.offset is None else {"epoch": self.epoch, "offset": self.offset}

    def welcome(self, entry, resumed):
        self.is_live = entry is not None and not entry.get("pending")
        recovered = bool(resumed and entry and entry.get("recovered"))
        if resumed and self.is_live and self.offset is not None and entry.get("recovered") is None:
            self.breach(PROTOCOL, self.channel, f"a resumed channel without `recovered`: {entry}")
        self.ledger.counts["plain recovered" if recovered else "plain not recovered"] += bool(resumed)
        self.was_recovered = recovered
        if not recovered:
            self.sequence.forget()
            self.epoch = self.offset = None
            if entry and "offset" in entry:
                self.epoch, self.offset = entry["epoch"], entry["offset"]

    def subscribed(self, message):
        self.is_live = True
        if "offset" in message:
            self.epoch, self.offset = message["epoch"], message["offset"]

    def resync(self, message):
        self.ledger.resyncs[message["reason"]] += 1
        self.was_recovered = False
        self.sequence.forget()
        if "offset" in message:
            self.epoch, self.offset = message["epoch"], message["offset"]

    def event(self, message):
        data = message["data"]
        self.offset = message.get("offset", self.offset)
        broken = self.sequence.take(data["p"], data["n"])
        if broken:
            rule = UNPROVEN if broken[0] == LOST and self.was_recovered else broken[0]
            self.breach(rule, self.channel, broken[1])
        self.was_recovered = self.was_recovered and not broken
        if message["event"] == END:
            self.ended = True


class TableCheck:
    """An entity channel: a table that begins with a snapshot on every connection and after every `RESYNC`, and changes
    only by what enters, changes and leaves."""

    kind = "entity"

    def __init__(self, channel, ledger, breach):
        self.channel, self.ledger, self.breach = channel, ledger, breach
        self.entities = {}
        self.is_live = self.is_complete = False
        self.awaits_snapshot = True

    position = None

    def welcome(self, entry, resumed):
        self.is_live = entry is not None and not entry.get("pending")
        if entry is not None and "recovered" in entry:
            self.breach(PROTOCOL, self.channel, f"`recovered` on an entity channel: {entry}")
        self._lose()

    def subscribed(self, message):
        self.is_live = True

    def resync(self, message):
        self.ledger.counts["tables sent again"] += 1
        self._lose()

    def _lose(self):
        self.entities, self.is_complete, self.awaits_snapshot = {}, False, True

    def enter(self, message):
        if message.get("reset"):
            self.entities, self.is_complete, self.awaits_snapshot = {}, False, False
        elif self.awaits_snapshot:
            self.breach(TABLE, self.channel, f"a table that does not begin with `reset`: {message}")
            return
        for entity in message["entities"]:
            if entity["key"] in self.entities:
                self.breach(TABLE, self.channel, f"{entity['key']} enters twice")
            self.entities[entity["key"]] = entity["data"]
        self.is_complete = self.is_complete or message["complete"]

    def leave(self, message):
        for key in message["keys"]:
            if self.entities.pop(key, None) is None and not self.awaits_snapshot:
                self.breach(TABLE, self.channel, f"{key} leaves and was not in the table")

    def event(self, message):
        key, data = message["key"], message["data"]
        if self.awaits_snapshot:
            return
        before = self.entities.get(key)
        if before is None:
            self.breach(TABLE, self.channel, f"{key} changes and is not in the table")
        elif data["n"] <= before["n"] and (data["p"], data["n"]) not in self.ledger.channel(self.channel).unknown:
            self.breach(TABLE, self.channel, f"{key} goes from {before['n']} to {data['n']}")
        self.entities[key] = data
