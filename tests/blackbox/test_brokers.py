"""Issue 2, brokers: memory, and Redis over TCP, TLS and a unix socket, with an ACL user. The same flow on each."""

import pytest

from harness.redis_server import RedisServer
from harness.tokens import mint
from harness.wait import until


def flow(node):
    """Two players talk by name and by pattern; a service speaks over HTTP; all leave."""
    alice, bob = node.player("alice"), node.player("bob", encoding="drawbridge.v1.msgpack")
    alice.subscribe("chat:1")
    bob.subscribe("chat:*")
    bob.subscribe("chat:1", filter="event != 'hidden'")
    alice.publish("chat:1", "hello", {"n": 1})
    for player in (alice, bob):
        assert player.event("chat:1", "hello")["from"] == "alice"
    assert 200 <= node.publish("chat:1", "served", [1, 2]).status < 300
    for player in (alice, bob):
        assert player.event("chat:1", "served")["data"] == [1, 2]
    for number in range(100):
        alice.start("PUBLISH_EVENT", channel="chat:1", event="n", data=number)
    for player in (alice, bob):
        assert [player.event("chat:1", "n")["data"] for _ in range(100)] == list(range(100))
    alice.unsubscribe("chat:1")
    bob.publish("chat:1", "unheard")
    bob.event("chat:1", "unheard")
    alice.sync()
    assert "unheard" not in [m.get("event") for m in alice.received]
    alice.close(), bob.vanish()
    node.wait_idle()


def test_memory(start):
    flow(start(None))


def test_memory_forwards_and_tells_the_lifecycle_without_redis(start):
    node = start(None, lifecycle={"stream": "life"})
    player = node.player("alice")
    reply = player.ask("PUBLISH_EVENT", channel="act:1", event="x", data={"ok": True})
    assert reply.type == "EVENT_PUBLISHED" or reply["code"] in ("UNSUPPORTED", "BROKER_REFUSED")


def test_redis_over_tcp(own_redis, start):
    flow(start(own_redis))


def test_redis_over_a_unix_socket(own_redis, start):
    flow(start(f"unix://{own_redis.unix_socket}"))


def test_redis_over_tls(start, certificates):
    redis = RedisServer(tls=certificates)
    try:
        node = start(f"rediss://localhost:{redis.tls_port}", broker={"tls_ca_file": str(certificates.ca)})
        flow(node)
        player = node.player("alice")
        player.subscribe("chat:1")
        redis.cut_clients("pubsub")
        player.expect("RESYNC", channel="chat:1", timeout=30)
        redis.publish("chat:1", '{"event":"after"}')
        player.event("chat:1", "after")
    finally:
        redis.close()


def test_a_redis_certificate_that_is_not_trusted_is_refused(start, certificates):
    redis = RedisServer(tls=certificates)
    try:
        node = start(f"rediss://localhost:{redis.tls_port}", wait_ready_line=False, ready_grace="100ms")
        until(lambda: "ertificate" in node.log or not node.process.running, "the log says so", timeout=30)
        assert redis.channels() == set()
        if node.process.running and "drawbridge: ready" in node.log:
            node.wait_ready_line()
            assert node.get("/readyz").status == 503
    finally:
        redis.close()


@pytest.mark.parametrize("password", ["secret", "p@ss:w/rd?#%&é"])
def test_redis_with_an_acl_user(start, password):
    from urllib.parse import quote

    redis = RedisServer()
    try:
        redis.client.execute_command("ACL", "SETUSER", "game", "on", f">{password}", "+@all", "~*", "&*")
        redis.client.execute_command("ACL", "SETUSER", "default", "off")
        node = start(f"redis://game:{quote(password, safe='')}@127.0.0.1:{redis.port}")
        flow(node)
        assert password not in node.log
    finally:
        redis.close()


def test_redis_with_a_password_only(start):
    redis = RedisServer()
    try:
        redis.client.config_set("requirepass", "hunter2hunter2")
        flow(start(f"redis://:hunter2hunter2@127.0.0.1:{redis.port}"))
    finally:
        redis.close()


def test_a_wrong_password_is_told_and_is_not_ready(start):
    redis = RedisServer("--requirepass", "right")
    try:
        node = start(f"redis://:wrongwrong@127.0.0.1:{redis.port}", wait_ready_line=False, ready_grace="100ms")
        until(lambda: "WRONGPASS" in node.log or "password" in node.log.lower() or "auth" in node.log.lower(), "the log says so", timeout=30)
        assert "wrongwrong" not in node.log
        if node.process.running and "drawbridge: ready" in node.log:
            node.wait_ready_line()
            assert node.get("/readyz").status == 503
    finally:
        redis.close()


def test_another_database_changes_keys_and_not_channels(own_redis, start):
    node = start(f"{own_redis.url}/3", lifecycle={"stream": "life"})
    player = node.player("alice")
    player.subscribe("chat:1")
    own_redis.publish("chat:1", '{"event":"e"}')
    player.event("chat:1", "e")
    own_redis.client.execute_command("SELECT", 0)
    assert own_redis.client.exists("life") == 0
    own_redis.client.execute_command("SELECT", 3)
    assert until(lambda: own_redis.stream("life"), "an entry")[0]["event"] == "connected"
    own_redis.client.execute_command("SELECT", 0)


@pytest.mark.parametrize("pool", [1, 4])
def test_a_pool_of_subscriber_links(own_redis, start, pool):
    node = start(own_redis, broker={"subscriber_pool": pool})
    player = node.player("alice")
    for number in range(40):
        player.subscribe(f"chat:{number}")
    for number in range(40):
        own_redis.publish(f"chat:{number}", '{"event":"e","data":%d}' % number)
        assert player.event(f"chat:{number}")["data"] == number
    subscribers = [c for c in own_redis.client.client_list() if int(c["sub"]) > 0]
    assert 1 <= len(subscribers) <= pool + 1


def test_commands_and_subscriptions_do_not_share_a_connection(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    player.subscribe("chat:1")
    player.publish("chat:1")
    clients = own_redis.client.client_list()
    assert all(c["cmd"].split("|")[0] in ("subscribe", "psubscribe", "ping", "hello", "client") for c in clients if int(c["sub"]) > 0)


def test_dev_tokens_are_not_those_of_serve(start):
    node = start(None)
    player = node.connect(mint("alice", key="dev" * 20))
    assert player.expect("ERROR")["code"] == "UNAUTHENTICATED"
