"""The workflows: a security lint, and what they name in this repository exists. CI also runs actionlint."""

import re
import subprocess
import tomllib

import pytest
from conftest import ROOT, passes, read, read_yaml, tool

WORKFLOWS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / ".github" / "workflows").iterdir())


def test_they_pass_the_security_lint():
    passes(tool("zizmor"), "--offline", "--no-progress", ROOT / ".github")


def commands(path):
    (workflow,) = read_yaml(path)
    return "\n".join(step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step)


@pytest.mark.parametrize("path", WORKFLOWS)
def test_scripts_and_files_in_their_commands_exist(path):
    text = commands(path)
    named = re.findall(r"(?<![\w/$])((?:scripts|\.ci|tests|examples|docs|sdk)/[\w./-]+)", text)
    for name in named:
        assert (ROOT / name.rstrip("./")).exists(), f"{path} names {name}, which does not exist"


@pytest.mark.parametrize("path", WORKFLOWS)
def test_the_stages_that_they_run_exist(path):
    stages = subprocess.run([ROOT / "scripts/test", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for run in re.findall(r"scripts/test ([\w -]+)", commands(path)):
        assert set(run.split()) <= set(stages), f"{path} runs scripts/test {run}"


@pytest.fixture(scope="module")
def released():
    """The targets of the archives."""
    (release,) = read_yaml(".github/workflows/release.yml")
    return {entry["target"] for entry in release["jobs"]["build"]["strategy"]["matrix"]["include"]}


def test_the_guide_names_every_archive(released):
    named = re.findall(r"`drawbridge-[\d.]+-([\w-]+)\.(?:tar\.gz|zip)`", read("docs/install.md"))
    assert set(named) == released


def test_licences_are_checked_for_everything_that_is_released(released):
    assert released <= set(tomllib.loads(read("deny.toml"))["graph"]["targets"])
