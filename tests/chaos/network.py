"""A TCP proxy on the chaos run's own event loop: it forwards a loopback port to another, and can cut (RST), stall
(connections stay, nothing moves) and refuse, for everybody or for whom it knows by name."""

import asyncio
import random
import socket
import struct

_RESET = struct.pack("ii", 1, 0)
EVERYBODY = "*"
CHUNKS = 4  # in so many of the first someone must say a name


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`. Switches act on live and on new connections. `who(address, data)` returns
    the name of whoever connects from this address and sends this at first, or `None`."""

    def __init__(self, target=None, who=lambda address, data: None):
        self.target, self.who = target, who
        self.stalled, self.refused = set(), set()  # whom
        self.pairs = set()
        self.port = None
        self._server = None

    async def start(self):
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Near(self), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def cut(self, who=EVERYBODY, share=1.0, rng=random):
        """Resets this share of the live connections; returns how many."""
        chosen = [pair for pair in list(self.pairs) if pair.is_of({who}) and (share >= 1 or rng.random() < share)]
        for pair in chosen:
            pair.reset()
        return len(chosen)

    def stall(self, who=EVERYBODY):
        self.stalled.add(who)
        for pair in self.pairs:
            if pair.is_stalled:
                pair.pause()

    def refuse(self, who=EVERYBODY):
        """New connections are reset at once."""
        self.refused.add(who)

    def flow(self, who=EVERYBODY):
        """Ends stalling and refusing."""
        self.stalled.discard(who)
        self.refused.discard(who)
        for pair in list(self.pairs):
            pair.resume()

    async def close(self):
        if self._server:
            self._server.close()
        self.cut()


class _Pair:
    """One connection through a proxy: the near end (who connected) and the far end (the target)."""

    def __init__(self, proxy, near, address):
        self.proxy, self.near, self.far = proxy, near, None
        self.address, self.unknown = address, CHUNKS
        self.who = proxy.who(address, b"")
        proxy.pairs.add(self)

    def look(self, data):
        """Who sends this, if that is not known yet."""
        self.unknown -= 1
        self.who = self.proxy.who(self.address, data)
        if self.who and self.is_of(self.proxy.refused):
            self.reset()
        elif self.who and self.is_stalled:
            self.pause()

    def is_of(self, whom):
        return EVERYBODY in whom or self.who in whom

    @property
    def is_stalled(self):
        return self.is_of(self.proxy.stalled)

    def ends(self):
        return [end for end in (self.near, self.far) if end and end.transport]

    def reset(self):
        self.proxy.pairs.discard(self)
        for end in self.ends():
            _reset(end.transport)

    def pause(self):
        for end in self.ends():
            end.stop_reading()

    def resume(self):
        for end in self.ends():
            end.start_reading()


class _End(asyncio.Protocol):
    transport = None
    pair = None
    crowded = False  # the other end's buffer is full

    @property
    def other(self):
        return self.pair.far if self is self.pair.near else self.pair.near

    def stop_reading(self):
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def start_reading(self):
        if self.other and not (self.crowded or self.pair.is_stalled or self.transport.is_closing()):
            self.transport.resume_reading()

    def data_received(self, data):
        self.other.transport.write(data)

    def pause_writing(self):
        if self.other and self.other.transport:
            self.other.crowded = True
            self.other.stop_reading()

    def resume_writing(self):
        if self.other and self.other.transport:
            self.other.crowded = False
            self.other.start_reading()

    def eof_received(self):
        return False

    def connection_lost(self, error):
        self.pair.proxy.pairs.discard(self.pair)
        other = self.other
        if other and other.transport and not other.transport.is_closing():
            # A stalled connection has not delivered what came before: its end is a reset.
            _reset(other.transport) if error or self.pair.is_stalled else other.transport.close()


class _Near(_End):
    def __init__(self, proxy):
        self.proxy = proxy

    def connection_made(self, transport):
        self.transport = transport
        self.pair = _Pair(self.proxy, self, transport.get_extra_info("peername")[0])
        if self.pair.is_of(self.proxy.refused):
            return self.pair.reset()
        _no_delay(transport)
        transport.pause_reading()
        asyncio.get_running_loop().create_task(self._connect())

    def data_received(self, data):
        if self.pair.who is None and self.pair.unknown:
            self.pair.look(data)
        super().data_received(data)

    async def _connect(self):
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Far(self.pair), "127.0.0.1", self.proxy.target)
        except OSError:
            self.pair.reset()


class _Far(_End):
    def __init__(self, pair):
        self.pair = pair

    def connection_made(self, transport):
        self.transport = transport
        self.pair.far = self
        _no_delay(transport)
        if self.pair not in self.pair.proxy.pairs:  # cut meanwhile
            return self.pair.reset()
        if self.pair.is_stalled:
            self.stop_reading()
        self.pair.near.start_reading()


def _no_delay(transport):
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(transport):
    try:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass  # closed already
    transport.abort()
