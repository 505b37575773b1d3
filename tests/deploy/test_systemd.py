"""deploy/drawbridge.service: what systemd says of it, its commands, and its patience with a drain."""

import re
import shlex
import shutil

import pytest
from conftest import BINARY, drain_seconds, passes, read

UNIT = "deploy/drawbridge.service"
INSTALLED = "/usr/local/bin/drawbridge"
CONFIGURATION = "/etc/drawbridge/drawbridge.toml"
# In tenths of a point; systemd calls up to 2 "safe".
MOST_EXPOSED = 20


def setting(key):
    """The value of a key that is set once."""
    (value,) = re.findall(rf"^{key}=(.*)$", read(UNIT), flags=re.MULTILINE)
    return value


@pytest.fixture
def unit(tmp_path):
    """The unit with the built binary, which systemd looks for."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / "drawbridge.service"
    path.write_text(read(UNIT).replace(INSTALLED, str(BINARY)))
    return path


def test_systemd_accepts_it(unit):
    passes("systemd-analyze", "verify", "--man=no", unit)


def test_it_is_confined(unit):
    passes("systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit)


def test_it_serves_the_file_that_it_checks(drawbridge):
    assert shlex.split(setting("ExecStart")) == [INSTALLED, "serve", "--config", CONFIGURATION]
    assert shlex.split(setting("ExecStartPre")) == [INSTALLED, "check-config", CONFIGURATION]
    for command in ("serve", "check-config"):
        assert drawbridge(command, "--help").returncode == 0


def test_reload_is_the_signal_that_is_documented():
    assert shlex.split(setting("ExecReload")) == ["/bin/kill", "-HUP", "$MAINPID"]
    assert "kill -HUP" in read("docs/configuration.md")


def test_systemd_waits_for_a_drain():
    assert int(setting("TimeoutStopSec")) > drain_seconds(read("examples/drawbridge.toml"))


def test_the_files_that_it_names_are_in_the_guide():
    guide = read("docs/install.md")
    for path in (INSTALLED, CONFIGURATION, setting("EnvironmentFile").removeprefix("-")):
        assert path in guide, f"{path} is not in docs/install.md"
