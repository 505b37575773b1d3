"""Contract §10: the commands, configuration errors that name file, line and the nearest right key, overrides."""

import json
import re

import jwt
import pytest

from harness.node import base_config, run, write_config
from harness.tokens import SECRET, mint
from harness.websocket import Closed, Refused

GOOD = """
node   = "n1"
listen = "127.0.0.1:8000"
admin  = { listen = "127.0.0.1:8001", api_key = "secret-secret-secret-secret-secret" }
trusted_proxies = ["10.0.0.0/8"]
drain_delay = "5s"
drain_window = "30s"

[broker]
kind = "redis"
url  = "redis://127.0.0.1:6379"
subscriber_pool = 2
key_prefix = "drawbridge:"
queue_bytes = "16MiB"
external_bytes = "1MiB"

[auth]
hmac_secret = "0123456789abcdef0123456789abcdef"

[lifecycle]
stream = "drawbridge:lifecycle"

[connection]
auto_subscribe  = ["player:{sub}", "room:{room}", "game:{game}"]
connect_timeout = "5s"
heartbeat       = "25s"
allowed_origins = ["https://play.example"]
outbound_bytes  = "1MiB"
linger          = "2s"

[limits]
message_bytes = "64KiB"
subscriptions = 256
messages      = { per_second = 50, burst = 100 }
subscribes    = { per_second = 20, burst = 40 }
bytes         = { per_second = "64KiB", burst = "256KiB" }
connections_per_address = 1000

[[channel]]
name      = "room:{room}"
subscribe = "params.room in me.rooms"
publish   = "params.room in me.rooms"
patterns  = false
payload   = "auto"
view      = "true"
when_broker_down = "queue"
publishes = { per_second = 20, burst = 40 }
forward   = "actions:{room}"
"""


def check(tmp_path, text, env=None):
    path = tmp_path / "drawbridge.toml"
    path.write_text(text)
    return run("check-config", path, env=env), path


def complaint(tmp_path, text, env=None):
    """What check-config says about a bad configuration; all of it, wherever it is printed."""
    result, path = check(tmp_path, text, env)
    assert result.returncode != 0, f"accepted: {text}"
    return result.stdout + result.stderr, path


def test_check_config_accepts_the_contracts_own_example(tmp_path):
    result, _ = check(tmp_path, GOOD)
    assert result.returncode == 0, result.stdout + result.stderr


def test_check_config_accepts_what_these_tests_use(tmp_path):
    assert run("check-config", write_config(base_config("redis://127.0.0.1:1"), tmp_path)).returncode == 0


def test_check_config_accepts_an_empty_file(tmp_path):
    assert check(tmp_path, "")[0].returncode == 0


def line_of(text, needle):
    return text[: text.index(needle)].count("\n") + 1


def replaced(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


# (what is changed, to what): words that the complaint must hold
WRONG = {
    ("subscriber_pool", "subscriber_pol"): ["subscriber_pool"],
    ("[connection]", "[conection]"): ["connection"],
    ("[limits]", "[limit]"): ["limits"],
    ('subscribe = "params', 'subscrib = "params'): ["subscribe"],
    ("api_key", "apikey"): ["api_key"],
    ('"5s"', '"5 parsecs"'): ["connect_timeout", "5 parsecs"],
    ('heartbeat       = "25s"', "heartbeat = 25"): ["heartbeat"],
    ('"64KiB"\nsub', '"64 KB of RAM"\nsub'): ["message_bytes"],
    ("subscriptions = 256", "subscriptions = -1"): ["subscriptions"],
    ("subscriptions = 256", 'subscriptions = "many"'): ["subscriptions"],
    ('kind = "redis"', 'kind = "rediss"'): ["kind", "redis"],
    ('"redis://127.0.0.1:6379"', '"http://127.0.0.1:6379"'): ["url", "redis://"],
    ('"10.0.0.0/8"', '"10.0.0.0/99"'): ["trusted_proxies"],
    ('listen = "127.0.0.1:8000"', 'listen = "8000"'): ["listen"],
    ('payload   = "auto"', 'payload = "automatic"'): ["payload", "auto"],
    ('"params.room in me.rooms"\npublish', '"params.room in in"\npublish'): ["subscribe"],
    ('"params.room in me.rooms"\npublish', '"rooom == 1"\npublish'): ["subscribe"],
    ('view      = "true"', 'view = "data.x =="'): ["view"],
    ('forward   = "actions:{room}"', 'forward = "actions:{rom}"'): ["forward", "room"],
    ('name      = "room:{room}"', 'name = "room:{room"'): ["name"],
    ('"player:{sub}"', '"player:{sub"'): ["auto_subscribe"],
    ("messages      = { per_second = 50, burst = 100 }", "messages = { per_secnd = 50 }"): ["per_second"],
}


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change[1][:40])
def test_a_mistake_is_told_with_file_line_and_the_right_name(tmp_path, change):
    text = replaced(*change)
    said, path = complaint(tmp_path, text)
    assert f"{path}:{line_of(text, change[1])}" in said.replace("line ", ""), said
    for word in WRONG[change]:
        assert word in said, said


def test_a_mistake_in_a_key_suggests_the_nearest_right_one(tmp_path):
    said, _ = complaint(tmp_path, replaced("outbound_bytes", "outbond_bytes"))
    assert "outbound_bytes" in said


def test_all_mistakes_are_told_at_once(tmp_path):
    said, _ = complaint(tmp_path, replaced("linger", "lingr").replace("subscriptions", "subscription"))
    assert "lingr" in said and "subscription" in said


def test_what_is_no_toml_is_told_with_its_line(tmp_path):
    said, path = complaint(tmp_path, 'node = "n1"\nlisten = \n')
    assert f"{path}:2" in said


NOT_BUILT = [
    'logic = "arena"',
]


@pytest.mark.parametrize("line", NOT_BUILT)
def test_what_is_not_built_is_refused_by_name(tmp_path, line):
    text = f'[[channel]]\nname = "a:{{x}}"\nsubscribe = "true"\n{line}\n'
    said, path = complaint(tmp_path, text)
    assert f"{path}:4" in said and line.split(" = ")[0] in said
    assert "unknown" not in said.lower()


@pytest.mark.parametrize("text", ['slow_consumer = "disconnect"', 'kind = "stream"', 'presence = "off"', "sharded = false", "sharded = true"])
def test_the_default_of_what_is_not_built_may_be_written(tmp_path, text):
    result, _ = check(tmp_path, f'[[channel]]\nname = "a:{{x}}"\n{text}\n')
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    "line, why",
    [
        ('history = { events = 5, age = "1m" }', "an event that is not in the log has no offset"),
        ('kind = "entity"\nkey = "data.id"', "a state that is not in the table is on one node alone"),
        ('forward = "actions:{x}"', "an action that is not in the stream reaches no service"),
    ],
)
def test_local_is_refused_where_redis_keeps_what_is_published_each_with_the_reason(tmp_path, line, why):
    text = '[[channel]]\nname = "a:{x}"\nwhen_broker_down = "local"\n'
    assert check(tmp_path, text)[0].returncode == 0
    said, path = complaint(tmp_path, text + line + "\n")
    assert f"{path}:3" in said and line.split(" = ")[0] in said and why in said


def test_a_missing_file_is_named(tmp_path):
    result = run("check-config", tmp_path / "nowhere.toml")
    assert result.returncode != 0 and "nowhere.toml" in result.stdout + result.stderr


def test_serve_refuses_a_bad_configuration_in_the_same_words(tmp_path):
    said, path = complaint(tmp_path, replaced("linger", "lingr"))
    result = run("serve", "--config", path)
    assert result.returncode != 0 and "lingr" in result.stdout + result.stderr


def test_a_secret_is_not_shown_in_a_complaint(tmp_path):
    said, _ = complaint(tmp_path, replaced("hmac_secret", "hmac_secrett"))
    assert "0123456789abcdef" not in said


def test_a_parameter_that_the_name_does_not_have_is_an_error(tmp_path):
    said, path = complaint(tmp_path, replaced("params.room in me.rooms", "params.rom in me.rooms"))
    assert "`params.room`" in said and "{rom}" in said and str(path) in said
    said, _ = complaint(tmp_path, replaced("actions:{room}", "actions:{rom}"))
    assert "{room}" in said


# overrides


def test_every_key_can_be_overridden_by_the_environment(redis, start):
    node = start(redis, env={"DRAWBRIDGE_NODE": "renamed", "DRAWBRIDGE_LIMITS__SUBSCRIPTIONS": "7", "DRAWBRIDGE_LIMITS__MESSAGE_BYTES": "2KiB"})
    welcome = node.player("alice").hello
    assert welcome["node"] == "renamed" and node.ready["node"] == "renamed"
    assert welcome["limits"]["subscriptions"] == 7 and welcome["limits"]["message_bytes"] == 2048


def test_overrides_of_tables_and_lists(redis, start):
    other = "f" * 64
    node = start(
        "redis://127.0.0.1:1",
        env={
            "DRAWBRIDGE_BROKER__URL": redis.url,
            "DRAWBRIDGE_AUTH__HMAC_SECRET": other,
            "DRAWBRIDGE_CONNECTION__AUTO_SUBSCRIBE": '["mine:{sub}"]',
            "DRAWBRIDGE_LIMITS__MESSAGES": "{ per_second = 1, burst = 1 }",
        },
    )
    welcome = node.connect(mint("alice", key=other)).welcome()
    assert [s["channel"] for s in welcome["subscriptions"]] == ["mine:alice"]
    assert redis.channels() == {"mine:alice"}


@pytest.mark.parametrize(
    "name, value",
    [("DRAWBRIDGE_BROKER__URLL", "redis://x"), ("DRAWBRIDGE_LISTN", "127.0.0.1:0"), ("DRAWBRIDGE_CONNECTION__LINGER", "soon"), ("DRAWBRIDGE_LIMITS__SUBSCRIPTIONS", "x")],
)
def test_a_bad_override_is_named(tmp_path, name, value):
    said, _ = complaint(tmp_path, GOOD, env={name: value})
    assert name in said


def test_an_override_holds_for_check_config(tmp_path):
    result, _ = check(tmp_path, replaced('linger          = "2s"', 'linger = "soon"'), env={"DRAWBRIDGE_CONNECTION__LINGER": "1s"})
    assert result.returncode == 0, result.stdout + result.stderr


# token


@pytest.fixture
def config_file(tmp_path):
    return write_config(base_config(), tmp_path)


def minted(config_file, *arguments):
    result = run("token", "--config", config_file, *arguments)
    assert result.returncode == 0, result.stderr
    token = result.stdout.strip()
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token)
    return token, jwt.decode(token, SECRET, algorithms=["HS256", "HS384", "HS512"], options={"verify_aud": False})


def test_token_mints_what_the_node_accepts(redis, start):
    node = start(redis, connection={"auto_subscribe": ["player:{sub}", "room:{room}", "room:{rooms}"]})
    token, claims = minted(node.path, "--sub", "alice", "--claim", "room=42", "--claim", 'rooms=["42","43"]')
    assert claims["sub"] == "alice" and claims["rooms"] == ["42", "43"] and str(claims["room"]) == "42"
    welcome = node.connect(token).welcome()
    assert {s["channel"] for s in welcome["subscriptions"]} == {"player:alice", "room:42", "room:43"}


@pytest.mark.parametrize("claim, value", [("x=text", "text"), ("x=true", True), ("x=[1,2]", [1, 2]), ('x={"a":1}', {"a": 1}), ("x=a=b", "a=b"), ("x=", "")])
def test_claims_are_json_where_they_can_be(config_file, claim, value):
    _, claims = minted(config_file, "--sub", "alice", "--claim", claim)
    assert claims["x"] == value


def test_a_minted_token_expires(config_file):
    _, claims = minted(config_file, "--sub", "alice")
    assert "exp" in claims


@pytest.mark.parametrize("arguments", [[], ["--sub"], ["--sub", "alice", "--claim", "nonsense"]])
def test_a_token_command_that_lacks_something_says_so(config_file, arguments):
    result = run("token", "--config", config_file, *arguments)
    assert result.returncode != 0 and result.stderr and not result.stdout.strip()


def test_token_needs_a_secret(tmp_path):
    config = base_config()
    config["auth"] = {"allow_anonymous": True}
    result = run("token", "--config", write_config(config, tmp_path), "--sub", "alice")
    assert result.returncode != 0 and "hmac_secret" in result.stderr


def test_token_carries_audience_and_issuer_where_the_configuration_asks(tmp_path):
    config = base_config()
    config["auth"].update(audience="game", issuer="login")
    _, claims = minted(write_config(config, tmp_path), "--sub", "alice")
    assert claims["iss"] == "login" and "game" in claims["aud"]


# help


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["dev", "--help"], ["token", "--help"], ["check-config", "--help"]])
def test_help(arguments):
    result = run(*arguments)
    assert result.returncode == 0 and len(result.stdout) > 100
    assert not result.stderr


def test_help_names_every_command():
    text = run("--help").stdout
    for command in ("serve", "dev", "token", "check-config"):
        assert command in text


def test_version():
    assert re.search(r"\d+\.\d+\.\d+", run("--version").stdout)


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve"], ["serve", "--confg", "x"]])
def test_a_wrong_command_line_is_explained(arguments):
    result = run(*arguments)
    assert result.returncode != 0 and result.stderr


# serve


def test_the_ready_line_is_one_line_with_the_addresses(redis, start):
    node = start(redis)
    lines = [line for line in node.log.splitlines() if "drawbridge: ready" in line]
    assert len(lines) == 1
    assert node.port > 0 and node.admin_port > 0 and node.port != node.admin_port


def test_a_port_in_use_is_named(redis, start, tmp_path):
    node = start(redis)
    config = base_config(redis.url)
    config["listen"] = f"127.0.0.1:{node.port}"
    result = run("serve", "--config", write_config(config, tmp_path))
    assert result.returncode != 0 and str(node.port) in result.stderr + result.stdout


def test_a_start_that_fails_says_why(tmp_path):
    config = tmp_path / "drawbridge.toml"
    config.write_text('listen = "127.0.0.1:0"\n[broker]\nkind = "redis"\nurl = "rediss://127.0.0.1:1"\n[auth]\nhmac_secret = "0123456789abcdef0123456789abcdef"\n')
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("")
    environment = {"SSL_CERT_FILE": str(nothing), "SSL_CERT_DIR": str(tmp_path)}
    result = run("serve", "--config", str(config), env=environment)
    assert result.returncode == 1
    assert "broker TLS: the system has no certificates" in result.stderr and "panicked" not in result.stderr


def test_a_node_without_a_name_gets_a_random_one(redis, start):
    names = {start(redis, node=None).player("alice").hello["node"] for _ in range(2)}
    assert len(names) == 2 and all(names)


# dev


def dev_ready(start_dev):
    """The ready line of `dev`, and its printed link."""
    from harness import names
    from harness.wait import until

    def ready():
        return re.search(names.READY_LINE, start_dev.output)

    found = until(ready, "dev is ready")
    return found, until(lambda: re.search(r"http://\S+", start_dev.output), "a link")[0]


@pytest.fixture
def dev():
    from harness.node import binary
    from harness.process import Process

    processes = []

    def start_dev(*arguments):
        processes.append(Process([binary(), "dev", *arguments], env={"DRAWBRIDGE_LISTEN": "127.0.0.1:0"}))
        return processes[-1]

    yield start_dev
    for process in processes:
        process.kill()
        assert "panicked at" not in process.output


def test_dev_needs_nothing_and_prints_a_link(dev):
    from harness.node import http

    process = dev()
    _, link = dev_ready(process)
    page = http("GET", link)
    assert page.status == 200 and "text/html" in page.headers["Content-Type"]
    assert b"<script" in page.body


def test_a_second_dev_finds_a_port_for_its_admin_api(dev):
    from harness.node import http

    addresses = {dev_ready(dev())[0]["admin"] for _ in range(3)}
    assert len(addresses) == 3
    for address in addresses:
        assert http("GET", f"http://{address}/healthz").status == 200


def test_dev_on_a_redis(dev, redis):
    process = dev("--redis", redis.url)
    dev_ready(process)
    assert process.running


def test_dev_explains_what_is_forbidden(dev):
    from harness.player import Player

    process = dev()
    ready, link = dev_ready(process)
    port = int(ready["listen"].rpartition(":")[2])
    try:
        player = Player(port)
        player.start("CONNECT")
        player.pump(5)
    except (Closed, Refused):
        return
    if player.received[-1].type != "WELCOME":
        return  # dev does not let anonymous players in; the playground's own test covers the rest
    error = player.refusal("CHANNEL_SUBSCRIBE", "FORBIDDEN", channel="no-such-class:1")
    assert "class" in error["message"]


def test_json_log_lines_where_asked(redis, start):
    """Whatever the format, a line of the log is one line."""
    node = start(redis, env={"DRAWBRIDGE_LOG": "info"})
    node.player("alice").close()
    for line in node.log.splitlines():
        if line.startswith("{"):
            json.loads(line)
