"""A client of the contract that records everything, in order, and checks each message: its shape, and that the
events of a channel are counted upwards without a repeat. Reads only while a test waits, so a test can also not read."""

import json

import msgpack

from . import contract
from .table import Table
from .wait import PATIENCE, Deadline
from .websocket import BINARY, JSON, MSGPACK, TEXT, Closed, TimedOut, WebSocket


class Message(dict):
    """One message object from the server, and the frame it came in."""

    raw = None
    in_array = False

    @property
    def type(self):
        return self["type"]


class Player:
    """One connection. `token` goes on the upgrade; without one a test sends `CONNECT` itself."""

    def __init__(self, port, token=None, *, path="/ws", headers=(), encoding=JSON, **socket_options):
        headers = list(headers.items()) if isinstance(headers, dict) else list(headers)
        if token is not None:
            headers.append(("Authorization", f"Bearer {token}"))
        self.encoding = encoding
        self.ws = WebSocket(port, path, headers=headers, subprotocols=(encoding,), **socket_options).connect()
        assert self.ws.subprotocol == encoding
        self.received = []  # everything, ever
        self.unread = []  # what no test has asked for yet
        self.positions = {}  # channel: last offset
        self.tables = {}  # entity channel: Table, from its first VIEW_ENTER on
        self.next_id = 1

    # sending

    def encode(self, message):
        if self.encoding == JSON:
            return TEXT, json.dumps(message).encode()
        return BINARY, msgpack.packb(message)

    def send(self, message):
        """Sends one message object, or an array of them, as it is."""
        self.ws.send_frame(*self.encode(message))

    def send_json(self, text):
        """Sends this very text."""
        self.ws.send_text(text)

    def start(self, type, **fields):
        """Sends a request with a fresh id and returns the id, without waiting."""
        id = self.next_id
        self.next_id += 1
        self.send({"type": type, "id": id, **fields})
        return id

    def ask(self, type, **fields):
        """Sends a request and returns its one direct reply."""
        timeout = fields.pop("timeout", PATIENCE)
        return self.reply(self.start(type, **fields), timeout)

    def reply(self, id, timeout=PATIENCE):
        return self.expect(id=id, timeout=timeout)

    def subscribe(self, channel, **fields):
        """Subscribes and insists on success."""
        reply = self.ask("CHANNEL_SUBSCRIBE", channel=channel, **fields)
        assert reply.type == "CHANNEL_SUBSCRIBED", reply
        assert reply["channel"] == channel
        return reply

    def unsubscribe(self, channel):
        reply = self.ask("CHANNEL_UNSUBSCRIBE", channel=channel)
        assert reply.type == "CHANNEL_UNSUBSCRIBED", reply
        assert (reply["channel"], reply["reason"]) == (channel, "client")
        return reply

    def publish(self, channel, event="hit", data=None, **fields):
        """Publishes and insists on success."""
        reply = self.ask("PUBLISH_EVENT", channel=channel, event=event, data=data, **fields)
        assert reply.type == "EVENT_PUBLISHED", reply
        assert reply["channel"] == channel
        return reply

    def refusal(self, type, code, **fields):
        """Sends a request and insists on this error."""
        reply = self.ask(type, **fields)
        assert reply.type == "ERROR" and reply["code"] == code, f"expected {code}, got {reply}"
        return reply

    # receiving

    def pump(self, timeout):
        """Takes in one WebSocket message."""
        opcode, payload = self.ws.receive(timeout)
        if self.encoding == JSON:
            assert opcode == TEXT, "a binary frame on the JSON sub-protocol"
            content = json.loads(payload)
        else:
            assert opcode == BINARY, "a text frame on the MessagePack sub-protocol"
            content = msgpack.unpackb(payload, strict_map_key=True)
        array = isinstance(content, list)
        if array:
            assert 1 <= len(content) <= 64, "an array holds 1 to 64 messages"
        for each in content if array else [content]:
            message = Message(each)
            message.raw, message.in_array = payload, array
            self._take(message)

    def _take(self, message):
        contract.check(message)
        self._count(message)
        self._keep(message)
        self.received.append(message)
        self.unread.append(message)

    def _count(self, message):
        """Offsets of one channel only go up, until something says that the count begins anew."""
        kind, channel = message.type, message.get("channel")
        if kind in ("RESYNC", "CHANNEL_SUBSCRIBED", "CHANNEL_UNSUBSCRIBED"):
            if kind == "RESYNC" or kind == "CHANNEL_UNSUBSCRIBED":
                self.positions.clear()
            if "offset" in message:
                self.positions[channel] = message["offset"]
        elif kind == "EVENT" and "offset" in message:
            last = self.positions.get(channel)
            assert last is None or message["offset"] > last, f"offset {message['offset']} after {last}: {message}"
            self.positions[channel] = message["offset"]

    def _keep(self, message):
        """Entity channels are followed by the rules of their tables."""
        channel = message.get("channel")
        if message.type == "VIEW_ENTER":
            self.tables.setdefault(channel, Table())
        if message.type == "CHANNEL_UNSUBSCRIBED":
            self.tables.pop(channel, None)
        elif channel in self.tables:
            self.tables[channel].take(message)

    def entities(self, channel):
        """What is in view by all that was read: key to data."""
        return self.tables[channel].entities if channel in self.tables else {}

    def sees(self, channel, keys, timeout=PATIENCE):
        """Reads until exactly these keys are in view, and the table is complete."""
        deadline = Deadline(timeout)
        while True:
            table = self.tables.get(channel)
            if table and table.synced and set(table.entities) == set(keys):
                return table.entities
            try:
                self.pump(deadline.left())
            except TimedOut:
                raise AssertionError(f"in view: {sorted(self.entities(channel))}, expected {sorted(keys)}") from None

    def expect(self, type=None, timeout=PATIENCE, where=None, **fields):
        """The first unread message that fits; those before it stay unread."""
        deadline = Deadline(timeout)
        seen = 0
        while True:
            for index in range(seen, len(self.unread)):
                message = self.unread[index]
                if self._fits(message, type, where, fields):
                    return self.unread.pop(index)
            seen = len(self.unread)
            try:
                self.pump(deadline.left())
            except TimedOut:
                raise AssertionError(
                    f"no {type or 'message'} {fields or ''} within {timeout:g} s; unread: {self.unread[-10:]}"
                ) from None

    @staticmethod
    def _fits(message, type, where, fields):
        if type is not None and message.type != type:
            return False
        if any(field not in message or message[field] != value for field, value in fields.items()):
            return False
        return where is None or where(message)

    def event(self, channel=None, event=None, **how):
        """The next event, of this channel and name if given."""
        fields = {}
        if channel is not None:
            fields["channel"] = channel
        if event is not None:
            fields["event"] = event
        return self.expect("EVENT", **fields, **how)

    def events_until(self, event, timeout=PATIENCE):
        """All unread events up to the one of this name, which is left out: what came, and so what did not."""
        self.expect("EVENT", event=event, timeout=timeout)
        at = next(i for i, m in enumerate(self.received) if m.type == "EVENT" and m["event"] == event)
        taken = [m for m in self.received[:at] if m.type == "EVENT" and any(m is u for u in self.unread)]
        self.unread = [m for m in self.unread if not any(m is t for t in taken)]
        return taken

    def welcome(self, timeout=PATIENCE):
        return self.expect("WELCOME", timeout=timeout)

    def sync(self):
        """A round trip: when it returns, everything that the server sent before is recorded."""
        reply = self.ask("PING")
        assert reply.type == "PONG", reply
        return reply

    def read_for(self, seconds):
        """Reads whatever comes for so long, answering heartbeats."""
        deadline = Deadline(seconds)
        while not deadline.passed():
            try:
                self.pump(deadline.left())
            except TimedOut:
                return

    def silent_but_for(self, *types):
        """After a round trip nothing is unread but messages of these types."""
        self.sync()
        rest = [message for message in self.unread if message.type not in types]
        assert not rest, f"unexpected: {rest}"

    def closing(self, timeout=PATIENCE):
        """Records on until the connection has ended, and returns how."""
        deadline = Deadline(timeout)
        while True:
            try:
                self.pump(deadline.left())
            except Closed as closed:
                return closed
            except TimedOut:
                raise AssertionError(f"not closed within {timeout:g} s; unread: {self.unread[-10:]}") from None

    def closes_with(self, code, timeout=PATIENCE):
        closed = self.closing(timeout)
        assert closed.code == code, f"expected close {code}, got {closed}; unread: {self.unread[-10:]}"
        return closed

    def close(self, code=1000):
        return self.ws.close(code)

    def vanish(self):
        self.ws.vanish()
