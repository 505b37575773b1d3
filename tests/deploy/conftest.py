"""What a user installs or copies: archives, example configurations and the files in deploy/. Nothing here needs Redis, a
container engine or a cluster; tests/blackbox runs the same configurations with real nodes."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("DRAWBRIDGE_BIN", ROOT / "target" / "debug" / "drawbridge"))

# The target of an archive that is packed from the binary of the tests, whatever that was built for.
LINUX = "x86_64-unknown-linux-musl"

# How long a node may still need when `drain_window` is over, by docs/operations.md.
SPARE_SECONDS = 5
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


@pytest.fixture(scope="session")
def drawbridge():
    """Runs the binary with a clean environment; returns the completed process."""
    assert BINARY.is_file(), f"{BINARY} is missing: build it, or name another one in DRAWBRIDGE_BIN"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRAWBRIDGE_")}

    def run(*arguments, env=None, **options):
        command = [BINARY, *map(str, arguments)]
        return subprocess.run(
            command, env=inherited | (env or {}), capture_output=True, text=True, timeout=60, check=False, **options
        )

    return run


@pytest.fixture(scope="session")
def check_config(drawbridge, tmp_path_factory):
    """Asserts that a node would start with this text as its configuration, and these variables."""

    def check(text, env=None):
        path = tmp_path_factory.mktemp("config") / "drawbridge.toml"
        path.write_text(text)
        done = drawbridge("check-config", path, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        # A variable that names no key is a warning only.
        assert "warning" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr

    return check


def dist(out, *arguments):
    """The archive that scripts/dist makes."""
    inherited = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    command = [ROOT / "scripts" / "dist", "--out", out, *arguments]
    done = subprocess.run(command, env=inherited, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out / Path(done.stdout.strip()).name


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """An archive of the binary, with its checksum beside it."""
    return dist(tmp_path_factory.mktemp("archive"), "--target", LINUX, "--binary", BINARY)


def read(path):
    return (ROOT / path).read_text()


def read_yaml(path):
    """All documents of a file."""
    return list(yaml.safe_load_all(read(path)))


def tool(name):
    """A program of tests/deploy/requirements.txt, which is installed beside Python."""
    path = Path(sys.executable).parent / name
    assert path.is_file(), f"{name} is missing: pip install -r tests/deploy/requirements.txt"
    return path


def passes(*command, **options):
    """Runs a checker; what it prints is the failure's message."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def seconds(duration):
    """`"5s"`, as in the configuration and in compose.yaml."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(number) * SECONDS[unit]


def documented_default(key):
    """The default of a key above the first table, by docs/configuration.md."""
    return re.search(rf'^\| `{key}` \| `"(\w+)"` \|', read("docs/configuration.md"), flags=re.MULTILINE)[1]


def drain_seconds(configuration):
    """How long a node with this configuration may take from SIGTERM to its end."""
    keys = tomllib.loads(configuration)
    return sum(seconds(keys.get(key, documented_default(key))) for key in ("drain_delay", "drain_window")) + SPARE_SECONDS


def port(configuration):
    """Where players connect."""
    return int(tomllib.loads(configuration)["listen"].rsplit(":", 1)[1])
