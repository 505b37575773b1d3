"""What careless programs write at Drawbridge's keys of logs, sessions, presence and leases. Their own channels and players may
suffer; nothing is acknowledged that was not done, nothing is read or written for ever, and other players notice nothing."""

import json

import pytest

from harness.tokens import mint
from harness.wait import until

CLASSES = [
    {"name": "chat:{room}", "subscribe": "true", "publish": "true", "patterns": True},
    {
        "name": "log:{x}",
        "subscribe": "true",
        "publish": "true",
        "patterns": True,
        "history": {"events": 50, "age": "10m"},
    },
    {"name": "lobby:{x}", "subscribe": "true", "publish": "true", "presence": "notify"},
]
KEPT = {"resume_window": "30s"}
LARGE = "x" * 512_000


def game(start, redis, **changes):
    return start(redis, channel=CLASSES, connection=KEPT, **changes)


def calls(redis):
    """How many functions Redis has executed for nodes."""
    return redis.client.info("commandstats").get("cmdstat_fcall", {"calls": 0})["calls"]


def comes_to_rest(node, redis, calm):
    """While nobody asks for anything, Redis is asked for little: leases, and what the bystander does."""
    before, rounds = calls(redis), 20
    for _ in range(rounds):
        calm.unharmed()
    assert calls(redis) - before <= 4 * rounds, "something is read or written without end"
    assert node.get("/healthz").status == 200


# logs

STREAM, POSITION = "drawbridge:{log:1}:log", "drawbridge:{log:1}:position"
EPOCH = "00000000000000aa"
REPLICATION = "0" * 40


def position(epoch=EPOCH, offset=3, replication=REPLICATION, mark_ms=0, mark=0, ended=""):
    return f"{epoch} {offset} {replication} {mark_ms} {mark}{ended}"


def entry(redis, number, *fields):
    redis.client.execute_command("XADD", STREAM, number, *fields)


def logged(redis, count=3, payload='{"event":"old","data":1}'):
    for n in range(1, count + 1):
        entry(redis, f"{n}-0", "t", 4_102_444_800_000, "p", payload)


LOGS = {
    "the stream is a string": lambda r: r.client.set(STREAM, "mine"),
    "the position is a hash": lambda r: r.client.hset(POSITION, "mine", 1),
    "the position is empty": lambda r: (logged(r), r.client.set(POSITION, "")),
    "the position is no position": lambda r: (logged(r), r.client.set(POSITION, "nonsense")),
    "the position is large": lambda r: (logged(r), r.client.set(POSITION, LARGE)),
    "the position is missing": logged,
    "the offset is the last of all numbers": lambda r: r.client.set(POSITION, position(offset=2**53)),
    "the offset is nearly the last": lambda r: r.client.set(POSITION, position(offset=2**53 - 2)),
    "the offset is negative": lambda r: r.client.set(POSITION, position(offset=-3)),
    "the offset is behind the stream": lambda r: (logged(r), r.client.set(POSITION, position(offset=1))),
    "the offset is beyond the stream": lambda r: (logged(r), r.client.set(POSITION, position(offset=10))),
    "the epoch is none": lambda r: (logged(r), r.client.set(POSITION, position(epoch="mine"))),
    "an epoch that ended is none": lambda r: (logged(r), r.client.set(POSITION, position(ended=" zz 9"))),
    "epochs ended out of order": lambda r: (logged(r), r.client.set(POSITION, position(ended=f" {EPOCH} 3 {EPOCH} 1"))),
    "an entry at a time": lambda r: r.client.xadd(STREAM, {"mine": 1}),
    "an entry without a payload": lambda r: (entry(r, "1-0", "t", 1), r.client.set(POSITION, position(offset=1))),
    "an entry with other fields": lambda r: (entry(r, "1-0", "a", 1, "b", 2), r.client.set(POSITION, position(offset=1))),
    "an entry without a time": lambda r: (entry(r, "1-0", "t", "soon", "p", "{}"), r.client.set(POSITION, position(offset=1))),
    "a payload that is no JSON": lambda r: (logged(r, payload="nonsense"), r.client.set(POSITION, position())),
    "a payload of bytes": lambda r: (logged(r, payload=b"\xff\xfe"), r.client.set(POSITION, position())),
    "payloads that are large": lambda r: (logged(r, payload=json.dumps({"event": "e", "data": LARGE})), r.client.set(POSITION, position())),
    "a payload over every bound": lambda r: (logged(r, payload=json.dumps({"event": "e", "data": LARGE * 5})), r.client.set(POSITION, position())),
}  # fmt: skip


@pytest.mark.parametrize("damage", LOGS.values(), ids=LOGS.keys())
def test_a_log_that_somebody_wrote_nonsense_into(start, redis, bystander, damage):
    damage(redis)
    node = game(start, redis)
    calm = bystander(node)
    watcher = node.player("watcher")
    answer = watcher.ask("CHANNEL_SUBSCRIBE", channel="log:1", timeout=30)
    assert answer.type == "CHANNEL_SUBSCRIBED" or answer["code"] == "BROKER_REFUSED", answer
    author = node.player("author")
    published = author.ask("PUBLISH_EVENT", channel="log:1", event="good", data=1, timeout=30)
    if published.type == "EVENT_PUBLISHED":
        if answer.type == "CHANNEL_SUBSCRIBED":
            assert watcher.event("log:1", "good", timeout=30)["offset"] == published["offset"]
        # What was acknowledged is in the log; or its keys contradicted each other, so that it has begun again.
        page = author.ask("HISTORY_GET", channel="log:1", timeout=30)
        if not page["events"]:
            published = author.publish("log:1", "good", timeout=30)
            page = author.ask("HISTORY_GET", channel="log:1", timeout=30)
        assert page["events"][-1]["event"] == "good" and page["events"][-1]["offset"] == published["offset"], page
    else:
        assert published["code"] in ("BROKER_REFUSED", "INTERNAL"), published
        until(lambda: "Redis refused a command" in node.process.output, "the log says so")
    for since in (None, {"epoch": EPOCH, "offset": 0}, {"epoch": EPOCH, "offset": 3}):
        page = author.ask("HISTORY_GET", channel="log:1", since=since, timeout=30)
        assert page.type == "HISTORY" or page["code"] == "BROKER_REFUSED", page
    comes_to_rest(node, redis, calm)


@pytest.mark.parametrize("damage", LOGS.values(), ids=LOGS.keys())
def test_a_log_that_is_damaged_while_it_is_watched(start, redis, bystander, damage):
    node = game(start, redis)
    calm = bystander(node)
    watcher, author = node.player("watcher"), node.player("author")
    watcher.subscribe("log:1")
    author.publish("log:1", "before")
    watcher.event("log:1", "before")
    redis.client.delete(STREAM, POSITION)
    damage(redis)
    published = author.ask("PUBLISH_EVENT", channel="log:1", event="good", data=1, timeout=30)
    if published.type == "EVENT_PUBLISHED":
        # Whatever became of the log, what was acknowledged is shown, or it is said that something is missing.
        watcher.expect(channel="log:1", where=lambda m: m.get("event") == "good" or m.type == "RESYNC", timeout=30)
    else:
        assert published["code"] in ("BROKER_REFUSED", "INTERNAL"), published
    comes_to_rest(node, redis, calm)
    # It is mended when the keys are gone.
    redis.client.delete(STREAM, POSITION)
    author.publish("log:1", "begins", timeout=30)
    watcher.expect(channel="log:1", where=lambda m: m.get("event") == "begins" or m.type == "RESYNC", timeout=30)
    author.publish("log:1", "after", timeout=30)
    watcher.event("log:1", "after", timeout=30)


# sessions


def content(*subscriptions, v=1, **more):
    return json.dumps({"v": v, "subscriptions": list(subscriptions), **more})


def held(channel, origin="client", **more):
    return {"channel": channel, "origin": origin, **more}


def change(**fields):
    return lambda redis, key: redis.hset(key, mapping=fields)


RECORDS = {
    "a string": lambda redis, key: (redis.delete(key), redis.set(key, "mine")),
    "gone": lambda redis, key: redis.delete(key),
    "without a node": lambda redis, key: redis.hdel(key, "n"),
    "without a generation": lambda redis, key: redis.hdel(key, "g"),
    "without content": lambda redis, key: redis.hdel(key, "c"),
    "a generation that is no number": change(g="many"),
    "the last generation": change(g=str(2**53 - 1)),
    "a generation of nothing": change(g="0"),
    "a generation below 0": change(g="-1"),
    "a node that never was": change(n="nobody-0123456789abcdef"),
    "a large node": change(n=LARGE),
    "a node of bytes": change(n=b"\xff\xfe"),
    "no JSON": change(c="nonsense"),
    "bytes": change(c=b"\xff\xfe"),
    "large content": change(c=content(held("chat:1"), left=[LARGE])),
    "content of a later version": change(c=content(held("chat:1"), v=999)),
    "content of other types": change(c='{"v":1,"subscriptions":7}'),
    "an origin that is none": change(c=content(held("chat:1", "nobody"))),
    "a thousand channels": change(c=content(*(held(f"chat:{n}") for n in range(1_000)))),
    "a channel many times": change(c=content(*(held("log:1") for _ in range(500)))),
    "channels that are none": change(c=content(held(""), held("a b"), held("\n"), held("x" * 300), held("chat:{x}"))),
    "channels of the node": change(c=content(held("drawbridge:control"), held("drawbridge:nodes:0", "server"))),
    "channels without a right": change(c=content(held("secret:1"), held("secret:*"), held("*"))),
    "a filter that is none": change(c=content(held("chat:1", filter="data.x >"), held("chat:2", filter="x" * 5_000))),
    "an area that is none": change(c=content(held("chat:1", area={"x": "here"}))),
    "stray fields": change(**{f"stray{n}": "x" * 100 for n in range(1_000)}),
}  # fmt: skip


@pytest.mark.parametrize("damage", RECORDS.values(), ids=RECORDS.keys())
def test_a_session_that_somebody_wrote_nonsense_into(start, redis, bystander, damage):
    """The session is resumed or begins again; whoever has it goes on, or is told that it was taken."""
    first, second = (game(start, redis, node=f"n{n}") for n in (1, 2))
    calm = bystander(second)
    alice = first.player("alice")
    alice.subscribe("chat:1")
    session = alice.hello["session"]
    [key] = until(lambda: redis.client.keys("drawbridge:{player:alice}:session:*"), "the record is there")
    # Its last change is written half a second after it was made.
    until(lambda: b"chat:1" in (redis.client.hget(key, "c") or b""), "the record is written")
    alice.vanish()
    until(lambda: first.metric("drawbridge_sessions_detached") == 1, "the session is detached")
    damage(redis.client, key)
    back = second.connect(None, path="/ws?connect=1")
    welcome = back.ask("CONNECT", token=mint("alice"), resume={"session": session, "positions": {}}, subscribe=[{"channel": "chat:2"}], timeout=30)
    assert welcome.type == "WELCOME" and welcome["player"] == "alice", welcome
    assert {"player:alice", "chat:2"} <= {one["channel"] for one in welcome["subscriptions"]}, welcome
    names = {one["channel"] for one in welcome["subscriptions"]}
    assert not any(name.startswith(("secret:", "drawbridge:", "*")) for name in names), names
    redis.publish("chat:2", '{"event":"shown"}')
    back.event("chat:2", "shown")
    back.publish("chat:2", "said")
    comes_to_rest(second, redis, calm)
    assert "panicked" not in first.process.output + second.process.output


@pytest.mark.parametrize("damage", RECORDS.values(), ids=RECORDS.keys())
def test_a_record_that_is_damaged_costs_its_player_no_connection(start, redis, bystander, damage):
    node = game(start, redis)
    calm = bystander(node)
    alice = node.player("alice")
    [key] = until(lambda: redis.client.keys("drawbridge:{player:alice}:session:*"), "the record is there")
    damage(redis.client, key)
    # It is written again, unless it says that it is another node's by now.
    alice.subscribe("chat:1")
    redis.publish("chat:1", '{"event":"shown"}')
    alice.event("chat:1", "shown")
    comes_to_rest(node, redis, calm)


# presence

MEMBERS, PLAYERS = "drawbridge:{lobby:1}:members", "drawbridge:{lobby:1}:players"
PRESENCE = {
    "members are a string": lambda r: (r.delete(MEMBERS), r.set(MEMBERS, "mine")),
    "players are a string": lambda r: (r.delete(PLAYERS), r.set(PLAYERS, "mine")),
    "both are": lambda r: (r.delete(MEMBERS, PLAYERS), r.set(MEMBERS, "mine"), r.set(PLAYERS, "mine")),
    "members are gone": lambda r: r.delete(MEMBERS),
    "players are gone": lambda r: r.delete(PLAYERS),
    "stray fields": lambda r: r.hset(MEMBERS, mapping={f"stray{n}": n for n in range(5_000)}),
    "counts that are no numbers": lambda r: r.hset(MEMBERS, mapping={"calice": "many", "cbob": "-1", "cghost": "1e300"}),
    "members of nobody": lambda r: r.hset(MEMBERS, mapping={f"m{'0' * 32}ghost": "x", "m": "1 n", "mshort": "1 n"}),
    "large values": lambda r: r.hset(MEMBERS, mapping={"calice": LARGE, f"m{'0' * 32}alice": LARGE}),
    "large players": lambda r: r.zadd(PLAYERS, {LARGE + str(n): 0 for n in range(3)}),
    "players of bytes": lambda r: r.zadd(PLAYERS, {b"\xff\xfe": 0, b"\x00": 0, b"": 0}),
    "players with other scores": lambda r: r.zadd(PLAYERS, {"ghost": 5, "alice": -1}),
    "many players": lambda r: r.zadd(PLAYERS, {f"ghost{n}": 0 for n in range(5_000)}),
}  # fmt: skip


@pytest.mark.parametrize("damage", PRESENCE.values(), ids=PRESENCE.keys())
def test_presence_that_somebody_wrote_nonsense_into(start, redis, bystander, damage):
    node = game(start, redis)
    calm = bystander(node)
    alice, bob = node.player("alice"), node.player("bob")
    alice.subscribe("lobby:1")
    until(lambda: redis.client.zcard(PLAYERS) == 1, "alice is there")
    damage(redis.client)
    bob.subscribe("lobby:1")
    for player in (alice, bob):
        page = player.ask("PRESENCE_GET", channel="lobby:1", timeout=30)
        assert page.type == "PRESENCE" or page["code"] == "BROKER_REFUSED", page
        assert page.type != "PRESENCE" or len(json.dumps(page)) < 40_000 or len(page["players"]) == 1
    bob.unsubscribe("lobby:1")
    redis.publish("lobby:1", '{"event":"shown"}')
    alice.event("lobby:1", "shown")
    comes_to_rest(node, redis, calm)
    # When the keys are gone, who comes from then on is there.
    redis.client.delete(MEMBERS, PLAYERS)
    bob.subscribe("lobby:1")
    until(lambda: "bob" in {one["player"] for one in bob.ask("PRESENCE_GET", channel="lobby:1", timeout=30)["players"]}, "bob is there", 30)


@pytest.mark.parametrize(
    "payload",
    ["", "nonsense", "[]", "{}", '{"joined":7}', '{"joined":[7],"left":[]}', '{"joined":["' + "x" * 300_000 + '"]}', b"\xff", '{"joined":["ghost"],"left":["ghost"]}'],
    ids=["empty", "text", "list", "object", "number", "numbers", "large", "bytes", "both"],
)
def test_notices_that_no_function_published(start, redis, bystander, payload):
    node = game(start, redis)
    calm = bystander(node)
    alice, bob = node.player("alice"), node.player("bob")
    alice.subscribe("lobby:1")
    for _ in range(50):
        redis.publish("drawbridge:presence:lobby:1", payload)
    bob.subscribe("lobby:1")
    alice.expect("PRESENCE_CHANGED", where=lambda m: "bob" in m["joined"] or m.get("reset"), timeout=30)
    comes_to_rest(node, redis, calm)


# what nodes keep for one another

INDEXES = {
    "leases are a string": lambda r: (r.delete("drawbridge:{nodes}:leases"), r.set("drawbridge:{nodes}:leases", "mine")),
    "about is a list": lambda r: (r.delete("drawbridge:{nodes}:about"), r.rpush("drawbridge:{nodes}:about", "mine")),
    "claims are a set": lambda r: (r.delete("drawbridge:{nodes}:claims"), r.sadd("drawbridge:{nodes}:claims", "mine")),
    "a thousand dead nodes": lambda r: r.zadd("drawbridge:{nodes}:leases", {f"ghost{n}": n for n in range(1_000)}),
    "dead nodes of bytes": lambda r: r.zadd("drawbridge:{nodes}:leases", {b"\xff\xfe": 1, LARGE: 2, "": 3}),
    "sessions are a string": lambda r: [(r.delete(key), r.set(key, "mine")) for key in r.keys("drawbridge:{node:*}:sessions")],
    "sessions are nonsense": lambda r: [r.sadd(key, *(f"x{n}" for n in range(1_000)), b"\xff", "", LARGE) for key in r.keys("drawbridge:{node:*}:sessions")],
    "presence is a string": lambda r: [(r.delete(key), r.set(key, "mine")) for key in r.keys("drawbridge:{node:*}:presence")],
    "presence is nonsense": lambda r: [r.sadd(key, *(f"x{n}" for n in range(1_000)), b"\xff", "") for key in r.keys("drawbridge:{node:*}:presence")],
}  # fmt: skip


@pytest.mark.parametrize("damage", INDEXES.values(), ids=INDEXES.keys())
def test_what_nodes_keep_for_one_another_is_damaged(start, redis, bystander, damage):
    node = game(start, redis)
    calm = bystander(node)
    alice = node.player("alice")
    alice.subscribe("lobby:1")
    until(lambda: redis.client.keys("drawbridge:{node:*}:presence"), "alice is there")
    damage(redis.client)
    bob = node.player("bob")
    bob.subscribe("lobby:1")
    bob.publish("lobby:1", "said")
    alice.event("lobby:1", "said")
    assert alice.ask("PRESENCE_GET", channel="lobby:1", timeout=30).type == "PRESENCE"
    comes_to_rest(node, redis, calm)
    until(lambda: node.get("/readyz").status == 200, "the node is ready", 30)
