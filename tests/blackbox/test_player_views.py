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
    until(lambda: node.metric("drawbridge_commands") == 1, "the command is heard")
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
        ({"channel": "chat:1", "view": 5}, 400, "BAD_MESSAGE"),
        ({"channel": "chat:1"}, 400, "BAD_MESSAGE"),
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
