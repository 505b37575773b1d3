"""A small blocking WebSocket client (RFC 6455) that can also do everything wrong: unmasked, fragmented, oversized
and reserved frames, half a handshake, silence. It can speak permessage-deflate (RFC 7692). It knows nothing of the
contract; see `player`."""

import base64
import hashlib
import os
import socket
import struct
import zlib

from . import ports
from .wait import PATIENCE, Deadline

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0
JSON, MSGPACK = "drawbridge.v1.json", "drawbridge.v1.msgpack"
RSV1 = 4
DEFLATE_OFFER = "permessage-deflate; client_max_window_bits"
_DEFLATE_TAIL = b"\x00\x00\xff\xff"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refused(Exception):
    """The server answered the upgrade with something other than 101."""

    def __init__(self, status, headers, body):
        super().__init__(f"HTTP {status}: {body[:200]!r}")
        self.status, self.headers, self.body = status, headers, body


class Closed(Exception):
    """The connection has ended; 1006 where no close frame came."""

    def __init__(self, code, reason=""):
        super().__init__(f"closed {code} {reason}")
        self.code, self.reason = code, reason


class TimedOut(Exception):
    """Nothing (whole) came in time."""


def frame(opcode, payload=b"", fin=True, masked=True, rsv=0, length=None):
    """One frame as a client sends it; `length` lies about the payload's."""
    head = bytearray([(0x80 if fin else 0) | (rsv << 4) | opcode])
    size = len(payload) if length is None else length
    mask_bit = 0x80 if masked else 0
    if size < 126:
        head.append(mask_bit | size)
    elif size < 1 << 16:
        head += bytes([mask_bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", size)
    if not masked:
        return bytes(head) + payload
    key = os.urandom(4)
    return bytes(head) + key + _mask(payload, key)


def _mask(payload, key):
    if not payload:
        return b""
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return mixed.to_bytes(len(payload), "big")


def deflate(data, level=6):
    """What a message with RSV1 holds."""
    state = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (state.compress(data) + state.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_DEFLATE_TAIL)


def inflate(data):
    """The message of a payload with RSV1, from nothing."""
    state = zlib.decompressobj(-15)
    message = state.decompress(data + _DEFLATE_TAIL)
    assert not state.unconsumed_tail and not state.unused_data, "bytes behind the compressed message"
    return message


class WebSocket:
    """One socket. `connect()` does the whole handshake; the steps are public for tests that stop half way."""

    def __init__(
        self,
        port,
        path="/ws",
        *,
        host="127.0.0.1",
        headers=(),
        subprotocols=(JSON,),
        tls=None,
        source=None,
        preamble=b"",
        receive_buffer=None,
        answer_pings=True,
        deflate=False,
        timeout=PATIENCE,
    ):
        self.port, self.path, self.host = port, path, host
        self.headers = list(headers.items()) if isinstance(headers, dict) else list(headers)
        self.subprotocols = subprotocols
        self.answer_pings = answer_pings
        self.deflate = DEFLATE_OFFER if deflate is True else deflate or None  # or an offer of the test's own
        self.extension = None  # what the server agreed on
        self.compressed_frames = 0
        self.timeout = timeout
        self.pings = 0
        self.method = "GET"
        self.subprotocol = None
        self.response_headers = {}
        self._buffer = bytearray()
        self._parts = None
        self.closed = None
        self.socket = socket.socket(ports.family_of(host), socket.SOCK_STREAM)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.socket.bind((source, 0))
        self.socket.settimeout(timeout)
        self.socket.connect((host, port))
        if preamble:
            self.socket.sendall(preamble)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    # handshake

    def connect(self):
        self.send_handshake()
        self.read_handshake()
        return self

    def handshake_bytes(self, **replace):
        """The upgrade request; a header given as `None` is left out."""
        self.key = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Host": f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": self.key,
            "Sec-WebSocket-Version": "13",
        }
        if self.subprotocols:
            headers["Sec-WebSocket-Protocol"] = ", ".join(self.subprotocols)
        if self.deflate:
            headers["Sec-WebSocket-Extensions"] = self.deflate
        for name, value in replace.items():
            headers[name.replace("_", "-")] = value
        lines = [f"{self.method} {self.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def send_handshake(self, **replace):
        self.socket.sendall(self.handshake_bytes(**replace))

    def read_handshake(self):
        deadline = Deadline(self.timeout)
        while b"\r\n\r\n" not in self._buffer:
            self._fill(deadline)
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        status_line, *lines = head.decode("latin-1").split("\r\n")
        status = int(status_line.split()[1])
        self.response_headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        if status != 101:
            raise Refused(status, self.response_headers, self._body(deadline))
        accept = base64.b64encode(hashlib.sha1(self.key.encode() + _GUID).digest()).decode()
        assert self.response_headers.get("sec-websocket-accept") == accept, "wrong Sec-WebSocket-Accept"
        self.subprotocol = self.response_headers.get("sec-websocket-protocol")
        if self.subprotocol is not None:
            assert self.subprotocol in self.subprotocols, "a sub-protocol that was not offered"
        self.extension = self.response_headers.get("sec-websocket-extensions")
        assert self.deflate or not self.extension, "an extension that was not offered"

    def _body(self, deadline):
        """What the server has to say; to a HEAD it announces a body that does not come."""
        length = 0 if self.method == "HEAD" else int(self.response_headers.get("content-length", 0))
        while len(self._buffer) < length:
            try:
                self._fill(deadline)
            except Closed:
                break
        return bytes(self._buffer)

    # sending

    def send_raw(self, data):
        self.socket.sendall(data)

    def send_frame(self, opcode, payload=b"", **how):
        self.send_raw(frame(opcode, payload, **how))

    def send_text(self, text):
        self.send_frame(TEXT, text.encode() if isinstance(text, str) else text)

    def send_compressed(self, text, **how):
        self.send_frame(TEXT, deflate(text.encode() if isinstance(text, str) else text), rsv=RSV1, **how)

    def send_binary(self, data):
        self.send_frame(BINARY, data)

    def send_close(self, code=1000, reason=b""):
        self.send_frame(CLOSE, b"" if code is None else struct.pack(">H", code) + reason)

    # receiving

    def receive(self, timeout=None):
        """The next data message as `(opcode, payload)`. Raises `Closed` at the end, `TimedOut` where none comes."""
        deadline = Deadline(self.timeout if timeout is None else timeout)
        while True:
            if self.closed:
                raise self.closed
            found = self._next_frame()
            if found is None:
                self._fill(deadline)
                continue
            fin, opcode, compressed, payload = found
            assert fin or not compressed, "this server does not fragment"
            if compressed:
                assert opcode in (TEXT, BINARY), "a compressed frame that begins no message"
                self.compressed_frames += 1
                payload = inflate(payload)
            if opcode == CLOSE:
                self._end(*self._close_of(payload), echo=payload)
            elif opcode == PING:
                self.pings += 1
                if self.answer_pings:
                    self._quietly(lambda data=payload: self.send_frame(PONG, data))
            elif opcode == PONG:
                self.last_pong = payload
            elif opcode == CONTINUATION:
                assert self._parts is not None, "a continuation of nothing"
                self._parts[1] += payload
                if fin:
                    opcode, whole = self._parts
                    self._parts = None
                    return opcode, bytes(whole)
            elif not fin:
                self._parts = [opcode, bytearray(payload)]
            else:
                return opcode, payload

    def wait_closed(self, timeout=None):
        """Reads on until the connection has ended; returns the `Closed` and drops what came before."""
        deadline = Deadline(self.timeout if timeout is None else timeout)
        while True:
            try:
                self.receive(deadline.left())
            except Closed as closed:
                return closed

    def _next_frame(self):
        data = self._buffer
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        assert not data[1] & 0x80, "the server masked a frame"
        assert not data[0] & (0x30 if self.extension else 0x70), "reserved bits are set"
        if size == 126:
            if len(data) < 4:
                return None
            size, at = struct.unpack_from(">H", data, 2)[0], 4
        elif size == 127:
            if len(data) < 10:
                return None
            size, at = struct.unpack_from(">Q", data, 2)[0], 10
        if len(data) < at + size:
            return None
        fin, opcode, compressed = bool(data[0] & 0x80), data[0] & 0x0F, bool(data[0] & 0x40)
        payload = bytes(data[at : at + size])
        del data[: at + size]
        return fin, opcode, compressed, payload

    @staticmethod
    def _close_of(payload):
        if len(payload) < 2:
            return 1005, ""
        return struct.unpack(">H", payload[:2])[0], payload[2:].decode()

    def _fill(self, deadline):
        left = deadline.left()
        if left == 0.0:
            raise TimedOut
        self.socket.settimeout(left)
        try:
            data = self.socket.recv(1 << 16)
        except (TimeoutError, socket.timeout):
            raise TimedOut from None
        except OSError:
            data = b""
        finally:
            self._quietly(lambda: self.socket.settimeout(self.timeout))
        if not data:
            self._end(1006)
        self._buffer += data

    def _end(self, code, reason="", echo=None):
        if echo is not None:
            self._quietly(lambda: self.send_frame(CLOSE, echo[:2]))
        self.closed = Closed(code, reason)
        self._quietly(self.socket.close)
        raise self.closed

    @staticmethod
    def _quietly(action):
        try:
            action()
        except OSError:
            pass

    # ending

    def vanish(self):
        """Goes away without a word (RST), as a phone in a tunnel does not even do."""
        self._quietly(lambda: self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))
        self._quietly(self.socket.close)
        self.closed = self.closed or Closed(1006, "vanished")

    def close(self, code=1000):
        """Closes politely and waits for the answer."""
        if self.closed:
            return self.closed
        self._quietly(lambda: self.send_close(code))
        try:
            return self.wait_closed(timeout=5)
        except TimedOut:
            self.vanish()
            return self.closed
