"""A storm of connects: a node lets so many connect at once, lets as many wait, and closes the rest with a time to come back."""

import pytest

from harness.tokens import mint
from harness.wait import until
from harness.websocket import Closed, TimedOut


@pytest.fixture
def slow_node(own_redis, proxy, start):
    """A node whose Redis is far away, so that connecting takes a while; two connect at once, and two wait."""
    link = proxy(own_redis.port)
    node = start(f"redis://127.0.0.1:{link.port}", shards=1, limits={"connecting": 2})
    until(lambda: node.get("/readyz").status == 200, "ready")
    link.delay = 0.3
    return node


def outcome(player):
    """`welcome`, or the close code with the error before it."""
    try:
        player.welcome(timeout=30)
        return "welcome", None
    except Closed as closed:
        errors = [message for message in player.received if message.type == "ERROR"]
        assert len(errors) == 1, player.received
        return closed.code, errors[0]


def test_a_storm_is_let_in_bit_by_bit_and_the_rest_is_told_when_to_come_back(slow_node):
    players = [slow_node.connect(mint(f"p{number}")) for number in range(12)]
    outcomes = [outcome(player) for player in players]
    turned_away = [error for code, error in outcomes if code == 4003]
    welcomed = [code for code, _ in outcomes if code == "welcome"]
    assert len(welcomed) + len(turned_away) == 12, outcomes
    assert len(welcomed) >= 4 and turned_away
    for error in turned_away:
        assert error["code"] == "RATE_LIMITED" and error["retryable"] is True
        assert 1 <= error["retry_after_ms"] <= 5_000
    delays = {error["retry_after_ms"] for error in turned_away}
    assert len(delays) > 1 or len(turned_away) == 1, "they are spread"
    until(lambda: slow_node.metric("drawbridge_connections_turned_away") == len(turned_away), "all are counted")
    assert slow_node.metric("drawbridge_connections_connecting") == 0
    assert slow_node.metric("drawbridge_connections_waiting") == 0

    # Whoever comes back gets in.
    for number in range(12):
        if outcomes[number][0] == 4003:
            slow_node.player(f"p{number}")


def test_who_waits_and_leaves_is_forgotten(slow_node):
    players = [slow_node.connect(mint(f"p{number}")) for number in range(4)]
    for player in players:
        with pytest.raises(TimedOut):
            player.pump(0)
        player.vanish()
    until(lambda: slow_node.metric("drawbridge_connections") == 0, "all are gone")
    slow_node.player("alice")
    assert slow_node.metric("drawbridge_connections_waiting") == 0
