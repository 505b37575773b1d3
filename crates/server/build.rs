//! The text of `drawbridge --version`: the package's version, and for builds to ship the commit and its date. Both come from
//! git, or from the variables of a build that has no repository (DRAWBRIDGE_COMMIT, DRAWBRIDGE_COMMIT_DATE); where there is
//! neither, the version stands alone. Nothing is fetched.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DRAWBRIDGE_COMMIT");
    println!("cargo::rerun-if-env-changed=DRAWBRIDGE_COMMIT_DATE");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    // Why: a debug build would be compiled again at each commit.
    let is_debug = env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    let text = match if is_debug { None } else { commit() } {
        Some((commit, date)) => format!("{version} ({commit} {date})"),
        None if is_debug => format!("{version} (debug build)"),
        None => version,
    };
    // Not DRAWBRIDGE_…: tests run with this variable set, and those are keys of the configuration.
    println!("cargo::rustc-env=BUILD_VERSION={text}");
}

/// The commit, shortened, and the day on which it was made.
fn commit() -> Option<(String, String)> {
    let named = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    if let (Some(commit), Some(date)) = (named("DRAWBRIDGE_COMMIT"), named("DRAWBRIDGE_COMMIT_DATE")) {
        return Some((commit.chars().take(12).collect(), date));
    }
    // Why: an unpacked release may lie within some other repository.
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    for file in ["HEAD", "logs/HEAD"] {
        println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--git-path", file])?);
    }
    Some((git(&["rev-parse", "--short=12", "HEAD"])?, git(&["show", "--no-patch", "--format=%cs", "HEAD"])?))
}

/// One line of what git says.
fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.trim();
    (!line.is_empty() && !line.contains('\n')).then(|| line.to_owned())
}
