"""Attacks by players, by strangers and through a shared Redis. Beside each there is a well-behaved player on the same
node, who gets what is published to it and neither a `STATUS` nor a `RESYNC`; the attacker is limited, closed or ignored."""

import json
import socket
import struct
import threading
import time

import pytest

from harness.tokens import mint
from harness.wait import until
from harness.websocket import RSV1, TEXT, Closed, TimedOut, deflate, frame

DEFAULTS = {"limits": {"messages": None, "subscribes": None, "bytes": None, "work": None}}


def answers(player, count):
    """The codes of the replies to requests 0 to `count`; `None`: success."""
    return [player.expect(id=n, timeout=30).get("code") for n in range(count)]


# players: patterns, filters, subscriptions


def test_patterns_that_all_match_one_channel_cost_redis_one_copy(start, redis, bystander):
    """Many spellings of one pattern, by many players: Redis would send each event once for each."""
    node = start(redis)
    calm = bystander(node)
    spellings = ["chat:" + "*" * (1 + n % 8) + "?" * (n // 8 % 3) + "*" * (n // 24) for n in range(30)]
    for n in range(8):
        attacker = node.player(f"p{n}")
        attacker.send([{"type": "CHANNEL_SUBSCRIBE", "id": id, "channel": name} for id, name in enumerate(spellings)])
        assert set(answers(attacker, len(spellings))) <= {None, "LIMIT_EXCEEDED", "RATE_LIMITED"}
    assert redis.patterns() <= 64
    before = redis.client.info("stats")["total_net_output_bytes"]
    payload = json.dumps({"event": "big", "data": "x" * 100_000})
    for _ in range(20):
        redis.publish("chat:loud", payload)
    calm.unharmed()
    sent = redis.client.info("stats")["total_net_output_bytes"] - before
    assert sent < 3 * 20 * len(payload), "one copy for all patterns, and little else"


def test_patterns_that_come_and_go_cost_redis_nothing(start, redis, bystander):
    node = start(redis)
    calm = bystander(node)
    keeper = node.player("keeper")
    keeper.subscribe("chat:*")

    def subscribes():
        return redis.client.info("commandstats").get("cmdstat_psubscribe", {"calls": 0})["calls"]

    before = subscribes()
    for n in range(10):
        attacker = node.player(f"p{n}")
        for round in range(10):
            name = f"chat:{n}{round}*"
            attacker.send(
                [
                    {"type": "CHANNEL_SUBSCRIBE", "id": 2 * round, "channel": name},
                    {"type": "CHANNEL_UNSUBSCRIBE", "id": 2 * round + 1, "channel": name},
                ]
            )
        assert answers(attacker, 20) == [None] * 20
    assert subscribes() == before, "no subscription for what is covered already"
    calm.unharmed()


def test_a_large_token_and_many_patterns_do_not_multiply(start, redis, bystander):
    node = start(redis)
    calm = bystander(node)
    rooms = [f"r{n}" for n in range(600)]
    attacker = node.player("attacker", rooms=rooms, team="x" * 2_000)
    for n in range(20):
        attacker.ask("CHANNEL_SUBSCRIBE", channel=f"room:r{n}*")
    pipe = redis.client.pipeline(transaction=False)
    # More channels than any table of decisions holds.
    for n in range(2_000):
        pipe.publish(f"room:r{n}", '{"event":"e"}')
    pipe.publish("room:r1", '{"event":"end"}')
    pipe.execute()
    attacker.event("room:r1", "end", timeout=60)
    mine = {m["channel"] for m in attacker.received if m.type == "EVENT"}
    assert all(channel.removeprefix("room:") in rooms for channel in mine)
    calm.unharmed()


def test_filters_that_no_index_answers_leave_room_for_others(start, redis, bystander):
    node = start(redis)
    calm = bystander(node)
    hard = " || ".join(f"data.t.contains('{n}')" for n in range(34))
    refused = 0
    for n in range(20):
        attacker = node.player("attacker")
        reply = attacker.ask("CHANNEL_SUBSCRIBE", channel="chat:calm", filter=f"{hard} || data.t == '{n}'")
        refused += reply.type == "ERROR" and reply["code"] == "LIMIT_EXCEEDED"
    other = node.player("other")
    other.subscribe("chat:calm", filter="data.t.contains('quiet')")
    calm.unharmed()


# players: entities


def entities(redis, channel, count, **data):
    pipe = redis.client.pipeline(transaction=False)
    for n in range(count):
        body = {"event": "e", "data": {"id": f"e{n}", "n": n, "public": True, "x": n % 100, "y": n // 100, **data}}
        pipe.fcall("drawbridge_publish", 1, channel, json.dumps(body))
    pipe.execute()


@pytest.mark.parametrize("kind", ["subscribe", "filter"])
def test_work_over_a_large_table_is_paid_for(start, redis, bystander, kind):
    node = start(redis, **DEFAULTS)
    calm = bystander(node)
    channel = "world:1"
    entities(redis, channel, 3_000)
    attacker = node.player("attacker", team="blue")
    attacker.subscribe(channel)
    requests = {
        "subscribe": lambda n: {"type": "CHANNEL_SUBSCRIBE", "channel": channel, "filter": f"data.n != {n}"},
        "filter": lambda n: {"type": "FILTER_UPDATE", "channel": channel, "filter": f"data.n != {n}"},
    }
    try:
        for n in range(80):
            attacker.send({"id": n, **requests[kind](n)})
        calm.unharmed()
        assert "RATE_LIMITED" in answers(attacker, 80)
    except (ConnectionError, Closed):
        attacker.closes_with(4504)
    calm.unharmed()


def test_work_of_areas_that_move_is_paid_for(start, redis, bystander):
    node = start(redis, **DEFAULTS)
    calm = bystander(node)
    channel = "map:1"
    entities(redis, channel, 3_000)
    attacker = node.player("attacker")
    attacker.subscribe(channel, area={"x": -500, "y": -500, "radius": 1})
    try:
        for n in range(80):
            # All of it, and nothing.
            x = 0 if n % 2 else 2_000
            attacker.send({"type": "FILTER_UPDATE", "id": n, "channel": channel, "area": {"min": [x, 0], "max": [x + 1_000, 1_000]}})
        calm.unharmed()
        assert "RATE_LIMITED" in answers(attacker, 80)
    except (ConnectionError, Closed):
        attacker.closes_with(4504)
    calm.unharmed()


def test_work_of_tokens_whose_views_differ_is_paid_for(start, redis, bystander):
    node = start(redis, **DEFAULTS)
    calm = bystander(node)
    channel = "world:1"
    entities(redis, channel, 3_000, team="blue", public=False)
    attacker = node.player("attacker", team="blue")
    attacker.subscribe(channel)
    tokens = [mint("attacker", team=team) for team in ("red", "blue")]
    codes = []
    try:
        for n in range(80):
            # One after the other: a refresh waits for the one before it.
            attacker.send({"type": "TOKEN_REFRESH", "id": n, "token": tokens[n % 2]})
            codes.append(attacker.expect(id=n, timeout=30).get("code"))
        assert "RATE_LIMITED" in codes and codes[0] is None
    except (ConnectionError, Closed):
        attacker.closes_with(4504)
    calm.unharmed()


def test_the_first_subscriber_of_a_large_table_cannot_hold_up_its_neighbours(start, redis, bystander):
    node = start(redis, **DEFAULTS)
    calm = bystander(node)
    channel = "world:1"
    entities(redis, channel, 3_000, bag="x" * 200)
    attacker = node.player("attacker", team="blue")
    dear = " && ".join(f"data.n != {5_000 + n}" for n in range(45))
    attacker.subscribe(channel, filter=dear)
    assert attacker.expect("ERROR", channel=channel)["code"] == "LIMIT_EXCEEDED"
    assert attacker.expect("CHANNEL_UNSUBSCRIBED", channel=channel)["reason"] == "limit"
    calm.unharmed()
    attacker.subscribe(channel, filter="data.n < 3")
    attacker.sees(channel, ["e0", "e1", "e2"])


def test_entities_are_bounded_whoever_makes_up_their_keys(start, redis, bystander):
    world = {"name": "world:{w}", "subscribe": "true", "publish": "true", "kind": "entity", "key": "data.id", "entity_max": 50}
    chat = {"name": "chat:{x}", "subscribe": "true", "publish": "true"}
    node = start(redis, channel=[chat, world])
    calm = bystander(node)
    attacker = node.player("attacker")
    for begin in range(0, 200, 50):
        ids = [attacker.start("PUBLISH_EVENT", channel="world:1", event="e", data={"id": f"k{begin + n}"}) for n in range(50)]
        codes = {attacker.reply(id).get("code") for id in ids}
        assert codes <= ({None} if begin == 0 else {"LIMIT_EXCEEDED"})
    assert len([field for field in redis.client.hkeys("drawbridge:{world:1}:entities") if field[:1] == b"k"]) == 50
    calm.unharmed()


# players and strangers: sockets


def bomb():
    return frame(TEXT, deflate(bytes(8_000_000), level=9), rsv=RSV1)


@pytest.mark.parametrize("authenticated", [False, True], ids=["stranger", "player"])
def test_what_comes_behind_a_close_is_not_inflated(start, redis, bystander, authenticated):
    """Small frames that inflate to megabytes, from sockets that are being closed."""
    node = start(redis, shards=1)
    calm = bystander(node)
    attackers = [node.connect(mint(f"a{n}") if authenticated else None, deflate=True) for n in range(10)]
    for attacker in attackers:
        # Not what a connection begins with; of a player, ten bad messages in a row.
        for _ in range(10 if authenticated else 1):
            attacker.ws.send_text("nonsense")
    stop = threading.Event()

    def send(attacker):
        try:
            while not stop.is_set():
                attacker.ws.socket.sendall(bomb())
        except OSError:
            pass

    threads = [threading.Thread(target=send, args=(attacker,), daemon=True) for attacker in attackers]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            calm.unharmed()
        until(lambda: node.metric("drawbridge_connections") == 1, "all attackers are gone", timeout=30)
    finally:
        stop.set()
        for attacker in attackers:
            attacker.vanish()
        for thread in threads:
            thread.join(10)
    calm.unharmed()


def test_sockets_that_never_say_who_they_are_go(start, redis, bystander):
    node = start(redis, connection={"connect_timeout": "500ms"})
    calm = bystander(node)
    mute = [node.connect(source=f"127.0.1.{1 + n % 4}") for n in range(200)]
    node.player("late").sync()
    for player in mute:
        player.closes_with(4500, timeout=30)
    calm.unharmed()


def test_half_open_admin_requests_keep_nobody_out(start, redis, bystander):
    node = start(redis)
    calm = bystander(node)
    half = []
    for n in range(100):
        raw = socket.create_connection(("127.0.0.1", node.admin_port), timeout=10)
        raw.sendall(b"POST /api/publish HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 100\r\n\r\n{" if n % 2 else b""))
        half.append(raw)
    assert node.publish("chat:calm", "through").status == 200
    calm.player.event("chat:calm", "through")
    for raw in half:
        raw.close()
    calm.unharmed()


def test_an_admin_peer_that_reads_no_answer_is_let_go(start, redis, bystander):
    """It is closed some time after its answers have filled what the kernel holds, and keeps nobody out until then."""
    node = start(redis, env={"DRAWBRIDGE_LOG": "debug"})
    calm = bystander(node)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    raw.connect(("127.0.0.1", node.admin_port))
    raw.setblocking(False)
    request = b"GET /api/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    unsent = b""

    def is_let_go():
        nonlocal unsent
        try:
            while True:
                unsent = unsent or request
                unsent = unsent[raw.send(unsent) :]
        except BlockingIOError:
            return False
        except OSError:
            return True

    try:
        until(lambda: is_let_go() or calm.unharmed(), "it is closed", timeout=90)
    finally:
        raw.close()
    until(lambda: "an admin connection ended early" in node.process.output, "the log says so")
    assert node.publish("chat:calm", "through").status == 200
    calm.unharmed()


def test_readers_that_stop_hold_up_nobody(start, redis, bystander):
    node = start(redis, shards=1, connection={"outbound_bytes": "64KiB"})
    calm = bystander(node)
    slow = [node.player(f"s{n}", receive_buffer=4096) for n in range(10)]
    for player in slow:
        player.subscribe("chat:loud")

    def closed():
        for _ in range(20):
            redis.publish("chat:loud", json.dumps({"event": "n", "data": "x" * 20_000}))
        calm.unharmed()
        return node.metric("drawbridge_slow_consumers_total") == 10

    until(closed, "all are closed", timeout=60)


def test_a_flood_of_publishes_is_limited_and_nobody_elses(start, redis, bystander):
    node = start(redis, **DEFAULTS)
    calm = bystander(node)
    attacker = node.player("attacker")
    batch = [{"type": "PUBLISH_EVENT", "channel": "chat:loud", "event": "e", "data": "x" * 100}] * 64
    closed = threading.Event()

    def send():
        try:
            while not closed.is_set():
                attacker.send(batch)
        except OSError:
            closed.set()

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        until(lambda: calm.unharmed() or closed.is_set(), "it is closed", timeout=60)
    finally:
        closed.set()
        attacker.vanish()
        thread.join(10)
    assert node.metric("drawbridge_requests_rate_limited_total") > 0
    calm.unharmed()


# names and logs


@pytest.mark.parametrize("evil", ["x\nERROR drawbridge: forged", "x\r\nforged", "\x1b[31mforged\x1b[0m", "x\u2028forged\x07"])
def test_nobody_writes_lines_or_colours_into_the_log(start, redis, bystander, evil):
    node = start(redis, connection={"auto_subscribe": ["player:{sub}", "room:{room}"]}, env={"DRAWBRIDGE_LOG": "debug"})
    calm = bystander(node)
    attacker = node.connect(mint("att\nacker", room=evil))
    attacker.welcome()
    attacker.ask("CHANNEL_SUBSCRIBE", channel=evil)
    attacker.ask("PUBLISH_EVENT", channel="chat:1", event=evil, data=evil)
    redis.publish(f"chat:{evil}", "x")
    node.admin("POST", "/api/players/attacker/disconnect", {"reason": evil})
    calm.unharmed()
    lines = list(node.process.lines)
    assert not [line for line in lines if line.lstrip().startswith(("forged", "ERROR drawbridge: forged"))]
    # The terminal's own colours are off where the log is no terminal.
    assert not [line for line in lines if "\x1b" in line or "\x07" in line or "\u2028" in line]


def lines_with(node, text):
    return sum(text in line for line in list(node.process.lines))


def test_views_that_the_control_channel_cannot_keep_are_logged_seldom(own_redis, start):
    """Whoever may publish there could fill the disk with lines."""
    own_redis.client.execute_command(
        "ACL", "SETUSER", "noviews", "on", ">secret", "resetchannels", "&*", "resetkeys", "~drawbridge:{node*", "~drawbridge:{nodes}*", "+@all"
    )
    url = f"redis://noviews:secret@127.0.0.1:{own_redis.port}"
    node = start(url, control_channel=True, ready_grace="10m", broker={"views_without_permission": "open"})
    node.player("alice")
    began = time.monotonic()
    count = 400
    for n in range(count):
        view = json.dumps({"command": "view", "player": f"p{n}", "channel": "chat:1", "view": "false"})
        own_redis.publish("drawbridge:control", view)
        own_redis.publish("drawbridge:control", json.dumps({"command": "view", "player": "p", "channel": "chat:1", "view": "("}))
    until(lambda: node.metric("drawbridge_player_commands_total") >= count, "all are heard", timeout=60)
    until(lambda: node.metric("drawbridge_player_commands_failed_total") >= count, "all bad ones are refused", timeout=60)
    until(lambda: lines_with(node, "was not kept") and lines_with(node, "could not be read"), "the log says so", timeout=60)
    # Ten lines of each kind in ten seconds, whatever the machine's speed.
    bound = 10 * (2 + (time.monotonic() - began) / 10)
    for text in ("was not kept", "could not be read", "Redis refused a command"):
        assert lines_with(node, text) <= bound, text


# what others write into the same Redis


def broken_tables():
    huge = str(2**53)
    return {
        "no counter": {"e": "1"},
        "a counter that is no number": {"e": "1", "s": "many"},
        "a counter at the end of all numbers": {"e": "1", "s": huge},
        "a negative counter": {"e": "1", "s": "-5"},
        "an epoch of any bytes": {"e": "\n\"}{", "s": "3"},
        "a stray field": {"e": "1", "s": "3", "stray": "field"},
        "a row without a time": {"e": "1", "s": "3", "kx": '{"event":"e","data":{"id":"x"}}'},
        "a row that is no JSON": {"e": "1", "s": "3", "kx": "1 nonsense"},
        "a row of another epoch": {"e": "1", "s": "3", "kx": '1 {"event":"e","data":{"id":"x","public":true},"id":"db1.1@foreign.7"}'},
        "a row under another key": {"e": "1", "s": "3", "kx": '1 {"event":"e","data":{"id":"y","public":true}}'},
    }


@pytest.mark.parametrize("fields", broken_tables().values(), ids=broken_tables().keys())
def test_a_table_that_somebody_wrote_nonsense_into(start, redis, bystander, fields):
    """Its own channel may suffer; it is read a bounded number of times, and what is acknowledged is true."""
    node = start(redis)
    calm = bystander(node)
    redis.client.hset("drawbridge:{world:1}:entities", mapping=fields)
    watcher = node.player("watcher", team="red")
    watcher.ask("CHANNEL_SUBSCRIBE", channel="world:1", timeout=30)
    author = node.player("author", team="red")
    reply = author.ask("PUBLISH_EVENT", channel="world:1", event="e", data={"id": "good", "public": True}, timeout=30)
    if reply.type == "EVENT_PUBLISHED":
        watcher.expect(where=lambda m: "good" in json.dumps(m), timeout=30)
    else:
        assert reply["code"] in ("BROKER_REFUSED", "LIMIT_EXCEEDED", "INTERNAL", "BROKER_UNAVAILABLE")

    def reads():
        return redis.client.info("commandstats").get("cmdstat_hscan", {"calls": 0})["calls"]

    before = reads()
    for _ in range(20):
        calm.unharmed()
    assert reads() - before <= 40, "a table that cannot be read is not read for ever"


@pytest.mark.parametrize(
    "write",
    [
        lambda redis, key: redis.set(key, "no hash"),
        lambda redis, key: redis.hset(key, "chat:1", "data.n >"),
        lambda redis, key: redis.hset(key, "chat:1", b"\xff\xfe"),
        lambda redis, key: redis.hset(key, mapping={f"chat:{n}": "x" * 3_000 for n in range(2_000)}),
        lambda redis, key: redis.hset(key, "a b\n", "true"),
    ],
    ids=["no hash", "no expression", "no text", "too much", "no channel"],
)
def test_views_that_somebody_wrote_nonsense_into_show_no_more_than_before(start, redis, bystander, write):
    node = start(redis)
    calm = bystander(node)
    before = node.process.rss_kib()
    write(redis.client, "drawbridge:{player:victim}:views")
    victim = node.connect(mint("victim", team="red"))
    other = node.player("other", team="red")
    other.subscribe("team:1")
    victim.start("CHANNEL_SUBSCRIBE", channel="team:1")
    redis.publish("team:1", '{"event":"theirs","data":{"team":"blue"}}')
    redis.publish("team:1", '{"event":"end","data":{"team":"red"}}')
    assert other.events_until("end") == []
    try:
        victim.sync()
    except (Closed, TimedOut):
        pass
    assert "theirs" not in [m.get("event") for m in victim.received]
    calm.unharmed()
    assert node.process.rss_kib() < before + 128 * 1024


def test_a_payload_that_claims_to_be_a_servers(start, redis, bystander):
    """Versions of a table are believed of nobody who merely publishes."""
    node = start(redis)
    calm = bystander(node)
    watcher = node.player("watcher", team="red")
    watcher.subscribe("world:1")
    watcher.sees("world:1", [])
    for seq in (0, 1, 7, 2**53, 2**64 - 1):
        for epoch in ("1", "foreign", ""):
            data = {"id": "ghost", "public": True}
            redis.publish("world:1", json.dumps({"event": "e", "data": data, "id": f"db1.0000000000000001.1@{epoch}.{seq}"}))
    author = node.player("author", team="red")
    author.publish("world:1", "e", {"id": "real", "public": True})
    until(lambda: watcher.read_for(0.05) or "real" in watcher.entities("world:1"), "what is real is shown", timeout=30)
    calm.unharmed()


def test_connections_that_are_only_bytes(start, redis):
    node = start(redis, connection={"connect_timeout": "500ms"}, proxy_protocol=True, trusted_proxies=["127.0.0.0/8"])
    header = b"PROXY TCP4 198.51.100.1 127.0.0.1 5555 8000\r\n"
    player = node.player("bystander", preamble=header)
    player.subscribe("chat:calm")
    for garbage in (b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", header * 50, b"\x16\x03\x01" * 1_000, struct.pack(">I", 0) * 10_000):
        try:
            raw = socket.create_connection(("127.0.0.1", node.port), timeout=10)
            raw.sendall(garbage)
            raw.close()
        except OSError:
            pass
    player.publish("chat:calm", "still")
    player.event("chat:calm", "still")
    assert not [m for m in player.received if m.type in ("STATUS", "RESYNC", "ERROR")]
