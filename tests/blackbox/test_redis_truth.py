"""What a node says about its Redis is true: readiness, acknowledgements, the log and the lifecycle stream follow what Redis
is and does, also where Redis lacks something, is full, or is no longer the master."""

import socket
import threading

import pytest

from harness import ports
from harness.wait import until


def readiness(node):
    answer = node.get("/readyz")
    return answer.status, answer.body.decode()


def not_ready(node, *words, timeout=15):
    def is_so():
        status, text = readiness(node)
        return status == 503 and all(word in text for word in words)

    until(is_so, f"not ready, and it says {words}", timeout)


def ready(node, timeout=30):
    until(lambda: readiness(node)[0] == 200, "ready", timeout)


def degraded(player):
    assert player.expect("STATUS", timeout=30)["broker"] == "degraded"


# readiness


def test_a_node_that_never_had_its_redis_is_not_ready_and_says_why(start):
    node = start(f"redis://127.0.0.1:{ports.free()}", ready_grace="10m")
    assert node.get("/healthz").status == 200
    not_ready(node, "Redis has not been there yet", "refused")
    assert "not reachable yet" in node.log and "refused" in node.log


def test_a_node_is_ready_when_all_of_redis_has_been_there_and_keeps_its_grace_from_then_on(own_redis, proxy, start):
    link = proxy(own_redis.port)
    link.refuse()
    node = start(f"redis://127.0.0.1:{link.port}", ready_grace="10m")
    not_ready(node, "Redis has not been there yet")
    link.flow()
    ready(node)
    player = node.player("alice")
    link.refuse()
    link.cut()
    degraded(player)
    assert readiness(node)[0] == 200


@pytest.mark.parametrize("forbidden, words", [("subscribe", "player commands"), ("function", "functions")])
def test_what_the_user_may_not_do_keeps_a_node_from_being_ready(own_redis, start, forbidden, words):
    own_redis.client.execute_command("ACL", "SETUSER", "game", "on", ">pw", "~*", "&*", "+@all", f"-{forbidden}")
    not_ready(start(f"redis://game:pw@127.0.0.1:{own_redis.port}", ready_grace="10m"), words)


def test_the_connections_carry_the_name_of_the_node(own_redis, start):
    start(own_redis, node="eu-1.games/ä")
    wanted = {f"drawbridge:eu-1.games/_:{part}" for part in ("link0", "link1", "publisher", "views")}
    until(lambda: wanted <= {client["name"] for client in own_redis.client.client_list()}, "the names are there")


# another role


def test_after_a_demotion_nothing_is_acknowledged_that_nobody_receives(redis_with, proxy, start):
    old, new = redis_with(), redis_with()
    new.client.replicaof("127.0.0.1", old.port)
    until(lambda: new.client.info("replication")["master_link_status"] == "up", "the replica follows", timeout=30)
    link = proxy(old.port)
    node = start(f"redis://127.0.0.1:{link.port}", ready_grace="100ms", lifecycle={"stream": "life"})
    player = node.player("alice")
    player.subscribe("chat:1")
    player.publish("chat:1", "before")
    player.event("chat:1", "before")
    new.client.replicaof("NO", "ONE")
    old.client.replicaof("127.0.0.1", new.port)
    # The old master stays where it was, and its connections stay open.
    degraded(player)
    not_ready(node, "Redis is away", "replica", "master")
    assert "this Redis is a replica" in node.log
    refused = player.refusal("PUBLISH_EVENT", "BROKER_UNAVAILABLE", channel="reject:1", event="x")
    assert refused["outcome"] == "not_done"
    waiting = player.start("PUBLISH_EVENT", channel="chat:1", event="waited", data=1)
    player.sync()
    assert not [m for m in player.received if m.get("id") == waiting]
    link.target = new.port
    assert player.reply(waiting, timeout=30).type == "EVENT_PUBLISHED"
    assert player.expect("RESYNC", channel="chat:1", timeout=30)["reason"] == "broker"
    ready(node)
    until(lambda: new.publish("chat:1", '{"event":"after"}') == 1, "the node listens on the new master", timeout=30)
    player.event("chat:1", "after")
    player.publish("act:1", "x", {"ok": True})
    assert [entry["event"] for entry in new.stream("actions:1")] == ["x"]


def test_what_a_demoted_redis_refuses_to_write_waits(redis_with, proxy, start):
    """The refusal itself may come before the role is looked at."""
    old, new = redis_with(), redis_with()
    link = proxy(old.port)
    node = start(f"redis://127.0.0.1:{link.port}")
    player = node.player("alice")
    old.client.replicaof("127.0.0.1", new.port)
    id = player.start("PUBLISH_EVENT", channel="act:1", event="x", data={"ok": True})
    degraded(player)
    assert not [m for m in player.received if m.get("id") == id]
    link.target = new.port
    assert player.reply(id, timeout=30).type == "EVENT_PUBLISHED"
    assert len(new.stream("actions:1")) == 1


def test_a_replica_by_mistake_is_said_to_be_one(redis_with, start):
    master, replica = redis_with(), redis_with()
    replica.client.replicaof("127.0.0.1", master.port)
    until(lambda: replica.client.info("replication")["master_link_status"] == "up", "it follows", timeout=30)
    node = start(replica)
    not_ready(node, "replica")
    assert "Drawbridge needs the master" in node.log and "broker.url" in node.log
    player = node.player("alice")
    refused = player.refusal("PUBLISH_EVENT", "BROKER_UNAVAILABLE", channel="reject:1", event="x")
    assert refused["outcome"] == "not_done"


# a Redis that lacks something


class NoHello:
    """A proxy that speaks RESP2 only: it answers HELLO as an unknown command, or by closing as twemproxy does."""

    def __init__(self, closes):
        self.closes = closes
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client:
            client.settimeout(15)
            try:
                while client.recv(4096):
                    if self.closes:
                        return
                    client.sendall(b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'hunter2'\r\n")
            except OSError:
                return

    def close(self):
        self.listener.close()


@pytest.mark.parametrize("closes", [False, True], ids=["unknown command", "closes"])
def test_a_proxy_without_resp3_is_named(start, closes):
    proxy = NoHello(closes)
    try:
        node = start(f"redis://:hunter2@127.0.0.1:{proxy.port}", ready_grace="10m")
        not_ready(node, "RESP3", "HELLO 3")
        assert "Drawbridge needs RESP3" in node.log and "hunter2" not in node.log
        player = node.player("alice")
        if not closes:
            error = player.expect("ERROR", channel="player:alice", timeout=30)
            assert error["code"] == "BROKER_REFUSED" and "RESP3" in error["message"]
            for request in ({"type": "CHANNEL_SUBSCRIBE"}, {"type": "PUBLISH_EVENT", "event": "x", "data": 1}):
                error = player.reply(player.start(channel="chat:1", **request), timeout=30)
                assert error["code"] == "BROKER_REFUSED" and "RESP3" in error["message"]
    finally:
        proxy.close()


def test_a_redis_whose_hello_is_renamed_is_named(redis_with, start):
    node = start(redis_with("--rename-command", "HELLO", ""), ready_grace="10m")
    not_ready(node, "RESP3")
    assert "unknown command" in node.log


PLAIN = [{"name": "chat:{room}", "subscribe": "true", "publish": "true", "patterns": True}]


@pytest.mark.parametrize("renamed", ["FUNCTION", "FCALL", "both"])
def test_without_functions_plain_channels_work_fully(redis_with, start, renamed):
    """As on Redis 6.2, and where a provider renames the commands away."""
    names = ("FUNCTION", "FCALL") if renamed == "both" else (renamed,)
    redis = redis_with(*(option for name in names for option in ("--rename-command", name, "")))
    node = start(redis, channel=PLAIN, ready_grace="100ms", lifecycle={"stream": "life"})
    ready(node)
    player = node.player("alice")
    player.subscribe("chat:1")
    player.publish("chat:1", "mine")
    player.event("chat:1", "mine")
    assert node.publish("chat:1", "api").status == 200
    player.event("chat:1", "api")
    redis.publish("chat:1", '{"event":"plain"}')
    player.event("chat:1", "plain")
    assert node.admin("POST", "/api/players/alice/subscribe", {"channel": "chat:2"}).status == 200
    player.expect("CHANNEL_SUBSCRIBED", channel="chat:2")
    answer = node.admin("POST", "/api/players/alice/view", {"channel": "chat:1", "view": "false"})
    assert answer.status == 502 and "functions" in answer.json["error"]["message"], answer.body
    assert not [m for m in player.received if m.type == "STATUS"]


@pytest.mark.parametrize("renamed", ["FUNCTION", "FCALL"])
def test_without_functions_entity_channels_say_what_lacks(redis_with, start, renamed):
    redis = redis_with("--rename-command", renamed, "")
    node = start(redis, ready_grace="10m")
    player = node.player("alice")
    player.subscribe("chat:1")
    player.publish("chat:1", "mine")
    player.event("chat:1", "mine")
    error = player.refusal("PUBLISH_EVENT", "BROKER_REFUSED", channel="world:1", event="x", data={"id": "e", "public": True})
    assert "functions" in error["message"] and "Redis 7.0" in error["message"]
    answer = node.publish("world:1", "x", {"id": "e"})
    assert answer.status == 502 and "functions" in answer.json["error"]["message"]
    assert "Redis functions" in node.log
    not_ready(node, "functions")


def test_functions_that_the_user_may_not_call_are_named(own_redis, start):
    own_redis.client.execute_command("ACL", "SETUSER", "game", "on", ">pw", "~*", "&*", "+@all", "-fcall")
    node = start(f"redis://game:pw@127.0.0.1:{own_redis.port}", ready_grace="10m")
    player = node.player("alice")
    error = player.refusal("PUBLISH_EVENT", "BROKER_REFUSED", channel="world:1", event="x", data={"id": "e"})
    assert "functions" in error["message"] and "NOPERM" in error["message"] and "game" not in error["message"]
    not_ready(node, "functions", "NOPERM")
    assert "permissions" not in readiness(node)[1] and "permissions to run" in node.log


def test_without_the_commands_of_operators_everything_works(managed_redis, start):
    stored = [
        {"name": "log:{x}", "subscribe": "true", "publish": "true", "history": {"events": 200, "age": "10m"}},
        {"name": "world:{x}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id"},
    ]
    node = start(managed_redis, channel=PLAIN + stored, ready_grace="10m", lifecycle={"stream": "life"})
    ready(node)
    alice = node.player("alice")
    for channel in ("chat:1", "chat:*", "log:1", "world:1"):
        alice.subscribe(channel)
    managed_redis.publish("chat:1", '{"event":"plain"}')
    alice.event("chat:1", "plain")
    assert alice.publish("log:1", "kept", 1)["offset"] == 1
    assert alice.event("log:1", "kept")["offset"] == 1
    alice.publish("world:1", "moved", {"id": "a"})
    alice.sees("world:1", {"a"})
    assert node.admin("POST", "/api/players/alice/view", {"channel": "chat:1", "view": "false"}).status == 200
    until(lambda: life(managed_redis) == [("connected", "alice")], "the lifecycle entry is there")
    assert not [m for m in alice.received if m.type == "STATUS"]


def test_a_command_that_a_table_needs_is_named(redis_with, start):
    node = start(redis_with("--rename-command", "TIME", ""))
    error = node.player("alice").refusal("CHANNEL_SUBSCRIBE", "BROKER_REFUSED", channel="world:1")
    assert "unknown command 'TIME'" in error["message"]


# the lifecycle stream


def life(redis):
    return [(entry["event"], entry["player"]) for entry in redis.stream("life")]


def test_lifecycle_entries_wait_for_a_redis_that_is_full(own_redis, start):
    node = start(own_redis, lifecycle={"stream": "life"})
    players = [node.player(name) for name in ("alice", "bob")]
    until(lambda: len(life(own_redis)) == 2, "both are connected")
    own_redis.client.config_set("maxmemory-policy", "noeviction")
    own_redis.client.config_set("maxmemory", 1)
    for player in players:
        player.close()
        until(lambda player=player: node.metric("drawbridge_lifecycle_entries_pending") == 2 * (1 + players.index(player)), "its entries wait")
    until(lambda: "Redis refused a command" in node.log and "OOM" in node.log, "it is logged")
    assert node.get("/readyz").status == 200
    own_redis.client.config_set("maxmemory", 0)
    wanted = [(event, name) for name in ("alice", "bob") for event in ("disconnected", "left")]
    until(lambda: life(own_redis)[2:] == wanted, "they came, in order", timeout=30)
    until(lambda: node.metric("drawbridge_lifecycle_entries_pending") == 0, "nothing waits")
    assert node.metric("drawbridge_lifecycle_entries_lost_total") == 0


def test_lifecycle_entries_wait_for_a_stream_that_is_something_else(own_redis, start):
    own_redis.client.set("life", "no stream")
    node = start(own_redis, lifecycle={"stream": "life"})
    player = node.player("alice")
    player.subscribe("chat:1")
    player.publish("chat:1", "works")
    player.event("chat:1", "works")
    until(lambda: "WRONGTYPE" in node.log, "it is logged")
    own_redis.client.delete("life")
    until(lambda: life(own_redis) == [("connected", "alice")], "it came", timeout=30)


def test_lifecycle_entries_survive_a_break(own_redis, proxy, start):
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}", lifecycle={"stream": "life"})
    stays, leaves = node.player("stays"), node.player("leaves")
    link.refuse()
    link.cut()
    degraded(stays)
    leaves.close()
    until(lambda: node.metric("drawbridge_lifecycle_entries_pending") >= 2, "they wait")
    link.flow()
    until(lambda: ("left", "leaves") in life(own_redis), "they came", timeout=30)


def test_entries_that_are_lost_at_the_end_are_counted_in_the_log(own_redis, proxy, start):
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}", lifecycle={"stream": "life"}, drain_window="1s")
    players = [node.player(name) for name in ("alice", "bob")]
    until(lambda: len(life(own_redis)) == 2, "both are connected")
    link.refuse()
    link.cut()
    degraded(players[0])
    node.terminate(timeout=30)
    assert "entries=4" in node.log and "lifecycle" in node.log


# services and unsubscribes while Redis is away


def test_a_service_learns_within_five_seconds_that_its_publish_is_not_done_and_it_never_is(own_redis, proxy, start):
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}")
    player = node.player("alice")
    listener = own_redis.client.pubsub()
    listener.subscribe("chat:1")
    assert listener.get_message(timeout=10)["type"] == "subscribe"
    link.refuse()
    link.cut()
    degraded(player)
    # A client that gives up after five seconds has the answer before.
    answers = [node.publish("chat:1", "service"), node.publish("world:1", "service", {"id": "e", "public": True})]
    for answer in answers:
        assert answer.status == 503
        assert (answer.json["error"]["code"], answer.json["error"]["outcome"]) == ("BROKER_UNAVAILABLE", "not_done")
    kept = player.start("PUBLISH_EVENT", channel="chat:1", event="player")
    link.flow()
    assert player.reply(kept, timeout=30).type == "EVENT_PUBLISHED"
    assert node.publish("chat:1", "end").status == 200
    heard = []

    def has_ended():
        message = listener.get_message(timeout=0.05)
        if message:
            heard.append(message["data"])
        return heard and b'"end"' in heard[-1]

    until(has_ended, "the end is heard")
    assert not [payload for payload in heard if b'"service"' in payload] and len(heard) == 2
    assert own_redis.client.exists("drawbridge:{world:1}:entities") == 0


@pytest.mark.parametrize("how", ["away", "stalled"])
def test_a_pending_subscription_is_given_up_without_redis(own_redis, proxy, start, how):
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}")
    player = node.player("alice")
    if how == "away":
        link.refuse()
        link.cut()
        degraded(player)
    else:
        link.stall()
    subscribes = [player.start("CHANNEL_SUBSCRIBE", channel="chat:1") for _ in range(2)]
    publish = player.start("PUBLISH_EVENT", channel="chat:1", event="x")
    other = player.start("CHANNEL_SUBSCRIBE", channel="chat:2")
    # While it is stalled nobody knows yet that it is away.
    assert player.ask("CHANNEL_UNSUBSCRIBE", channel="chat:1", timeout=30).type == "CHANNEL_UNSUBSCRIBED"
    for id in subscribes:
        assert player.reply(id)["code"] == "NOT_SUBSCRIBED"
    assert player.refusal("CHANNEL_UNSUBSCRIBE", "NOT_SUBSCRIBED", channel="chat:1")
    player.sync()
    assert not [m for m in player.received if m.get("id") in (publish, other)]
    link.flow()
    assert player.reply(other, timeout=30).type == "CHANNEL_SUBSCRIBED"
    assert player.reply(publish, timeout=30).type == "EVENT_PUBLISHED"
    until(lambda: own_redis.subscribers("chat:1", "chat:2") == {"chat:1": 0, "chat:2": 1}, "the last word counts", timeout=30)


# shares of the publish queue


def test_one_player_cannot_fill_the_queue_for_the_others(own_redis, proxy, start):
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}", broker={"queue_bytes": "128KiB"})
    mallory, again, alice = node.player("mallory"), node.player("mallory"), node.player("alice")
    link.refuse()
    link.cut()
    degraded(alice)
    links = node.config["broker"].get("subscriber_pool", 2)
    until(lambda: node.metric("drawbridge_redis_reconnects_total") >= links + 1, "all connections are known to be lost", timeout=30)
    floods = [(player, player.start("PUBLISH_EVENT", channel="chat:1", event="n", data="x" * 1000)) for player in (mallory, again) for _ in range(100)]
    for player in (mallory, again):
        error = player.expect("ERROR", timeout=30)
        assert (error["code"], error["outcome"]) == ("BROKER_UNAVAILABLE", "not_done")
        assert "16384 bytes" in error["message"] and "one player" in error["message"]
    mallory.sync(), again.sync()
    mine = [alice.start("PUBLISH_EVENT", channel="chat:1", event="n", data="x" * 1000) for _ in range(10)]
    assert not [m for m in alice.received if m.type == "ERROR"]
    link.flow()
    for id in mine:
        assert alice.reply(id, timeout=30).type == "EVENT_PUBLISHED"
    until(lambda: node.metric("drawbridge_publish_queue_bytes") == 0, "the queue is empty", timeout=30)
    assert len(floods) == 200 and mallory.ask("PUBLISH_EVENT", channel="chat:1", event="n", data=1).type == "EVENT_PUBLISHED"
