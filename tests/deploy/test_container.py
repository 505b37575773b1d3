"""Dockerfile, .dockerignore, compose.yaml and the files that it mounts. CI builds the image and starts compose.yaml; without
a container engine this is what can be checked."""

import re

import pytest
from compose_spec import PyCompose
from conftest import ROOT, documented_default, drain_seconds, passes, port, read, read_yaml, seconds, tool

CONFIGURATION = "/etc/drawbridge/drawbridge.toml"
SECRET = {"DRAWBRIDGE_AUTH__HMAC_SECRET": "0123456789abcdef0123456789abcdef"}


@pytest.fixture(scope="module")
def compose():
    (document,) = read_yaml("compose.yaml")
    return document


@pytest.fixture(scope="module")
def node(compose):
    return compose["services"]["node"]


def instructions(name):
    """The arguments of each instruction of this name, in order."""
    joined = read("Dockerfile").replace("\\\n", " ")
    return re.findall(rf"^{name} (.+)$", joined, flags=re.MULTILINE)


def test_the_dockerfile_passes_its_linter():
    passes(tool("hadolint"), ROOT / "Dockerfile")


def test_the_toolchain_is_one_that_can_build_it():
    (needed,) = re.findall(r'^rust-version = "1\.(\d+)"', read("Cargo.toml"), flags=re.MULTILINE)
    (used,) = re.findall(r"^FROM rust:1\.(\d+)-", read("Dockerfile"), flags=re.MULTILINE)
    assert int(used) >= int(needed)


def test_what_the_build_reads_is_not_ignored():
    lines = read(".dockerignore").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {name for arguments in instructions("COPY") if "--from" not in arguments for name in arguments.split()[:-1]} - {"."}
    for name in copied:
        assert any(re.fullmatch(pattern.replace("*", ".*"), name) for pattern in kept), f"{name} is ignored"
    assert {"Cargo.toml", "Cargo.lock", "crates"} <= kept
    for path in (ROOT / "crates").glob("*/src/**/*.rs"):
        for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', path.read_text()):
            embedded = (path.parent / name).resolve()
            is_test = "tests" in path.stem or "tests" in path.parts
            assert is_test or embedded.is_relative_to(ROOT / "crates"), f"{path} embeds {embedded}, which is ignored"


def test_it_does_not_run_as_root():
    assert all(int(number) > 0 for number in instructions("USER")[-1].split(":"))


def test_its_ports_are_the_documented_ones():
    documented = re.findall(r'(?:listen\s*=\s*)"127\.0\.0\.1:(\d+)"', read("examples/drawbridge.toml"))
    assert instructions("EXPOSE") == [" ".join(documented)]


def test_its_command_is_one_of_the_binary(drawbridge):
    (command,) = instructions("CMD")
    arguments = re.findall(r'"([^"]+)"', command)
    assert arguments == ["serve", "--config", CONFIGURATION]
    assert drawbridge("serve", "--help").returncode == 0


def test_compose_follows_the_specification():
    PyCompose.from_yaml(read("compose.yaml")).to_spec()


def test_mounted_files_exist(compose):
    mounted = [volume.split(":") for service in compose["services"].values() for volume in service.get("volumes", [])]
    sources = [source for source, *_ in mounted if source.startswith(".")]
    assert len(sources) == 2 and all((ROOT / source).is_file() for source in sources)


def test_two_nodes_are_served_by_the_configuration_that_is_mounted(node, check_config):
    assert node["scale"] == 2
    assert f"./deploy/compose/drawbridge.toml:{CONFIGURATION}:ro" in node["volumes"]
    check_config(read("deploy/compose/drawbridge.toml"), env={name: SECRET[name] for name in node["environment"]})


def test_the_secret_is_the_users_own(node):
    # `:?`: without it compose refuses to start.
    assert set(node["environment"]) == set(SECRET)
    assert node["environment"]["DRAWBRIDGE_AUTH__HMAC_SECRET"].startswith("${DRAWBRIDGE_AUTH__HMAC_SECRET:?")
    assert "hmac_secret" not in read("deploy/compose/drawbridge.toml")


def test_ci_starts_it_with_what_it_requires(node):
    (ci,) = read_yaml(".github/workflows/ci.yml")
    assert set(node["environment"]) <= set(ci["jobs"]["containers"]["env"])


def test_docker_waits_for_a_drain(node):
    assert seconds(node["stop_grace_period"]) > drain_seconds(read("deploy/compose/drawbridge.toml"))
    for key in ("drain_delay", "drain_window"):
        assert f"{seconds(documented_default(key))} s" in read("compose.yaml")


def test_haproxy_reaches_the_nodes_by_name_and_port():
    listening = port(read("deploy/compose/drawbridge.toml"))
    assert re.search(rf"^    server-template n \d+(-\d+)? node:{listening}$", read("deploy/compose/haproxy.cfg"), flags=re.MULTILINE)


def test_haproxys_port_is_the_one_that_is_published(compose):
    (published,) = compose["services"]["haproxy"]["ports"]
    assert f"bind :{published.split(':')[-1]}\n" in read("deploy/compose/haproxy.cfg")


def test_haproxy_is_configured_as_without_containers_except_for_how_nodes_are_found():
    def parts(path):
        sections = re.split(r"\n(?=\S)", "\n".join(line for line in read(path).splitlines() if line and not line.startswith("#")))
        return {section.split("\n", 1)[0]: section.split("\n")[1:] for section in sections}

    copied, original = parts("deploy/compose/haproxy.cfg"), parts("deploy/haproxy.cfg")
    assert copied.pop("resolvers docker")
    copied["backend nodes"] = [
        line.replace(" resolvers docker init-addr none", "") for line in copied["backend nodes"] if "server-template" not in line
    ]
    original["backend nodes"] = [line for line in original["backend nodes"] if not line.startswith("    server n")]
    assert copied == original


def test_the_playground_is_reached_from_this_machine_only(compose, drawbridge):
    playground = compose["services"]["playground"]
    command, *arguments = playground["command"].split()
    assert command == "dev" and arguments[:1] == ["--listen"]
    listening = arguments[1].rsplit(":", 1)[1]
    assert playground["ports"] == [f"127.0.0.1:{listening}:{listening}"]
    assert "--listen" in drawbridge("dev", "--help").stdout
