"""Contract §8 and §10: whose address counts. Trusted proxies' headers, the PROXY protocol, and the Origin check."""

import socket
import struct

import pytest

from harness.tokens import mint
from harness.websocket import Closed, Refused

ONE = {"connections_per_address": 1}


def admitted(node, **how):
    """Whether a connection gets as far as `WELCOME`: with one connection per address, whether the address is new. A
    connection that is neither let in nor turned away fails the test."""
    try:
        node.player("alice", **how)
        return True
    except (Refused, Closed, ConnectionError):
        return False


def forwarded_for(value):
    return {"headers": {"X-Forwarded-For": value}}


def forwarded(value):
    return {"headers": {"Forwarded": value}}


def test_headers_of_untrusted_peers_are_ignored(redis, start):
    node = start(redis, limits=ONE)
    assert admitted(node, **forwarded_for("198.51.100.1"))
    assert not admitted(node, **forwarded_for("198.51.100.2"))
    assert not admitted(node, **forwarded("for=198.51.100.3"))


@pytest.mark.parametrize(
    "first, same, other",
    [
        (forwarded_for("198.51.100.1"), forwarded_for("198.51.100.1"), forwarded_for("198.51.100.2")),
        (forwarded("for=198.51.100.1"), forwarded("for=198.51.100.1;proto=https"), forwarded("for=198.51.100.2")),
        (forwarded('for="[2001:db8::1]:4711"'), forwarded('For="[2001:db8::1]"'), forwarded('for="[2001:db8:0:2::1]"')),
        (forwarded_for("2001:db8::1"), forwarded_for("2001:db8::1"), forwarded_for("2001:db8:0:2::1")),
        (forwarded("for=198.51.100.1:4711"), forwarded_for("198.51.100.1"), forwarded("for=198.51.100.2:4711")),
    ],
    ids=["X-Forwarded-For", "Forwarded", "Forwarded IPv6", "X-Forwarded-For IPv6", "Forwarded with a port"],
)
def test_headers_of_trusted_proxies_count(redis, start, first, same, other):
    node = start(redis, limits=ONE, trusted_proxies=["127.0.0.0/8"])
    assert admitted(node, **first)
    assert not admitted(node, **same)
    assert admitted(node, **other)


def test_the_rightmost_address_that_is_no_trusted_proxy_counts(redis, start):
    """What stands left of it may be the client's own invention."""
    node = start(redis, limits=ONE, trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"])
    assert admitted(node, **forwarded_for("198.51.100.1"))
    assert not admitted(node, **forwarded_for("203.0.113.66, 198.51.100.1"))
    assert not admitted(node, **forwarded_for("203.0.113.67, 198.51.100.1, 10.1.2.3, 10.9.9.9"))
    assert not admitted(node, headers=[("X-Forwarded-For", "203.0.113.68"), ("X-Forwarded-For", "198.51.100.1, 10.1.2.3")])
    assert not admitted(node, **forwarded('for=203.0.113.69, for="198.51.100.1", for=10.1.2.3'))
    assert admitted(node, **forwarded_for("198.51.100.1, 198.51.100.2"))


def test_without_a_header_the_trusted_proxys_own_address_counts(redis, start):
    node = start(redis, limits=ONE, trusted_proxies=["127.0.0.0/8"])
    assert admitted(node, source="127.0.0.3")
    assert not admitted(node, source="127.0.0.3")
    assert admitted(node, source="127.0.0.4")


@pytest.mark.parametrize("value", ["nonsense", "", ",,,", "unknown", "1.2.3.4.5", "for=", "x" * 5000, "::::", "300.1.1.1"])
@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded"])
def test_odd_headers_do_no_harm(redis, start, name, value):
    node = start(redis, limits=ONE, trusted_proxies=["127.0.0.0/8"])
    assert admitted(node, headers={name: value})


# PROXY protocol


def v1(source, family="TCP4", destination="127.0.0.1"):
    return f"PROXY {family} {source} {destination} 5555 8000\r\n".encode()


def v2(source, command=1, tlv=b""):
    signature = b"\r\n\r\n\x00\r\nQUIT\n"
    if command == 0:
        return signature + bytes([0x20, 0x00]) + struct.pack(">H", 0)
    if ":" in source:
        kind, addresses = 0x21, socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "::1")
    else:
        kind, addresses = 0x11, socket.inet_aton(source) + socket.inet_aton("127.0.0.1")
    body = addresses + struct.pack(">HH", 5555, 8000) + tlv
    return signature + bytes([0x21, kind]) + struct.pack(">H", len(body)) + body


@pytest.fixture
def behind_proxy(redis, start):
    return start(redis, limits=ONE, proxy_protocol=True, trusted_proxies=["127.0.0.0/8"])


@pytest.mark.parametrize(
    "first, same, other",
    [
        (v1("198.51.100.1"), v1("198.51.100.1"), v1("198.51.100.2")),
        (v1("2001:db8::1", "TCP6", "::1"), v1("2001:db8::1", "TCP6", "::1"), v1("2001:db8:0:2::1", "TCP6", "::1")),
        (v2("198.51.100.1"), v2("198.51.100.1", tlv=b"\x04\x00\x03abc"), v2("198.51.100.2")),
        (v2("2001:db8::1"), v2("2001:db8::1"), v2("2001:db8:0:2::1")),
        (v1("198.51.100.1"), v2("198.51.100.1"), v2("198.51.100.2")),
    ],
    ids=["v1", "v1 IPv6", "v2", "v2 IPv6", "both"],
)
def test_the_proxy_protocol_names_the_address(behind_proxy, first, same, other):
    assert admitted(behind_proxy, preamble=first)
    assert not admitted(behind_proxy, preamble=same)
    assert admitted(behind_proxy, preamble=other)


@pytest.mark.parametrize("preamble", [v2("", command=0), b"PROXY UNKNOWN\r\n"], ids=["v2 LOCAL", "v1 UNKNOWN"])
def test_a_proxys_own_connection_has_its_own_address(behind_proxy, preamble):
    assert admitted(behind_proxy, preamble=preamble)


@pytest.mark.parametrize(
    "preamble",
    [b"PROXY TCP4 nonsense\r\n", b"PROXY TCP4 " + b"1" * 500, b"\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c" + b"x" * 12, b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x01x"],
    ids=["nonsense", "endless", "version 3", "too short"],
)
def test_a_connection_without_a_good_header_is_closed(behind_proxy, preamble):
    assert not admitted(behind_proxy, preamble=preamble)
    assert admitted(behind_proxy, preamble=v1("198.51.100.1"))


def test_without_proxy_protocol_its_header_is_no_http(node):
    assert not admitted(node, preamble=v1("198.51.100.1"))


# Origin


def upgrade(node, origin, host=None):
    headers = {"Origin": origin} if origin else {}
    try:
        node.connect(mint("alice"), headers=headers).welcome()
        return 101
    except Refused as refused:
        return refused.status


def test_by_default_only_the_same_origin_may_connect(node):
    assert upgrade(node, None) == 101
    assert upgrade(node, f"http://127.0.0.1:{node.port}") == 101
    for origin in ("http://evil.example", "http://127.0.0.1", f"http://127.0.0.1:{node.port + 1}", "null", f"http://127.0.0.1:{node.port}.evil.example", "file://"):
        assert upgrade(node, origin) == 403, origin


def test_listed_origins_may_connect(redis, start):
    node = start(redis, connection={"allowed_origins": ["https://play.example", "http://localhost:5173"]})
    assert upgrade(node, None) == 101
    assert upgrade(node, "https://play.example") == 101
    assert upgrade(node, "HTTPS://PLAY.EXAMPLE") == 101
    assert upgrade(node, "http://localhost:5173") == 101
    for origin in ("http://play.example", "https://play.example:8443", "https://sub.play.example", "https://play.example.evil", "null"):
        assert upgrade(node, origin) == 403, origin


def test_a_star_allows_any_origin(redis, start):
    node = start(redis, connection={"allowed_origins": ["*"]})
    for origin in ("https://anywhere.example", "null", None):
        assert upgrade(node, origin) == 101
