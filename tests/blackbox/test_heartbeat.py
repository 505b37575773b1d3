"""Contract §8: WebSocket pings, and 4002 after two silent ones."""

import pytest

from harness.wait import until
from harness.websocket import PONG, Closed


@pytest.fixture
def node(redis, start):
    return start(redis, connection={"heartbeat": "300ms"})


@pytest.fixture
def patient(redis, start):
    """For tests whose player has to answer in time: they may be held up for 2 seconds."""
    return start(redis, connection={"heartbeat": "1s"})


def test_welcome_says_how_often(node):
    assert node.player("alice").hello["heartbeat_ms"] == 300


def test_who_answers_stays(patient):
    player = patient.player("alice")
    until(lambda: player.read_for(0.1) or player.ws.pings >= 4, "four pings")
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


def test_others_do_not_notice(patient):
    silent, answering = patient.player("alice", answer_pings=False), patient.player("bob")

    def closed():
        answering.read_for(0.05)
        try:
            silent.read_for(0.05)
        except Closed as closed:
            return closed

    assert until(closed, "the silent one is closed").code == 4002
    answering.sync()


def test_an_answer_in_time_saves_the_connection(patient):
    """Pongs of the test's own making, only to every second ping."""
    player = patient.player("alice", answer_pings=False)
    for pings in (1, 3, 5):
        until(lambda: player.read_for(0.05) or player.ws.pings >= pings, f"{pings} pings")
        player.ws.send_frame(PONG, b"")
    player.sync()


def test_a_silent_connection_is_idle_in_redis_afterwards(node, redis):
    node.player("alice", answer_pings=False).closes_with(4002)
    until(lambda: redis.channels() == set(), "Redis holds nothing")
