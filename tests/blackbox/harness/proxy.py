"""A TCP proxy that makes bad networks: it delays, stalls (connections stay, nothing moves), cuts (RST) and refuses."""

import selectors
import socket
import struct
import threading
import time
from collections import deque


class Proxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`target`. All switches work at any time, for live connections too."""

    def __init__(self, target, port=0):
        self.target = target
        self.delay = 0.0
        self.stalled = False
        self.stalled_to_client = False
        self.stalled_sources = set()
        self.refusing = False
        self.accepted = 0
        self._pairs = {}
        self._cut = False
        self._stop = False
        self._late = deque()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def connections(self):
        return len(self._pairs) // 2

    def stall(self):
        """From now on nothing moves in either direction and nobody is told."""
        self.stalled = True

    def stall_from(self, *sources):
        """As `stall`, only for those who connect from these addresses: a network that is cut between some."""
        self.stalled_sources = set(sources)

    def flow(self):
        self.stalled = self.stalled_to_client = self.refusing = False
        self.stalled_sources = set()

    def refuse(self):
        """New connections are closed at once."""
        self.refusing = True

    def cut(self):
        """Every live connection is reset."""
        self._cut = True
        deadline = time.monotonic() + 5
        while self._cut:
            assert time.monotonic() < deadline, "the proxy did not cut its connections"
            time.sleep(0.002)

    def away(self):
        """What is behind it is away, until `flow`: every live connection is reset, and no other is let in."""
        self.refuse()
        self.cut()

    def close(self):
        self._stop = True
        self._thread.join(5)

    def _run(self):
        while not self._stop:
            for key, _ in self._selector.select(timeout=0.005):
                if key.fileobj is self._listener:
                    self._accept()
                elif not self._is_stalled(key.fileobj):
                    self._move(key.fileobj)
            self._deliver_late()
            if self._cut:
                for end in list(self._pairs):
                    self._drop(end, reset=True)
                self._cut = False
            if self.stalled or self.stalled_to_client or self.stalled_sources:
                time.sleep(0.005)
        for end in list(self._pairs):
            self._drop(end, reset=True)
        self._selector.close()
        self._listener.close()

    def _is_stalled(self, end):
        # One that was closed a moment ago is moved nowhere.
        if self.stalled or end not in self._pairs:
            return True
        _, role, source = self._pairs[end]
        return source in self.stalled_sources or (self.stalled_to_client and role == "server")

    def _accept(self):
        try:
            client, (source, _) = self._listener.accept()
        except OSError:
            return
        if self.refusing:
            self._reset(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=2)
        except OSError:
            self._reset(client)
            return
        self.accepted += 1
        for end, other, role in ((client, server, "client"), (server, client, "server")):
            end.settimeout(5)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[end] = (other, role, source)
            self._selector.register(end, selectors.EVENT_READ)

    def _move(self, end):
        if end not in self._pairs:
            return
        other = self._pairs[end][0]
        try:
            data = end.recv(1 << 16)
        except OSError:
            return self._drop(end, reset=True)
        if not data:
            return self._drop(end)
        if self.delay or self._late:
            self._late.append((time.monotonic() + self.delay, other, data))
        else:
            self._send(other, data)

    def _deliver_late(self):
        while self._late and not self.stalled and self._late[0][0] <= time.monotonic():
            _, other, data = self._late.popleft()
            if other in self._pairs:
                self._send(other, data)

    def _send(self, end, data):
        try:
            end.sendall(data)
        except OSError:
            self._drop(end, reset=True)

    def _drop(self, end, reset=False):
        if end not in self._pairs:
            return
        other = self._pairs[end][0]
        for each in (end, other):
            self._pairs.pop(each, None)
            try:
                self._selector.unregister(each)
            except (KeyError, ValueError):
                pass
            self._reset(each) if reset else each.close()

    @staticmethod
    def _reset(end):
        try:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        end.close()
