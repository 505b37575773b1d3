"""`drawbridge check-redis`: what it finds on a good Redis, on poor ones, and on none. 0: all there; 1: something is missing;
2: out of reach."""

import socket
import threading

import pytest
from harness import ports
from harness.node import ROOT, base_config, merged, run, write_config
from harness.redis_cluster import RedisCluster
from harness.sentinels import SERVICE, Sentinel, SentinelService
from harness.wait import until

SHARDED = [{"name": "arena:{x}", "subscribe": "true", "publish": "true", "sharded": True}]
LOGGED = [{"name": "log:{x}", "subscribe": "true", "publish": "true", "history": {"events": 200, "age": "10m"}}]


def check(tmp_path, url, **changes):
    """Exit status and all output."""
    config = merged(base_config(url), changes)
    result = run("check-redis", "--config", write_config(config, tmp_path))
    return result.returncode, result.stdout + result.stderr


def version(server):
    """As `HELLO` names it."""
    said = server.client.execute_command("HELLO", 2)
    said = dict(zip(said[::2], said[1::2])) if isinstance(said, list) else said
    return f"{said[b'server'].decode()} {said[b'version'].decode()}"


def test_a_good_redis_lacks_nothing_and_nothing_is_left_in_it(redis_with, tmp_path):
    redis = redis_with("--appendonly", "yes")
    status, said = check(tmp_path, redis.url)
    assert status == 0 and said.endswith("0 missing, 0 warnings\n"), said
    for expected in (
        f"one server, 127.0.0.1:{redis.port}",
        f"version       {version(redis)}",
        "round trip",
        "no command, key or channel of this configuration is refused",
        "not loaded yet; a node loads them when it starts",
        "appendonly yes",
        "maxmemory-policy noeviction",
        "client-output-buffer-limit pubsub 33554432 8388608 60",
    ):
        assert expected in said
    assert redis.client.dbsize() == 0 and redis.client.function_list() == []


def test_it_says_that_a_node_has_loaded_the_functions(redis, start, tmp_path):
    redis.client.function_flush()
    start(redis).player("alice").publish("world:1", data={"id": "a"})
    status, said = check(tmp_path, redis.url)
    assert status == 0 and "Drawbridge's library is loaded, version" in said, said


def test_risks_are_warnings_with_a_remedy(redis_with, tmp_path):
    redis = redis_with("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--client-output-buffer-limit", "pubsub 100kb 10kb 60")
    status, said = check(tmp_path, redis.url, channel=LOGGED)
    assert status == 0 and said.endswith("0 missing, 3 warnings\n"), said
    for expected in ("Set appendonly yes", "noeviction or volatile-ttl", "It is below `external_bytes` (1048576)"):
        assert expected in said


def test_rights_that_are_missing_are_named_with_what_needs_them(own_redis, tmp_path):
    rules = "on >pw resetchannels &chat:* &drawbridge:* ~drawbridge:* +@all -xadd -fcall -@dangerous -client".split()
    own_redis.client.execute_command("ACL", "SETUSER", "bridge", *rules)
    status, said = check(tmp_path, own_redis.url, broker={"username": "bridge", "password": "pw"})
    assert status == 1, said
    for expected in (
        "refused: XADD (NOPERM",
        "Classes with `forward` refuse",
        "refused: FCALL, INFO, XADD (NOPERM",
        "SUBSCRIBE room:1",
        "Subscriptions there are refused to players",
        "SETNAME is refused",
    ):
        assert expected in said
    assert "SUBSCRIBE chat:1" not in said and "pw" not in said.split()


def test_the_rights_of_the_documentation_are_enough(own_redis, tmp_path):
    page = (ROOT / "docs/redis.md").read_text()
    commands = [word for word in page.split("ACL SETUSER bridge")[1].split("```")[0].split() if word[0] in "+-"]
    names = "on >pw resetchannels &chat:* &drawbridge:* resetkeys ~drawbridge:*".split()
    own_redis.client.execute_command("ACL", "SETUSER", "bridge", *names, *commands)
    classes = [{"name": "chat:{x}", "subscribe": "true", "publish": "true", "patterns": True}]
    status, said = check(tmp_path, own_redis.url, broker={"username": "bridge", "password": "pw"}, channel=classes)
    assert status == 0 and "no command, key or channel of this configuration is refused" in said, said


def test_a_redis_without_functions_says_what_does_not_work(redis_with, tmp_path):
    redis = redis_with("--rename-command", "FUNCTION", "", "--rename-command", "FCALL", "")
    status, said = check(tmp_path, redis.url)
    assert status == 1, said
    assert "refused: FUNCTION LIST, FUNCTION LOAD, FCALL (ERR unknown command 'FUNCTION')" in said
    assert "entity channels, channels with history, players' views, presence" in said


def test_a_proxy_or_redis_without_resp3_is_named(redis_with, tmp_path):
    redis = redis_with("--rename-command", "HELLO", "")
    status, said = check(tmp_path, redis.url)
    assert status == 1 and "Drawbridge needs RESP3 (HELLO 3)" in said, said


def test_a_replica_is_named(own_redis, tmp_path):
    own_redis.client.replicaof("127.0.0.1", ports.free())
    status, said = check(tmp_path, own_redis.url)
    assert status == 1 and "this Redis is a replica, and Drawbridge needs the master" in said, said


@pytest.mark.parametrize("case", ["nobody", "password", "file"])
def test_what_is_out_of_reach_has_a_status_of_its_own(own_redis, tmp_path, case):
    if case == "file":
        assert run("check-redis", "--config", tmp_path / "none.toml").returncode == 2
        return
    own_redis.client.config_set("requirepass", "another")
    url = f"redis://127.0.0.1:{ports.free()}" if case == "nobody" else own_redis.url
    status, said = check(tmp_path, url, broker={"password": "hunter2"})
    assert status == 2 and "Redis cannot be checked: " in said and "hunter2" not in said, said


def test_behind_sentinel_it_names_the_master_and_sentinels_that_do_not_answer(own_redis, tmp_path):
    sentinel = Sentinel(own_redis, quorum=1)
    try:
        url = f"redis-sentinel://127.0.0.1:{ports.free()},127.0.0.1:{sentinel.port}/{SERVICE}"
        status, said = check(tmp_path, url)
        assert status == 0, said
        assert f"the master of {SERVICE}, by 1 of 2 configured sentinels: 127.0.0.1:{own_redis.port}" in said
        status, said = check(tmp_path, url.replace(SERVICE, "gmae"))
        assert status == 2 and "none of the sentinels names the master `gmae`" in said
        assert f"it watches no master named `gmae`, with which `broker.url` ends; it watches {SERVICE}" in said
    finally:
        sentinel.close()


def test_of_a_service_behind_sentinels_the_master_is_checked_also_after_a_failover(tmp_path):
    service = SentinelService()
    try:
        status, said = check(tmp_path, service.url)
        assert status == 0 and said.endswith("0 missing, 1 warnings\n"), said
        assert f"by 3 of 3 configured sentinels: 127.0.0.1:{service.master.port}" in said
        assert "replicas      1 connected" in said and "appendonly no" in said
        service.master.kill()
        until(service.has_failed_over, "the sentinels name the replica", timeout=40)
        status, said = check(tmp_path, service.url)
        assert status == 0 and f"configured sentinels: 127.0.0.1:{service.replica.port}" in said, said
        assert "warning replicas      0 connected" in said and "Add a replica" in said
    finally:
        service.close()


def test_all_masters_of_a_cluster_are_checked(cluster, start, tmp_path):
    cluster.client.function_flush()
    status, said = check(tmp_path, cluster.url, channel=LOGGED + SHARDED)
    assert status == 0, said
    first, *_ = names = sorted(server.name for server in cluster.masters)
    assert f"a Cluster of 3 masters, as {cluster.masters[0].name} says: {', '.join(names)}" in said
    for name in names:
        assert f"connection    {name}: made in" in said and f"round trip    {name}: median" in said
    # What all have in common is said once.
    for common in (version(cluster.masters[0]), "state ok, 3 masters, 16384 of 16384", "is refused\n", "not loaded yet", "Add a replica", "appendonly no"):
        assert said.count(common) == 1, (common, said)
    assert all(server.client.dbsize() == 0 for server in cluster.masters)
    start(cluster, channel=LOGGED)
    until(lambda: check(tmp_path, cluster.url)[1].count("library is loaded, version") == 1, "each master has the functions", 30)


def test_what_one_master_refuses_is_named_with_the_master(cluster, tmp_path):
    rights = ["reset", "on", ">pw", "~*", "&*", "+@all", "-cluster|info", "-spublish"]
    *others, poor = cluster.masters
    for master in others:
        master.client.execute_command("ACL", "SETUSER", "bridge", *rights)
    poor.client.execute_command("ACL", "SETUSER", "bridge", *rights, "-fcall")
    try:
        status, said = check(tmp_path, cluster.url, broker={"username": "bridge", "password": "pw"}, channel=SHARDED)
        assert status == 1, said
        assert f"MISSING functions     {poor.name}: refused: FCALL (NOPERM" in said
        assert "warning rights        refused: CLUSTER INFO (NOPERM" in said
        assert "MISSING rights        refused: SPUBLISH (NOPERM" in said
    finally:
        for master in cluster.masters:
            master.client.execute_command("ACL", "DELUSER", "bridge")


def test_a_master_that_is_down_is_named(tmp_path):
    cluster = RedisCluster()
    try:
        url, victim = cluster.url, cluster.masters[1]
        victim.kill()
        status, said = check(tmp_path, url)
        assert status == 1, said
        assert f"warning server        {victim.name}: " in said and f"MISSING master        {victim.name}: " in said
        assert "Nodes cannot use the channels, tables and sessions in its slots." in said
    finally:
        cluster.close()


def test_a_url_of_another_topology_is_named(cluster, own_redis, tmp_path):
    status, said = check(tmp_path, f"redis-cluster://127.0.0.1:{own_redis.port}")
    assert status == 2 and f"127.0.0.1:{own_redis.port} is not a server of a Cluster" in said, said
    status, said = check(tmp_path, f"redis://{cluster.masters[0].name}")
    assert status == 1 and "this is a server of a Cluster" in said and "redis-cluster://" in said, said


def test_a_redis_without_the_commands_of_operators_lacks_only_names(managed_redis, tmp_path):
    status, said = check(tmp_path, managed_redis.url)
    assert status == 0, said
    assert "SETNAME is refused: ERR unknown command 'CLIENT'" in said and "nothing else is missing" in said
    assert "client-output-buffer-limit cannot be read" in said


def test_a_proxy_that_closes_the_connection_at_hello_is_named(tmp_path):
    """As twemproxy does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        status, said = check(tmp_path, f"redis://127.0.0.1:{listener.getsockname()[1]}")
        thread.join(10)
    assert status == 2 and "in answer to HELLO 3" in said and "RESP3" in said, said


def test_the_memory_broker_needs_no_check(tmp_path):
    status, said = check(tmp_path, None)
    assert status == 0 and "there is no Redis to check" in said
