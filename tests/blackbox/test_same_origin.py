"""Contract §1: without `allowed_origins`, a page of the same origin may connect, and no other, behind the proxies that people
run: nginx and haproxy that end TLS, with the headers of their usual configurations. The browser's address is what counts."""

import pytest

from harness.balancer import Balancer
from harness.tokens import mint
from harness.websocket import Refused, WebSocket

TRUSTED = {"trusted_proxies": ["127.0.0.1/32", "::1/128"]}

HOST_AS_SENT = "the host as the browser sends it"
FORMS = {
    ("nginx", HOST_AS_SENT): ["proxy_set_header Host $http_host;"],
    ("nginx", "the host without its port"): ["proxy_set_header Host $host;"],
    ("nginx", "the host with the default port"): ["proxy_set_header Host $host:443;"],
    ("nginx", "X-Forwarded-Host"): [
        "proxy_set_header X-Forwarded-Host $http_host;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
    ],
    ("nginx", "X-Forwarded-Port"): [
        "proxy_set_header Host $host;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        "proxy_set_header X-Forwarded-Port $server_port;",
    ],
    ("nginx", "Forwarded"): ['proxy_set_header Forwarded "for=$remote_addr;host=\\"$http_host\\";proto=$scheme";'],
    ("haproxy", HOST_AS_SENT): [],
    ("haproxy", "X-Forwarded-Proto"): ["http-request set-header X-Forwarded-Proto https if { ssl_fc }"],
    ("haproxy", "X-Forwarded-Host"): [
        "http-request set-header X-Forwarded-Host %[req.hdr(Host)]",
        "http-request set-header X-Forwarded-Proto https if { ssl_fc }",
        "http-request set-header Host nodes.internal",
    ],
    ("haproxy", "X-Forwarded-Port"): [
        "http-request set-header X-Forwarded-Proto https if { ssl_fc }",
        "http-request set-header X-Forwarded-Port %[dst_port]",
        "http-request set-header Host %[req.hdr(Host),field(1,:)]",
    ],
    ("haproxy", "Forwarded"): [
        'http-request set-header Forwarded for=%[src];host=\\"%[req.hdr(Host)]\\";proto=https',
        "http-request set-header Host nodes.internal",
    ],
}
# The proxy's own word is needed for these, and that counts only where it is trusted.
BY_WORD = ("X-Forwarded-Host", "X-Forwarded-Port", "Forwarded")
# What says the port, where it is not the default.
WITH_PORT = (HOST_AS_SENT, "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded", "X-Forwarded-Proto")
# What says the scheme.
WITH_SCHEME = ("X-Forwarded-Host", "X-Forwarded-Port", "Forwarded", "X-Forwarded-Proto")


def idents(form):
    return " ".join(form)


@pytest.fixture
def front(tmp_path, certificates):
    """Starts proxies that end TLS: `front(kind, node, headers)`."""
    started = []

    def start_front(kind, node, headers, **how):
        started.append(Balancer(kind, tmp_path, [node], tls=certificates, headers=headers, **how))
        return started[-1]

    yield start_front
    for each in started:
        each.close()


def upgrade(front, certificates, host, origin):
    """The status of a page's handshake; `host` is what the browser sends for the address that it shows."""
    headers = {"Authorization": f"Bearer {mint()}", "Origin": origin}
    ws = WebSocket(front.port, host=front.host, headers=headers, tls=certificates.context)
    ws.send_handshake(Host=host)
    try:
        ws.read_handshake()
        return 101
    except Refused as refused:
        return refused.status
    finally:
        ws.socket.close()


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not trusted"])
@pytest.mark.parametrize("form", FORMS, ids=idents)
def test_the_same_origin_may_connect_and_no_other(redis, start, front, certificates, form, trusted):
    kind, says = form
    node = start(redis, **(TRUSTED if trusted else {}))
    proxy = front(kind, node, FORMS[form])
    with_port = f"play.example:{proxy.port}"
    is_word_needed = says in BY_WORD and (kind, says) not in (("nginx", "X-Forwarded-Port"), ("haproxy", "X-Forwarded-Port"))
    # At the default port browsers name none; proxies may.
    expected = 101 if trusted or not is_word_needed else 403
    for origin in ("https://play.example", "https://PLAY.example:443"):
        assert upgrade(proxy, certificates, "play.example", origin) == expected, origin
    # Elsewhere the port is a part of the origin, and somebody has to say it.
    said = says in WITH_PORT and (trusted or says not in BY_WORD)
    assert upgrade(proxy, certificates, with_port, f"https://{with_port}") == (101 if said else 403)
    for origin in (
        "https://evil.example",
        "https://play.example.evil.example",
        f"https://evil.example:{proxy.port}",
        f"https://play.example:{proxy.port + 1}",
        "https://nodes.internal.evil.example",
        f"http://127.0.0.1:{node.port}",
        "null",
    ):
        assert upgrade(proxy, certificates, with_port, origin) == 403, origin
        assert upgrade(proxy, certificates, "play.example", origin) == 403, origin
    # A page that came without TLS is of another origin, where the proxy's word on the scheme counts.
    is_scheme_known = trusted and says in WITH_SCHEME
    assert upgrade(proxy, certificates, with_port, f"http://{with_port}") == (403 if is_scheme_known or not said else 101)


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
@pytest.mark.parametrize("says", [HOST_AS_SENT, "X-Forwarded-Host", "Forwarded"])
def test_an_ipv6_address_is_an_origin(redis, start, front, certificates, kind, says):
    node = start(redis, **TRUSTED)
    proxy = front(kind, node, FORMS[kind, says], address="[::1]")
    host = f"[::1]:{proxy.port}"
    for origin in (f"https://{host}", f"https://[0:0:0:0:0:0:0:1]:{proxy.port}"):
        assert upgrade(proxy, certificates, host, origin) == 101, origin
    for origin in (f"https://[::2]:{proxy.port}", "https://[::1]", f"https://[::1]:{proxy.port + 1}", f"https://localhost:{proxy.port}"):
        assert upgrade(proxy, certificates, host, origin) == 403, origin


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
def test_what_a_page_says_in_the_proxys_headers_does_not_help_it(redis, start, front, certificates, kind):
    """The usual configurations replace them; a node that trusts nobody does not read them."""
    node = start(redis, **TRUSTED)
    proxy = front(kind, node, FORMS[kind, "X-Forwarded-Host"])
    headers = {"Authorization": f"Bearer {mint()}", "Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"}
    ws = WebSocket(proxy.port, headers=headers, tls=certificates.context)
    ws.send_handshake(Host="play.example")
    with pytest.raises(Refused) as refused:
        ws.read_handshake()
    assert refused.value.status == 403
