"""scripts/dist: what is in the archive, that it runs, and that the same input makes the same bytes."""

import hashlib
import importlib.machinery
import importlib.util
import stat
import struct
import subprocess
import tarfile
import zipfile

import pytest
from conftest import BINARY, LINUX, ROOT, dist

WINDOWS = "x86_64-pc-windows-msvc"

# Stands for a binary that knows its completions and its man page.
STAND_IN = """#!/bin/sh
case $1 in
  --help) printf 'Commands:\\n  serve        Run a node\\n  completions  Print them\\n  man          Print it\\n\\nOptions:\\n  -h, --help\\n' ;;
  *) echo "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    path = tmp_path_factory.mktemp("stand-in") / "drawbridge"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module", params=[LINUX, WINDOWS])
def archives_of_stand_in(request, tmp_path_factory, stand_in):
    """The target, and two archives that were made for it one after the other."""
    directory = tmp_path_factory.mktemp("archives")
    return request.param, [dist(directory / n, "--target", request.param, "--binary", stand_in) for n in ("1", "2")]


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    """The one directory that an archive of the built binary unpacks to."""
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    (only,) = directory.iterdir()
    return only


def test_it_unpacks_to_a_directory_named_by_version_and_target(unpacked):
    assert unpacked.name.startswith("drawbridge-") and unpacked.name.endswith(f"-{LINUX}")


def test_the_binary_in_it_runs_and_serves_the_example_beside_it(unpacked):
    program = unpacked / "drawbridge"
    assert stat.S_IMODE(program.stat().st_mode) == 0o755
    done = subprocess.run(
        [program, "check-config", "examples/drawbridge.toml"], cwd=unpacked, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert version.split()[1] == unpacked.name.removeprefix("drawbridge-").removesuffix(f"-{LINUX}")


@pytest.mark.parametrize("path", ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "docs/configuration.md", "deploy/haproxy.cfg"])
def test_licences_documents_and_deployment_files_are_in_it(unpacked, path):
    assert (unpacked / path).read_bytes() == (ROOT / path).read_bytes()


def test_it_has_the_licence_texts_of_what_is_compiled_in_and_of_nothing_else(unpacked):
    text = (unpacked / "THIRD-PARTY-LICENSES.txt").read_text()
    for package in ("tokio", "rustls", "aws-lc-sys", "libmimalloc-sys"):
        assert f"\n{package} " in text, f"{package} is not named"
    # libmimalloc-sys carries the allocator's C sources, whose licence is not in the package's root.
    assert "Microsoft Corporation, Daan Leijen" in text
    assert "\nproptest " not in text, "a package of the tests is named"


def test_the_checksum_is_of_the_archive(archives_of_stand_in):
    archive = archives_of_stand_in[1][0]
    written = archive.with_name(archive.name + ".sha256").read_text()
    assert written == f"{hashlib.sha256(archive.read_bytes()).hexdigest()}  {archive.name}\n"


def test_the_same_commit_and_binary_make_the_same_bytes(archives_of_stand_in):
    first, second = archives_of_stand_in[1]
    assert first.read_bytes() == second.read_bytes()


def test_windows_gets_a_zip_with_an_exe_and_others_a_tar(archives_of_stand_in):
    target, (archive, _) = archives_of_stand_in
    ending, program = (".zip", "drawbridge.exe") if target == WINDOWS else (".tar.gz", "drawbridge")
    assert archive.name.endswith(f"-{target}{ending}")
    assert [name for name in members(archive) if name.startswith("drawbridge")] == [program]


def test_completions_and_manual_pages_are_in_it_if_the_binary_has_them_and_runs_here(archives_of_stand_in):
    target, (archive, _) = archives_of_stand_in
    found = {name: content for name, content in members(archive).items() if name.startswith(("completions/", "man/"))}
    generated = {
        "completions/drawbridge.bash": b"completions bash\n",
        "completions/_drawbridge": b"completions zsh\n",
        "completions/drawbridge.fish": b"completions fish\n",
        "completions/drawbridge.ps1": b"completions powershell\n",
        "man/drawbridge.1": b"man\n",
        "man/drawbridge-serve.1": b"man serve\n",
        "man/drawbridge-completions.1": b"man completions\n",
        "man/drawbridge-man.1": b"man man\n",
    }
    assert found == ({} if target == WINDOWS else generated)


def members(archive):
    """Path below the only directory to content."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            contents = {name: opened.read(name) for name in opened.namelist()}
    else:
        with tarfile.open(archive) as opened:
            contents = {entry.name: opened.extractfile(entry).read() for entry in opened}
    assert len({name.split("/", 1)[0] for name in contents}) == 1
    return {name.split("/", 1)[1]: content for name, content in contents.items()}


@pytest.fixture(scope="module")
def script():
    """scripts/dist as a module."""
    loader = importlib.machinery.SourceFileLoader("dist_script", str(ROOT / "scripts" / "dist"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("dist_script", loader))
    loader.exec_module(module)
    return module


def elf(*segments):
    """A 64-bit ELF file of a header and program headers of these kinds."""
    header = struct.pack("<4s12xHHIQQQIHHH6x", b"\x7fELF", 3, 62, 1, 0, 64, 0, 0, 64, 56, len(segments))
    return header + b"".join(struct.pack("<I52x", kind) for kind in segments)


LOAD, DYNAMIC, INTERPRETER = 1, 2, 3


@pytest.mark.parametrize(
    "segments, static", [((LOAD, LOAD), True), ((LOAD, DYNAMIC), True), ((INTERPRETER, LOAD), False), ((LOAD, INTERPRETER), False)]
)
def test_a_binary_is_static_if_it_names_no_dynamic_loader(script, tmp_path, segments, static):
    path = tmp_path / "program"
    path.write_bytes(elf(*segments))
    assert script.is_static(path) is static


def test_the_tests_own_binary_is_static_if_no_loader_is_named_at_its_beginning(script):
    beginning = BINARY.read_bytes()[:4096]
    if not beginning.startswith(b"\x7fELF"):
        pytest.skip("the binary is not one of Linux")
    assert script.is_static(BINARY) is (b"/ld-" not in beginning)
