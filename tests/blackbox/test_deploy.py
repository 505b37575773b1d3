"""The configurations under deploy/ that tests/deploy can only read, with real nodes: compose's HAProxy follows the nodes that
its name server lists, and a pod's probes and drain are what its manifest expects."""

import re
import signal
import textwrap
import tomllib

import pytest

from harness import ports
from harness.balancer import DEPLOY, Balancer
from harness.dns import NameServer
from harness.node import Node, http
from harness.player import Player
from harness.tokens import SECRET, mint
from harness.wait import until
from harness.websocket import Closed, Refused, TimedOut

ROOMS = {"room": "42"}


@pytest.fixture
def opened():
    """What is to be closed, the newest first."""
    things = []
    yield things
    for thing in reversed(things):
        thing.close()


@pytest.fixture
def compose(redis, tmp_path, opened):
    """Starts the nodes of compose.yaml, each on its own address and all on one port, as containers have them."""
    port = ports.free()

    def start_node(address):
        config = tomllib.loads((DEPLOY / "compose/drawbridge.toml").read_text())
        config |= {"node": address, "listen": f"{address}:{port}", "trusted_proxies": ["127.0.0.1/32"], "drain_delay": "2s"}
        config["broker"]["url"] = redis.url
        directory = tmp_path / address
        directory.mkdir()
        opened.append(Node(config, env={"DRAWBRIDGE_AUTH__HMAC_SECRET": SECRET}, directory=directory))
        return opened[-1]

    start_node.port = port
    return start_node


def join(front, sub):
    """A player whom a node takes, as a client does: it tries again while none is found."""

    def joined():
        try:
            player = Player(front.port, mint(sub, **ROOMS))
            player.hello = player.welcome()
            front.players.append(player)
            return player
        except (Closed, Refused, TimedOut, OSError):
            return None

    return until(joined, "a node takes the player", timeout=30)


def test_composes_haproxy_finds_the_nodes_by_name_and_follows_a_change_of_them(compose, tmp_path, opened):
    compose("127.0.0.2")
    names = NameServer("node", ["127.0.0.2"])
    opened.append(names)
    front = Balancer("haproxy", tmp_path, [], compose=(compose.port, names.port))
    opened.append(front)
    alice = join(front, "alice")
    assert alice.hello["node"] == "127.0.0.2"

    # docker compose up --scale node=2: the new node has fewer players, so it gets the next ones.
    second = compose("127.0.0.3")
    names.addresses.append("127.0.0.3")
    newcomers = until(lambda: [player for player in [join(front, "bob")] if player.hello["node"] == "127.0.0.3"], "the second node gets a player")
    alice.subscribe("room:42")
    newcomers[0].publish("room:42", "hello", 1)
    assert alice.event("room:42", "hello")["data"] == 1

    # The container ends: HAProxy's checks notice, and its players find the other node.
    second.process.signal(signal.SIGTERM)
    assert second.process.wait() == 0
    names.addresses.remove("127.0.0.3")
    assert {join(front, f"late{n}").hello["node"] for n in range(4)} == {"127.0.0.2"}


def manifest(pattern):
    """What the pattern's group matches in the manifest."""
    return re.search(pattern, (DEPLOY / "kubernetes/drawbridge.yaml").read_text(), flags=re.MULTILINE | re.DOTALL)[1]


def test_a_pods_probes_and_its_drain_are_what_the_manifest_expects(redis, tmp_path, opened):
    config = tomllib.loads(textwrap.dedent(manifest(r"^  drawbridge\.toml: \|\n(.*?)^---")))
    config |= {"listen": "127.0.0.1:0"}
    config["broker"]["url"] = redis.url
    pod = Node(config, env={"DRAWBRIDGE_AUTH__HMAC_SECRET": SECRET, "DRAWBRIDGE_NODE": "drawbridge-7d9f8b6c5d-x2x4z"}, directory=tmp_path)
    opened.append(pod)
    ready, alive = (manifest(rf"{probe}:\n\s+httpGet: \{{ path: (\S+), port: players \}}") for probe in ("readinessProbe", "livenessProbe"))
    assert (pod.get(ready).status, pod.get(alive).status) == (200, 200)
    player = pod.player("alice", **ROOMS)
    assert player.hello["node"] == "drawbridge-7d9f8b6c5d-x2x4z"

    pod.process.signal(signal.SIGTERM)
    until(lambda: pod.get(ready).status == 503, "the pod leaves the service")
    # Kubernetes would restart a pod that is not alive.
    assert pod.get(alive).status == 200
    player.expect("GOODBYE")
    player.closes_with(4000)
    assert pod.process.wait(timeout=int(manifest(r"terminationGracePeriodSeconds: (\d+)"))) == 0
