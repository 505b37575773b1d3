"""A node: the built binary with a configuration of the test's own."""

import copy
import json
import os
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import tomli_w

from . import names
from .player import Player
from .process import Process
from .tokens import SECRET, mint
from .wait import PATIENCE, until

ROOT = Path(__file__).resolve().parents[3]
API_KEY = "test-api-key-that-is-long-enough"
PLENTY = {"per_second": 1_000_000, "burst": 1_000_000}


def binary():
    """The program under test: `DRAWBRIDGE_BIN`, or the newest build of this checkout."""
    named = os.environ.get("DRAWBRIDGE_BIN")
    if named:
        return Path(named)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in (target / "release/drawbridge", target / "debug/drawbridge") if path.exists()]
    assert built, "no binary: run `cargo build`, or set DRAWBRIDGE_BIN"
    return max(built, key=lambda path: path.stat().st_mtime)


def base_config(redis_url=None):
    """What most tests run with: open classes, one per kind of rule, and limits that do not get in the way."""
    broker = {"kind": "redis", "url": redis_url} if redis_url else {"kind": "memory"}
    return {
        "node": "n1",
        "listen": "127.0.0.1:0",
        # Only tests of the drain behind load balancers wait for them.
        "drain_delay": "0s",
        "admin": {"listen": "127.0.0.1:0", "api_key": API_KEY},
        "broker": broker,
        "auth": {"hmac_secret": SECRET},
        # A client answers pings only while its test reads; on a busy machine that may be a while later. Sessions end with
        # their connections where a test does not want them otherwise, so that nothing is left of what it did before.
        "connection": {"auto_subscribe": ["player:{sub}"], "linger": "100ms", "heartbeat": "10m", "resume_window": "0s"},
        "limits": {"messages": PLENTY, "subscribes": PLENTY, "work": PLENTY, "bytes": {"per_second": "512MiB", "burst": "512MiB"}},
        "channel": [
            {"name": "chat:{room}", "subscribe": "true", "publish": "true", "patterns": True},
            {
                "name": "room:{room}",
                "subscribe": "params.room in me.rooms",
                "publish": "params.room in me.rooms",
                "patterns": True,
            },
            {
                "name": "team:{team}",
                "subscribe": "true",
                "publish": "true",
                "patterns": True,
                "view": "data.team == me.team || data.public",
            },
            {
                "name": "world:{world}",
                "subscribe": "true",
                "publish": "true",
                "patterns": True,
                "kind": "entity",
                "key": "data.id",
                "view": "data.team == me.team || data.public",
            },
            {
                "name": "map:{map}",
                "subscribe": "true",
                "publish": "true",
                "kind": "entity",
                "key": "data.id",
                "position": ["data.x", "data.y"],
                "hysteresis": 2.0,
                "max_radius": 1000,
                "follow": "key == me.player",
            },
            {"name": "news:*", "subscribe": "true"},
            {"name": "raw:{x}", "subscribe": "true", "publish": "true", "payload": "raw"},
            {"name": "envelope:{x}", "subscribe": "true", "publish": "true", "payload": "envelope"},
            {"name": "act:{room}", "subscribe": "true", "publish": "data.ok == true", "forward": "actions:{room}"},
            {"name": "reject:{x}", "subscribe": "true", "publish": "true", "when_broker_down": "reject"},
        ],
    }


def merged(base, changes):
    """`base` with `changes` laid over it: tables merge, everything else is replaced, `None` removes."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def write_config(config, directory=None):
    """The configuration as a file; top-level values come before tables, as TOML wants."""
    directory = Path(directory or tempfile.mkdtemp(prefix="drawbridge-config-"))
    path = directory / "drawbridge.toml"
    path.write_text(tomli_w.dumps(config))
    return path


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def http(method, url, body=None, headers=None, context=None):
    """One HTTP request; any status is an answer."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    if data is not None and not request.has_header("Content-type"):
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:
            return Response(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, error.headers, error.read())


class Node:
    """Started at once and ready when the constructor returns."""

    def __init__(self, config, *, env=None, directory=None, wait_ready_line=True):
        self.config = config
        self.path = write_config(config, directory)
        self.players = []
        self.process = Process([binary(), "serve", "--config", self.path], env=env)
        self.ready = None
        if wait_ready_line:
            self.wait_ready_line()

    def wait_ready_line(self, timeout=PATIENCE):
        def ready():
            for line in list(self.process.lines):
                found = re.search(names.READY_LINE, line)
                if found:
                    return found
            assert self.process.running, f"the node ended with {self.process.child.returncode}:\n{self.process.output}"
            return None

        self.ready = until(ready, "the node says that it is ready", timeout)

    @property
    def port(self):
        return int(self.ready["listen"].rpartition(":")[2])

    @property
    def admin_port(self):
        return int(self.ready["admin"].rpartition(":")[2])

    # players

    def player(self, sub="alice", *, token=None, welcome=True, **how):
        """A connected player, past `WELCOME`; claims and `Player` options are mixed, the known options win."""
        options = {key: how.pop(key) for key in list(how) if key in _OPTIONS}
        player = self.connect(token if token is not None else mint(sub, **how), **options)
        if welcome:
            player.hello = player.welcome()
        return player

    def connect(self, token=None, **options):
        """A socket past its handshake."""
        player = Player(options.pop("port", self.port), token, **options)
        self.players.append(player)
        return player

    # HTTP

    def get(self, path, headers=None):
        return http("GET", f"http://127.0.0.1:{self.port}{path}", headers=headers)

    def admin(self, method, path, body=None, key=API_KEY):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return http(method, f"http://127.0.0.1:{self.admin_port}{path}", body, headers)

    def publish(self, channel, event="hit", data=None, **fields):
        return self.admin("POST", "/api/publish", {"channel": channel, "event": event, "data": data, **fields})

    def metrics(self):
        """Every sample of `/metrics`, as `{name{labels}: value}`."""
        samples = {}
        answer = self.get("/metrics")
        assert answer.status == 200, answer.body
        for line in answer.body.decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def metric(self, name):
        """The sum over the labels of one metric; fails where there is none."""
        found = [value for key, value in self.metrics().items() if key.split("{")[0] in (name, f"{name}_total")]
        assert found, f"no metric {name}"
        return sum(found)

    def dropped(self):
        """The sum of all counters that say that something from outside was dropped."""
        return sum(
            value
            for key, value in self.metrics().items()
            if any(word in key for word in names.DROPPED_WORDS) and not key.startswith("process_")
        )

    def held(self):
        """The gauges of what players hold that are not back at zero."""
        samples = self.metrics()
        samples[names.HUB_SUBJECTS] -= self.own_subjects
        return {name: samples[name] for name in names.IDLE_GAUGES if samples[name]}

    @property
    def own_subjects(self):
        """What the node is subscribed to for itself: the nodes' own channel on each link, the one for other nodes' answers, and the
        control channel."""
        broker = self.config.get("broker", {})
        links = 1 if broker.get("kind", "memory") == "memory" else broker.get("subscriber_pool", names.SUBSCRIBER_POOL)
        return links * names.OWN_SUBJECTS + names.OWN_REPLIES + bool(self.config.get("control_channel"))

    def wait_idle(self, timeout=PATIENCE):
        left = {}

        def idle():
            left.clear()
            left.update(self.held())
            return not left

        try:
            until(idle, "every gauge is back at zero", timeout)
        except AssertionError as failure:
            raise AssertionError(f"{failure}; left: {left}") from None

    # faults and the end

    @property
    def redis_connections(self):
        """How many connections to Redis it keeps open: the links, and the one that it publishes on."""
        return self.config["broker"].get("subscriber_pool", names.SUBSCRIBER_POOL) + 1

    def loses_redis(self, break_it, timeout=30):
        """Calls `break_it` and waits until the node has noticed that each of its connections to Redis is gone. They
        break in any order, and `STATUS` comes with the first: only then is nothing that follows sent into a dead one."""
        before = self.metric(names.RECONNECTS)
        break_it()
        until(
            lambda: self.metric(names.RECONNECTS) >= before + self.redis_connections,
            "the node has noticed that all its connections to Redis are gone",
            timeout,
        )

    @property
    def log(self):
        return self.process.output

    def kill(self):
        return self.process.kill()

    def terminate(self, timeout=PATIENCE):
        return self.process.terminate(timeout)

    def close(self):
        for player in self.players:
            player.vanish()
        self.process.resume()
        self.process.kill()
        assert "panicked at" not in self.log, f"the node panicked:\n{self.log[-4000:]}"


_OPTIONS = {
    "deflate",
    "path",
    "headers",
    "encoding",
    "tls",
    "source",
    "preamble",
    "receive_buffer",
    "answer_pings",
    "timeout",
    "port",
    "host",
}


def run(*arguments, env=None, timeout=PATIENCE):
    """Runs the binary to its end; returns the completed process with text output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DRAWBRIDGE_")}
    environment.update(env or {})
    return subprocess.run(
        [binary(), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=timeout
    )
