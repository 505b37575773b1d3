"""What services narrow of a player's views: over HTTP and the control channel, at once, through reconnects, on any node."""

import itertools
import json

import pytest

from harness.tokens import mint
from harness.wait import until

ENDS = itertools.count()


def narrow(node, player, channel, view):
    answer = node.admin("POST", f"/api/players/{player}/view", {"channel": channel, "view": view})
    assert answer.status == 200, answer.body


def publish(redis, channel, *numbers):
    """The name of the event behind them."""
    for n in numbers:
        redis.publish(channel, json.dumps({"event": "e", "data": {"n": n}}))
    end = f"end-{next(ENDS)}"
    redis.publish(channel, json.dumps({"event": end, "data": {"n": 5}}))
    return end


def shown(player, end):
    return [m["data"]["n"] for m in player.events_until(end)]


def test_a_view_narrows_at_once_and_goes_again(node, redis):
    player, other = node.player("alice"), node.player("bob")
    for each in (player, other):
        each.subscribe("chat:1")
    narrow(node, "alice", "chat:1", "data.n > 3")
    end = publish(redis, "chat:1", 1, 4)
    assert shown(player, end) == [4] and shown(other, end) == [1, 4]
    narrow(node, "alice", "chat:1", None)
    end = publish(redis, "chat:1", 2)
    assert shown(player, end) == [2]


def test_it_stays_through_reconnects_and_on_every_node(start, redis):
    nodes = [start(redis), start(redis)]
    narrow(nodes[0], "alice", "chat:1", "data.n > 3 && me.player == 'alice'")
    for node in nodes:
        player = node.player("alice")
        player.subscribe("chat:1", filter="true")
        end = publish(redis, "chat:1", 1, 4)
        assert shown(player, end) == [4]
        player.close()


@pytest.mark.one_server("commands pass another master than the events that they are about")
def test_an_answer_holds_for_all_that_is_published_behind_it_on_every_node(start, redis):
    """Whichever connection of the pool carries the channel, and however busy the nodes are."""
    nodes = [start(redis, broker={"subscriber_pool": 3}) for _ in range(2)]
    player = nodes[1].player("alice")
    channels = [f"chat:{n}" for n in range(6)]
    for channel in channels:
        player.subscribe(channel)
    for round in range(15):
        for channel in channels:
            narrow(nodes[round % 2], "alice", channel, "!has(data.secret)")
            redis.publish(channel, json.dumps({"event": "e", "data": {"secret": True, "round": round}}))
            narrow(nodes[(round + 1) % 2], "alice", channel, None)
            redis.publish(channel, json.dumps({"event": "open", "data": {"n": round}}))
    for channel in channels:
        player.expect("EVENT", channel=channel, where=lambda m: m["event"] == "open" and m["data"]["n"] == 14)
    events = [m for m in player.received if m.type == "EVENT"]
    assert [m for m in events if m["event"] == "e"] == []
    assert len(events) == 15 * len(channels)


def test_what_was_narrowed_during_a_break_holds_behind_it(own_redis, start):
    """A node whose links are cut hears no command; its connections live on, and are judged by what Redis keeps."""
    node = start(own_redis)
    player = node.player("alice")
    for channel in ("chat:1", "world:1"):
        player.subscribe(channel)
    player.sees("world:1", [])
    for round in range(5):
        # Nobody tells the node of it; were it written behind the break, the node might be back before that.
        own_redis.client.hset("drawbridge:{player:alice}:views", mapping={"chat:1": f"data.n > {round}", "world:1": f"data.n > {round}"})
        own_redis.cut_clients("pubsub")
        for channel in ("chat:1", "world:1", "player:alice"):
            player.expect("RESYNC", reason="broker", channel=channel, timeout=20)
        end = publish(own_redis, "chat:1", *range(round + 2))
        player.expect("EVENT", event=end)
    assert [m["data"]["n"] for m in player.received if m.get("event") == "e"] == [1, 2, 3, 4, 5]


def test_it_holds_through_patterns(node, redis):
    player = node.player("alice")
    player.subscribe("chat:*")
    end = publish(redis, "chat:1", 1)
    assert shown(player, end) == [1]
    narrow(node, "alice", "chat:1", "data.n > 3")
    end = publish(redis, "chat:1", 1, 4)
    redis.publish("chat:2", '{"event":"elsewhere","data":{"n":1}}')
    player.event("chat:2", "elsewhere")
    assert [m["data"]["n"] for m in player.received if m.get("event") == "e"] == [1, 4]


def test_tables_are_judged_anew_at_once(node, redis):
    player = node.player("alice")
    player.subscribe("world:1")
    for n in range(4):
        redis.client.fcall("drawbridge_publish", 1, "world:1", json.dumps({"event": "e", "data": {"id": f"e{n}", "n": n, "public": True}}))
    player.sees("world:1", ["e0", "e1", "e2", "e3"])
    narrow(node, "alice", "world:1", "data.n > 1")
    player.sees("world:1", ["e2", "e3"])
    assert player.expect("VIEW_LEAVE")["reason"] == "view"
    narrow(node, "alice", "world:1", None)
    player.sees("world:1", ["e0", "e1", "e2", "e3"])


def test_the_control_channel_narrows_too(start, redis):
    node = start(redis, control_channel=True)
    player = node.player("alice")
    player.subscribe("chat:1")
    redis.publish("drawbridge:control", json.dumps({"command": "view", "player": "alice", "channel": "chat:1", "view": "data.n > 3"}))
    until(lambda: node.metric("drawbridge_player_commands_total") >= 1, "the command is heard")
    end = publish(redis, "chat:1", 1, 4)
    assert shown(player, end) == [4]
    until(lambda: redis.client.keys("drawbridge:*views"), "the view is kept")
    again = node.player("alice")
    again.subscribe("chat:1")
    end = publish(redis, "chat:1", 1, 4)
    assert shown(again, end) == [4]


@pytest.mark.parametrize(
    "body, status, code",
    [
        ({"channel": "chat:1", "view": "data.n >"}, 400, "FILTER_INVALID"),
        ({"channel": "chat:1", "view": "data.n > 3" + " " * 5000}, 400, "FILTER_INVALID"),
        ({"channel": "chat:1", "view": "data.n in [" + "1," * 1100 + "1]"}, 400, "FILTER_INVALID"),
        ({"channel": "chat:1", "view": 5}, 400, "BAD_MESSAGE"),
        ({"channel": "chat:1"}, 400, "BAD_MESSAGE"),
        (["chat:1", "true"], 400, "BAD_MESSAGE"),
        ({"channel": "chat:*", "view": "true"}, 400, "CHANNEL_INVALID"),
        ({"channel": "a b", "view": "true"}, 400, "CHANNEL_INVALID"),
        ({"channel": "drawbridge:nodes", "view": "true"}, 403, "FORBIDDEN"),
    ],
)
def test_a_bad_view_is_refused(node, body, status, code):
    answer = node.admin("POST", "/api/players/alice/view", body)
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    if code == "FILTER_INVALID":
        assert answer.json["error"]["position"] >= 7
        assert len(body["view"]) < 20 or answer.json["error"]["hint"]


def test_a_player_is_shown_nothing_before_its_views_are_known(own_redis, start):
    node = start(own_redis)
    narrow(node, "alice", "chat:1", "data.n > 3")
    own_redis.pause()
    player = node.connect(mint("alice"))
    player.welcome(timeout=10)
    player.start("CHANNEL_SUBSCRIBE", channel="chat:1")
    own_redis.resume()
    player.expect("CHANNEL_SUBSCRIBED", channel="chat:1", timeout=20)
    end = publish(own_redis, "chat:1", 1, 4)
    assert shown(player, end) == [4]
