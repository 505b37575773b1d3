"""What a user installs or copies: archives and example configurations. Nothing here needs Redis, Docker or a cluster."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("DRAWBRIDGE_BIN", ROOT / "target" / "debug" / "drawbridge"))


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
