//! The daemons of an earlier revision, built from a worktree of it below target/upgrade. Crates that have not changed since
//! are taken from today's target directory; the project's own, which have the same names there, never are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    compile, ebpf, layout, packages,
    sh::{cargo, sh},
    ui,
};

/// Builds both daemons of `revision`; returns the directory that they are in.
pub(crate) fn build(revision: &str) -> Result<PathBuf> {
    packages::ensure(packages::BUILD)?;
    packages::ensure(&[("git", "git")])?;
    let root = layout::root()?;
    let git = || sh("git").dir(&root);
    let commit = git().args(["rev-parse", "--verify", &format!("{revision}^{{commit}}")]).text();
    let commit = commit.with_context(|| {
        format!(
            "this clone does not have {revision}: git fetch --unshallow, or --from a revision that it has"
        )
    })?;
    let short = commit.get(..7).context("git printed no commit")?;
    let home = root.join("target/upgrade").join(short);
    let (source, target) = (home.join("source"), home.join("target"));
    let daemons = target.join("debug");
    // A commit never changes: what was built of it once is it.
    let built = home.join("built");
    if built.is_file() {
        return Ok(daemons);
    }
    if !source.join("Cargo.toml").is_file() {
        // One that was removed by hand is still known to git.
        git().args(["worktree", "prune"]).run()?;
        git().args(["worktree", "add", "--quiet", "--detach"]).arg(&source).arg(&commit).run()?;
    }
    let found = sh("git").dir(&source).args(["rev-parse", "HEAD"]).text()?;
    ensure!(found == commit, "{} is at {found}, not at {commit}: remove it", source.display());
    if !target.is_dir() {
        share(&root.join("target/debug"), &daemons)?;
    }
    ebpf::build(&source)?;
    ui::step(format!("building the daemons of {short}"), |step| {
        let words = ["build", "--locked", "-p", "gantry-agent", "-p", "gantry-scheduler"];
        compile::telling(cargo().dir(&source).env("CARGO_TARGET_DIR", &target).args(words), step)
    })?;
    fs::write(&built, "")?;
    Ok(daemons)
}

/// Whether agents of this revision wrote ledgers of the schema that today's take up where they end.
pub(crate) fn has_todays_ledgers(revision: &str) -> Result<bool> {
    const STATE: &str = "agent/src/control/state.rs";
    let root = layout::root()?;
    let then = sh("git").dir(&root).args(["show", &format!("{revision}:{STATE}")]).text()?;
    let now = fs::read_to_string(root.join(STATE)).with_context(|| format!("no {STATE}"))?;
    let schema =
        |state: &str| state.lines().find(|line| line.starts_with("const SCHEMA: ")).map(str::to_owned);
    Ok(schema(&then) == schema(&now))
}

/// What is compiled of other people's crates, as links. Cargo compiles whatever of it does not fit.
fn share(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    if !from.join("deps").is_dir() {
        return Ok(());
    }
    for (directory, how) in [("deps", "-al"), ("build", "-a"), (".fingerprint", "-a")] {
        sh("cp").arg(how).arg(from.join(directory)).arg(to.join(directory)).run()?;
        for entry in fs::read_dir(to.join(directory))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if ["gantry", "xtask", "agent-ebpf", "agent_ebpf"].iter().any(|own| name.contains(own)) {
                if path.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
            }
        }
    }
    Ok(())
}
