"""The commands that a newcomer meets: `init`, `explain`, `serve` without a file, `--version`, completions."""

import json
import re
import stat
import subprocess

import pytest

from harness.node import Node, base_config, binary, run, write_config
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


def test_explain_answers_for_an_anonymous_player(redis, start):
    node = start(redis, auth={"allow_anonymous": True})
    player = node.connect()
    name = player.ask("CONNECT")["player"]
    for channel in ["room:42", "chat:1", "news:today", f"player:{name}", "news:*"]:
        explained = run("explain", "--config", node.path, "--subscribe", channel.replace(name, "anonymous-0123456789abcdef"))
        allowed = player.reply(player.start("CHANNEL_SUBSCRIBE", channel=channel))["type"] == "CHANNEL_SUBSCRIBED"
        assert (explained.returncode == 0) is allowed, explained.stdout
        assert "token: none, which auth.allow_anonymous permits" in explained.stdout
    assert "there is no claim `rooms`" in run("explain", "--config", node.path, "--subscribe", "room:42").stdout


def test_explain_without_a_token_says_that_no_player_connects_so(config):
    refused = run("explain", "--config", config, "--subscribe", "room:42")
    assert refused.returncode == 1
    for part in ["UNAUTHENTICATED", "auth.allow_anonymous is false", "--token", "drawbridge token"]:
        assert part in refused.stdout, refused.stdout


def test_explain_refuses_a_bad_token_in_the_words_of_the_node_and_never_repeats_it(config):
    for token, words in [
        ("not.a.token", "three parts"),
        (mint("alice", key="of another service, 32 bytes or more"), "auth.hmac_secret"),
        (mint("alice", expires_in=-3600), "`exp` is 60 min ago"),
    ]:
        refused = explain(config, token=token)
        assert refused.returncode == 1 and words in refused.stdout
        assert token not in refused.stdout + refused.stderr
    assert explain(config).returncode == 0
    assert run("explain", "--config", "/nowhere.toml", "--token", "x").returncode == 2


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
