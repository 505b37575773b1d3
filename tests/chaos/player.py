"""A player of the chaos run: an implementation of the contract's client, with resuming (§7), that trusts nothing. It
reconnects whatever happens, resumes with its positions, and hands each message to the check of its channel."""

import asyncio
import json
import random
import time

from checks import PROTOCOL, LoggedCheck, PatternCheck, PlainCheck, TableCheck
from ledger import Frames
from websocket import Refused, WebSocket

PING_EVERY = 2.0
SILENCE = 6.0  # without a byte for so long, a connection is given up
ANSWER = 10.0  # how long WELCOME may take
BACKOFF = (0.1, 2.0)  # the first bound of the random delay, and the last
ENDED, TAKEN_OVER = "session lost", "session taken over"


class ConnectionLost(ConnectionError):
    """The connection ended before the reply."""


class Player:
    """`run` connects until `close`. `plan`: which channels it has; see `cluster.plan`."""

    def __init__(self, number, token, plan, port, ledger, rng):
        self.number, self.name = number, f"p{number}"
        self.token, self.port, self.ledger = token, port, ledger
        self.rng = random.Random(rng.random())
        self.frames = Frames()
        self.checks = {}
        self.pattern = None
        self._make_checks(plan)
        # Three of four name their subscriptions when they resume; the fourth relies on what the session keeps.
        self.names_subscriptions = number % 4 != 0
        self.session = None
        self.socket = None
        self.is_welcome = False
        self.is_closing = False
        self.down_since = None
        self.last_ping = 0.0
        self.not_before = 0.0  # the server's own delay before the next attempt
        self._ended = asyncio.Event()
        self._replies = {}
        self._next_id = 1
        self._welcome = None
        self._connected_at = None

    def _make_checks(self, plan):
        self.filters = {}
        for channel, kind, options in plan:
            if kind == "logged":
                check = LoggedCheck(channel, self.ledger, self.breach, options.get("wanted"), options.get("may_gap", False))
                self.filters[channel] = options.get("filter")
            elif kind == "pattern":
                check = self.pattern = PatternCheck(channel, self.ledger, self.breach)
            else:
                check = {"plain": PlainCheck, "entity": TableCheck}[kind](channel, self.ledger, self.breach)
            self.checks[channel] = check

    @property
    def own_channel(self):
        return f"player:{self.name}"

    def breach(self, rule, channel, detail):
        self.ledger.breach(rule, self.name, channel, detail, self.frames)

    # the connection's life

    async def run(self):
        failures = 0
        while not self.is_closing:
            old, self.socket = self.socket, None  # kept open until the new one is there (see `_goodbye`)
            try:
                await self._connect()
                failures = 0
            except (OSError, TimeoutError, Refused, ConnectionLost, ValueError) as error:
                failures += 1
                self.ledger.counts["failed connects"] += 1
                self.frames.add("--", f"connect failed: {error!r}")
                self._drop()
            finally:
                if old:
                    old.abort()
            if self.is_welcome:
                await self._ended.wait()
            await asyncio.sleep(self._delay(failures))

    def _delay(self, failures):
        """Full jitter between 0 and a bound that doubles, and never less than the server has asked for."""
        bound = min(BACKOFF[1], BACKOFF[0] * 2**failures)
        return max(self.rng.uniform(0, bound), self.not_before - time.monotonic())

    async def _connect(self):
        self._ended = asyncio.Event()
        self._welcome = asyncio.get_running_loop().create_future()
        self.socket = await WebSocket.connect(self.port, self._text, self._end, ANSWER)
        self.last_ping = time.monotonic()
        connect = {"type": "CONNECT", "id": self._id(), "token": self.token}
        if self.session is None or self.names_subscriptions:
            connect["subscribe"] = [self._subscription(name) for name in self.checks if name != self.own_channel]
        if self.session is not None:
            connect["resume"] = {"session": self.session, "positions": self.positions()}
        self._send(connect)
        async with asyncio.timeout(ANSWER):
            await self._welcome

    def positions(self):
        found = {name: check.position for name, check in self.checks.items() if check.kind != "pattern" and check.position}
        if self.pattern:
            found.update(self.pattern.positions())
        return found

    def _subscription(self, channel):
        text = self.filters.get(channel)
        return {"channel": channel, "filter": text} if text else {"channel": channel}

    def _end(self, code):
        """The socket has ended."""
        self.frames.add("--", f"closed {code}")
        self.ledger.counts[f"closed {code}"] += 1
        if not self.is_closing:
            if code == 4505:
                self.breach(TAKEN_OVER, "", "closed with 4505 although nobody else claimed the session")
            elif 4500 <= code <= 4999 or code in (1002, 1003, 1007, 1008, 1009):
                self.breach(PROTOCOL, "", f"closed with {code}")
        self._drop()

    def _drop(self):
        """Leaves the socket, if it has not ended, without a word."""
        socket, self.socket = self.socket, None
        if socket:
            self._mark_down(socket.last_byte)
            socket.abort()
        self._lost()

    def _mark_down(self, since):
        if self.is_welcome:
            self.down_since = since

    def _lost(self):
        if self.is_welcome and self.down_since is None:
            self.down_since = time.monotonic()
        self.is_welcome = False
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            if not reply.done():
                reply.set_exception(ConnectionLost())
                reply.exception()
        if self._welcome and not self._welcome.done():
            self._welcome.set_exception(ConnectionLost())
            self._welcome.exception()
        self._ended.set()

    def tick(self, now):
        """Called every half second: a ping when it is time, and the end of a connection on which nothing arrives."""
        if not (self.socket and self.is_welcome):
            return
        if now - self.socket.last_byte > SILENCE:
            self.frames.add("--", f"nothing for {now - self.socket.last_byte:.1f} s")
            self.ledger.counts["given up as silent"] += 1
            self._drop()
        elif now - self.last_ping > PING_EVERY:
            self.last_ping = now
            self._send({"type": "PING", "id": self._id()})

    def close(self):
        """Ends the session: close 1000."""
        self.is_closing = True
        if self.socket and self.is_welcome:
            self.socket.close(1000)
        else:
            self._drop()

    # requests

    async def request(self, type, timeout=8.0, **fields):
        """The reply to a request: a success or an `ERROR`. Raises `ConnectionLost` or `TimeoutError`."""
        if not (self.socket and self.is_welcome):
            raise ConnectionLost
        id = self._id()
        reply = self._replies[id] = asyncio.get_running_loop().create_future()
        self._send({"type": type, "id": id, **fields})
        try:
            async with asyncio.timeout(timeout):
                return await reply
        finally:
            self._replies.pop(id, None)

    def _id(self):
        self._next_id += 1
        return self._next_id

    def _send(self, message):
        text = json.dumps(message, separators=(",", ":"))
        if message["type"] != "PING":
            self.frames.add("→", text.replace(self.token, "…"))
        self.socket.send(text)

    # messages

    def _text(self, text):
        socket = self.socket
        messages = json.loads(text)
        self.frames.add("←", text)
        for message in messages if isinstance(messages, list) else (messages,):
            if self.socket is not socket:
                return  # left in the middle of an array
            self._message(message)

    def _message(self, message):
        kind = message["type"]
        if kind == "EVENT":
            self._event(message)
        elif handler := self._handlers.get(kind):
            handler(self, message)
        if "id" in message and (reply := self._replies.get(message["id"])) and not reply.done():
            reply.set_result(message)

    def _event(self, message):
        self.ledger.counts["delivered"] += 1
        if not self.is_welcome:
            self.breach(PROTOCOL, message["channel"], f"an event before WELCOME: {message}")
        check = self._check(message["channel"])
        if check:
            check.event(message)
        else:
            self.breach(PROTOCOL, message["channel"], f"an event of a channel without a subscription: {message}")

    def _check(self, channel):
        """That of a channel, or of the pattern which covers it."""
        found = self.checks.get(channel)
        if found is None and self.pattern and self.pattern.covers(channel):
            return self.pattern
        return found

    def _on_welcome(self, message):
        now = time.monotonic()
        resumed = message["resumed"]
        self._judge_resume(resumed, now)
        if self.down_since is not None:
            self.ledger.outage(self.name, now - self.down_since)
        self.session, self.down_since, self.not_before = message["session"], None, 0.0
        self.resume_window = message["resume_window_ms"] / 1000
        entries = {entry["channel"]: entry for entry in message["subscriptions"]}
        self.is_welcome = True
        self._connected_at = now
        for channel, check in self.checks.items():
            check.welcome(entries.get(channel), resumed)
            if channel not in entries and not resumed and not self.names_subscriptions and self._was_resuming:
                self._subscribe(channel)
        self._was_resuming = True
        if not self._welcome.done():
            self._welcome.set_result(None)

    _was_resuming = False
    resume_window = 0.0

    def _judge_resume(self, resumed, now):
        """A session that was not resumed although nothing stood in the way breaks the promise."""
        if self.session is None:
            return
        self.ledger.counts["resumed" if resumed else "not resumed"] += 1
        if resumed:
            return
        began = self.down_since or now
        if now - began > self.resume_window - 2:
            self.ledger.counts["not resumed: after the window"] += 1
        elif self.ledger.was_troubled(began - 2, now, margin=5):
            self.ledger.counts["not resumed: Redis was away"] += 1
        else:
            self.breach(ENDED, "", f"resumed: false after {now - began:.1f} s, with Redis there")

    def _on_subscribed(self, message):
        if check := self.checks.get(message["channel"]):
            check.subscribed(message)

    def _on_unsubscribed(self, message):
        self.breach(PROTOCOL, message["channel"], f"{message}")

    def _on_resync(self, message):
        channel = message["channel"]
        check = self.checks.get(channel)
        if check:
            check.resync(message)
        elif self.pattern and self.pattern.covers(channel):
            self.pattern.of(channel).resync(message)
        else:
            self.breach(PROTOCOL, channel, f"RESYNC of a channel without a subscription: {message}")

    def _on_position(self, message):
        channel = message["channel"]
        check = self.checks.get(channel)
        if check is None and self.pattern and self.pattern.covers(channel):
            check = self.pattern.of(channel)
        if check is None:
            self.breach(PROTOCOL, channel, f"POSITION of a channel without a subscription: {message}")
        else:
            check.place(message)

    def _on_enter(self, message):
        self.checks[message["channel"]].enter(message)

    def _on_leave(self, message):
        self.checks[message["channel"]].leave(message)

    def _on_goodbye(self, message):
        """A third waits for the close, a third leaves at once, a third goes over while the old connection is open."""
        self.ledger.counts["goodbyes"] += 1
        habit = self.number % 3
        if habit == 1:
            self._drop()
        elif habit == 2:
            # What arrives there from now on is not read; the claim of the session closes it.
            self.socket.on_text = self.socket.on_end = None
            self._mark_down(self.socket.last_byte)
            self._lost()

    def _on_error(self, message):
        self.ledger.counts[f"ERROR {message['code']}"] += 1
        if "retry_after_ms" in message and not self.is_welcome:
            self.not_before = time.monotonic() + message["retry_after_ms"] / 1000
        if message["code"] in ("BAD_MESSAGE", "UNSUPPORTED", "INTERNAL", "FORBIDDEN", "UNAUTHENTICATED"):
            self.breach(PROTOCOL, message.get("channel", ""), f"{message}")
        if message.get("id") not in self._replies and message.get("channel") in self.checks:
            delay = message.get("retry_after_ms", 500) / 1000
            asyncio.get_running_loop().call_later(delay, self._subscribe_if_missing, self.socket, message["channel"])

    def _subscribe_if_missing(self, socket, channel):
        if self.is_welcome and self.socket is socket and not self.checks[channel].is_live:
            self._subscribe(channel)

    def _subscribe(self, channel):
        self._send({"type": "CHANNEL_SUBSCRIBE", "id": self._id(), **self._subscription(channel)})

    _handlers = {
        "WELCOME": _on_welcome,
        "CHANNEL_SUBSCRIBED": _on_subscribed,
        "CHANNEL_UNSUBSCRIBED": _on_unsubscribed,
        "RESYNC": _on_resync,
        "POSITION": _on_position,
        "VIEW_ENTER": _on_enter,
        "VIEW_LEAVE": _on_leave,
        "GOODBYE": _on_goodbye,
        "ERROR": _on_error,
    }
