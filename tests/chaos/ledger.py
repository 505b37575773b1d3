"""The truth that all players are checked against: what was published on each channel by whom, what of it was
acknowledged, and which event each position of a log named. One ledger for the whole run; it also collects what breaks
a rule."""

import time
from collections import Counter, deque

SHOWN_OF_A_RULE = 5
END = "end"  # the event that closes a channel at the end of a run


class Breach:
    """One broken rule: who noticed it, on which channel, and the player's last frames at that moment."""

    def __init__(self, rule, player, channel, detail, frames):
        self.rule, self.player, self.channel, self.detail, self.frames = rule, player, channel, detail, frames


class ChannelLedger:
    """What publishers did on one channel. A publisher numbers its events from 1 and publishes one at a time: the next
    only once this one is acknowledged, or its outcome is given up as unknown."""

    def __init__(self):
        self.numbers = Counter()  # publisher: the number of its last event
        self.unknown = set()  # (publisher, number) that may or may not have been published
        self.at = {}  # (epoch, offset): (publisher, number)
        self.end = None  # the number of the closing event, once published

    def next(self, publisher):
        self.numbers[publisher] += 1
        return self.numbers[publisher]

    def missing(self, publisher, after, before, wanted=None):
        """The acknowledged numbers strictly between two; `wanted`: only those that a filter lets through."""
        return [
            number
            for number in range(after + 1, before)
            if (publisher, number) not in self.unknown and (wanted is None or wanted(number))
        ]


class Ledger:
    """`may_undo`: whether Redis fails over, and so may lose what it has acknowledged and not replicated."""

    def __init__(self, may_undo=False):
        self.may_undo = may_undo
        self.channels = {}
        self.counts = Counter()
        self.resyncs = Counter()  # reason: how many
        self.breaches = []
        self.broken_rules = Counter()
        self.longest_outage = (0.0, None)
        self.outages = []
        self.troubles = []  # [began, ended or None] of faults of Redis or of ways to it

    def channel(self, name):
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = ChannelLedger()
        return found

    def breach(self, rule, player, channel, detail, frames=()):
        self.broken_rules[rule] += 1
        if self.broken_rules[rule] <= SHOWN_OF_A_RULE:
            self.breaches.append(Breach(rule, player, channel, detail, list(frames)))

    def outage(self, player, seconds):
        self.outages.append(seconds)
        self.longest_outage = max(self.longest_outage, (seconds, player))

    # what excuses a player's loss of a session

    def trouble(self):
        """Redis, or a way to it, is in trouble from now on, until `over` is called on what this returns."""
        period = [time.monotonic(), None]
        self.troubles.append(period)
        return period

    @staticmethod
    def over(period):
        period[1] = time.monotonic()

    def was_troubled(self, began, ended, margin=0.0):
        return any(start <= ended and (end is None or end + margin >= began) for start, end in self.troubles)


class Frames:
    """The last frames of one player, both ways, for a breach's report."""

    def __init__(self, kept=60):
        self._kept = deque(maxlen=kept)

    def add(self, direction, text):
        self._kept.append((time.time(), direction, text))

    def __iter__(self):
        for when, direction, text in self._kept:
            shown = text if isinstance(text, str) else text.decode(errors="replace")
            yield f"{time.strftime('%H:%M:%S', time.localtime(when))}.{int(when * 1000) % 1000:03d} {direction} {shown[:600]}"
