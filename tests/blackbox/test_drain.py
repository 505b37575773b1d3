"""Contract §7, drain: SIGTERM, not ready, and after a while a goodbye with a spread, close 4000, exit 0. And what a killed
node leaves behind. Behind load balancers: `test_rolling_restart.py`."""

import json
import signal

from harness.tokens import mint
from harness.wait import until
from harness.websocket import Refused


def test_sigterm_says_goodbye_closes_with_4000_and_exits_0(redis, start):
    node = start(redis, drain_window="1s")
    players = [node.player(f"p{n}") for n in range(10)]
    players[0].subscribe("chat:1")
    node.process.signal(signal.SIGTERM)
    waits = []
    for player in players:
        goodbye = player.expect("GOODBYE")
        assert goodbye["reason"] == "drain"
        waits.append(goodbye["reconnect_in_ms"])
    for player in players:
        player.closes_with(4000)
    assert all(0 <= wait <= 60_000 for wait in waits) and len(set(waits)) > 1, "the reconnects are spread"
    assert node.process.wait() == 0
    until(lambda: redis.channels() == set() and redis.patterns() == 0, "Redis holds nothing")


def test_a_node_without_players_exits_at_once(redis, start):
    node = start(redis, drain_window="10m")
    assert node.terminate() == 0


def test_readiness_is_false_while_draining(redis, start):
    node = start(redis, drain_window="5s")
    player = node.player("alice")
    until(lambda: node.get("/readyz").status == 200, "ready")
    node.process.signal(signal.SIGTERM)
    player.expect("GOODBYE")

    def unready():
        try:
            return node.get("/readyz").status == 503
        except OSError:
            return True  # no longer listening is no longer ready

    until(unready, "not ready")
    assert node.process.wait(timeout=30) == 0


def test_who_is_not_closed_yet_is_still_served(redis, start):
    """`GOODBYE` comes to all, the closes are paced: until then events and replies flow."""
    node = start(redis, drain_window="10s")
    # The more there are, the longer their closes are spread.
    players = {player.hello["connection"]: player for player in (node.player(f"p{n}") for n in range(200))}
    node.process.signal(signal.SIGTERM)
    last = max(players.values(), key=lambda player: player.expect("GOODBYE")["reconnect_in_ms"])
    last.subscribe("chat:1")
    last.publish("chat:1", "still")
    last.event("chat:1", "still")
    for player in players.values():
        player.closes_with(4000, timeout=30)
    assert node.process.wait() == 0


def test_newcomers_get_503_while_draining(redis, start):
    node = start(redis, drain_window="1m")
    # It reads nothing, so it does not answer its close either, and the node waits for it.
    mute = node.player("mute")

    def refused():
        try:
            node.connect(mint("late"))
        except Refused as refusal:
            return refusal
        return None

    node.process.signal(signal.SIGTERM)
    refusal = until(refused, "upgrades are refused")
    assert (refusal.status, refusal.headers["retry-after"], refusal.headers["connection"]) == (503, "1", "close")
    assert node.get("/healthz").status == 200, "it still listens"
    assert mute.closing().code == 4000
    assert node.process.wait(timeout=30) == 0


def test_until_drain_delay_is_over_the_node_is_not_ready_but_serves_and_accepts(redis, start):
    node = start(redis, drain_delay="1h")
    stays = node.player("alice")
    node.process.signal(signal.SIGTERM)
    until(lambda: node.get("/readyz").status == 503, "not ready")
    assert b"draining" in node.get("/readyz").body and node.get("/healthz").status == 200
    newcomer = node.player("bob")
    for player in (stays, newcomer):
        player.subscribe("chat:1")
    newcomer.publish("chat:1", "hello")
    for player in (stays, newcomer):
        player.event("chat:1", "hello")
        player.silent_but_for("EVENT")
    node.process.signal(signal.SIGTERM)
    assert stays.closing().code == 1006
    assert node.process.wait() == 0, "a second signal ends it at once"


def test_the_goodbye_comes_when_drain_delay_is_over(redis, start):
    node = start(redis, drain_delay="300ms")
    player = node.player("alice")
    node.process.signal(signal.SIGTERM)
    player.expect("GOODBYE")
    player.closes_with(4000)
    assert node.process.wait() == 0


def test_what_was_published_during_the_drain_is_in_redis_before_the_end(redis, start):
    node = start(redis, lifecycle={"stream": "life"})
    players = [node.player(f"p{n}") for n in range(20)]
    node.process.signal(signal.SIGTERM)
    for number, player in enumerate(players):
        player.expect("GOODBYE")
        # Nobody waits for the answers: the connections close meanwhile.
        player.start("PUBLISH_EVENT", channel="act:1", event="move", data={"ok": True, "n": number})
    for player in players:
        player.closes_with(4000)
    assert node.process.wait() == 0
    acted = {json.loads(entry["data"])["n"] for entry in redis.stream("actions:1")}
    assert acted == set(range(20))
    left = [entry["player"] for entry in redis.stream("life") if entry["event"] == "disconnected"]
    assert sorted(left) == sorted(f"p{n}" for n in range(20))


def test_a_player_that_does_not_answer_the_close_holds_the_drain_up_no_longer_than_a_moment(redis, start):
    node = start(redis, drain_window="500ms")
    node.player("mute", receive_buffer=4096)
    assert node.terminate(timeout=30) == 0


def test_drained_players_find_the_other_node(redis, start):
    first, second = start(redis, drain_window="500ms"), start(redis)
    player, other = first.player("alice"), second.player("bob")
    other.subscribe("chat:1")
    first.process.signal(signal.SIGTERM)
    player.closes_with(4000)
    again = second.player("alice")
    again.subscribe("chat:1")
    again.publish("chat:1", "back")
    other.event("chat:1", "back")
    assert first.process.wait() == 0


def test_a_node_that_still_waits_for_redis_ends_at_once(own_redis, start):
    own_redis.stop()
    node = start(own_redis, wait_ready_line=False)
    until(lambda: "no connection to Redis" in node.process.output, "it has tried")
    assert node.process.terminate() == 0
    assert "ready listen" not in node.process.output


def test_sigint_drains_too(redis, start):
    node = start(redis, drain_window="500ms")
    player = node.player("alice")
    node.process.signal(signal.SIGINT)
    player.closes_with(4000)
    assert node.process.wait() == 0


def test_draining_while_redis_is_away_ends_too(own_redis, start):
    node = start(own_redis, drain_window="500ms")
    player = node.player("alice")
    own_redis.pause()
    node.process.signal(signal.SIGTERM)
    player.closes_with(4000)
    assert node.process.wait(timeout=30) == 0


# kill -9


def test_a_killed_node_leaves_nothing_in_redis_and_the_others_go_on(two_nodes, redis):
    first, second = two_nodes
    alice, bob = first.player("alice"), second.player("bob")
    for player in (alice, bob):
        player.subscribe("chat:1")
        player.subscribe("chat:*")
    first.kill()
    assert alice.closing().code == 1006
    until(lambda: redis.subscribers("chat:1", "player:alice") == {"chat:1": 1, "player:alice": 0}, "Redis forgot the first")
    bob.publish("chat:1", "still here")
    bob.event("chat:1", "still here")
    third = second.player("alice")
    third.subscribe("chat:1")
    bob.publish("chat:1", "welcome back")
    third.event("chat:1", "welcome back")
    bob.event("chat:1", "welcome back")


def test_a_paused_node_goes_on_when_it_is_woken(two_nodes, redis):
    first, second = two_nodes
    alice, bob = first.player("alice"), second.player("bob")
    for player in (alice, bob):
        player.subscribe("chat:1")
    first.process.pause()
    for number in range(100):
        redis.publish("chat:1", '{"event":"n","data":%d}' % number)
    bob.expect("EVENT", data=99)
    first.process.resume()
    redis.publish("chat:1", '{"event":"end"}')
    alice.event("chat:1", "end")
    heard = [m["data"] for m in alice.received if m.type == "EVENT" and m["event"] == "n"]
    complete = heard == list(range(100))
    assert complete or [m for m in alice.received if m.type == "RESYNC"], "lost without a word"
