"""The commands that a newcomer meets: `init`, `explain`, `tail`, `publish`, `serve` without a file, `--version`, completions."""

import json
import re
import stat
import subprocess

import pytest

from harness.node import API_KEY, Node, base_config, binary, merged, run, write_config
from harness.process import Process
from harness.tokens import mint
from harness.wait import PATIENCE, until

# init


def test_what_init_writes_is_checked_served_and_played_on(redis, tmp_path):
    path = tmp_path / "drawbridge.toml"
    written = run("init", path)
    assert written.returncode == 0, written.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for command in ("check-config", "serve --config", "token --config"):
        assert f"drawbridge {command} {path}" in written.stdout
    assert run("check-config", path).returncode == 0
    token = run("token", "--config", path, "--sub", "alice", "--claim", "room=42").stdout.strip()

    environment = {
        "DRAWBRIDGE_BROKER__URL": redis.url,
        "DRAWBRIDGE_LISTEN": "127.0.0.1:0",
        "DRAWBRIDGE_ADMIN__LISTEN": "127.0.0.1:0",
    }

    class Initialised(Node):
        def __init__(self):
            self.config, self.path, self.players, self.ready = base_config(redis.url), path, [], None
            self.process = Process([binary(), "serve", "--config", path], env=environment)
            self.wait_ready_line()

    node = Initialised()
    try:
        player = node.player(token=token)
        assert "room:42" in [one["channel"] for one in player.hello["subscriptions"]]
        redis.publish("room:42", '{"event":"hit","data":1}')
        assert player.event("room:42")["event"] == "hit"
    finally:
        node.close()


def test_init_never_overwrites_and_never_repeats_a_secret(tmp_path):
    path, other = tmp_path / "a.toml", tmp_path / "b.toml"
    assert run("init", path).returncode == 0 and run("init", other).returncode == 0
    text = path.read_text()
    again = run("init", path)
    assert again.returncode == 1 and str(path) in again.stderr and path.read_text() == text
    secrets = re.findall(r'"([0-9a-f]{64})"', text + other.read_text())
    assert len(set(secrets)) == 4
    assert run("init", tmp_path / "nowhere" / "c.toml").returncode == 1


# explain


@pytest.fixture
def config(tmp_path):
    return write_config(base_config("redis://127.0.0.1:1"), tmp_path)


def explain(config, *arguments, token=None):
    return run("explain", "--config", config, "--token", token or mint("alice", rooms=["42"]), *arguments)


def test_explain_agrees_with_the_node(redis, start):
    """Every verdict is the one that a player meets."""
    node = start(redis)
    token = mint("alice", rooms=["42"], team="red")
    player = node.player(token=token)
    for channel in ["room:42", "room:43", "news:today", "nowhere:1", "drawbridge:x", "news:*", "bad name"]:
        explained = explain(node.path, "--subscribe", channel, token=token)
        allowed = player.reply(player.start("CHANNEL_SUBSCRIBE", channel=channel))["type"] == "CHANNEL_SUBSCRIBED"
        assert (explained.returncode == 0) is allowed, explained.stdout
    for channel, data in [("act:1", '{"ok":true}'), ("act:1", '{"ok":false}'), ("raw:1", "1"), ("news:1", "1"), ("map:1", "{}")]:
        explained = explain(node.path, "--publish", channel, "--event", "go", "--data", data, token=token)
        reply = player.reply(player.start("PUBLISH_EVENT", channel=channel, event="go", data=json.loads(data)))
        assert (explained.returncode == 0) is (reply["type"] == "EVENT_PUBLISHED"), explained.stdout


def test_explain_names_the_rule_the_values_and_the_missing_claim(config):
    denied = explain(config, "--subscribe", "room:42", token=mint("alice"))
    assert denied.returncode == 1
    for part in ["class: `room:{room}`", "room = '42'", "params.room in me.rooms", "no claim `rooms`", "refused: "]:
        assert part in denied.stdout, denied.stdout
    allowed = explain(config, "--subscribe", "room:42")
    assert allowed.returncode == 0 and allowed.stdout.endswith("allowed\n")


def test_explain_refuses_a_bad_token_in_the_words_of_the_node_and_never_repeats_it(config):
    for token, words in [("not.a.token", "auth.hmac_secret"), (mint("alice", expires_in=-3600), "TOKEN_EXPIRED")]:
        refused = explain(config, token=token)
        assert refused.returncode == 1 and words in refused.stdout
        assert token not in refused.stdout + refused.stderr
    assert explain(config).returncode == 0
    assert run("explain", "--config", "/nowhere.toml", "--token", "x").returncode == 2


# tail and publish


class Tail(Process):
    """`drawbridge tail`: its events; what it says beside them is in `said`."""

    def __init__(self, tmp_path, *arguments):
        self.said_path = tmp_path / "tail.err"
        command = " ".join(f"'{part}'" for part in [str(binary()), "tail", *map(str, arguments)])
        super().__init__(["sh", "-c", f"exec {command} 2>'{self.said_path}'"])

    @property
    def said(self):
        return self.said_path.read_text() if self.said_path.exists() else ""

    def until_subscribed(self):
        return until(lambda: re.search("connected to node|subscribed at Redis", self.said), "tail is subscribed")

    def events(self, count):
        until(lambda: len(self.lines) >= count, f"{count} lines of tail")
        return [(line.split(" ", 1)[0], json.loads(line.split(" ", 1)[1])) for line in self.lines]


def test_tail_and_publish_by_a_node(redis, start, tmp_path):
    node = start(redis)
    url = f"ws://127.0.0.1:{node.port}/ws"
    token = mint("alice", rooms=["42"])
    tail = Tail(tmp_path, "room:42", "--url", url, "--token", token, "--count", 3)
    tail.until_subscribed()
    sent = run("publish", "room:42", "--event", "move", "--data", '{"n":12345678901234567890}', "--url", url, "--token", token)
    assert sent.returncode == 0 and sent.stdout.startswith("room:42: published"), sent.stderr
    admin = f"http://127.0.0.1:{node.admin_port}"
    sent = run("publish", "room:42", "--event", "say", "--data", '"hi"', "--api-key", API_KEY, "--url", admin)
    assert sent.returncode == 0, sent.stderr
    redis.publish("room:43", '{"event":"elsewhere"}')
    sent = run("publish", "room:42", "--redis", redis.url)
    assert sent.returncode == 0 and "subscribed" in sent.stdout, sent.stderr
    events = tail.events(3)
    assert [(channel, event["event"]) for channel, event in events] == [("room:42", "move"), ("room:42", "say"), ("room:42", "message")]
    assert events[0][1]["from"] == "alice" and "12345678901234567890" in tail.lines[0]
    assert tail.wait() == 0


def test_tail_of_a_redis_takes_patterns_and_prefixes(redis, start, tmp_path):
    path = write_config(merged(base_config(redis.url), {"broker": {"channel_prefix": "prod:"}}), tmp_path)
    tail = Tail(tmp_path, "room:*", "--config", path, "--count", 2)
    tail.until_subscribed()
    redis.publish("room:42", '{"event":"other environment"}')
    redis.publish("prod:room:42", '{"event":"hit",\n"data":1}')
    assert run("publish", "room:43", "--event", "hit", "--config", path).returncode == 0
    until(lambda: len(tail.lines) == 2, "two lines")
    assert tail.lines[0].startswith('room:42 {"event":"hit",\\n"data":1}')
    assert tail.lines[1] == 'room:43 {"event":"hit","data":null}'
    assert tail.wait() == 0


def test_publish_with_a_configuration_writes_what_the_class_keeps(redis, start):
    node = start(redis, channel=[{"name": "log:{x}", "subscribe": "true", "history": {"events": 10, "age": "1m"}}])
    for offset in (1, 2):
        sent = run("publish", "log:1", "--event", "hit", "--config", node.path)
        assert sent.returncode == 0 and sent.stdout.strip().endswith(f"offset {offset}"), sent.stdout + sent.stderr
    history = node.admin("GET", "/api/channels/log:1/history").json
    assert [event["event"] for event in history["events"]] == ["hit", "hit"]


def test_refusals_of_tail_and_publish_say_what_to_do(redis, start, tmp_path):
    node = start(redis)
    url = f"ws://127.0.0.1:{node.port}/ws"
    cases = [
        (["tail", "room:42", "--url", url], ["UNAUTHENTICATED", "--token", "/dev/token"]),
        (["tail", "room:42", "--url", url, "--token", mint("alice")], ["FORBIDDEN", "drawbridge explain"]),
        (["publish", "news:1", "--url", url, "--token", mint("alice")], ["FORBIDDEN", "drawbridge explain"]),
        (["publish", "room:42", "--api-key", "wrong", "--url", f"http://127.0.0.1:{node.admin_port}"], ["401"]),
        (["publish", "room:42", "--data", "hello"], ["--data is JSON"]),
        (["publish", "room:*"], ["no `*`"]),
        (["tail", "room:42", "--url", "http://127.0.0.1:1"], ["ws://"]),
        (["tail", "room:42", "--url", "ws://127.0.0.1:1/ws"], ["ws://127.0.0.1:1/ws", "refused"]),
        (["tail", "room:42", "--redis", "redis://127.0.0.1:1"], ["127.0.0.1:1", "refused"]),
        (["tail", "room:42", "--redis", "http://x"], ["--redis", "redis://"]),
    ]
    for arguments, words in cases:
        refused = run(*arguments)
        assert refused.returncode == 1, arguments
        for word in words:
            assert word in refused.stderr, (arguments, refused.stderr)


# serve without a file


def test_serve_runs_without_a_file_where_variables_say_all(redis):
    environment = {
        "DRAWBRIDGE_LISTEN": "127.0.0.1:0",
        "DRAWBRIDGE_BROKER__KIND": "redis",
        "DRAWBRIDGE_BROKER__URL": redis.url,
        "DRAWBRIDGE_AUTH__HMAC_SECRET": "0123456789abcdef0123456789abcdef",
        "DRAWBRIDGE_CHANNEL__0__NAME": "chat:*",
        "DRAWBRIDGE_CHANNEL__0__SUBSCRIBE": "true",
    }
    process = Process([binary(), "serve"], env=environment)
    try:
        until(lambda: "ready listen=" in process.output, "the node is ready")
    finally:
        process.kill()
    wrong = run("serve", env={**environment, "DRAWBRIDGE_LISTN": "x"})
    assert wrong.returncode == 1 and "DRAWBRIDGE_LISTN" in wrong.stderr


def test_serve_without_any_configuration_says_how_to_get_one():
    refused = run("serve")
    assert refused.returncode == 1
    assert "--config" in refused.stderr and "drawbridge init" in refused.stderr


# about the program


def test_version_completions_and_manual():
    assert re.match(r"drawbridge \d+\.\d+\.\d+( \(.+\))?\n", run("--version").stdout)
    script = run("completions", "bash")
    assert script.returncode == 0
    checked = subprocess.run(["bash", "-n"], input=script.stdout, text=True, timeout=PATIENCE, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    for arguments in ([], ["serve"]):
        page = run("man", *arguments)
        assert page.returncode == 0 and ".TH" in page.stdout
    assert run("man", "nothing").returncode == 1 and run("completions", "tcsh").returncode == 2
