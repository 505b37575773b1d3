"""`scripts/check-architecture` on copies of the workspace with one fault each: a check that cannot fail checks nothing."""

import shutil
import subprocess

import pytest

from harness.node import ROOT

SCRIPT = ROOT / "scripts" / "check-architecture"

pytestmark = pytest.mark.skipif(shutil.which("cargo") is None, reason="cargo is not installed")


def check(root):
    return subprocess.run([SCRIPT, root], capture_output=True, text=True, timeout=60)


@pytest.fixture
def workspace(tmp_path):
    for name in ("Cargo.toml", "Cargo.lock"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "crates", tmp_path / "crates")
    shutil.copytree(ROOT / "fuzz", tmp_path / "fuzz", ignore=shutil.ignore_patterns("target", "corpus", "artifacts"))
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    (tmp_path / "docs" / "adr").mkdir(parents=True)
    return tmp_path


def test_the_workspace_keeps_its_architecture():
    result = check(ROOT)
    assert result.returncode == 0, result.stderr


BREACHES = {
    "the protocol on a runtime": ("crates/protocol/Cargo.toml", "\n[dependencies]\n", "\n[dependencies]\ntokio.workspace = true\n", "pulls in tokio"),
    "the engine on the Redis client": ("crates/engine/Cargo.toml", "\n[dependencies]\n", "\n[dependencies]\nredis.workspace = true\n", "pulls in redis"),
    "loadgen on the engine": ("crates/loadgen/Cargo.toml", "\n[dependencies]\n", "\n[dependencies]\ndrawbridge-engine.workspace = true\n", "depends on drawbridge-engine"),
    "a clock in the engine": ("crates/engine/src/stats.rs", None, "\nfn now() -> std::time::Instant { std::time::Instant::now() }\n", "names a clock"),
    "a socket in the protocol": ("crates/protocol/src/code.rs", None, "\nuse std::net::{IpAddr, TcpStream};\n", "names sockets"),
    "a thread in the engine": ("crates/engine/src/stats.rs", None, "\nfn go() { std::thread::yield_now() }\n", "names threads"),
    "the web framework outside http": ("crates/server/src/cli.rs", None, "\nuse axum::Router;\n", "names `axum`"),
    "the Redis client outside its broker": ("crates/server/src/cli.rs", None, '\nfn f() { redis::cmd("GET"); }\n', "names `redis`"),
    "metrics anywhere": ("crates/server/src/cli.rs", None, "\nuse prometheus_client::registry::Registry;\n", "names `prometheus_client`"),
    "the broker on the configuration": ("crates/server/src/broker/health_board.rs", None, "\nuse crate::config::Secret;\n", "names crate::config"),
    "a shard on HTTP": ("crates/server/src/shard/socket.rs", None, "\nuse crate::{clock, http::address};\n", "names crate::http"),
    "targets on the upstream": ("crates/engine/src/targets.rs", None, "\nuse crate::upstream::Hub;\n", "neither links nor sockets"),
    "a link number for shards": ("crates/engine/src/io.rs", None, "\npub use crate::upstream::LinkId;\n", "shards know no link"),
    "a crate on the test kit": ("crates/loadgen/Cargo.toml", "\n[dependencies]\n", "\n[dependencies]\ndrawbridge-testkit.workspace = true\n", "depends on drawbridge-testkit"),
    "a source on the test kit": ("crates/engine/src/stats.rs", None, "\nuse drawbridge_testkit::dice::Dice;\n", "names the test kit"),
    "a file that does not say what it is": ("crates/engine/src/stats.rs", "//!", "//", "does not open with"),
    "a fuzz target that nothing builds": ("fuzz/Cargo.toml", 'name = "stored"\npath', 'name = "stored"\n#', "stored.rs: is no [[bin]]"),
    "a fuzz target that is not run": (".github/workflows/nightly.yml", "targets=$(cargo fuzz list", "targets=$(echo engine", "does not run the fuzz target area"),
    "a file that is too long": ("crates/engine/src/stats.rs", None, "// A line.\n" * 600, "at most 600"),
    "two files of the engine that name each other": ("crates/engine/src/class.rs", None, "\nuse crate::write::Write;\n", "crates/engine/src/class.rs: names crates/engine/src/write.rs"),
    "a cycle by way of a facade": ("crates/engine/src/ids.rs", None, "\nfn f(_: crate::io::WriteKind) {}\n", "crates/engine/src/ids.rs: names crates/engine/src/write.rs"),
    "a retired name": ("crates/engine/src/stats.rs", None, "\nstruct HeldLink;\n", "use RecoveryBarrier"),
    "a retired phrase": ("crates/engine/src/stats.rs", None, "\n// It is read anew.\n", "retired phrase"),
}  # fmt: skip


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_told_with_its_place(workspace, breach):
    file, old, new, said = BREACHES[breach]
    path = workspace / file
    text = path.read_text()
    assert old is None or old in text
    path.write_text(text + new if old is None else text.replace(old, new, 1))
    result = check(workspace)
    # A new dependency is not in the lock file either: cargo says so before the check can.
    if result.returncode != 0 and "lock file" in result.stderr:
        subprocess.run(["cargo", "update", "--workspace", "--offline", "--quiet"], cwd=workspace, check=True, timeout=60)
        result = check(workspace)
    assert result.returncode == 1 and said in result.stderr, result.stdout + result.stderr


def test_words_in_comments_and_texts_are_no_breach(workspace):
    path = workspace / "crates/engine/src/stats.rs"
    path.write_text(path.read_text() + '\n// std::time::Instant, std::thread\nconst A: &str = "std::thread rand::random tokio::spawn";\n')
    assert check(workspace).returncode == 0, check(workspace).stderr


@pytest.mark.parametrize("names", [["1-first.md"], ["0001-a.md", "0001-b.md"], ["0001-a.md", "0003-c.md"]])
def test_adrs_are_numbered_without_a_gap(workspace, names):
    for name in names:
        (workspace / "docs" / "adr" / name).touch()
    result = check(workspace)
    assert result.returncode == 1 and "adr" in result.stderr.lower()
