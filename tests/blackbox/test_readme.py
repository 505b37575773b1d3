"""The README's commands, as they are written. Each line of each shell block is run here or named with the place that runs it."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from harness.node import ROOT, binary
from harness.process import Process
from harness.wait import PATIENCE, until

# How a command begins that is not run here, and what runs it instead.
ELSEWHERE = {
    "cargo install": "a build, from the registry; tests/deploy checks the crate's name and profile",
    "npm create": "from the registry; tests/browser/readme.test.js makes the same page",
    "cd my-game": "with npm create",
    "npm install": "tests/browser/readme.test.js installs the packed client, and sdk/typescript/test all of these ways",
    "npm run dev": "tests/browser/readme.test.js serves the page by Vite",
    "npm pack": "sdk/typescript/test/install.test.js",
    "scripts/test": "what CI runs",
}
HERE = [
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
]


def commands():
    """All lines of shell blocks, without comments behind them."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+# .*$", "", line) for line in lines]


def command(start, *, without=None):
    """The one command that begins so."""
    found = [line for line in commands() if line.startswith(start) and not (without and without in line)]
    assert len(found) == 1, f"{start}: {found}"
    return found[0]


class Shell:
    """Runs lines as someone at a terminal does who has installed the binary; addresses are those of this run."""

    def __init__(self, directory):
        self.directory = directory
        self.addresses = {}
        self.running = []
        self.variables = {}
        (directory / "bin").mkdir()
        (directory / "bin" / "drawbridge").symlink_to(Path(binary()).resolve())

    def _line(self, line):
        for old, new in self.addresses.items():
            line = line.replace(old, new)
        return line

    @property
    def _environment(self):
        import os

        inherited = {key: value for key, value in os.environ.items() if not key.startswith("DRAWBRIDGE_")}
        return {**inherited, **self.variables, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"}

    def run(self, line):
        done = subprocess.run(
            ["sh", "-euc", self._line(line)], cwd=self.directory, env=self._environment, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, line, **variables):
        """A node, which listens on free ports; the addresses of later lines are its own."""
        ports = {"DRAWBRIDGE_LISTEN": "127.0.0.1:0", "DRAWBRIDGE_ADMIN__LISTEN": "127.0.0.1:0", **variables}
        process = Process(["sh", "-euc", f"exec {self._line(line)}"], env={**self._environment, **ports}, cwd=self.directory)
        self.running.append(process)
        ready = until(lambda: re.search(r"ready listen=(\S+) admin=(\S+)", process.output), f"{line} is ready: {process.output}")
        self.addresses |= {"127.0.0.1:8000": ready[1], "127.0.0.1:8001": ready[2]}
        return process

    def start_tail(self, line):
        process = Process(["sh", "-euc", f"exec {self._line(line)}"], env=self._environment, cwd=self.directory)
        self.running.append(process)
        return process


@pytest.fixture
def shell(tmp_path):
    running = Shell(tmp_path)
    yield running
    for process in running.running:
        process.kill()


def test_every_command_is_run_here_or_elsewhere():
    for line in commands():
        assert any(line.startswith(start) for start in [*ELSEWHERE, *HERE]), f"no test runs `{line}`"
    for start in [*ELSEWHERE, *HERE]:
        assert any(line.startswith(start) for line in commands()), f"`{start}` is not in the README"


def test_dev_and_a_service_that_publishes(shell):
    shell.start(command("drawbridge dev", without="--redis"))
    assert shell.run(command("drawbridge publish")).startswith("room:42: published")


def test_dev_on_a_redis_and_a_plain_publish(shell, redis):
    shell.addresses = {"redis://127.0.0.1:6379": redis.url}
    shell.start(command("drawbridge dev --redis"))
    published = command("redis-cli PUBLISH").replace("redis-cli", f"redis-cli -p {redis.port}", 1)
    token = shell.run("curl -fsS 'http://127.0.0.1:8000/dev/token?sub=alice&claim=room=42'")
    tail = shell.start_tail(f"drawbridge tail room:42 --url ws://127.0.0.1:8000/ws --token {token}")
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
    tail = shell.start_tail(command("drawbridge tail"))
    until(lambda: "connected to node" in tail.output, "tail is connected")
    redis.publish("room:42", json.dumps({"event": "hit"}))
    until(lambda: 'room:42 {"event":"hit"' in tail.output, "the event arrives")


def test_the_class_that_is_shown_is_in_the_file_that_init_writes(shell):
    shell.run(command("drawbridge init"))
    (shown,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+# .*$", "", line) for line in shown.splitlines()]
    assert "\n".join(lines) in (shell.directory / "drawbridge.toml").read_text()
