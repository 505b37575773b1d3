"""Attacks by players with sessions, logs, idempotency keys and presence. Beside each there is a well-behaved player on the
same node, who gets what is published to it and neither a `STATUS` nor a `RESYNC`."""

import json
import secrets

import pytest

from harness.tokens import mint
from harness.wait import until
from harness.websocket import Closed

CLASSES = [
    {"name": "chat:{room}", "subscribe": "true", "publish": "true", "patterns": True},
    {
        "name": "log:{x}",
        "subscribe": "true",
        "publish": "true",
        "patterns": True,
        "history": {"events": 200, "age": "10m"},
    },
    {"name": "lobby:{x}", "subscribe": "true", "publish": "true", "presence": "notify"},
]
#: What players meet who are not tests.
DEFAULTS = {"messages": None, "subscribes": None, "bytes": None, "work": None}


def game(start, redis, *, window="30s", **changes):
    return start(redis, channel=CLASSES, connection={"resume_window": window}, **changes)


def calls(redis, command="fcall"):
    """How often Redis has executed it."""
    return redis.client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def returns(node, resume, sub="attacker", **fields):
    """A new connection that says which session it resumes, and the answer."""
    player = node.connect(None, path="/ws?connect=1")
    return player, player.ask("CONNECT", token=mint(sub), resume=resume, timeout=30, **fields)


# sessions


def names_of_sessions(theirs):
    return {
        "another player's": theirs,
        "nobody's": secrets.token_hex(16),
        "too short": theirs[:-1],
        "too long": theirs + "0",
        "of an anonymous player": theirs + "0" * 16,
        "capitals": theirs.upper(),
        "no digits": "g" * 32,
        "empty": "",
        "glob": "*" * 32,
        "control characters": "\r\n" * 16,
        "large": "0" * 50_000,
    }


def test_a_session_is_nobody_elses_by_whatever_name(start, redis, bystander):
    node = game(start, redis)
    calm = bystander(node)
    victim = node.player("victim")
    victim.subscribe("chat:1")
    records = set(redis.client.keys("*:session:*"))
    for what, name in names_of_sessions(victim.hello["session"]).items():
        attacker, answer = returns(node, {"session": name, "positions": {}})
        assert answer.type == "WELCOME" and answer["resumed"] is False, (what, answer)
        assert answer["session"] != victim.hello["session"] and answer["player"] == "attacker", what
        attacker.close(1000)
    redis.publish("chat:1", '{"event":"still"}')
    victim.event("chat:1", "still")
    until(lambda: set(redis.client.keys("*:session:*")) <= records | set(redis.client.keys("*victim*:session:*")), "nothing is left")
    calm.unharmed()


def test_sessions_that_are_left_behind_are_few(start, redis, bystander):
    """One player loses a hundred connections, and holds no more than the limit of detached sessions."""
    node = game(start, redis, window="10m")
    calm = bystander(node)
    for _ in range(100):
        player = node.connect(mint("attacker"))
        player.welcome()
        player.vanish()

    def held():
        return len(redis.client.keys("drawbridge:{player:attacker}:session:*"))

    until(lambda: node.metric("drawbridge_connections_open") == 1, "they are gone", timeout=30)
    until(lambda: node.metric("drawbridge_sessions_detached") <= 4 and held() <= 4, "few are left", timeout=30)
    calm.unharmed()


def test_a_storm_of_claims_of_sessions_that_are_nowhere(start, redis, bystander):
    node = game(start, redis)
    calm = bystander(node)
    keys = redis.client.dbsize()
    players = [node.connect(None, path="/ws?connect=1", source=f"127.0.3.{1 + n % 8}") for n in range(120)]
    for n, player in enumerate(players):
        player.start("CONNECT", token=mint(f"a{n % 10}"), resume={"session": secrets.token_hex(16), "positions": {}})
    calm.unharmed()
    for player in players:
        assert player.expect("WELCOME", timeout=60)["resumed"] is False
    for player in players:
        player.close(1000)
    until(lambda: redis.client.dbsize() <= keys + 2, "claims leave nothing behind", timeout=60)
    calm.unharmed()


def test_a_session_that_many_claim_at_once_has_one_connection(start, redis, bystander):
    nodes = [game(start, redis, node=f"n{n}") for n in (1, 2)]
    calm = bystander(nodes[0])
    first = nodes[0].player("attacker")
    session = first.hello["session"]
    crowd = [nodes[n % 2].connect(None, path="/ws?connect=1") for n in range(20)]
    for player in crowd:
        player.start("CONNECT", token=mint("attacker"), resume={"session": session, "positions": {}})
    # Whoever has it in the end, the others have a session of their own, or none.
    alive = []
    for player in crowd:
        try:
            player.expect("WELCOME", timeout=30)
        except (Closed, ConnectionError):
            pass

    def owners():
        alive.clear()
        for player in crowd:
            try:
                player.sync()
                alive.append(player)
            except (Closed, ConnectionError, OSError):
                pass
        mine = [player for player in alive if any(m.type == "WELCOME" and m["session"] == session for m in player.received)]
        return len(mine) <= 1

    until(owners, "one connection has it", timeout=30)
    assert len(redis.client.keys(f"*{{player:attacker}}:session:*")) <= 1 + len(alive)
    calm.unharmed()


BAD_POSITIONS = {
    "negative": '{"epoch":"0000000000000001","offset":-1}',
    "a fraction": '{"epoch":"0000000000000001","offset":1.5}',
    "an exponent": '{"epoch":"0000000000000001","offset":1e300}',
    "text": '{"epoch":"0000000000000001","offset":"7"}',
    "no offset": '{"epoch":"0000000000000001"}',
    "an epoch that is a number": '{"epoch":1,"offset":1}',
    "a list": "[1,2]",
}
ODD_POSITIONS = {
    "the largest": '{"epoch":"0000000000000001","offset":9007199254740991}',
    "the future": '{"epoch":%s,"offset":1000000}',
    "an epoch of 40 KB": '{"epoch":"' + "a" * 40_000 + '","offset":1}',
    "an empty epoch": '{"epoch":"","offset":0}',
    "an epoch of globs": '{"epoch":"****************","offset":0}',
}


@pytest.mark.parametrize("what", [*BAD_POSITIONS, *ODD_POSITIONS, "too many", "too large"])
def test_positions_of_all_kinds_come_to_a_refusal_or_to_a_resync(start, redis, bystander, what):
    node = game(start, redis)
    calm = bystander(node)
    player = node.player("attacker")
    epoch = player.subscribe("log:a")["epoch"]
    session = player.hello["session"]
    node.publish("log:a", data=1)
    player.event("log:a")
    player.vanish()
    position = {**BAD_POSITIONS, **ODD_POSITIONS}.get(what, '{"epoch":"0000000000000001","offset":1}').replace("%s", f'"{epoch}"')
    channels = {"too many": 1_025, "too large": 4_096}.get(what, 1)
    positions = ",".join(f'"log:{"a" if n == 0 else n}":{position}' for n in range(channels))
    # The message is within the limit of bytes where it is only too many.
    if what == "too many":
        positions = ",".join(f'"l:{n}":{{"epoch":"","offset":1}}' for n in range(channels))
    back = node.connect(None, path="/ws?connect=1")
    back.send_json(f'{{"type":"CONNECT","id":1,"token":"{mint("attacker")}","resume":{{"session":"{session}","positions":{{{positions}}}}}}}')
    answer = back.reply(1) if what != "too large" else back.expect("ERROR")
    if what in ODD_POSITIONS:
        assert answer.type == "WELCOME" and answer["resumed"] is True
        assert {one["channel"]: one.get("recovered") for one in answer["subscriptions"]}["log:a"] is False
        assert back.expect("RESYNC", channel="log:a")["reason"] in ("epoch", "gap")
        node.publish("log:a", data=2)
        assert back.event("log:a")["data"] == 2
    else:
        assert answer["code"] == ("TOO_LARGE" if what == "too large" else "BAD_MESSAGE"), answer
        # Nothing was claimed by that: it may try again.
        assert back.ask("CONNECT", token=mint("attacker"), resume={"session": session, "positions": {}})["resumed"] is True
    calm.unharmed()


def test_who_comes_back_again_and_again_is_not_sent_the_whole_log_each_time(start, redis, bystander):
    """A reconnect costs a client one message: what it is sent again is paid as work, and comes later."""
    node = game(start, redis, limits={**DEFAULTS, "work": {"per_second": 50, "burst": 100}})
    calm = bystander(node)
    player = node.player("attacker")
    channels = [f"log:{n}" for n in range(20)]
    epochs = {channel: player.subscribe(channel)["epoch"] for channel in channels}
    session = player.hello["session"]
    pipe = redis.client.pipeline(transaction=False)
    for n in range(2_000):
        pipe.fcall("drawbridge_publish", 1, channels[n % 20], json.dumps({"event": "e", "data": {"n": n, "text": "x" * 100}}))
    pipe.execute()
    player.vanish()
    positions = {channel: {"epoch": epoch, "offset": 0} for channel, epoch in epochs.items()}
    replayed = node.metric("drawbridge_events_replayed_total")
    for _ in range(8):
        back = node.connect(None, path="/ws?connect=1")
        back.start("CONNECT", token=mint("attacker"), resume={"session": session, "positions": positions})
        back.expect("WELCOME", timeout=30)
        back.vanish()
        calm.unharmed()
    assert node.metric("drawbridge_events_replayed_total") - replayed < 8 * 2_000 / 2
    calm.unharmed()


# history


def test_pages_of_history_are_paid_for(start, redis, bystander):
    node = game(start, redis, limits=DEFAULTS)
    calm = bystander(node)
    pipe = redis.client.pipeline(transaction=False)
    for n in range(200):
        pipe.fcall("drawbridge_publish", 1, "log:a", json.dumps({"event": "e", "data": {"n": n, "text": "x" * 100}}))
    pipe.execute()
    attacker = node.player("attacker")
    before = calls(redis)
    count, limited = 400, 0
    try:
        for n in range(count):
            attacker.send({"type": "HISTORY_GET", "id": n, "channel": "log:a", "limit": 2**53 - 1})
        calm.unharmed()
        answers = [attacker.expect(id=n, timeout=30) for n in range(count)]
        limited = sum(answer.get("code") == "RATE_LIMITED" for answer in answers)
        assert all(answer.type == "HISTORY" and len(answer["events"]) <= 1_000 for answer in answers if answer.type != "ERROR")
        assert limited > 0
        # Each page is one reading, a refused request none; beside them is what the bystander and the lease take.
        assert calls(redis) - before <= count - limited + 60
    except (ConnectionError, Closed):
        attacker.closes_with(4504)
    calm.unharmed()


@pytest.mark.parametrize(
    "fields",
    ['"limit":0', '"limit":-1', '"limit":1.5', '"limit":"7"', '"limit":9007199254740991', '"limit":9007199254740993', '"limit":1e300']
    + ['"since":' + position.replace("%s", '"0000000000000001"') for position in [*BAD_POSITIONS.values(), *ODD_POSITIONS.values()]]
    + ['"since":7', '"since":{}', '"since":null,"limit":null'],
)
def test_any_request_for_history_is_answered(start, redis, bystander, fields):
    node = game(start, redis)
    calm = bystander(node)
    for n in range(3):
        node.publish("log:a", data=n)
    attacker = node.player("attacker")
    attacker.send_json(f'{{"type":"HISTORY_GET","id":1,"channel":"log:a",{fields}}}')
    answer = attacker.reply(1)
    if answer.type == "HISTORY":
        assert [event["data"] for event in answer["events"]] in ([], [0, 1, 2])
    else:
        assert answer["code"] == "BAD_MESSAGE", answer
    calm.unharmed()


# idempotency keys


def test_idempotency_keys_are_short_few_and_forgotten(start, redis, bystander):
    node = game(start, redis, limits=DEFAULTS)
    calm = bystander(node)
    attacker = node.player("attacker")
    assert attacker.ask("PUBLISH_EVENT", channel="log:a", event="e", idempotency_key="k" * 65)["code"] == "BAD_MESSAGE"
    attacker.start("PUBLISH_EVENT", channel="log:a", event="e", idempotency_key="k" * 70_000)
    attacker.expect("ERROR", code="TOO_LARGE")
    count, done = 500, 0
    try:
        for n in range(count):
            attacker.send({"type": "PUBLISH_EVENT", "id": n, "channel": "log:a", "event": "e", "idempotency_key": f"{n:064}"})
        done = sum(attacker.expect(id=n, timeout=30).type == "EVENT_PUBLISHED" for n in range(count))
        assert done < count
    except (ConnectionError, Closed):
        attacker.closes_with(4504)
        done = count
    keys = redis.client.keys("drawbridge:{log:a}:once:*")
    # Nothing is remembered of what was refused.
    assert len(keys) <= done
    assert all(0 < redis.client.pttl(key) <= 120_000 and redis.client.memory_usage(key) <= 512 for key in keys[:20])
    calm.unharmed()


# presence


def test_who_comes_and_goes_costs_the_others_a_message_a_window(start, redis, bystander):
    node = game(start, redis, limits=DEFAULTS)
    calm = bystander(node)
    crowd = [node.player(f"m{n}") for n in range(10)]
    for player in crowd:
        player.subscribe("lobby:1")
    attacker = node.player("attacker")
    turns, granted = 200, 0
    try:
        for n in range(turns):
            attacker.send({"type": "CHANNEL_SUBSCRIBE", "id": 2 * n, "channel": "lobby:1"})
            attacker.send({"type": "CHANNEL_UNSUBSCRIBE", "id": 2 * n + 1, "channel": "lobby:1"})
        calm.unharmed()
        granted = sum(attacker.expect(id=2 * n, timeout=30).type == "CHANNEL_SUBSCRIBED" for n in range(turns))
        assert granted < turns
    except (ConnectionError, Closed):
        attacker.closes_with(4504)
        granted = turns
    last = node.player("last")
    last.subscribe("lobby:1")
    for player in crowd:
        player.expect("PRESENCE_CHANGED", where=lambda m: "last" in m["joined"], timeout=30)
        about = [m for m in player.received if m.type == "PRESENCE_CHANGED" and "attacker" in m["joined"] + m["left"]]
        assert len(about) <= 2 * granted
    calm.unharmed()


def test_pages_of_players_are_paid_for_and_bounded(start, redis, bystander):
    node = game(start, redis, limits=DEFAULTS)
    calm = bystander(node)
    attacker = node.player("attacker")
    attacker.subscribe("lobby:1")
    # As if a thousand players were there, on other nodes.
    members, players = "drawbridge:{lobby:1}:members", "drawbridge:{lobby:1}:players"
    until(lambda: redis.client.zcard(players) == 1, "the attacker is there")
    for n in range(0, 1_000, 100):
        names = [f"player-{n + i:05}" + "x" * 40 for i in range(100)]
        redis.client.zadd(players, {name: 0 for name in names})
        redis.client.hset(members, mapping={f"c{name}": 1 for name in names})
    before = calls(redis)
    count = 400
    try:
        for n in range(count):
            attacker.send({"type": "PRESENCE_GET", "id": n, "channel": "lobby:1", "limit": 2**53 - 1, "after": f"player-{n % 7}"})
        calm.unharmed()
        answers = [attacker.expect(id=n, timeout=30) for n in range(count)]
        assert any(answer.get("code") == "RATE_LIMITED" for answer in answers)
        pages = [answer for answer in answers if answer.type == "PRESENCE"]
        assert pages and all(len(page["players"]) <= 1_000 and len(json.dumps(page)) <= 40_000 for page in pages)
        assert calls(redis) - before <= len(pages) + 60
    except (ConnectionError, Closed):
        attacker.closes_with(4504)
    calm.unharmed()


@pytest.mark.parametrize("fields", ['"limit":0', '"limit":-1', '"limit":1.5', '"limit":1e300', '"after":7', '"after":""', '"after":"%s"' % ("x" * 50_000)])
def test_any_request_for_players_is_answered(start, redis, bystander, fields):
    node = game(start, redis)
    calm = bystander(node)
    attacker = node.player("attacker")
    attacker.subscribe("lobby:1")
    attacker.send_json(f'{{"type":"PRESENCE_GET","id":1,"channel":"lobby:1",{fields}}}')
    answer = attacker.reply(1)
    assert answer.type == "PRESENCE" or answer["code"] == "BAD_MESSAGE", answer
    calm.unharmed()
