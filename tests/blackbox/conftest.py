"""Fixtures: everything is of one test's own but the calm Redis, which is emptied for each test."""

import itertools
import os

import pytest

from harness.bystander import Bystander
from harness.certificates import Certificates
from harness.dev import Dev
from harness.node import Node, base_config, merged
from harness.proxy import Proxy
from harness.redis_cluster import RedisCluster
from harness.redis_server import ManagedRedis, RedisServer
from harness.tokens import Jwks


IN_A_CLUSTER = os.environ.get("DRAWBRIDGE_REDIS") == "cluster"


def pytest_collection_modifyitems(items):
    if IN_A_CLUSTER:
        for item in items:
            if marker := item.get_closest_marker("one_server"):
                item.add_marker(pytest.mark.skip(reason=marker.args[0]))
    if os.environ.get("DRAWBRIDGE_SLOW") != "1":
        skip = pytest.mark.skip(reason="slow; set DRAWBRIDGE_SLOW=1")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def calm_redis():
    """One Redis for all tests of a worker that do it no harm; `DRAWBRIDGE_REDIS=cluster`: a Cluster."""
    server = RedisCluster() if IN_A_CLUSTER else RedisServer()
    yield server
    server.close()


@pytest.fixture
def redis(calm_redis):
    """An empty Redis that the test does no harm to."""
    calm_redis.client.flushall()
    return calm_redis


@pytest.fixture(scope="session")
def calm_cluster():
    """One Redis Cluster of three masters for all tests of a worker that do it no harm."""
    cluster = RedisCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(calm_cluster):
    """An empty Redis Cluster that the test does no harm to."""
    calm_cluster.client.flushall()
    return calm_cluster


@pytest.fixture
def own_cluster():
    """A Redis Cluster of the test's own, with a replica for each master."""
    cluster = RedisCluster(replicas=1)
    yield cluster
    cluster.close()


@pytest.fixture
def own_redis():
    """A Redis of the test's own, to kill, pause and restart."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def managed_redis():
    """A Redis without the commands of operators."""
    server = ManagedRedis()
    yield server
    server.close()


@pytest.fixture
def redis_with():
    """Starts servers of the test's own: `redis_with(options)`."""
    servers = []

    def start_server(*options):
        servers.append(RedisServer(*options))
        return servers[-1]

    yield start_server
    for server in servers:
        server.close()


@pytest.fixture
def start(tmp_path):
    """Starts nodes: `start(redis, **changes to the base configuration)`."""
    nodes = []
    count = itertools.count(1)

    def start_node(redis=None, *, env=None, wait_ready_line=True, **changes):
        number = next(count)
        url = redis if isinstance(redis, str) or redis is None else redis.url
        config = merged(base_config(url), {"node": f"n{number}", **changes})
        directory = tmp_path / f"node{number}"
        directory.mkdir()
        node = Node(config, env=env, directory=directory, wait_ready_line=wait_ready_line)
        nodes.append(node)
        return node

    yield start_node
    failures = []
    for node in nodes:
        try:
            node.close()
        except AssertionError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


@pytest.fixture
def node(redis, start):
    """A node with the base configuration."""
    return start(redis)


@pytest.fixture
def dev():
    """`drawbridge dev` on free ports."""
    running = Dev()
    yield running
    running.close()


@pytest.fixture
def bystander(redis):
    """A well-behaved player on a node: `bystander(node)`."""
    return lambda node: Bystander(node, redis)


@pytest.fixture
def two_nodes(redis, start):
    """Two nodes on one Redis."""
    return start(redis), start(redis)


@pytest.fixture
def proxy():
    """Starts proxies: `proxy(port)`."""
    proxies = []

    def start_proxy(target):
        proxies.append(Proxy(target))
        return proxies[-1]

    yield start_proxy
    for each in proxies:
        each.close()


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


@pytest.fixture
def jwks():
    """Starts JWKS endpoints: `jwks(key, …)`."""
    servers = []

    def start_jwks(*keys):
        servers.append(Jwks(*keys))
        return servers[-1]

    yield start_jwks
    for server in servers:
        server.close()
