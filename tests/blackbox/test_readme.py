"""The commands that a reader types, as they are written: those of README.md, docs/install.md and the READMEs of the client and of
the example. Each line of each shell block is run here or named with the place that runs it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.node import ROOT, binary
from harness.process import Process
from harness.wait import PATIENCE, until

README = "README.md"
GUIDE = "docs/install.md"
WORKER = "examples/worker/README.md"
CLIENT = "sdk/typescript/README.md"
CONFIGURATION = "docs/configuration.md"

# How a command begins that is run here.
HERE = {
    README: [
        "drawbridge dev",
        "drawbridge publish",
        "drawbridge dev --redis",
        "redis-cli PUBLISH",
        "drawbridge init",
        "drawbridge check-config",
        "drawbridge serve",
        "TOKEN=$(drawbridge token",
        "drawbridge explain",
        "drawbridge tail",
    ],
    GUIDE: [
        "drawbridge init",
        "drawbridge check-config",
        "drawbridge serve",
        "drawbridge dev",
        "mkdir -p",
        "drawbridge completions",
        "drawbridge man",
    ],
    WORKER: ["drawbridge serve", "pip install", "TOKEN=$(drawbridge token", "drawbridge tail", "drawbridge publish"],
    CLIENT: [],
}
# And one that is not, with what runs it instead.
ELSEWHERE = {
    README: {
        "cargo install": "a build, from the registry; tests/deploy checks the crate's name and profile",
        "npm create": "from the registry; tests/browser/readme.test.js makes the same page",
        "cd my-game": "with npm create",
        "npm install": "tests/browser/readme.test.js installs the packed client, and sdk/typescript/test all of these ways",
        "npm run dev": "tests/browser/readme.test.js serves the page by Vite",
        "npm pack": "sdk/typescript/test/install.test.js",
        "scripts/test": "what CI runs",
    },
    GUIDE: {
        "cargo install": "as in README.md",
        "sha256sum": "tests/deploy/test_guide.py runs the whole block",
        "tar": "tests/deploy/test_guide.py",
        "cd drawbridge-": "tests/deploy/test_guide.py",
        "./drawbridge": "tests/deploy/test_guide.py",
        "docker": "no engine in CI; tests/deploy/test_guide.py checks options, test_container.py the files",
        "export DRAWBRIDGE_AUTH__HMAC_SECRET": "with docker; tests/deploy/test_guide.py checks the token that follows",
        "useradd": "needs root; tests/deploy/test_systemd.py checks the unit",
        "install -": "needs root; tests/deploy/test_guide.py checks that the sources exist",
        "man ./": "needs the program man; the page is read here",
        "systemctl": "needs systemd; tests/deploy/test_systemd.py checks the unit",
        "kubectl": "needs a cluster; tests/deploy/test_kubernetes.py checks the manifests",
    },
    WORKER: {"# or: cd examples/worker/node": "tests/blackbox/test_worker_example.py runs it in Node"},
    CLIENT: {
        "npm install": "sdk/typescript/test/install.test.js",
        "npm pack": "sdk/typescript/test/install.test.js",
        "npm ci": "CI",
        "npm test": "CI",
        "npm run": "CI; scripts/test",
    },
}


def read(path):
    return (ROOT / path).read_text()


def blocks(language, path):
    return re.findall(rf"^```{language}\n(.*?)^```", read(path), flags=re.MULTILINE | re.DOTALL)


def commands(path=README):
    """All lines of shell blocks, without comments behind them; of the client's README, which has none, the commands in its text."""
    lines = [line for block in blocks("sh", path) for line in block.replace("\\\n", " ").splitlines() if line]
    lines += re.findall(r"`(npm [^`]+)`", read(path)) if path == CLIENT else []
    return [re.sub(r"\s+# .*$", "", line) for line in lines]


def command(start, *, without=None, path=README):
    """The one command that begins so."""
    found = [line for line in commands(path) if line.startswith(start) and not (without and without in line)]
    assert len(found) == 1, f"{start}: {found}"
    return found[0]


class Shell:
    """Runs lines as someone at a terminal does who has installed the binary; addresses are those of this run."""

    def __init__(self, directory):
        self.directory = directory
        self.addresses = {}
        self.running = []
        self.variables = {}
        self.cwd = directory
        self.ports = {"DRAWBRIDGE_LISTEN": "127.0.0.1:0", "DRAWBRIDGE_ADMIN__LISTEN": "127.0.0.1:0"}
        (directory / "bin").mkdir()
        (directory / "bin" / "drawbridge").symlink_to(Path(binary()).resolve())

    def _line(self, line):
        for old, new in self.addresses.items():
            line = line.replace(old, new)
        return line

    @property
    def _environment(self):
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("DRAWBRIDGE_")}
        return {**inherited, **self.variables, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"}

    def run(self, line):
        done = subprocess.run(
            ["sh", "-euc", self._line(line)], cwd=self.cwd, env=self._environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line, **variables):
        """A node, which listens on free ports; the addresses of later lines are its own."""
        process = Process(["sh", "-euc", f"exec {self._line(line)}"], env={**self._environment, **self.ports, **variables}, cwd=self.cwd)
        self.running.append(process)
        ready = until(lambda: re.search(r"ready listen=(\S+)(?: admin=(\S+))?", process.output), f"{line} is ready")
        self.addresses |= {"127.0.0.1:8000": ready[1], "127.0.0.1:8001": ready[2] or "none"}
        return process

    def start_beside(self, line):
        """Another program, which is ended with the test."""
        process = Process(["sh", "-euc", f"exec {self._line(line)}"], env=self._environment, cwd=self.cwd)
        self.running.append(process)
        return process


@pytest.fixture
def shell(tmp_path):
    running = Shell(tmp_path)
    yield running
    for process in running.running:
        process.kill()


@pytest.mark.parametrize("path", HERE)
def test_every_command_is_run_here_or_elsewhere(path):
    starts = [*HERE[path], *ELSEWHERE[path]]
    assert commands(path)
    for line in commands(path):
        assert any(line.startswith(start) for start in starts), f"no test runs `{line}`"
    for start in starts:
        assert any(line.startswith(start) for line in commands(path)), f"`{start}` is not in {path}"


def test_dev_and_a_service_that_publishes(shell):
    shell.start(command("drawbridge dev", without="--redis"))
    assert shell.run(command("drawbridge publish")).startswith("room:42: published")


def test_dev_on_a_redis_and_a_plain_publish(shell, redis):
    shell.addresses = {"redis://127.0.0.1:6379": redis.url}
    shell.start(command("drawbridge dev --redis"))
    published = command("redis-cli PUBLISH").replace("redis-cli", f"redis-cli -p {redis.port}", 1)
    token = shell.run("curl -fsS 'http://127.0.0.1:8000/dev/token?sub=alice&claim=room=42'")
    tail = shell.start_beside(f"drawbridge tail room:42 --url ws://127.0.0.1:8000/ws --token {token}")
    until(lambda: "connected to node" in tail.output, "tail is connected")
    assert int(shell.run(published)) >= 1
    until(lambda: '"damage":30' in tail.output, "the event arrives")


def test_a_node_with_rules_of_its_own(shell, redis):
    shell.run(command("drawbridge init"))
    assert "ok: players on" in shell.run(command("drawbridge check-config"))
    shell.start(command("drawbridge serve"), DRAWBRIDGE_BROKER__URL=redis.url)
    token = command("TOKEN=$(drawbridge token")
    shell.variables["TOKEN"] = shell.run(f'{token}\necho "$TOKEN"').strip()
    assert shell.run(command("drawbridge explain")).endswith("allowed\n")
    tail = shell.start_beside(command("drawbridge tail"))
    until(lambda: "connected to node" in tail.output, "tail is connected")
    redis.publish("room:42", json.dumps({"event": "hit"}))
    until(lambda: 'room:42 {"event":"hit"' in tail.output, "the event arrives")


def test_the_first_node_of_the_guide(shell, redis):
    shell.run(command("drawbridge init", path=GUIDE))
    assert "ok: players on" in shell.run(command("drawbridge check-config", path=GUIDE))
    shell.start(command("drawbridge serve", path=GUIDE), DRAWBRIDGE_BROKER__URL=redis.url)
    shell.start(command("drawbridge dev", path=GUIDE))


def test_completions_and_manual_are_written_where_the_guide_says(shell):
    shell.variables["HOME"] = str(shell.directory)
    for start in ("mkdir -p", "drawbridge completions", "drawbridge man"):
        shell.run(command(start, path=GUIDE))
    written = command("drawbridge completions", path=GUIDE).rpartition("~/")[2]
    shell.run(f"bash -n '{shell.directory / written}'")
    assert command("man ./", path=GUIDE) == "man ./drawbridge.1"
    assert (shell.directory / "drawbridge.1").read_text().count(".SH") > 3


def test_the_worker_example(shell, redis):
    shell.cwd = ROOT
    # An example's secret is no secret.
    shell.variables = {"DRAWBRIDGE_AUTH__HMAC_SECRET": "0123456789abcdef0123456789abcdef", "REDIS_URL": redis.url}
    node = command("drawbridge serve", path=WORKER)
    del shell.ports["DRAWBRIDGE_ADMIN__LISTEN"]
    shell.start(node, DRAWBRIDGE_BROKER__URL=redis.url)
    install, run = command("pip install", path=WORKER).split(" && ")
    assert (ROOT / install.rpartition(" ")[2]).is_file()
    worker = shell.start_beside(run.replace("python", sys.executable, 1))
    until(lambda: "worker ready" in worker.output, f"the worker is ready: {worker.output}")
    token = command("TOKEN=$(drawbridge token", path=WORKER)
    shell.variables["TOKEN"] = shell.run(f'{token}\necho "$TOKEN"').strip()
    url = f"--url ws://{shell.addresses['127.0.0.1:8000']}/ws"
    tail = shell.start_beside(f"{command('drawbridge tail', path=WORKER).removesuffix(' &')} {url}")
    until(lambda: "connected to node" in tail.output, "tail is connected")
    shell.run(f"{command('drawbridge publish', path=WORKER)} {url}")
    moved = {"player": "alice", "x": 3, "y": 1}

    def events():
        found = [line.removeprefix("room:42 ") for line in tail.lines if line.startswith("room:42 {")]
        return [(event["event"], event["data"]) for event in map(json.loads, found)]

    until(lambda: ("moved", moved) in events(), "the service has moved the player")


def test_the_variables_that_are_shown_override_the_configuration_that_is_shown(shell):
    (shell.directory / "drawbridge.toml").write_text(blocks("toml", CONFIGURATION)[0])
    # An ellipsis stands for a value of the reader's own.
    (variables,) = [block.replace("…", "a-key") for block in blocks("sh", CONFIGURATION) if block.startswith("DRAWBRIDGE_")]
    (check,) = [line for line in commands(CONFIGURATION) if line.startswith("drawbridge check-config")]
    assert "Redis at 127.0.0.1:6379" in shell.run(check)
    assert "players on 0.0.0.0:8000, admin on 127.0.0.1:8001, Redis at db:6379" in shell.run(f"set -a\n{variables}\n{check}")


def test_a_token_that_a_login_service_signs_in_python_is_accepted(shell):
    """tests/browser/readme.test.js does the same in Node."""
    shell.run(command("drawbridge init"))
    secret = re.search(r'^hmac_secret = "(.*)"$', (shell.directory / "drawbridge.toml").read_text(), flags=re.MULTILINE)[1]
    (script,) = blocks("python", CONFIGURATION)
    environment = {**os.environ, "DRAWBRIDGE_AUTH__HMAC_SECRET": secret}
    signed = subprocess.run(
        [sys.executable, "-c", f"{script}\nprint(token)"], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert signed.returncode == 0, signed.stderr
    shell.variables["TOKEN"] = signed.stdout.strip()
    explained = shell.run('drawbridge explain --config drawbridge.toml --token "$TOKEN" --subscribe room:42')
    assert explained.startswith("token: accepted; player `alice`") and explained.endswith("allowed\n")


def test_the_class_that_is_shown_is_in_the_file_that_init_writes(shell):
    shell.run(command("drawbridge init"))
    (shown,) = blocks("toml", README)
    lines = [re.sub(r"\s+# .*$", "", line) for line in shown.splitlines()]
    assert "\n".join(lines) in (shell.directory / "drawbridge.toml").read_text()
