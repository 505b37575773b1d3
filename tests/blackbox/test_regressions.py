"""What once broke, each named by what it did."""

import json
import socket
import struct
import threading

import pytest

from harness.wait import until
from harness.websocket import Closed, frame

BIG = "x" * 10_000


@pytest.fixture
def tls_node(redis, start, certificates):
    files = {"cert_file": str(certificates.cert), "key_file": str(certificates.key)}
    return start(redis, shards=1, tls=files)


def test_bytes_behind_the_end_of_a_tls_session_do_not_stop_the_shard(tls_node, certificates):
    ended = tls_node.player("ended", tls=certificates.context)
    raw = ended.ws.socket
    try:
        raw.settimeout(0.2)
        raw.unwrap()  # sends close_notify; the peer need not answer
    except OSError:
        pass
    plain = raw.detach()
    with socket.socket(fileno=plain) as bare:
        try:
            for _ in range(10):
                bare.send(b"\x17\x03\x03" + struct.pack("!H", 8_000) + b"z" * 8_000)
        except OSError:
            pass
        tls_node.player("other", tls=certificates.context).ask("PING")


@pytest.mark.parametrize("size", [65_000, 66_000, 200_000, 900_000])
def test_events_larger_than_a_tls_buffer_arrive(tls_node, redis, certificates, size):
    player = tls_node.player("alice", tls=certificates.context)
    player.subscribe("chat:1")
    redis.publish("chat:1", json.dumps({"event": "big", "data": "x" * size}))
    assert len(player.event("chat:1", "big")["data"]) == size


@pytest.mark.parametrize("flood", [frame(0xA, b""), frame(0x9, b"")], ids=["pongs", "pings"])
def test_a_flood_of_control_frames_ends_and_starves_nobody(redis, start, flood):
    node = start(redis, shards=1)
    other = node.player("other")
    # One that has not even said who it is.
    source = node.connect()
    stop = threading.Event()

    def send():
        try:
            while not stop.is_set():
                source.ws.socket.sendall(flood * 4_096)
        except OSError:
            pass

    source.ws.socket.settimeout(30)
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        for _ in range(20):
            assert other.ask("PING").type == "PONG"
        with pytest.raises((Closed, ConnectionError)):
            while True:
                source.ws.receive(30)
    finally:
        stop.set()
        thread.join(10)


def test_a_reader_that_never_reads_again_gives_its_file_back(redis, start):
    node = start(redis, lifecycle={"stream": "life"}, connection={"outbound_bytes": "64KiB"})
    good = node.player("good")
    before = node.process.open_files()
    slow = [node.player(f"s{n}", receive_buffer=4096) for n in range(5)]
    for player in slow:
        player.subscribe("chat:1")

    def closed():
        for _ in range(100):
            redis.publish("chat:1", json.dumps({"event": "n", "data": BIG}))
        return len([e for e in redis.stream("life") if e["event"] == "disconnected"]) == 5

    until(closed, "all are closed", timeout=60)
    # They still do not read, and their ends of the connections are open.
    until(lambda: node.process.open_files() <= before, "their files are given back", timeout=20)
    good.ask("PING")


def test_requests_about_one_channel_in_one_message_are_each_answered(node):
    player = node.player("alice")
    kinds = ["CHANNEL_SUBSCRIBE", "CHANNEL_SUBSCRIBE", "CHANNEL_UNSUBSCRIBE", "CHANNEL_SUBSCRIBE"]
    player.send([{"type": kind, "id": id, "channel": "chat:twice"} for id, kind in enumerate(kinds)])
    answers = [player.reply(id).type for id in range(4)]
    assert answers == ["CHANNEL_SUBSCRIBED", "CHANNEL_SUBSCRIBED", "CHANNEL_UNSUBSCRIBED", "CHANNEL_SUBSCRIBED"]
    player.publish("chat:twice", "heard")
    player.event("chat:twice", "heard")


def test_a_service_may_not_subscribe_by_a_pattern_of_a_class_without_patterns(redis, start):
    node = start(redis, channel=[{"name": "plain:{x}", "subscribe": "true"}], broker={"subscriber_pool": 4})
    node.player("alice")
    answer = node.admin("POST", "/api/players/alice/subscribe", {"channel": "plain:*"})
    assert answer.status == 403, answer.body


def test_a_publish_that_its_own_node_would_drop_is_refused(redis, start):
    node = start(redis, broker={"external_bytes": "4KiB"})
    player = node.player("alice")
    player.refusal("PUBLISH_EVENT", "TOO_LARGE", channel="chat:1", event="big", data="x" * 5_000)


def test_a_publish_waiting_for_a_subscription_goes_on_when_a_service_ends_it(own_redis, start):
    node = start(own_redis)
    player = node.player("alice")
    own_redis.pause()
    try:
        subscribed = player.start("CHANNEL_SUBSCRIBE", channel="chat:1")
        published = player.start("PUBLISH_EVENT", channel="chat:1", event="x")
    finally:
        own_redis.resume()
    assert player.reply(subscribed).type == "CHANNEL_SUBSCRIBED"
    assert player.reply(published).type == "EVENT_PUBLISHED"


def test_the_control_channel_has_its_name_whatever_the_prefix(redis, start):
    node = start(redis, control_channel=True, broker={"key_prefix": "db:"})
    player = node.player("alice")
    command = {"command": "subscribe", "player": "alice", "channel": "chat:9"}
    redis.publish("drawbridge:control", json.dumps(command))
    assert player.expect("CHANNEL_SUBSCRIBED", channel="chat:9")["by"] == "server"
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="drawbridge:control")
