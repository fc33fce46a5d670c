//! The test programs of one crate, run without cargo choosing what to compile: they are those that `cargo test` makes of the
//! whole workspace. Tests of one crate alone would be compiled once more, with all that the crates share, because cargo
//! unifies features over what is selected.
//!
//! Runs the ignored tests, which need root or a cluster, one at a time: they share the machine's namespaces and cores.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    compile, layout,
    sh::{Sh, cargo, sh},
    ui,
};

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// Compiles the tests of the whole workspace, and says meanwhile how much is left.
pub(crate) fn build() -> Result<()> {
    let root = layout::root()?;
    ui::step("building the tests", |step| compile::telling(tests(&root), step))
}

/// Runs the ignored tests of the crate in `directory` (below the root) with `environment`; the first program that fails is
/// the last.
pub(crate) fn run(directory: &str, environment: &[(&str, &Path)]) -> Result<()> {
    let root = layout::root()?;
    build()?;
    let told = tests(&root).args(["--quiet", "--message-format=json"]).text()?;
    let crate_directory = root.join(directory);
    let programs = made(&told, &crate_directory.join("Cargo.toml"))?;
    ensure!(!programs.is_empty(), "cargo made no test program of {directory}");
    for program in programs {
        eprintln!("     Running {}", program.display());
        let test = sh(&program).dir(&crate_directory).args(["--ignored", "--test-threads=1"]);
        environment.iter().fold(test, |test, (name, value)| test.env(name, value)).shown()?;
    }
    Ok(())
}

fn tests(root: &Path) -> Sh {
    cargo().dir(root).args(["test", "--no-run"])
}

/// The test programs of one crate's library and of its tests directory, by what cargo printed.
fn made(told: &str, manifest: &Path) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for line in told.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("cargo printed {line:.200}"))?;
        let tests = |target: &Target| target.kind.iter().any(|kind| kind == "lib" || kind == "test");
        if message.reason == "compiler-artifact"
            && message.manifest_path.as_deref() == Some(manifest)
            && message.target.as_ref().is_some_and(tests)
        {
            programs.extend(message.executable);
        }
    }
    programs.sort();
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_programs_of_the_crate_are_run() {
        let line = |manifest: &str, kind: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{manifest}","target":{{"kind":["{kind}"]}},"executable":{executable}}}"#
            )
        };
        let told = [
            line("/r/agent/Cargo.toml", "test", r#""/t/net-1""#),
            line("/r/agent/Cargo.toml", "lib", "null"),
            line("/r/agent/Cargo.toml", "lib", r#""/t/agent-1""#),
            line("/r/agent/Cargo.toml", "bin", r#""/t/bin-1""#),
            line("/r/tests/Cargo.toml", "test", r#""/t/kills-1""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = made(&told.join("\n"), Path::new("/r/agent/Cargo.toml")).unwrap();
        assert_eq!(found, [PathBuf::from("/t/agent-1"), PathBuf::from("/t/net-1")]);
    }
}
