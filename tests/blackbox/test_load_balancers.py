"""Two nodes behind haproxy and nginx, as they are run: sockets on any node, addresses, drain and death of a node."""

import signal

import pytest

from harness.balancer import Balancer
from harness.node import http
from harness.player import Player
from harness.tokens import mint
from harness.wait import until
from harness.websocket import Closed, Refused, TimedOut

BALANCERS = ["haproxy", "nginx"]


@pytest.fixture
def balancer(tmp_path):
    started = []

    def start_balancer(kind, nodes, **how):
        started.append(Balancer(kind, tmp_path, nodes, **how))
        balancer = started[-1]
        until(lambda: http("GET", f"http://127.0.0.1:{balancer.port}/readyz").status == 200 if not how else True, "a node is up")
        return balancer

    yield start_balancer
    for each in started:
        each.close()


def join(balancer, sub="alice", **options):
    player = Player(balancer.port, mint(sub), **options)
    player.hello = player.welcome()
    balancer.players.append(player)  # held, or else it would be closed
    return player


def rejoin(balancer, sub):
    """Tries again until a node takes the player, as a client does."""

    def joined():
        try:
            return join(balancer, sub)
        except (Closed, Refused, TimedOut, OSError):
            return None

    return until(joined, "a node takes the player", timeout=30)


@pytest.mark.parametrize("kind", BALANCERS)
def test_players_on_any_node_hear_each_other(two_nodes, balancer, kind):
    front = balancer(kind, two_nodes)
    players = [join(front, f"p{n}") for n in range(8)]
    assert {player.hello["node"] for player in players} == {"n1", "n2"}
    for player in players:
        player.subscribe("chat:1")
    for number, player in enumerate(players):
        player.publish("chat:1", "hello", number)
    orders = [[player.event("chat:1", "hello")["data"] for _ in players] for player in players]
    assert all(order == orders[0] for order in orders)
    for player in players:
        assert player.close().code == 1000


@pytest.mark.parametrize("kind", BALANCERS)
def test_large_messages_and_heartbeats_pass(redis, start, balancer, kind):
    nodes = [start(redis, connection={"heartbeat": "1s"}) for _ in range(2)]
    player = join(balancer(kind, nodes))
    player.subscribe("chat:1")
    player.publish("chat:1", "big", "x" * 60_000)
    assert len(player.event("chat:1", "big")["data"]) == 60_000
    until(lambda: player.read_for(0.1) or player.ws.pings >= 3, "three pings")
    player.sync()


@pytest.mark.parametrize("kind", BALANCERS)
def test_the_players_address_is_known_behind_the_balancer(redis, start, balancer, kind):
    node = start(redis, trusted_proxies=["127.0.0.1/32"], limits={"connections_per_address": 1})
    front = balancer(kind, [node])
    join(front, source="127.0.0.21")
    with pytest.raises(Refused):
        join(front, source="127.0.0.21")
    join(front, source="127.0.0.22")
    # What a client writes into the header itself does not help it.
    with pytest.raises(Refused):
        join(front, source="127.0.0.22", headers={"X-Forwarded-For": "198.51.100.9"})


def test_the_players_address_by_proxy_protocol(redis, start, balancer):
    node = start(redis, proxy_protocol=True, trusted_proxies=["127.0.0.1/32"], limits={"connections_per_address": 1})
    front = balancer("haproxy", [node], tcp=True)
    rejoin(front, "first")
    join(front, source="127.0.0.21")
    with pytest.raises(Refused):
        join(front, source="127.0.0.21")
    join(front, source="127.0.0.22")


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_deploy_moves_players_to_the_other_node(redis, start, balancer, kind):
    first, second = start(redis, drain_window="1s"), start(redis)
    front = balancer(kind, [first, second])
    players = {f"p{n}": join(front, f"p{n}") for n in range(6)}
    listener = second.player("listener")
    listener.subscribe("chat:1")
    first.process.signal(signal.SIGTERM)
    moved = [name for name, player in players.items() if player.hello["node"] == "n1"]
    assert moved
    for name in moved:
        players[name].expect("GOODBYE")
        players[name].closes_with(4000)
        players[name] = rejoin(front, name)
        assert players[name].hello["node"] == "n2"
    assert first.process.wait() == 0
    for name, player in players.items():
        player.publish("chat:1", "here", name)
    assert {listener.event("chat:1", "here")["data"] for _ in players} == set(players)


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_dead_nodes_players_find_the_other(two_nodes, balancer, kind):
    front = balancer(kind, two_nodes)
    players = {f"p{n}": join(front, f"p{n}") for n in range(6)}
    two_nodes[0].kill()
    for name, player in players.items():
        if player.hello["node"] == "n1":
            player.closing()
            assert rejoin(front, name).hello["node"] == "n2"
        else:
            player.sync()


def test_haproxy_drains_new_connections_and_leaves_held_ones(two_nodes, balancer):
    front = balancer("haproxy", two_nodes)
    players = [join(front, f"p{n}") for n in range(6)]
    front.tell("set server nodes/s1 state drain")
    for number in range(6):
        assert join(front, f"q{number}").hello["node"] == "n2"
    for player in players:
        player.sync()
