"""SIGHUP: secrets, keys and certificates are read again; a wrong file changes nothing, and no reload ends the node."""

import signal
import ssl

import pytest
import tomli_w
from redis import Redis

from harness.certificates import Certificates
from harness.node import API_KEY, merged
from harness.redis_server import RedisServer
from harness.tokens import SECRET, ec_pair, mint
from harness.wait import until

NEW = "another-test-secret-that-is-long-enough-for-every-hmac-0123456789"


def reload(node, **changes):
    """Rewrites the file and reloads; returns when the node has said so, with the line."""
    node.config = merged(node.config, changes)
    node.path.write_text(tomli_w.dumps(node.config))
    return hang_up(node)


def hang_up(node):
    def outcomes():
        return [line for line in node.process.lines if "reload" in line]

    before = len(outcomes())
    node.process.signal(signal.SIGHUP)
    until(lambda: len(outcomes()) > before, "the node says what became of the reload")
    assert node.process.running
    return outcomes()[before]


def refused(node, token):
    player = node.connect(token)
    assert player.expect("ERROR")["code"] == "UNAUTHENTICATED"
    player.closes_with(4500)


def test_a_secret_is_rotated_while_players_stay(node, redis):
    old = node.player("alice")
    line = reload(node, auth={"hmac_secrets": [NEW]})
    assert "auth.hmac_secrets" in line and NEW not in node.log and SECRET not in node.log
    node.player(token=mint("bob", key=NEW))
    node.player("carol")
    reload(node, auth={"hmac_secret": None})
    refused(node, mint("dave"))
    node.player(token=mint("dave", key=NEW))
    old.subscribe("chat:1")
    redis.publish("chat:1", '{"event":"still"}')
    old.event("chat:1", "still")
    old.refusal("TOKEN_REFRESH", "UNAUTHENTICATED", token=mint("alice"))
    assert old.ask("TOKEN_REFRESH", token=mint("alice", key=NEW)).type == "TOKEN_REFRESHED"


def test_a_key_file_that_has_changed_is_read_again(redis, start, tmp_path):
    first, second = ec_pair(), ec_pair()
    key_file = tmp_path / "public.pem"
    key_file.write_bytes(first.public_pem)
    node = start(redis, auth={"hmac_secret": None, "public_key_files": [str(key_file)]})
    node.player(token=mint("alice", key=first.private, algorithm="ES256"))
    key_file.write_bytes(second.public_pem)
    assert "auth.public_key_files" in hang_up(node)
    refused(node, mint("alice", key=first.private, algorithm="ES256"))
    node.player(token=mint("alice", key=second.private, algorithm="ES256"))


WRONG = {
    "no TOML": "[[[",
    "an unknown key": 'lisen = "127.0.0.1:0"\n',
    "no such file": '[auth]\npublic_key_file = "nowhere.pem"\nhmac_secret = "%s"\n' % NEW,
    "nothing": None,
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_changes_nothing(node, text):
    player = node.player("alice")
    if text is None:
        node.path.unlink()
    else:
        node.path.write_text(text)
    line = hang_up(node)
    assert "ERROR" in line and "nothing has changed" in line
    player.sync()
    node.player("bob")
    refused(node, mint("bob", key=NEW))
    node.path.write_text(tomli_w.dumps(node.config))
    assert "no key has changed" in hang_up(node)


def test_the_api_key_is_replaced(node):
    new = "another-api-key-that-is-long-enough"
    assert "admin.api_key" in reload(node, admin={"api_key": new})
    assert node.admin("GET", "/api/channels", key=API_KEY).status == 401
    assert node.admin("POST", "/api/publish", {"channel": "chat:1", "event": "x", "data": 1}, key=new).status == 200


def test_a_certificate_is_replaced_for_new_connections(redis, start, tmp_path):
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(Certificates(tmp_path / name))
    first, second = made
    node = start(redis, tls={"cert_file": str(first.cert), "key_file": str(first.key)})
    old = node.player("alice", tls=first.context)
    first.cert.write_bytes(second.cert.read_bytes())
    line = hang_up(node)
    assert "ERROR" in line, "a certificate without its key is refused"
    first.key.write_bytes(second.key.read_bytes())
    assert "tls" in hang_up(node)
    node.player("bob", tls=second.context)
    with pytest.raises(ssl.SSLCertVerificationError):
        node.connect(mint("carol"), tls=first.context)
    old.sync()


def test_the_password_of_redis_is_rotated(start):
    redis = RedisServer("--requirepass", "old")
    try:
        client = Redis(unix_socket_path=str(redis.unix_socket), password="old")
        node = start(redis.url.replace("redis://", "redis://:old@"))
        player = node.player("alice")
        client.config_set("requirepass", "new")
        assert "broker.password" in reload(node, broker={"url": redis.url.replace("redis://", "redis://:new@")})
        for kind in ("pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        assert player.expect("STATUS", broker="degraded")
        assert player.expect("STATUS", broker="ok")
        player.subscribe("chat:1")
        player.publish("chat:1", "back")
        player.event("chat:1", "back")
    finally:
        redis.close()


def test_signals_in_a_row_and_before_the_first_socket_do_not_end_the_node(redis, start):
    node = start(redis, wait_ready_line=False)
    until(lambda: node.process.lines or node.process.running, "it has begun")
    node.wait_ready_line()
    for _ in range(20):
        node.process.signal(signal.SIGHUP)
    hang_up(node)
    node.player("alice").sync()
    node.process.signal(signal.SIGTERM)
    assert node.process.wait() == 0
