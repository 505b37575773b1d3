"""Contract §8: who is on a channel, over all nodes, and who is notified of players who come and go."""

import pytest

from harness.tokens import mint
from harness.websocket import MSGPACK
from harness.wait import PATIENCE, until

CLASSES = [
    {"name": "room:{room}", "subscribe": "true", "publish": "true", "patterns": True, "presence": "notify"},
    {"name": "hall:{hall}", "subscribe": "true", "presence": "query", "presence_rule": "params.hall in me.halls"},
    {"name": "chat:*", "subscribe": "true"},
]


def present(player, channel="room:42", **fields):
    """The players of one page, with the number of their connections."""
    page = player.ask("PRESENCE_GET", channel=channel, **fields)
    assert page.type == "PRESENCE" and page["channel"] == channel, page
    assert list(page) == [key for key in ("type", "id", "channel", "players", "total", "next") if key in page]
    return {each["player"]: each["connections"] for each in page["players"]}


def has(player, expected, channel="room:42", timeout=PATIENCE):
    until(lambda: present(player, channel) == expected, f"present on {channel}: {expected}", timeout)


def follow(player, joined=(), left=()):
    """Reads `PRESENCE_CHANGED` until all of these have been named, and nothing else."""
    expected, named = (set(joined), set(left)), (set(), set())
    while named != expected:
        change = player.expect("PRESENCE_CHANGED")
        assert change["channel"] == "room:42" and "reset" not in change, change
        named[0].update(change["joined"])
        named[1].update(change["left"])
        assert named[0] <= expected[0] and named[1] <= expected[1], (named, expected)


@pytest.fixture
def node(start):
    return start(None, channel=CLASSES)


def test_a_client_finds_itself_and_others_and_each_player_once(node):
    alice = node.player("alice")
    alice.subscribe("room:42")
    assert present(alice) == {"alice": 1}
    again, bob = node.player("alice"), node.player("bob", encoding=MSGPACK)
    again.subscribe("room:42")
    bob.subscribe("room:42")
    assert present(bob) == {"alice": 2, "bob": 1}
    page = bob.ask("PRESENCE_GET", channel="room:42", limit=1)
    assert (page["total"], page["next"]) == (2, "alice")
    assert present(bob, after=page["next"]) == {"bob": 1}
    again.unsubscribe("room:42")
    has(alice, {"alice": 1, "bob": 1})
    bob.ws.close(1000)
    has(alice, {"alice": 1})


def test_subscribe_and_presence_get_in_one_message(node):
    alice = node.player("alice")
    alice.send([
        {"type": "CHANNEL_SUBSCRIBE", "id": "s", "channel": "room:42"},
        {"type": "PRESENCE_GET", "id": "p", "channel": "room:42"},
    ])
    alice.reply("s")
    assert alice.reply("p")["players"] == [{"player": "alice", "connections": 1}]


def test_subscribers_learn_of_others(node):
    alice = node.player("alice")
    alice.subscribe("room:42")
    bob = node.player("bob", encoding=MSGPACK)
    bob.subscribe("room:42")
    follow(alice, joined=["bob"])
    carol = node.player("carol")
    carol.subscribe("room:42")
    follow(alice, joined=["carol"])
    follow(bob, joined=["carol"])
    carol.unsubscribe("room:42")
    follow(alice, left=["carol"])
    follow(bob, left=["carol"])
    assert not [m for m in carol.received if m.type == "PRESENCE_CHANGED" and "carol" in m["joined"] + m["left"]]


def test_rights(node):
    alice, eve = node.player("alice", halls=["1"]), node.player("eve", halls=["2"])
    alice.refusal("PRESENCE_GET", "FORBIDDEN", channel="room:42")
    alice.refusal("PRESENCE_GET", "UNSUPPORTED", channel="chat:1")
    alice.refusal("PRESENCE_GET", "FORBIDDEN", channel="none:1")
    alice.refusal("PRESENCE_GET", "CHANNEL_INVALID", channel="room:*")
    alice.refusal("PRESENCE_GET", "BAD_MESSAGE", channel="room:42", limit=0)
    alice.refusal("PRESENCE_GET", "BAD_MESSAGE", channel="room:42", after=7)
    assert present(alice, "hall:1") == {}
    eve.subscribe("hall:1")
    eve.refusal("PRESENCE_GET", "FORBIDDEN", channel="hall:1")
    assert present(alice, "hall:1") == {"eve": 1}
    # By a pattern, which makes no one present.
    alice.subscribe("room:*")
    eve.subscribe("room:42")
    assert present(alice) == {"eve": 1}


def test_nothing_is_left(node):
    players = [node.player(f"p{n}") for n in range(20)]
    for player in players:
        player.subscribe("room:42")
    for player in players:
        player.ws.close(1000)
    node.wait_idle()
    until(lambda: node.metric("drawbridge_presence_members") == 0, "no member is left")
    until(lambda: node.metric("drawbridge_presence_writes_pending") == 0, "no write is left")
    assert node.metric("drawbridge_presence_reads_pending") == 0


# over two nodes on one Redis


@pytest.fixture
def two(redis, start):
    return [start(redis, channel=CLASSES) for _ in range(2)]


def test_presence_is_of_all_nodes(two):
    alice, bob, again = two[0].player("alice"), two[1].player("bob"), two[1].player("alice")
    alice.subscribe("room:42")
    bob.subscribe("room:42")
    again.subscribe("room:42")
    has(alice, {"alice": 2, "bob": 1})
    has(bob, {"alice": 2, "bob": 1})
    alice.ws.close(1000)
    has(bob, {"alice": 1, "bob": 1})
    carol = two[0].player("carol")
    carol.subscribe("room:42")
    # Beside her others may be named whose coming was not told yet.
    bob.expect("PRESENCE_CHANGED", where=lambda change: "carol" in change["joined"])
    carol.ws.close(1000)
    bob.expect("PRESENCE_CHANGED", left=["carol"])
    assert not [m for m in bob.received if m.type == "PRESENCE_CHANGED" and "alice" in m["left"]]


def test_who_came_and_left_while_redis_was_away(own_redis, start):
    node = start(own_redis, channel=CLASSES)
    alice, bob = node.player("alice"), node.player("bob")
    alice.subscribe("room:42")
    bob.subscribe("room:42")
    has(alice, {"alice": 1, "bob": 1})
    node.loses_redis(own_redis.kill)
    bob.ws.close(1000)
    own_redis.start()
    alice.expect("STATUS", broker="ok", timeout=30)
    alice.expect("PRESENCE_CHANGED", reset=True, timeout=30)
    # Redis has lost its data: what the nodes had written is written again.
    has(alice, {"alice": 1}, timeout=60)


# a node that dies

WINDOW = 6
# At the latest 15 s after their windows, which count from the node's last lease; twice that, because a loaded machine is slow.
GONE = 2 * (WINDOW + 15)


def resume(node, sub, session, channel="room:42"):
    """The player comes back there, by the session that it had."""
    player = node.connect(None, path="/ws?connect=1")
    resume = {"session": session, "positions": {}}
    welcome = player.ask("CONNECT", token=mint(sub), resume=resume, subscribe=[{"channel": channel}])
    assert welcome.type == "WELCOME" and welcome["resumed"] is True, welcome
    return player


def changes_of(observer, player, since):
    """What a subscriber was notified of about one player, behind its first `since` messages."""
    changes = [message for message in observer.received[since:] if message.type == "PRESENCE_CHANGED"]
    return [change for change in changes if player in change["joined"] + change["left"] or "reset" in change]


@pytest.mark.parametrize("dies", [True, False])
def test_who_resumes_on_another_node_never_left_and_who_does_not_is_gone_after_the_window(redis, start, dies):
    first, second = [start(redis, channel=CLASSES, connection={"resume_window": f"{WINDOW}s"}) for _ in range(2)]
    alice, ghost, bob = first.player("alice"), first.player("ghost"), second.player("bob")
    for player in (alice, ghost, bob):
        player.subscribe("room:42")
    has(bob, {"alice": 1, "bob": 1, "ghost": 1})
    # When bob is notified of carol, he has been of all who came before her.
    carol = second.player("carol")
    carol.subscribe("room:42")
    bob.expect("PRESENCE_CHANGED", where=lambda change: "carol" in change["joined"])
    since = len(bob.received)
    if dies:
        first.kill()
    else:
        alice.ws.close(1001)
        ghost.ws.close(1001)
    alice = resume(second, "alice", alice.hello["session"])
    bob.expect("PRESENCE_CHANGED", where=lambda change: "ghost" in change["left"], timeout=GONE)
    until(lambda: "ghost" not in present(bob), "ghost is not there", GONE)
    if not dies:
        # The first node has had its time to remove what it had written of alice.
        until(lambda: first.metric("drawbridge_presence_writes_pending") == 0, "all is written", GONE)
    dave = second.player("dave")
    dave.subscribe("room:42")
    bob.expect("PRESENCE_CHANGED", where=lambda change: "dave" in change["joined"])
    assert changes_of(bob, "alice", since) == []
    assert present(bob)["alice"] == 1


# the admin API


def test_the_admin_api_reads_the_whole_cluster(two):
    alice, again, bob = two[0].player("alice"), two[1].player("alice"), two[1].player("bob")
    for player in (alice, again, bob):
        player.subscribe("room:42")
    bob.subscribe("chat:1")
    bob.subscribe("room:*")
    has(alice, {"alice": 2, "bob": 1})
    all_nodes = {"answered": 2, "of": 2}

    def whole(node, path):
        """What all nodes say; a busy one may not answer in time."""
        return until(lambda: (found := node.admin("GET", path).json)["nodes"] == all_nodes and found, "all nodes answer")

    for node in two:
        nodes = until(lambda: (found := node.admin("GET", "/api/nodes").json["nodes"]) and len(found) == 2 and found, "two nodes")
        assert {each["node"] for each in nodes} == {"n1", "n2"}
        assert all(each["shards"] >= 1 and each["lease_age_ms"] < 10_000 for each in nodes)
        answer = whole(node, "/api/players/alice")
        assert answer["player"] == "alice"
        assert sorted((each["connection"], each["node"]) for each in answer["sessions"]) == sorted(
            (player.hello["connection"], player.hello["node"]) for player in (alice, again)
        )
        assert all("room:42" in each["channels"] for each in answer["sessions"])
        answer = whole(node, "/api/channels")
        found = {each["channel"]: each["subscribers"] for each in answer["channels"] if not each["channel"].startswith("player:")}
        assert found == {"room:42": 3, "chat:1": 1}
        page = node.admin("GET", "/api/channels?limit=1").json
        assert len(page["channels"]) == 1 and page["next"] == page["channels"][0]["channel"]
        answer = node.admin("GET", "/api/channels/room:42/presence?limit=1").json
        assert answer == {
            "channel": "room:42", "players": [{"player": "alice", "connections": 2}], "total": 2, "next": "alice",
        }
        answer = node.admin("GET", "/api/channels/room:42/presence?after=alice").json
        assert answer == {"channel": "room:42", "players": [{"player": "bob", "connections": 1}], "total": 2}
    assert whole(two[0], "/api/players/nobody") == {"player": "nobody", "sessions": [], "nodes": all_nodes}
    assert two[0].admin("GET", "/api/channels/chat:1/presence").status == 501
    assert two[0].admin("GET", "/api/channels?limit=x").status == 400
    assert two[0].admin("GET", "/api/nodes", key="wrong").status == 401


def test_a_command_says_how_many_sessions_it_reached(two):
    players = [two[0].player("alice"), two[1].player("alice")]
    for command, body in [("subscribe", {"channel": "room:7"}), ("unsubscribe", {"channel": "room:7"}), ("disconnect", {})]:
        answer = two[0].admin("POST", f"/api/players/alice/{command}", body).json
        assert answer == {"player": "alice", "reached": 2, "nodes": {"answered": 2, "of": 2}}, command
    for player in players:
        player.closes_with(4502)
    answer = two[1].admin("POST", "/api/players/alice/view", {"channel": "room:7", "view": "true"}).json
    assert answer["reached"] == 0
