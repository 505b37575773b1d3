"""A deploy in the evening peak: three nodes behind a real load balancer, run by the very files in `deploy/`, are restarted
one after the other under load. No player sees a failed connect: each is moved by `GOODBYE` and a close, and its next
attempt is taken by another node."""

import signal
import threading
import time

import pytest

from harness import ports
from harness.balancer import Balancer
from harness.node import http
from harness.player import Player
from harness.tokens import mint
from harness.wait import PATIENCE, until
from harness.websocket import Closed, TimedOut

BALANCERS = ["haproxy", "nginx"]
PLAYERS = 24
PUBLISH_EVERY = 0.2


class Roamer(threading.Thread):
    """A player that stays connected as the contract says: closed with 4000, it connects again at once. Keeps how often it was
    closed and by which code, which of its attempts failed, and how long it was away each time."""

    def __init__(self, port, sub):
        super().__init__(daemon=True)
        self.port, self.sub = port, sub
        self.stopping = threading.Event()
        self.codes, self.failures, self.gaps, self.nodes = [], [], [], []
        self.said = self.heard = 0
        self.start()

    def run(self):
        left_at = None
        while not self.stopping.is_set():
            try:
                player = Player(self.port, mint(self.sub))
                self.nodes.append(player.welcome()["node"])
                if left_at is not None:
                    self.gaps.append(time.monotonic() - left_at)
                left_at = self._play(player)
            except Exception as failure:  # whatever it is, a player would have seen it
                self.failures.append(repr(failure))
                time.sleep(0.1)

    def _play(self, player):
        """Until the connection ends; returns when that was."""
        said_goodbye, publish_at = False, 0.0
        player.start("CHANNEL_SUBSCRIBE", channel="chat:1")
        try:
            while not self.stopping.is_set():
                if time.monotonic() >= publish_at:
                    player.start("PUBLISH_EVENT", channel="chat:1", event="hello", data=self.said)
                    self.said, publish_at = self.said + 1, time.monotonic() + PUBLISH_EVERY
                try:
                    player.pump(PUBLISH_EVERY)
                except TimedOut:
                    continue
                for message in player.unread:
                    said_goodbye |= message.type == "GOODBYE"
                    self.heard += message.type == "EVENT"
                    if message.type == "ERROR":
                        self.failures.append(message)
                player.unread.clear()
                player.received.clear()
            player.close()
            return None
        except Closed as closed:
            self.codes.append(closed.code)
            if not said_goodbye:
                self.failures.append(f"closed without a goodbye: {closed}")
            return time.monotonic()

    def stop(self):
        self.stopping.set()
        self.join(PATIENCE)


@pytest.fixture
def roamers():
    started = []

    def start_roamer(port, sub):
        started.append(Roamer(port, sub))
        return started[-1]

    yield start_roamer
    for each in started:
        each.stopping.set()
    for each in started:
        each.join(PATIENCE)


@pytest.fixture
def balancer(tmp_path):
    started = []

    def start_balancer(kind, nodes):
        started.append(Balancer(kind, tmp_path, nodes, deploy=True))
        return started[-1]

    yield start_balancer
    for each in started:
        each.close()


def is_ready(node):
    try:
        return node.get("/readyz").status == 200
    except OSError:
        return False


def haproxy_counts(balancer, column):
    """This counter of HAProxy's for each node."""
    rows = [line.split(",") for line in balancer.tell("show stat").strip().splitlines()]
    at, names = rows[0].index(column), {"n1", "n2", "n3"}
    return {row[1]: int(row[at]) for row in rows if row[0] == "nodes" and row[1] in names}


def haproxy_sees_all(balancer):
    rows = [line.split(",") for line in balancer.tell("show stat").strip().splitlines()]
    at = rows[0].index("status")
    return sum(row[at] == "UP" for row in rows if row[0] == "nodes" and row[1] != "BACKEND") == 3


@pytest.mark.parametrize("kind", BALANCERS)
def test_no_player_sees_a_failed_connect_while_all_nodes_are_restarted(redis, start, balancer, roamers, kind, capsys):
    listen = [ports.free() for _ in range(3)]

    def start_node(at):
        # `drain_delay` is as it is by default: what the files in deploy/ reckon with.
        changes = {"listen": f"127.0.0.1:{listen[at]}", "node": f"n{at + 1}", "drain_delay": None, "drain_window": "2s"}
        return start(redis, trusted_proxies=["127.0.0.1/32"], **changes)

    nodes = [start_node(at) for at in range(3)]
    front = balancer(kind, nodes)
    if kind == "haproxy":
        until(lambda: haproxy_sees_all(front), "haproxy sees all nodes")
    until(lambda: http("GET", f"http://127.0.0.1:{front.port}/readyz").status == 200, "a node is up")
    players = [roamers(front.port, f"p{number}") for number in range(PLAYERS)]
    until(lambda: all(player.heard for player in players), "all are in the game")
    assert {player.nodes[0] for player in players} == {"n1", "n2", "n3"}

    for at in range(3):
        nodes[at].process.signal(signal.SIGTERM)
        assert nodes[at].process.wait(timeout=60) == 0
        nodes[at] = start_node(at)
        until(lambda: is_ready(nodes[at]), "the node is back")
        if kind == "haproxy":
            until(lambda: haproxy_sees_all(front), "haproxy sees it")
        heard = [player.heard for player in players]
        until(lambda: all(now.heard > before for now, before in zip(players, heard)), "all are in the game again")

    for player in players:
        player.stop()
    assert [failure for player in players for failure in player.failures] == []
    assert all(player.codes and set(player.codes) == {4000} for player in players), "each was moved, and only so"
    if kind == "haproxy":
        for column in ("econ", "wretr", "wredis"):
            assert set(haproxy_counts(front, column).values()) == {0}, f"{column}: no connection was tried in vain"
    gaps = sorted(gap for player in players for gap in player.gaps)
    with capsys.disabled():
        print(f"\n{kind}: {len(gaps)} moves of {PLAYERS} players; away for {gaps[len(gaps) // 2]:.3f} s (median), {gaps[-1]:.3f} s (longest)")
