"""A WebSocket client (RFC 6455) on the event loop, no more than the chaos run needs: JSON text, no compression. It is
written apart from the client library, so that a mistake of one does not hide a mistake of the other."""

import asyncio
import base64
import os
import struct
import time

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


class Refused(Exception):
    """The upgrade was answered with something other than 101."""

    def __init__(self, status):
        super().__init__(f"HTTP {status}")
        self.status = status


class WebSocket(asyncio.Protocol):
    """One socket. `on_text(text)` for each message and `on_end(code)` once; 1006 where no close frame came."""

    def __init__(self, on_text, on_end):
        self.on_text, self.on_end = on_text, on_end
        self.last_byte = time.monotonic()
        self._transport = None
        self._buffer = bytearray()
        self._upgraded = asyncio.get_running_loop().create_future()
        self._is_open = False
        self._code = 1006

    @classmethod
    async def connect(cls, port, on_text, on_end, timeout):
        """A socket past its handshake."""
        socket = cls(on_text, on_end)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().create_connection(lambda: socket, "127.0.0.1", port)
                await socket._upgraded
        except BaseException:
            socket.abort()
            raise
        return socket

    # sending

    def send(self, text):
        self._send(TEXT, text.encode())

    def close(self, code):
        self._send(CLOSE, struct.pack(">H", code))

    def abort(self):
        """Goes away without a word; nothing is called any more."""
        self.on_text = self.on_end = None
        if self._transport:
            self._transport.abort()

    def _send(self, opcode, payload):
        size = len(payload)
        head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else struct.pack(">BBH", 0x80 | opcode, 0x80 | 126, size)
        assert size < 1 << 16, "no message of this client is that long"
        # The key is zero, so the masked payload is the payload.
        self._transport.write(head + b"\0\0\0\0" + payload)

    # receiving

    def connection_made(self, transport):
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            (
                "GET /ws HTTP/1.1\r\nHost: chaos\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Protocol: drawbridge.v1.json\r\n\r\n"
            ).encode()
        )

    def data_received(self, data):
        self.last_byte = time.monotonic()
        self._buffer += data
        if not self._is_open and not self._take_head():
            return
        self._take_frames()

    def _take_head(self):
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        status = int(self._buffer.split(b" ", 2)[1])
        del self._buffer[: end + 4]
        if self._upgraded.done():
            return False
        if status != 101:
            self._upgraded.set_exception(Refused(status))
            return False
        self._is_open = True
        self._upgraded.set_result(None)
        return True

    def _take_frames(self):
        data, at = self._buffer, 0
        while len(data) - at >= 2:
            opcode, size, begins = data[at] & 0x0F, data[at + 1], at + 2
            if size == 126:
                if len(data) < at + 4:
                    break
                size, begins = int.from_bytes(data[at + 2 : at + 4]), at + 4
            elif size == 127:
                if len(data) < at + 10:
                    break
                size, begins = int.from_bytes(data[at + 2 : at + 10]), at + 10
            if len(data) < begins + size:
                break
            payload = bytes(data[begins : begins + size])
            at = begins + size
            self._frame(opcode, payload)
        del data[:at]

    def _frame(self, opcode, payload):
        if opcode == TEXT and self.on_text:
            self.on_text(payload)
        elif opcode == PING:
            self._send(PONG, payload)
        elif opcode == CLOSE:
            self._code = int.from_bytes(payload[:2]) if len(payload) >= 2 else 1005
            self._send(CLOSE, payload[:2])
            self._transport.close()

    def connection_lost(self, error):
        if not self._upgraded.done():
            self._upgraded.set_exception(error or ConnectionResetError("closed during the upgrade"))
            self._upgraded.exception()
        if self.on_end:
            on_end, self.on_end, self.on_text = self.on_end, None, None
            on_end(self._code)
