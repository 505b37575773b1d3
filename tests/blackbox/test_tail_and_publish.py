"""`drawbridge tail` and `drawbridge publish`: by a node, also over TLS, and by a Redis, also with sharded channels and in a Cluster."""

import re

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from harness import ports
from harness.certificates import Certificates
from harness.node import API_KEY, base_config, merged, run, write_config
from harness.redis_cluster import FAILOVER, RedisCluster
from harness.tail import Tail
from harness.tokens import mint
from harness.wait import until

# by a node


def test_tail_and_publish_by_a_node(redis, start, tmp_path):
    node = start(redis)
    url = f"ws://127.0.0.1:{node.port}/ws"
    token = mint("alice", rooms=["42"])
    tail = Tail(tmp_path, "room:42", "--url", url, "--token", token, "--count", 3)
    tail.until_subscribed()
    sent = run("publish", "room:42", "--event", "move", "--data", '{"n":12345678901234567890}', "--url", url, "--token", token)
    assert sent.returncode == 0 and sent.stdout.startswith("room:42: published"), sent.stderr
    admin = f"http://127.0.0.1:{node.admin_port}"
    sent = run("publish", "room:42", "--event", "say", "--data", '"hi"', "--api-key", API_KEY, "--url", admin)
    assert sent.returncode == 0, sent.stderr
    redis.publish("room:43", '{"event":"elsewhere"}')
    sent = run("publish", "room:42", "--redis", redis.url)
    assert sent.returncode == 0 and "subscribed" in sent.stdout, sent.stderr
    events = tail.events(3)
    assert [(channel, event["event"]) for channel, event in events] == [("room:42", "move"), ("room:42", "say"), ("room:42", "message")]
    assert events[0][1]["from"] == "alice" and "12345678901234567890" in tail.lines[0]
    assert tail.wait() == 0


def test_tail_of_a_node_returns_when_the_node_is_back(redis, start, tmp_path):
    listen = f"127.0.0.1:{ports.free()}"
    node = start(redis, listen=listen)
    arguments = ["room:42", "--url", f"ws://{listen}/ws", "--token", mint("alice", rooms=["42"])]
    tail = Tail(tmp_path, *arguments, "--count", 1)
    tail.until_subscribed()
    node.terminate()
    until(lambda: "reconnecting, until Ctrl-C ends this" in tail.said, "tail says that it lost the node")
    node = start(redis, listen=listen)
    until(lambda: re.search(r"connected to node n2 as alice again; what was published in the \d+\.\d s", tail.said), "it is back")
    redis.publish("room:42", '{"event":"after"}')
    assert [event["event"] for _, event in tail.events(1)] == ["after"]
    assert tail.wait() == 0


def test_tail_of_a_node_ends_when_the_player_is_disconnected_for_good(node, tmp_path):
    tail = Tail(tmp_path, "room:42", "--url", f"ws://127.0.0.1:{node.port}/ws", "--token", mint("alice", rooms=["42"]))
    tail.until_subscribed()
    assert node.admin("POST", "/api/players/alice/disconnect", {"reason": "cheats"}).status == 200
    assert tail.wait() == 1
    assert "the node closed the connection: 4502 cheats" in tail.said and "reconnecting" not in tail.said


def test_tail_of_a_redis_takes_patterns_and_prefixes(redis, start, tmp_path):
    path = write_config(merged(base_config(redis.url), {"broker": {"channel_prefix": "prod:"}}), tmp_path)
    tail = Tail(tmp_path, "room:*", "--config", path, "--count", 2)
    tail.until_subscribed()
    redis.publish("room:42", '{"event":"other environment"}')
    redis.publish("prod:room:42", '{"event":"hit",\n"data":1}')
    assert run("publish", "room:43", "--event", "hit", "--config", path).returncode == 0
    until(lambda: len(tail.lines) == 2, "two lines")
    assert tail.lines[0].startswith('room:42 {"event":"hit",\\n"data":1}')
    assert tail.lines[1] == 'room:43 {"event":"hit","data":null}'
    assert tail.wait() == 0


def test_tail_of_a_redis_reconnects_and_says_what_it_did_not_show(redis_with, tmp_path):
    redis = redis_with()
    tail = Tail(tmp_path, "room:42", "--redis", redis.url, "--count", 2)
    tail.until_subscribed()
    redis.publish("room:42", '{"event":"before"}')
    until(lambda: len(tail.lines) == 1, "the event arrives")
    redis.kill()
    until(lambda: "reconnecting, until Ctrl-C ends this" in tail.said, "tail says that it lost Redis")
    until(lambda: "is Redis running" in tail.said, "tail says why it cannot return")
    redis.start()
    until(lambda: re.search(r"subscribed at Redis \S+ again; what was published in the \d+\.\d s in between is not shown", tail.said), "it is back")
    redis.publish("room:42", '{"event":"after"}')
    assert [event["event"] for _, event in tail.events(2)] == ["before", "after"]
    assert tail.said.count("is Redis running") == 1, "each reason is printed once, however many attempts fail"
    assert tail.wait() == 0


def test_tail_of_a_redis_reconnects_to_a_server_that_ended_its_connections(redis_with, tmp_path):
    redis = redis_with()
    tail = Tail(tmp_path, "room:*", "--redis", redis.url, "--count", 1)
    tail.until_subscribed()
    redis.client.client_kill_filter(_type="pubsub")
    until(lambda: " again; what was published" in tail.said, "it is back")
    redis.publish("room:42", '{"event":"after"}')
    assert [event["event"] for _, event in tail.events(1)] == ["after"]
    assert tail.wait() == 0


def test_publish_with_a_configuration_writes_what_the_class_keeps(redis, start):
    node = start(redis, channel=[{"name": "log:{x}", "subscribe": "true", "history": {"events": 10, "age": "1m"}}])
    for offset in (1, 2):
        sent = run("publish", "log:1", "--event", "hit", "--config", node.path)
        assert sent.returncode == 0 and sent.stdout.strip().endswith(f"offset {offset}"), sent.stdout + sent.stderr
    history = node.admin("GET", "/api/channels/log:1/history").json
    assert [event["event"] for event in history["events"]] == ["hit", "hit"]


def test_refusals_of_tail_and_publish_say_what_to_do(redis, start, tmp_path):
    node = start(redis)
    url = f"ws://127.0.0.1:{node.port}/ws"
    cases = [
        (["tail", "room:42", "--url", url], ["UNAUTHENTICATED", "--token", "/dev/token"]),
        (["tail", "room:42", "--url", url, "--token", mint("alice")], ["FORBIDDEN", "drawbridge explain"]),
        (["publish", "news:1", "--url", url, "--token", mint("alice")], ["FORBIDDEN", "drawbridge explain"]),
        (["publish", "room:42", "--api-key", "wrong", "--url", f"http://127.0.0.1:{node.admin_port}"], ["401"]),
        (["publish", "room:42", "--data", "hello"], ["--data is JSON"]),
        (["publish", "room:*"], ["no `*`"]),
        (["tail", "room:42", "--url", "http://127.0.0.1:1"], ["ws://"]),
        (["tail", "room:42", "--url", "ws://127.0.0.1:1/ws"], ["ws://127.0.0.1:1/ws", "refused", "is a node running there"]),
        (["publish", "room:42", "--api-key", "k", "--url", "http://127.0.0.1:1"], ["127.0.0.1:1", "refused", "is a node running there"]),
        (["tail", "room:42", "--redis", "redis://127.0.0.1:1"], ["127.0.0.1:1", "refused"]),
        (["tail", "room:42", "--redis", "http://x"], ["--redis", "redis://"]),
    ]
    for arguments, words in cases:
        refused = run(*arguments)
        assert refused.returncode == 1, arguments
        for word in words:
            assert word in refused.stderr, (arguments, refused.stderr)


# by a node with TLS


@pytest.fixture
def tls_node(redis, start, certificates):
    return start(redis, tls={"cert_file": str(certificates.cert), "key_file": str(certificates.key)})


def test_tail_and_publish_by_a_node_with_tls(tls_node, redis, certificates, tmp_path):
    trusted = ["--url", f"wss://localhost:{tls_node.port}/ws", "--token", mint("alice", rooms=["42"]), "--ca-file", certificates.ca]
    tail = Tail(tmp_path, "room:42", *trusted, "--count", 2)
    tail.until_subscribed()
    sent = run("publish", "room:42", "--event", "move", "--data", '{"x":1}', *trusted)
    assert sent.returncode == 0, sent.stderr
    # Longer than one TLS record.
    redis.publish("room:42", '{"event":"state","data":"' + "x" * 50_000 + '"}')
    assert [(channel, event["event"]) for channel, event in tail.events(2)] == [("room:42", "move"), ("room:42", "state")]
    assert tail.wait() == 0


def test_a_certificate_that_is_not_trusted_ends_tail_and_publish(tls_node, tmp_path):
    (tmp_path / "other").mkdir()
    other = Certificates(tmp_path / "other")
    url = f"wss://localhost:{tls_node.port}/ws"
    for command in (["tail", "room:42"], ["publish", "room:42"]):
        refused = run(*command, "--url", url, "--token", mint("alice"), "--ca-file", other.ca)
        assert refused.returncode == 1 and url in refused.stderr and "--ca-file" in refused.stderr, refused.stderr
        missing = run(*command, "--url", url, "--token", mint("alice"), "--ca-file", tmp_path / "nowhere.pem")
        assert missing.returncode == 1 and "nowhere.pem" in missing.stderr, missing.stderr


def test_a_scheme_that_is_not_that_of_the_port_is_said(tls_node, node, certificates):
    plain = run("tail", "room:42", "--url", f"ws://localhost:{tls_node.port}/ws", "--token", mint("alice"))
    assert plain.returncode == 1 and "wss://" in plain.stderr, plain.stderr
    tls = run("tail", "room:42", "--url", f"wss://localhost:{node.port}/ws", "--token", mint("alice"), "--ca-file", certificates.ca)
    assert tls.returncode == 1 and "ws://" in tls.stderr, tls.stderr


# sharded channels

SHARDED = {"name": "arena:{x}", "subscribe": "true", "publish": "true", "sharded": True}


def sharded_config(url, directory):
    base = base_config(url)
    return write_config({**base, "channel": [SHARDED, *base["channel"]]}, directory)


def test_tail_of_a_redis_shows_sharded_channels(redis_with, start, tmp_path):
    redis = redis_with()
    node = start(redis, channel=[SHARDED])
    tail = Tail(tmp_path, "arena:1", "--redis", redis.url, "--count", 3)
    tail.until_subscribed()
    node.publish("arena:1", "by a node")
    redis.client.execute_command("SPUBLISH", "arena:1", '{"event":"sharded"}')
    redis.publish("arena:1", '{"event":"plain"}')
    # By two connections: the order is not that of publishing.
    assert sorted(event["event"] for _, event in tail.events(3)) == ["by a node", "plain", "sharded"]
    assert tail.wait() == 0


def test_tail_of_a_configuration_shows_what_its_nodes_would_receive(redis_with, tmp_path):
    redis = redis_with()
    path = sharded_config(redis.url, tmp_path)
    tail = Tail(tmp_path, "arena:1", "--config", path, "--count", 1)
    tail.until_subscribed()
    redis.publish("arena:1", '{"event":"plain"}')
    sent = run("publish", "arena:1", "--event", "sharded", "--config", path)
    assert sent.returncode == 0 and "1 connections" in sent.stdout, sent.stdout + sent.stderr
    assert [event["event"] for _, event in tail.events(1)] == ["sharded"]
    assert tail.wait() == 0


def test_a_pattern_of_a_sharded_class_is_refused(redis, tmp_path):
    refused = run("tail", "arena:*", "--config", sharded_config(redis.url, tmp_path))
    assert refused.returncode == 1 and "name one channel" in refused.stderr, refused.stderr


def test_tail_goes_on_where_redis_refuses_sharded_channels(redis_with, tmp_path):
    redis = redis_with("--rename-command", "SSUBSCRIBE", "")
    tail = Tail(tmp_path, "arena:1", "--redis", redis.url, "--count", 1)
    tail.until_subscribed()
    assert "SPUBLISH are not shown" in tail.said
    redis.publish("arena:1", '{"event":"plain"}')
    assert [event["event"] for _, event in tail.events(1)] == ["plain"]
    refused = run("tail", "arena:1", "--config", sharded_config(redis.url, tmp_path))
    assert refused.returncode == 1 and "SSUBSCRIBE" in refused.stderr, refused.stderr


@pytest.fixture
def moving_cluster():
    """A Cluster whose slots a test moves. Without replicas, so that a busy machine causes no failover."""
    cluster = RedisCluster()
    yield cluster
    cluster.close()


def reaches_one(server, channel, event):
    """Publishes; whether this server passed it on to one subscriber. False while the Cluster is in disorder."""
    try:
        return server.client.execute_command("SPUBLISH", channel, f'{{"event":"{event}"}}') == 1
    except ResponseError:
        return False


def test_tail_follows_a_sharded_channel_through_the_cluster(moving_cluster, tmp_path):
    path = sharded_config(moving_cluster.url, tmp_path)
    for number, channel in enumerate(["arena:0", "arena:1", "arena:3", "arena:4"]):
        directory = tmp_path / str(number)
        directory.mkdir()
        tail = Tail(directory, channel, *(["--config", path] if number % 2 else ["--redis", moving_cluster.url]), "--count", 2)
        tail.until_subscribed()
        source = moving_cluster.owner(channel)
        until(lambda: reaches_one(source, channel, "before"), "the owner has the subscription", FAILOVER)
        until(lambda: len(tail.lines) == 1, "the event arrives")
        target = next(server for server in moving_cluster.masters if server is not source)
        moving_cluster.migrate(key_slot(channel.encode()), target)
        until(lambda: "another master" in tail.said, "tail has moved", FAILOVER)
        # A server ends the subscriptions of a slot whenever its owner is set, and tail subscribes again.
        until(lambda: reaches_one(target, channel, "after"), "the new owner has the subscription", FAILOVER)
        assert [event["event"] for _, event in tail.events(2)] == ["before", "after"]
        assert tail.wait() == 0


def test_publish_finds_the_owner_of_a_sharded_channel(cluster, tmp_path):
    path = sharded_config(cluster.url, tmp_path)
    for channel in ("arena:0", "arena:1", "arena:3", "arena:4"):
        sent = run("publish", channel, "--event", "hit", "--config", path)
        assert sent.returncode == 0 and "0 connections" in sent.stdout, sent.stdout + sent.stderr


def test_tail_and_publish_reach_a_cluster_by_whichever_server_answers(own_cluster, tmp_path):
    dead, *alive = own_cluster.masters
    channel = next(name for name in (f"arena:{n}" for n in range(100)) if own_cluster.owner(name) is not dead)
    path = sharded_config(own_cluster.url, tmp_path)
    dead.kill()
    until(lambda: all(server.is_ok(6) for server in alive), "a replica has taken over", FAILOVER)
    tail = Tail(tmp_path, channel, "--config", path, "--count", 1)
    tail.until_subscribed()
    assert run("publish", channel, "--event", "hit", "--config", path).returncode == 0
    assert [event["event"] for _, event in tail.events(1)] == ["hit"]
    assert tail.wait() == 0
