"""Free loopback ports for processes that cannot choose one themselves, or that come back to the same one."""

import fcntl
import itertools
import random
import socket
import tempfile
from pathlib import Path

# Below the ports that the kernel gives to outgoing connections and to port 0, and that of no well-known service.
_RANGE = range(12_000, 30_000)
_LOCKS = Path(tempfile.gettempdir()) / "drawbridge-ports"
_held = []


def free():
    """A port that nothing listens on. It is this process's until that ends, also while nothing listens: other runs of
    these tests on this machine choose another."""
    _LOCKS.mkdir(exist_ok=True)
    start = random.randrange(len(_RANGE))
    for port in itertools.chain(_RANGE[start:], _RANGE[:start]):
        lock = _locked(_LOCKS / str(port))
        if lock and _can_be_bound(port):
            _held.append(lock)
            return port
    raise AssertionError("no free port")


def _locked(path):
    """The open file, locked; `None` where another process holds it. The lock ends with the file."""
    try:
        lock = open(path, "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock
    except OSError:
        return None


def _can_be_bound(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_open(port, host="127.0.0.1"):
    with socket.socket(family_of(host)) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def family_of(host):
    """That of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
