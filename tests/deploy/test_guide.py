"""docs/install.md: commands that need neither a network, root nor an engine are run; of the others, what they name exists."""

import re
import shlex
import subprocess
import tarfile

import pytest
from conftest import ROOT, read

GUIDE = "docs/install.md"


def blocks(heading):
    """The shell blocks under a heading, in order."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", read(GUIDE), flags=re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^```sh\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


def commands(heading=None):
    """Each command as its words."""
    found = blocks(heading) if heading else re.findall(r"^```sh\n(.*?)^```", read(GUIDE), flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in found for line in block.replace("\\\n", " ").splitlines()]


def test_a_first_configuration_is_written_and_checked_as_written(drawbridge, tmp_path):
    """tests/blackbox/test_readme.py also starts a node with it."""
    start = read(GUIDE).index("```sh\n")
    first = [shlex.split(line) for line in read(GUIDE)[start : read(GUIDE).index("```\n", start + 6)].splitlines()[1:]]
    assert [words[:2] for words in first] == [["drawbridge", "init"], ["drawbridge", "check-config"], ["drawbridge", "serve"]]
    assert len({words[-1] for words in first}) == 1
    for words in first[:2]:
        done = drawbridge(*words[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_archive_is_verified_and_unpacked_as_written(archive, tmp_path):
    (block,) = blocks("Archive")
    (tmp_path / archive.name).symlink_to(archive)
    # As the release makes it of all archives.
    (tmp_path / "SHA256SUMS").write_text(archive.with_name(archive.name + ".sha256").read_text())
    done = subprocess.run(["sh", "-eu", "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    verified, version, *_ = done.stdout.splitlines()
    assert verified == f"{archive.name}: OK" and version.startswith("drawbridge ")


def test_a_damaged_archive_is_noticed(archive, tmp_path):
    (block,) = blocks("Archive")
    (tmp_path / archive.name).write_bytes(archive.read_bytes()[:-1])
    (tmp_path / "SHA256SUMS").write_text(archive.with_name(archive.name + ".sha256").read_text())
    done = subprocess.run(["sh", "-eu", "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and not (tmp_path / archive.name.removesuffix(".tar.gz")).exists()


def test_what_is_installed_for_systemd_is_in_the_archive(archive):
    with tarfile.open(archive) as opened:
        packed = {name.split("/", 1)[1] for name in opened.getnames()}
    sources = [words[-2] for words in commands("systemd") if words[0] == "install" and "-d" not in words]
    # `./drawbridge init` writes the configuration; the block of the archive does so.
    written = {words[-1] for words in commands("Archive") if words[:2] == ["./drawbridge", "init"]}
    assert len(sources) == 3 and len(written) == 1 and set(sources) - written <= packed


def test_the_crate_that_is_installed_has_the_binary():
    (install,) = [words for words in commands() if words[:2] == ["cargo", "install"]]
    manifest = read(f"{install[install.index('--path') + 1]}/Cargo.toml")
    assert re.search(r'^\[\[bin\]\]\nname = "drawbridge"', manifest, flags=re.MULTILINE)
    assert f"[profile.{install[install.index('--profile') + 1]}]" in read("Cargo.toml")


def test_files_that_commands_name_exist():
    named = [word for words in commands() for word in words if word.startswith("deploy/")]
    assert named and all((ROOT / path).is_file() for path in named)


def drawbridge_commands():
    """Subcommand and options of each call of the binary, also within a container."""
    for words in commands():
        for at, word in enumerate(words):
            if word in ("drawbridge", "./drawbridge", "drawbridge:local") and words[at + 1 : at + 2] and re.fullmatch(r"[a-z][a-z-]*|--version", words[at + 1]):
                yield words[at + 1 :]


def test_there_are_commands_of_the_binary():
    assert {words[0] for words in drawbridge_commands()} >= {"dev", "token", "init", "check-config"}


@pytest.mark.parametrize("words", drawbridge_commands(), ids=lambda words: words[0])
def test_the_binary_knows_its_commands_and_options(drawbridge, words):
    if words[0] == "--version":
        return
    shown = drawbridge(words[0], "--help")
    assert shown.returncode == 0, shown.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in shown.stdout, f"drawbridge {words[0]} has no {option}"


def test_docker_waits_as_long_as_compose_does():
    (run,) = [words for words in commands("Container") if "--stop-timeout" in words]
    assert f"stop_grace_period: {run[run.index('--stop-timeout') + 1]}s" in read("compose.yaml")


def test_the_token_of_compose_is_accepted_by_its_rules(drawbridge):
    (words,) = [words for words in commands("Docker Compose") if "token" in words]
    arguments = words[words.index("drawbridge") + 1 :]
    arguments[arguments.index("--config") + 1] = ROOT / "deploy/compose/drawbridge.toml"
    done = drawbridge(*arguments, env={"DRAWBRIDGE_AUTH__HMAC_SECRET": "0123456789abcdef0123456789abcdef"})
    assert done.returncode == 0 and done.stdout.count(".") == 2, done.stderr
