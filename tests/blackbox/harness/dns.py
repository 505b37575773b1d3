"""A name server for one name, on a loopback port: what a container engine answers for the name of a service."""

import socket
import struct
import threading

_A, _IN, _NO_SUCH_NAME = 1, 1, 3


class NameServer:
    """Answers questions for `name` with `addresses`, which a test may change at any time, and knows no other name."""

    def __init__(self, name, addresses):
        self.name, self.addresses = name, list(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                question, peer = self._socket.recvfrom(4096)
                self._socket.sendto(self._answer(question), peer)
            except OSError:
                return

    def _answer(self, message):
        (number,) = struct.unpack_from(">H", message)
        labels, at = [], 12
        while length := message[at]:
            labels.append(message[at + 1 : at + 1 + length].decode())
            at += 1 + length
        asked = message[12 : at + 5]
        (kind,) = struct.unpack_from(">H", message, at + 1)
        known = ".".join(labels) == self.name
        addresses = list(self.addresses) if known and kind == _A else []
        # The name is the one at byte 12, that of the question; each address may be kept for a second.
        records = (struct.pack(">HHHIH4s", 0xC00C, _A, _IN, 1, 4, socket.inet_aton(address)) for address in addresses)
        flags = 0x8180 | (0 if known else _NO_SUCH_NAME)
        return struct.pack(">HHHHHH", number, flags, 1, len(addresses), 0, 0) + asked + b"".join(records)

    def close(self):
        self._socket.close()
