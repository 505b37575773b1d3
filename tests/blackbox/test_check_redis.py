"""`drawbridge check-redis`: what it finds on a good Redis, on poor ones, and on none. 0: all there; 1: something is missing;
2: out of reach."""

import pytest
from harness import ports
from harness.node import ROOT, base_config, merged, run, write_config
from harness.sentinels import SERVICE, Sentinel

LOGGED = [{"name": "log:{x}", "subscribe": "true", "publish": "true", "history": {"events": 200, "age": "10m"}}]


def check(tmp_path, url, **changes):
    """Exit status and all output."""
    config = merged(base_config(url), changes)
    result = run("check-redis", "--config", write_config(config, tmp_path))
    return result.returncode, result.stdout + result.stderr


def test_a_good_redis_lacks_nothing_and_nothing_is_left_in_it(redis_with, tmp_path):
    redis = redis_with("--appendonly", "yes")
    status, said = check(tmp_path, redis.url)
    assert status == 0 and said.endswith("0 missing, 0 warnings\n"), said
    for expected in (
        f"one server, 127.0.0.1:{redis.port}",
        "redis 7",
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


def test_the_memory_broker_needs_no_check(tmp_path):
    status, said = check(tmp_path, None)
    assert status == 0 and "there is no Redis to check" in said
