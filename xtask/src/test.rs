//! `cargo xtask test`: every suite, in an order that finds cheap faults first. A suite that cannot run is a
//! failure: there is no skip.

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    ebpf, imports,
    layout::{self, Build},
    packages, programs,
    sh::{Sh, cargo},
    structure, ui, up, vm,
};

/// A group of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Formatting, clippy, documentation, structure of the tree.
    Lint,
    /// Unit and property tests: no privileges needed.
    Unit,
    /// Tests that need root: containerd, network namespaces, eBPF.
    Privileged,
    /// A cluster on this machine, driven with kubectl.
    EndToEnd,
    /// A fresh Debian host in a virtual machine: systemd units, limits, OOM kills.
    Vm,
}

const ALL: &[Suite] = &[Suite::Lint, Suite::Unit, Suite::Privileged, Suite::EndToEnd, Suite::Vm];

/// Runs the named suites, or all.
pub(crate) fn run(suites: &[Suite]) -> Result<()> {
    packages::ensure(packages::BUILD)?;
    let suites = if suites.is_empty() { ALL } else { suites };
    for suite in suites {
        ui::heading(&format!("Suite: {}", name(*suite)));
        match suite {
            Suite::Lint => lint(),
            Suite::Unit => unit(),
            Suite::Privileged => privileged(),
            Suite::EndToEnd => end_to_end(),
            Suite::Vm => vm::run(),
        }
        .with_context(|| format!("the suite {} failed", name(*suite)))?;
    }
    ui::heading("Every suite passed");
    Ok(())
}

fn name(suite: Suite) -> String {
    suite.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

fn here() -> Result<Sh> {
    Ok(cargo().dir(layout::root()?))
}

fn lint() -> Result<()> {
    ui::step("cargo fmt --check", |_| here()?.args(["fmt", "--all", "--check"]).text())?;
    ui::step("cargo clippy", |_| {
        here()?.args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]).run()?;
        Ok(String::new())
    })?;
    ui::step("cargo doc", |_| {
        here()?.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--quiet", "--no-deps"]).run()?;
        Ok(String::new())
    })?;
    packages::cargo_deny()?;
    ui::step("cargo deny", |_| {
        here()?.args(["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]).run()?;
        Ok(String::new())
    })?;
    let root = layout::root()?;
    ui::step("lint inheritance", |_| structure::every_crate_inherits_lints(&root))?;
    ui::step("ARCHITECTURE.md", |_| structure::the_map_is_true(&root))?;
    ui::step("direction of imports", |_| imports::go_one_way(&root))?;
    ui::step("file sizes and headers", |_| structure::files_are_readable(&root))
}

fn unit() -> Result<()> {
    programs::build()?;
    here()?.args(["test", "--quiet"]).shown()
}

fn privileged() -> Result<()> {
    up::require_root()?;
    packages::ensure(packages::CLUSTER)?;
    ebpf::build(&layout::root()?)?;
    programs::run("agent", &[])?;
    programs::run("scheduler", &[])
}

fn end_to_end() -> Result<()> {
    up::require_root()?;
    layout::tutorial()?;
    let cluster = up::start("test", 2, Build::Release)?;
    let tools = layout::root()?.join("target/tools");
    let (old, promtool) = (packages::old_kubectl(&tools)?, packages::promtool(&tools)?);
    let kubeconfig = cluster.layout.kubeconfig();
    let environment = [
        ("GANTRY_TEST_DIR", cluster.layout.dir.as_path()),
        ("GANTRY_TEST_RUN", &cluster.layout.run),
        ("GANTRY_KUBECTL", &cluster.kubectl),
        ("GANTRY_OLD_KUBECTL", &old),
        ("GANTRY_PROMTOOL", &promtool),
        ("KUBECONFIG", &kubeconfig),
    ];
    let result = programs::run("tests", &environment);
    if result.is_err() {
        cluster.layout.keep_logs("test-logs")?;
    }
    // Ended in any case; what it leaves behind is a failure of its own.
    let stopped = cluster.stop().context("ending the cluster left traces");
    result.and(stopped)
}
