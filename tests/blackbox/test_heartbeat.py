"""Contract §8: WebSocket pings, and 4002 after two silent ones."""

import time

import pytest

from harness.wait import until
from harness.websocket import PONG, Closed


@pytest.fixture
def node(redis, start):
    return start(redis, connection={"heartbeat": "300ms"})


def test_welcome_says_how_often(node):
    assert node.player("alice").hello["heartbeat_ms"] == 300


def test_who_answers_stays(node):
    player = node.player("alice")
    while player.ws.pings < 6:
        player.read_for(0.3)
    player.sync()


def test_who_is_silent_is_closed_with_4002(node):
    player = node.player("alice", answer_pings=False)
    player.closes_with(4002)
    assert player.ws.pings >= 2


def test_a_half_open_connection_is_noticed(node, proxy):
    link = proxy(node.port)
    player = node.player("alice", port=link.port)
    player.subscribe("chat:1")
    link.stall()
    node.wait_idle()


def test_others_do_not_notice(node):
    silent, answering = node.player("alice", answer_pings=False), node.player("bob")
    deadline = time.monotonic() + 15
    while not silent.ws.closed and time.monotonic() < deadline:
        for player in (silent, answering):
            try:
                player.read_for(0.05)
            except Closed:
                pass
    assert silent.ws.closed.code == 4002
    answering.sync()


def test_an_answer_in_time_saves_the_connection(node):
    """Pongs of the test's own making, only to every second ping."""
    player = node.player("alice", answer_pings=False)
    for count in range(2, 9, 2):
        while player.ws.pings < count - 1:
            player.read_for(0.05)
        player.ws.send_frame(PONG, b"")
    player.sync()


def test_a_silent_connection_is_idle_in_redis_afterwards(node, redis):
    node.player("alice", answer_pings=False).closes_with(4002)
    until(lambda: redis.channels() == set(), "Redis holds nothing")
