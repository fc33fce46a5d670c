//! Builds the daemons and whatever else is compiled for a cluster, and says meanwhile how much is left.
//!
//! Both daemons are always selected together: cargo unifies features over a selection, so that another one would compile
//! the crates that they share once more. Takes a profile, leaves the programs in target/; never runs them.

use anyhow::{Result, bail};

use crate::{
    ebpf,
    layout::{self, Build},
    packages,
    sh::{Sh, cargo},
    ui,
};

/// Where a person does not see a bar, a line at every so many hundredths.
const TOLD_EVERY: u32 = 10;
/// The width that cargo cuts its bar to: enough for the names of what is in work.
const BAR_WIDTH: &str = "120";

/// Installs what compiling needs, builds the eBPF object, then the daemons with it inside.
pub(crate) fn daemons(build: Build) -> Result<()> {
    let root = layout::root()?;
    packages::ensure(packages::BUILD)?;
    ebpf::build(&root)?;
    ui::step("building the daemons", |step| {
        let profile: &[&str] = if build == Build::Release { &["--release"] } else { &[] };
        let command =
            cargo().dir(&root).args(["build", "-p", "gantry-agent", "-p", "gantry-scheduler"]).args(profile);
        telling(command, step)
    })
}

/// Runs a `cargo build` and shows in `step` how many crates are left; returns how many there were to compile.
pub(crate) fn telling(command: Sh, step: &mut ui::Step) -> Result<String> {
    let command =
        command.env("CARGO_TERM_PROGRESS_WHEN", "always").env("CARGO_TERM_PROGRESS_WIDTH", BAR_WIDTH);
    let mut said = String::new();
    let mut last = 0;
    let mut compiled = 0;
    let ended = command.told(|line| {
        let line = console::strip_ansi_codes(line);
        if let Some(progress) = Progress::read(&line) {
            let told = progress.hundredths() / TOLD_EVERY;
            if step.is_on_terminal() || told > last {
                step.detail(progress.text());
                last = told;
            }
        } else if line.trim_start().starts_with("Compiling ") {
            compiled += 1;
        } else if !is_chatter(&line) {
            said.push_str(&line);
            said.push('\n');
        }
    });
    let said = said.trim_end();
    if let Err(error) = ended {
        bail!("{error:#}\n{said}");
    }
    let crates = match compiled {
        0 => String::new(),
        1 => "1 crate".to_owned(),
        many => format!("{many} crates"),
    };
    Ok(if said.trim().is_empty() { crates } else { format!("{crates}\n{said}") })
}

/// What cargo says of its own work, beside its bar.
fn is_chatter(line: &str) -> bool {
    const CHATTER: [&str; 9] = [
        "Finished",
        "Downloading",
        "Downloaded",
        "Updating",
        "Locking",
        "Blocking",
        "Building",
        "Adding",
        "Executable",
    ];
    let word = line.split_whitespace().next();
    word.is_none_or(|word| CHATTER.contains(&word))
}

/// Cargo's bar, `Building [==>   ] 12/458: a, b`.
#[derive(Debug, PartialEq, Eq)]
struct Progress<'a> {
    done: u32,
    all: u32,
    in_work: &'a str,
}

impl<'a> Progress<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (_, rest) = line.trim_start().strip_prefix("Building [")?.split_once("] ")?;
        let (count, in_work) = rest.split_once(':').unwrap_or((rest, ""));
        let (done, all) = count.trim().split_once('/')?;
        Some(Self { done: done.parse().ok()?, all: all.parse().ok()?, in_work: in_work.trim() })
    }

    fn hundredths(&self) -> u32 {
        self.done * 100 / self.all.max(1)
    }

    fn text(&self) -> String {
        let left = self.all.saturating_sub(self.done);
        format!("{left} of {} steps left, now {}", self.all, self.in_work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_bar_says_what_is_left() {
        let line = "    Building [=====>               ] 112/458: serde, gantry-agent(build)";
        let progress = Progress::read(line).unwrap();
        assert_eq!(progress, Progress { done: 112, all: 458, in_work: "serde, gantry-agent(build)" });
        assert_eq!(progress.text(), "346 of 458 steps left, now serde, gantry-agent(build)");
        assert_eq!(progress.hundredths(), 24);
    }

    #[test]
    fn everything_else_is_kept_for_a_person_or_is_cargos_own_talk() {
        for line in ["", "   Compiling serde v1.0.0", "error[E0308]: mismatched types"] {
            assert_eq!(Progress::read(line), None, "{line}");
        }
        assert!(is_chatter("    Finished `release` profile [optimized] target(s) in 2m 04s"));
        assert!(is_chatter("  "));
        assert!(!is_chatter("warning: unused variable"));
        assert!(!is_chatter("  --> agent/src/lib.rs:1:1"));
    }
}
