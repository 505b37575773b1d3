"""Contract §2: how a player gets in, and what `WELCOME` says."""

import os
import time

import pytest

from harness.tokens import SECRET, mint, mint_expiring_at, unsigned
from harness.wait import until
from harness.websocket import MSGPACK


def test_a_token_on_the_upgrade_gets_welcome_at_once(redis, start):
    node = start(redis, connection={"heartbeat": None})  # as it is by default
    before = time.time() * 1000
    welcome = node.connect(mint("alice")).welcome()
    assert "id" not in welcome
    assert welcome["player"] == "alice" and welcome["node"] == "n1" and welcome["resumed"] is False
    assert welcome["connection"] and welcome["session"]
    assert before - 1000 <= welcome["server_time_ms"] <= time.time() * 1000 + 1000
    assert welcome["heartbeat_ms"] == 25_000
    assert welcome["limits"]["message_bytes"] == 65_536 and welcome["limits"]["subscriptions"] == 256


def test_connections_and_sessions_have_names_of_their_own(node):
    welcomes = [node.player("alice").hello for _ in range(5)]
    assert len({welcome["connection"] for welcome in welcomes}) == 5
    assert len({welcome["session"] for welcome in welcomes}) == 5


def test_bearer_is_read_without_regard_to_case(node):
    player = node.connect(headers={"authorization": f"bearer {mint('alice')}"})
    assert player.welcome()["player"] == "alice"


@pytest.mark.parametrize("id", [1, "first"])
def test_a_token_in_connect_gets_welcome_with_its_id(node, id):
    player = node.connect()
    player.send({"type": "CONNECT", "id": id, "token": mint("alice")})
    welcome = player.welcome()
    assert welcome["id"] == id and welcome["player"] == "alice"


def test_connect_without_id_gets_welcome_too(node):
    player = node.connect()
    player.send({"type": "CONNECT", "token": mint("alice")})
    assert "id" not in player.welcome()


def test_connect_in_messagepack(node):
    player = node.connect(encoding=MSGPACK)
    player.send({"type": "CONNECT", "id": 1, "token": mint("alice"), "subscribe": [{"channel": "chat:1"}]})
    assert {"player:alice", "chat:1"} == {s["channel"] for s in player.welcome()["subscriptions"]}


def test_a_later_connect_is_a_bad_message(node):
    player = node.player("alice")
    player.refusal("CONNECT", "BAD_MESSAGE", token=mint("alice"))
    player.refusal("CONNECT", "BAD_MESSAGE")
    player.sync()


def test_a_second_connect_is_a_bad_message(node):
    player = node.connect()
    player.ask("CONNECT", token=mint("alice"))
    player.refusal("CONNECT", "BAD_MESSAGE", token=mint("alice"))
    player.sync()


def test_connect_1_waits_for_connect_even_with_a_token_on_the_upgrade(node):
    player = node.connect(mint("alice"), path="/ws?connect=1")
    reply = player.ask("CONNECT", subscribe=[{"channel": "chat:1"}])
    assert reply.type == "WELCOME" and reply["player"] == "alice"
    assert [m.type for m in player.received] == ["WELCOME"]
    assert "chat:1" in [s["channel"] for s in reply["subscriptions"]]


def test_connect_1_without_connect_times_out(redis, start):
    node = start(redis, connection={"connect_timeout": "300ms"})
    node.connect(mint("alice"), path="/ws?connect=1").closes_with(4500)


def test_silence_instead_of_connect_closes_with_4500(redis, start):
    node = start(redis, connection={"connect_timeout": "300ms"})
    node.connect().closes_with(4500)


def test_whoever_is_in_stays_after_the_connect_timeout(redis, start):
    node = start(redis, connection={"connect_timeout": "300ms"})
    player, late = node.player("alice"), node.connect()
    late.closes_with(4500)
    player.sync()


@pytest.mark.parametrize(
    "request_", [{"type": "PING"}, {"type": "CHANNEL_SUBSCRIBE", "channel": "chat:1"}, {"type": "PUBLISH_EVENT", "channel": "chat:1", "event": "x"}]
)
def test_nothing_is_done_before_connect(node, redis, request_):
    player = node.connect()
    listener = node.player("bob")
    listener.subscribe("chat:1")
    player.send({"id": 9, **request_})
    assert player.expect("ERROR", id=9)["code"] in ("UNAUTHENTICATED", "BAD_MESSAGE")
    redis.publish("chat:1", '{"event":"marker"}')
    assert listener.events_until("marker") == []


# query token


def test_a_query_token_is_not_accepted_by_default(redis, start):
    node = start(redis, connection={"connect_timeout": "300ms"})
    player = node.connect(path=f"/ws?token={mint('alice')}")
    assert player.closing().code == 4500
    assert not [m for m in player.received if m.type == "WELCOME"]


def test_a_query_token_is_accepted_where_the_configuration_says_so(redis, start):
    node = start(redis, auth={"query_token": True})
    assert node.connect(path=f"/ws?token={mint('alice')}").welcome()["player"] == "alice"
    player = node.connect(path=f"/ws?x=1&token={mint('bob')}&connect=1")
    assert player.ask("CONNECT", token=None)["player"] == "bob"


def test_a_bad_query_token_is_unauthenticated(redis, start):
    node = start(redis, auth={"query_token": True})
    player = node.connect(path="/ws?token=nonsense")
    assert player.expect("ERROR")["code"] == "UNAUTHENTICATED"
    player.closes_with(4500)


def test_no_token_and_no_secret_ever_appears_in_a_log(redis, start):
    node = start(redis, auth={"query_token": True}, env={"RUST_LOG": "trace", "DRAWBRIDGE_LOG": "trace"})
    tokens = [mint(name) for name in ("alice", "bob", "carol")] + [mint("dave", key="x" * 64), mint("eve", expires_in=-100)]
    node.connect(path=f"/ws?token={tokens[0]}").welcome()
    node.connect(tokens[1]).welcome()
    node.connect().ask("CONNECT", token=tokens[2])
    for bad in tokens[3:]:
        node.connect(bad).closing()
        node.connect(path=f"/ws?token={bad}").closing()
    player = node.connect(tokens[0])
    player.ask("TOKEN_REFRESH", token=tokens[0])
    player.ask("TOKEN_REFRESH", token=tokens[3])
    node.terminate()
    for token in tokens:
        assert token not in node.log and token.rsplit(".", 1)[1] not in node.log
    assert SECRET not in node.log and "test-api-key" not in node.log


# bad tokens


def bad_tokens():
    good = mint("alice")
    head, body, signature = good.split(".")
    return {
        "nonsense": ("nonsense", "UNAUTHENTICATED"),
        "another key": (mint("alice", key="y" * 64), "UNAUTHENTICATED"),
        "a changed body": (f"{head}.{mint('bob').split('.')[1]}.{signature}", "UNAUTHENTICATED"),
        "no signature": (f"{head}.{body}.", "UNAUTHENTICATED"),
        "alg none": (unsigned({"sub": "alice", "exp": int(time.time()) + 100}), "UNAUTHENTICATED"),
        "alg None": (unsigned({"sub": "alice"}, {"alg": "None"}), "UNAUTHENTICATED"),
        "no sub": (mint(None), "UNAUTHENTICATED"),
        "an empty sub": (mint(""), "UNAUTHENTICATED"),
        "expired": (mint("alice", expires_in=-1000), "TOKEN_EXPIRED"),
        "expired and forged": (mint("alice", expires_in=-1000, key="y" * 64), "UNAUTHENTICATED"),
        "megabytes": ("x" * 50_000, "UNAUTHENTICATED"),
    }


@pytest.mark.parametrize("name", bad_tokens())
def test_a_bad_token_in_connect_is_an_error_and_a_close(node, name):
    token, code = bad_tokens()[name]
    player = node.connect()
    player.start("CONNECT", token=token)
    error = player.expect("ERROR")
    assert error["code"] == code and error["id"] == 1
    player.closes_with(4004 if code == "TOKEN_EXPIRED" else 4500)


@pytest.mark.parametrize("name", [name for name in bad_tokens() if name != "megabytes"])
def test_a_bad_token_on_the_upgrade_still_upgrades_then_says_so(node, name):
    token, code = bad_tokens()[name]
    player = node.connect(token)
    assert player.expect("ERROR")["code"] == code
    player.closes_with(4004 if code == "TOKEN_EXPIRED" else 4500)


def test_a_missing_token_is_unauthenticated(node):
    player = node.connect()
    player.start("CONNECT")
    assert player.expect("ERROR")["code"] == "UNAUTHENTICATED"
    player.closes_with(4500)


def test_another_scheme_is_no_token(redis, start):
    node = start(redis, connection={"connect_timeout": "300ms"})
    assert node.connect(headers={"Authorization": "Basic YTpi"}).closing().code == 4500


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_that_is_not_valid_yet_may_be_tried_again(redis, start, claim):
    node = start(redis, auth={"leeway": "1s"})
    at = int(time.time()) + 1000
    player = node.connect(mint("alice", **{claim: at}))
    error = player.expect("ERROR")
    assert error["code"] == "UNAUTHENTICATED" and claim in error["message"]
    assert 900_000 < error["retry_after_ms"] <= 1_000_000
    player.closes_with(4004)
    player = node.player("bob")
    assert "retry_after_ms" in player.refusal("TOKEN_REFRESH", "UNAUTHENTICATED", token=mint("bob", **{claim: at}))
    player.sync()


def test_clocks_may_differ_by_the_leeway(redis, start):
    node = start(redis, auth={"leeway": "60s"})
    now = int(time.time())
    node.connect(mint("alice", nbf=now + 30, iat=now + 30)).welcome()
    player = node.connect(mint_expiring_at(now - 30))
    player.welcome()
    player.sync()
    late = node.connect(mint_expiring_at(now - 100))
    assert late.expect("ERROR")["code"] == "TOKEN_EXPIRED"
    late.closes_with(4004)


def test_the_default_leeway_is_a_few_seconds(node):
    node.connect(mint("alice", nbf=int(time.time()) + 2)).welcome()


def test_expiry_while_connected_honours_the_leeway(redis, start):
    node = start(redis, auth={"leeway": "2s"})
    exp = int(time.time()) + 1
    player = node.connect(mint_expiring_at(exp))
    player.welcome()
    assert player.expect("ERROR")["code"] == "TOKEN_EXPIRED"
    assert time.time() >= exp + 2
    player.closes_with(4004)


@pytest.mark.parametrize("sub, player", [(42, "42"), (-1, "-1"), (9007199254740993, "9007199254740993")])
def test_an_integer_sub_is_its_decimal_text(redis, start, sub, player):
    node = start(redis)
    welcome = node.connect(integer_sub(sub)).welcome()
    assert welcome["player"] == player
    assert [s["channel"] for s in welcome["subscriptions"]] == [f"player:{player}"]


def integer_sub(sub):
    """By hand: the library insists on a text."""
    import base64
    import hashlib
    import hmac
    import json

    def encode(raw):
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    signed = encode(b'{"alg":"HS256"}') + b"." + encode(json.dumps({"sub": sub}).encode())
    return (signed + b"." + encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest())).decode()


@pytest.mark.parametrize("sub", [4.5, True, None, ["a"], {"id": 1}])
def test_any_other_sub_is_refused(node, sub):
    player = node.connect(integer_sub(sub))
    assert "`sub`" in player.expect("ERROR")["message"]
    player.closes_with(4500)


def test_another_claim_names_the_player(redis, start):
    node = start(redis, auth={"user_claim": "uid"}, connection={"auto_subscribe": ["player:{sub}", "user:{uid}"]})
    for sub in ("auth0|x", None):
        welcome = node.connect(mint(sub, uid=42)).welcome()
        assert welcome["player"] == "42"
        assert [s["channel"] for s in welcome["subscriptions"]] == ["player:42", "user:42"]
    player = node.connect(mint("auth0|x"))
    assert "`uid`" in player.expect("ERROR")["message"]
    player.closes_with(4500)


def test_a_token_that_expires_while_connected_closes_with_4004(redis, start):
    node = start(redis, auth={"leeway": "0s"})
    player = node.connect(mint_expiring_at(time.time() + 3))
    player.welcome()
    assert player.expect("ERROR")["code"] == "TOKEN_EXPIRED"
    player.closes_with(4004)


def test_a_token_without_exp_does_not_expire(node):
    player = node.player(token=mint("alice", expires_in=None))
    player.sync()


def test_audience_and_issuer_are_checked_where_configured(redis, start):
    node = start(redis, auth={"audience": "game", "issuer": "login"})
    for claims in ({}, {"aud": "game"}, {"iss": "login"}, {"aud": "shop", "iss": "login"}, {"aud": "game", "iss": "evil"}):
        player = node.connect(mint("alice", **claims))
        assert player.expect("ERROR")["code"] == "UNAUTHENTICATED", claims
        player.closes_with(4500)
    node.connect(mint("alice", aud="game", iss="login")).welcome()
    node.connect(mint("alice", aud=["shop", "game"], iss="login")).welcome()


# anonymous


def test_anonymous_players_get_names_of_their_own_where_allowed(redis, start):
    node = start(redis, auth={"allow_anonymous": True})
    names = set()
    for _ in range(3):
        player = node.connect()
        welcome = player.ask("CONNECT")
        assert welcome.type == "WELCOME" and welcome["player"]
        names.add(welcome["player"])
        player.subscribe("chat:1")
    assert len(names) == 3


def test_an_anonymous_player_is_none_of_the_rooms(redis, start):
    node = start(redis, auth={"allow_anonymous": True})
    player = node.connect()
    player.ask("CONNECT")
    player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="room:42")


def test_a_bad_token_is_not_anonymous(redis, start):
    node = start(redis, auth={"allow_anonymous": True})
    player = node.connect()
    player.start("CONNECT", token="nonsense")
    assert player.expect("ERROR")["code"] == "UNAUTHENTICATED"
    player.closes_with(4500)


# CONNECT with subscribe


def test_connect_subscribes_in_the_same_round_trip(node, redis):
    player = node.connect()
    player.start(
        "CONNECT",
        token=mint("alice", rooms=["42"]),
        subscribe=[
            {"channel": "chat:lobby"},
            {"channel": "chat:*"},
            {"channel": "room:42", "filter": "event == 'yes'"},
            {"channel": "room:43"},
            {"channel": "bad name"},
            {"channel": "chat:x", "filter": "((("},
        ],
    )
    welcome = player.welcome()
    listed = {s["channel"]: s for s in welcome["subscriptions"]}
    assert set(listed) == {"player:alice", "chat:lobby", "chat:*", "room:42"}
    assert listed["chat:*"]["pattern"] is True and listed["player:alice"]["auto"] is True
    assert not listed["chat:lobby"].get("auto")
    assert isinstance(listed["room:42"]["epoch"], str) and isinstance(listed["room:42"]["offset"], int)
    for channel, code in (("room:43", "FORBIDDEN"), ("bad name", "CHANNEL_INVALID"), ("chat:x", "FILTER_INVALID")):
        assert player.expect("ERROR", channel=channel)["code"] == code
    for channel in ("player:alice", "chat:lobby", "chat:other", "room:42"):
        redis.publish(channel, '{"event":"no"}')
        redis.publish(channel, '{"event":"yes"}')
        player.event(channel, "yes")
    got = [(m["channel"], m["event"]) for m in player.received if m.type == "EVENT"]
    assert got == [
        ("player:alice", "no"),
        ("player:alice", "yes"),
        ("chat:lobby", "no"),
        ("chat:lobby", "yes"),
        ("chat:other", "no"),
        ("chat:other", "yes"),
        ("room:42", "yes"),
    ]


def test_connects_subscriptions_are_live_when_welcome_comes(node, redis):
    for round in range(20):
        player = node.connect()
        player.ask("CONNECT", token=mint("alice"), subscribe=[{"channel": f"chat:live-{round}"}])
        assert redis.publish(f"chat:live-{round}", '{"event":"first"}') == 1
        player.event(f"chat:live-{round}", "first")


def test_connect_naming_an_auto_subscription_again_lists_it_once(node, redis):
    player = node.connect()
    welcome = player.ask("CONNECT", token=mint("alice"), subscribe=[{"channel": "player:alice"}, {"channel": "chat:1"}, {"channel": "chat:1"}])
    channels = [s["channel"] for s in welcome["subscriptions"]]
    assert channels.count("player:alice") == 1 and channels.count("chat:1") == 1
    for channel in ("player:alice", "chat:1"):
        redis.publish(channel, '{"event":"one"}')
        redis.publish(channel, '{"event":"two"}')
        player.event(channel, "two")
    assert len([m for m in player.received if m.type == "EVENT"]) == 4


@pytest.mark.parametrize(
    "subscribe", ['"chat:1"', "5", '{"channel":"chat:1"}'],
)
def test_an_ill_typed_subscribe_is_a_bad_message(node, subscribe):
    player = node.connect()
    player.send_json('{"type":"CONNECT","id":1,"token":"%s","subscribe":%s}' % (mint("alice"), subscribe))
    assert player.expect("ERROR")["code"] == "BAD_MESSAGE"


def test_an_ill_typed_element_is_answered_for_itself(node, redis):
    player = node.connect()
    elements = '"chat:1",{},{"channel":1},{"channel":"chat:2","filter":5},{"channel":"chat:3","area":[]},{"channel":"chat:4"}'
    player.send_json('{"type":"CONNECT","id":1,"token":"%s","subscribe":[%s]}' % (mint("alice"), elements))
    welcome = player.welcome()
    assert [s["channel"] for s in welcome["subscriptions"]] == ["player:alice", "chat:4"]
    errors = [player.expect("ERROR", code="BAD_MESSAGE") for _ in range(5)]
    assert [error.get("channel") for error in errors] == [None, None, None, "chat:2", "chat:3"]
    assert all(f"subscribe[{at}]" in error["message"] for at, error in enumerate(errors))
    redis.publish("chat:4", '{"event":"on"}')
    player.event("chat:4", "on")


def test_an_area_where_nothing_has_a_place_is_refused_behind_welcome(node):
    player = node.connect()
    player.start("CONNECT", token=mint("alice"), subscribe=[{"channel": "chat:1", "area": {"x": 0, "y": 0, "radius": 5}}])
    player.welcome()
    assert player.expect("ERROR", channel="chat:1")["code"] == "FILTER_INVALID"


# lifecycle


def test_the_lifecycle_stream_tells_who_came_and_went(redis, start):
    node = start(redis, lifecycle={"stream": "life"})
    player = node.player("alice")
    connected = until(lambda: redis.stream("life"), "an entry")[0]
    assert connected["event"] == "connected" and connected["player"] == "alice" and connected["node"] == "n1"
    assert connected["connection"] == player.hello["connection"] and connected["session"] not in ("", player.hello["session"])
    assert abs(int(connected["ts"]) - time.time() * 1000) < 60_000
    assert {"event", "player", "connection", "session", "node", "reason", "code", "ts"} >= set(connected)
    player.close(1000)
    gone = until(lambda: [e for e in redis.stream("life") if e["event"] == "disconnected"], "a second entry")[0]
    assert gone["player"] == "alice" and gone["connection"] == player.hello["connection"]
    assert gone["code"] == "1000" and "reason" in gone


def test_the_lifecycle_stream_tells_how_a_connection_ended(redis, start):
    node = start(redis, lifecycle={"stream": "life"}, auth={"leeway": "0s"})
    node.player("vanished").vanish()
    abuser = node.player("abuser")
    for _ in range(10):
        abuser.send_json("x")
    abuser.closes_with(4503)
    expired = node.connect(mint_expiring_at(time.time() + 3, "expired"))
    expired.closes_with(4004)

    def ends():
        found = {e["player"]: e for e in redis.stream("life") if e["event"] == "disconnected"}
        return found if len(found) == 3 else None

    codes = {player: entry["code"] for player, entry in until(ends, "three ends").items()}
    assert codes == {"vanished": "1006", "abuser": "4503", "expired": "4004"}


def test_without_lifecycle_nothing_is_written(node, redis):
    node.player("alice").close()
    node.wait_idle()
    # But for the node's own lease.
    assert [key for key in redis.client.keys("*") if not key.startswith(b"drawbridge:{node")] == []


def test_who_never_got_in_is_not_in_the_lifecycle_stream(redis, start):
    node = start(redis, lifecycle={"stream": "life"})
    node.connect("nonsense").closing()
    node.player("alice")
    until(lambda: redis.stream("life"), "an entry")
    assert [e["player"] for e in redis.stream("life")] == ["alice"]


# many at once


def test_players_may_have_several_connections(node, redis):
    players = [node.player("alice") for _ in range(3)]
    redis.publish("player:alice", '{"event":"hello"}')
    for player in players:
        player.event("player:alice", "hello")
    players[0].close()
    redis.publish("player:alice", '{"event":"again"}')
    for player in players[1:]:
        player.event("player:alice", "again")


def test_pid_file_descriptors_do_not_grow_with_connections_that_come_and_go(node):
    for _ in range(20):
        node.player("alice").close()
    node.wait_idle()
    before = node.process.open_files()
    for _ in range(100):
        node.player("alice").vanish()
    node.wait_idle()
    until(lambda: node.process.open_files() <= before + 5, "the files are closed")
    assert os.path.exists(f"/proc/{node.process.pid}")
