"""Sessions outlive their connections: what a player who comes again is told, and what it receives, over real sockets."""

import json

import pytest
from harness.tokens import mint
from harness.wait import until
from harness.websocket import JSON, MSGPACK, TEXT, frame

WINDOW = {"connection": {"resume_window": "60s"}}
# A connection lands on any shard, and goes to the one that has its session.
SHARDS = {"shards": 3, **WINDOW}


def listed(welcome, channel):
    return next((each for each in welcome["subscriptions"] if each["channel"] == channel), None)


def positions(player):
    """How far a client has read each channel, by all that it received."""
    found = {}
    for message in player.received:
        for each in [message, *message.get("subscriptions", [])]:
            if "epoch" in each and "offset" in each:
                found[each["channel"]] = {"epoch": each["epoch"], "offset": each["offset"]}
            elif "offset" in each and each.get("channel") in found:
                found[each["channel"]]["offset"] = each["offset"]
    return found


def resume(node, before, *, sub="alice", **how):
    """A connection that takes up the session of an earlier one, past `WELCOME`."""
    claims = how.pop("claims", {})
    fields = how.pop("fields", {})
    player = node.connect(**how)
    player.start(
        "CONNECT", token=mint(sub, **claims), resume={"session": before.session, "positions": positions(before)}, **fields
    )
    player.hello = player.welcome()
    player.session = player.hello["session"]
    return player


def joined(node, *channels, sub="alice", **claims):
    player = node.player(sub, **claims)
    player.session = player.hello["session"]
    for channel in channels:
        player.subscribe(channel)
    return player


def lose(node, player):
    player.vanish()
    until(lambda: node.metric("drawbridge_sessions_detached") >= 1, "the session is detached")


def test_what_a_player_missed_follows_welcome_in_order(redis, start):
    node = start(redis, **SHARDS)
    player = joined(node, "chat:a")
    assert player.hello["resume_window_ms"] == 60_000
    redis.publish("chat:a", '{"event":"e","data":1}')
    player.event("chat:a")
    lose(node, player)
    for n in (2, 3, 4):
        redis.publish("chat:a", '{"event":"e","data":%d}' % n)
    until(lambda: node.metric("drawbridge_sessions_detached_bytes") > 0, "events wait")
    again = resume(node, player)
    assert again.hello["resumed"] is True and again.session == player.session
    assert again.hello["connection"] != player.hello["connection"]
    assert listed(again.hello, "chat:a")["recovered"] is True
    redis.publish("chat:a", '{"event":"e","data":5}')
    assert [again.event("chat:a")["data"] for _ in range(4)] == [2, 3, 4, 5]
    again.silent_but_for("RESYNC")
    assert not [m for m in again.received if m.type == "RESYNC" and m["channel"] == "chat:a"]
    until(lambda: node.metric("drawbridge_sessions_detached_bytes") == 0, "nothing waits any more")


def test_a_position_of_before_what_was_sent_is_a_gap(redis, start):
    node = start(redis, **SHARDS)
    player = joined(node, "chat:a")
    redis.publish("chat:a", '{"event":"e","data":1}')
    until(lambda: node.metric("drawbridge_deliveries_total") >= 1, "it was written")
    # The client never read it.
    lose(node, player)
    again = resume(node, player)
    assert listed(again.hello, "chat:a")["recovered"] is False
    assert again.expect("RESYNC", channel="chat:a")["reason"] == "gap"


@pytest.mark.parametrize("encodings", [(JSON, MSGPACK), (MSGPACK, JSON)])
def test_the_next_connection_may_have_another_encoding(redis, start, encodings):
    node = start(redis, **SHARDS)
    first, second = encodings
    player = node.player("alice", encoding=first)
    player.session = player.hello["session"]
    player.subscribe("chat:a")
    lose(node, player)
    redis.publish("chat:a", '{"event":"e","data":{"n":[1,2]}}')
    until(lambda: node.metric("drawbridge_sessions_detached_bytes") > 0, "an event waits")
    again = resume(node, player, encoding=second)
    assert listed(again.hello, "chat:a")["recovered"] is True
    assert again.event("chat:a")["data"] == {"n": [1, 2]}


def test_a_close_with_1000_ends_the_session_and_other_closes_keep_it(redis, start):
    node = start(redis, **SHARDS)
    for code, is_kept in [(1000, False), (1001, True), (4321, True)]:
        player = joined(node)
        player.close(code)
        until(lambda kept=is_kept: node.metric("drawbridge_sessions_detached") == int(kept), f"{code}")
        again = resume(node, player)
        assert again.hello["resumed"] is is_kept, code
        again.close(1000)
        until(lambda: node.metric("drawbridge_connections") == 0, "it has gone")


def test_a_second_connection_takes_the_session_and_the_first_is_closed(redis, start):
    node = start(redis, **SHARDS)
    first = joined(node, "chat:a")
    second = resume(node, first)
    assert second.hello["resumed"] is True
    first.closes_with(4505)
    redis.publish("chat:a", '{"event":"e","data":1}')
    assert second.event("chat:a")["data"] == 1


def test_who_has_another_token_does_not_get_the_session(redis, start):
    node = start(redis, **SHARDS)
    player = joined(node, "chat:a")
    lose(node, player)
    stranger = resume(node, player, sub="bob")
    assert stranger.hello["resumed"] is False and stranger.hello["player"] == "bob"
    assert stranger.session != player.session and listed(stranger.hello, "chat:a") is None
    again = resume(node, player)
    assert again.hello["resumed"] is True


def test_what_a_new_token_does_not_allow_ends(redis, start):
    node = start(redis, **SHARDS)
    player = joined(node, "room:1", "chat:a", rooms=["1"])
    lose(node, player)
    redis.publish("room:1", '{"event":"secret","data":1}')
    again = resume(node, player, claims={"rooms": ["2"]})
    assert listed(again.hello, "room:1") is None
    assert again.expect("CHANNEL_UNSUBSCRIBED", channel="room:1")["reason"] == "forbidden"
    redis.publish("chat:a", '{"event":"end"}')
    assert [event["event"] for event in again.events_until("end")] == []


def test_a_service_reaches_and_ends_a_session_that_is_away(redis, start):
    node = start(redis, lifecycle={"stream": "life"}, **SHARDS)
    player = joined(node, "chat:a")
    lose(node, player)
    assert node.admin("POST", "/api/players/alice/subscribe", {"channel": "chat:b"}).status == 200
    again = resume(node, player)
    assert listed(again.hello, "chat:b") is not None
    lose(node, again)
    assert node.admin("POST", "/api/players/alice/disconnect", {"reason": "cheats"}).status == 200
    until(lambda: node.metric("drawbridge_sessions_detached") == 0, "it has ended")
    assert resume(node, again).hello["resumed"] is False
    entries = until(lambda: [e for e in redis.stream("life") if e["event"] == "left"], "it has left")
    assert entries[0]["reason"] == "cheats" and player.session not in str(redis.stream("life"))


def test_the_window_ends(redis, start):
    node = start(redis, lifecycle={"stream": "life"}, shards=1, connection={"resume_window": "300ms"})
    player = joined(node, "chat:a")
    player.vanish()
    until(lambda: node.metric("drawbridge_sessions_expired_total") == 1, "nobody came")
    assert [e["event"] for e in redis.stream("life")] == ["connected", "disconnected", "left"]
    assert resume(node, player).hello["resumed"] is False
    until(lambda: node.metric("drawbridge_subscriptions") == 1, "only the new session's automatic one is left")


def test_entities_are_sent_anew(redis, start):
    node = start(redis, **SHARDS)
    player = joined(node, "world:1", team="red")
    redis.publish("world:1", '{"event":"e","data":{"id":"a","team":"red"}}')
    player.sees("world:1", ["a"])
    lose(node, player)
    redis.publish("world:1", '{"event":"e","data":{"id":"b","team":"red"}}')
    again = resume(node, player, claims={"team": "red"})
    assert "recovered" not in listed(again.hello, "world:1")
    assert again.expect("VIEW_ENTER", channel="world:1")["reset"] is True
    again.sees("world:1", ["a", "b"])


def test_a_logged_channel_recovers_from_its_log(redis, start):
    logged = {"name": "log:{x}", "subscribe": "true", "publish": "true", "history": {"events": 100, "age": "10m"}}
    node = start(redis, channel=[logged], **SHARDS)
    player = joined(node, "log:a")
    writer = node.player("bob")
    writer.publish("log:a", data=1)
    player.event("log:a")
    writer.publish("log:a", data=2)
    # The second may be lost on its way: the position says so, and the log has it.
    before = len(player.received)
    lose(node, player)
    del player.received[before:]
    for n in (3, 4):
        writer.publish("log:a", data=n)
    again = resume(node, player)
    assert listed(again.hello, "log:a")["recovered"] is True, again.hello
    writer.publish("log:a", data=5)
    assert [again.event("log:a")["data"] for _ in range(4)] == [2, 3, 4, 5]


def test_a_logged_channel_is_pending_until_its_log_can_be_read(own_redis, proxy, start):
    logged = {"name": "log:{x}", "subscribe": "true", "publish": "true", "history": {"events": 100, "age": "10m"}}
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}", channel=[logged], **SHARDS)
    bob, player = node.player("bob"), joined(node, "log:a")
    for n in (1, 2):
        own_redis.client.fcall("drawbridge_publish", 1, "log:a", f'{{"event":"e","data":{n}}}')
        player.event("log:a")
    lose(node, player)
    node.loses_redis(link.away)
    assert bob.expect("STATUS", timeout=30)["broker"] == "degraded"
    own_redis.client.fcall("drawbridge_publish", 1, "log:a", '{"event":"e","data":3}')
    again = resume(node, player)
    entry = listed(again.hello, "log:a")
    assert again.hello["resumed"] is True and entry["pending"] is True and "recovered" not in entry
    link.flow()
    subscribed = again.expect("CHANNEL_SUBSCRIBED", channel="log:a", timeout=30)
    assert subscribed["recovered"] is True and subscribed["offset"] == 2
    assert again.event("log:a")["data"] == 3
    own_redis.client.fcall("drawbridge_publish", 1, "log:a", '{"event":"e","data":4}')
    assert again.event("log:a")["data"] == 4
    assert not [m for m in again.received if m["type"] == "RESYNC" and m["channel"] == "log:a"]


def test_positions_that_are_none_are_refused(redis, start):
    node = start(redis, **SHARDS)
    player = node.connect()
    for resume_field, name in [
        (7, "resume"),
        ({"session": 7}, "resume.session"),
        ({"session": "s", "positions": {"chat:a": {"epoch": "e", "offset": "1"}}}, "offset"),
    ]:
        reply = player.refusal("CONNECT", "BAD_MESSAGE", token=mint("alice"), resume=resume_field)
        assert name in reply["message"], reply
    reply = player.ask("CONNECT", token=mint("alice"), resume={"session": "no such session"})
    assert reply.type == "WELCOME" and reply["resumed"] is False


def test_over_tls_and_compressed(redis, start, certificates):
    tls = {"cert_file": str(certificates.cert), "key_file": str(certificates.key)}
    node = start(redis, tls=tls, lifecycle={"stream": "life"}, **SHARDS)
    player = node.player("alice", tls=certificates.context, deflate=True)
    player.session = player.hello["session"]
    player.subscribe("chat:a")
    player.vanish()
    until(lambda: [e for e in redis.stream("life") if e["event"] == "disconnected"], "the session is detached")
    text = "again and " * 100
    redis.publish("chat:a", '{"event":"e","data":"%s"}' % text)
    again = resume(node, player, tls=certificates.context, deflate=True)
    assert listed(again.hello, "chat:a")["recovered"] is True
    assert again.event("chat:a")["data"] == text and again.ws.compressed_frames > 0


@pytest.mark.parametrize("split", [False, True])
def test_a_plain_channel_recovers_wherever_its_players_connection_lands(redis, start, split):
    """Whatever shard that is, and also if `CONNECT` comes in pieces, with another request behind it."""
    node = start(redis, **SHARDS)
    # So that the shards take turns.
    others = [node.player(f"other{n}") for n in range(4)]
    player = joined(node, "chat:a")
    for number in range(8):
        lose(node, player)
        redis.publish("chat:a", '{"event":"e","data":%d}' % number)
        until(lambda: node.metric("drawbridge_sessions_detached_bytes") > 0, "an event waits")
        again = node.connect()
        connect = {
            "type": "CONNECT",
            "id": "c",
            "token": mint("alice"),
            "resume": {"session": player.session, "positions": positions(player)},
        }
        data = frame(TEXT, json.dumps([connect, {"type": "CHANNEL_SUBSCRIBE", "id": "s", "channel": f"chat:{number}"}]).encode())
        before = node.metric("drawbridge_socket_received_bytes_total")
        again.ws.send_raw(data[:40] if split else data)
        if split:
            until(lambda: node.metric("drawbridge_socket_received_bytes_total") >= before + 40, "it was read alone")
            again.ws.send_raw(data[40:])
        again.hello = again.reply("c")
        assert again.hello["resumed"] is True and listed(again.hello, "chat:a")["recovered"] is True, number
        again.session = again.hello["session"]
        assert again.event("chat:a")["data"] == number
        assert again.reply("s").type == "CHANNEL_SUBSCRIBED"
        # Else the next round may see this one's.
        until(lambda: node.metric("drawbridge_sessions_detached") == 0, "no session is detached any more")
        player = again
    for other in others:
        other.close(1000)
    player.close(1000)
    node.wait_idle()
