//! The running machine: boots, follows its results line by line, ends it when its time is up.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use console::style;

use super::Places;
use crate::ui;

/// The whole run, boot to power-off, several times of what it takes: emulation is about ten times slower than the
/// machine itself.
const LIMIT: Duration = Duration::from_secs(600);

const KERNEL_LINE: &str = "console=ttyS0 loglevel=4 panic=-1 softlockup_panic=1 rcupdate.rcu_cpu_stall_timeout=30 \
                           systemd.unified_cgroup_hierarchy=1";

/// How much of the console is shown after a failure.
const CONSOLE_LINES: usize = 80;

/// What the suite said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Results {
    passed: usize,
    failed: Vec<String>,
    done: bool,
}

impl Results {
    fn take(&mut self, line: &str) {
        if let Some(what) = line.strip_prefix("ok ") {
            self.passed += 1;
            eprintln!("    {} {what}", style("✓").green().for_stderr());
        } else if let Some(what) = line.strip_prefix("not ok ") {
            self.failed.push(what.to_owned());
            eprintln!("    {} {what}", style("✗").red().for_stderr());
        } else if let Some(remark) = line.strip_prefix("# ") {
            eprintln!("    {}", style(remark).dim().for_stderr());
        } else if line == "done" {
            self.done = true;
        }
    }

    /// How many assertions held, when all did.
    fn verdict(&self) -> Result<usize> {
        if !self.failed.is_empty() {
            bail!("{} of {} assertions failed", self.failed.len(), self.failed.len() + self.passed);
        }
        if !self.done || self.passed == 0 {
            bail!("the suite did not come to its end ({} assertions held)", self.passed);
        }
        Ok(self.passed)
    }
}

/// Runs the machine to its end.
pub(super) fn boot(places: &Places) -> Result<()> {
    let (console, results) = (places.at("console.log"), places.at("results.log"));
    ui::heading("In the virtual machine");
    let since = Instant::now();
    fs::write(&results, "")?;
    let mut machine = start(places)?;
    let outcome = follow(&mut machine, &results).and_then(|results| results.verdict());
    // Over by itself when all went well.
    drop(machine.kill());
    machine.wait()?;
    let passed = outcome.inspect_err(|_| show_end(&console)).with_context(|| {
        format!("the end of the machine's console is above, all of it in {}", console.display())
    })?;
    eprintln!(
        "  {} {passed} assertions held {}",
        style("✓").green().for_stderr(),
        style(ui::seconds(since.elapsed())).dim().for_stderr()
    );
    Ok(())
}

/// Shows the last that the machine said.
fn show_end(console: &Path) {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(CONSOLE_LINES)) {
        eprintln!("    {}", style(line).dim().for_stderr());
    }
}

fn start(places: &Places) -> Result<Child> {
    let path = |name: &str| places.at(name).display().to_string();
    let drive = |name: &str| format!("file={},format=raw,if=virtio,snapshot=on", path(name));
    Command::new("qemu-system-x86_64")
        // Emulated in software: the machine is to run wherever this does.
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-display", "none", "-no-reboot", "-nic", "none", "-monitor", "none"])
        .args(["-drive", &drive("base.img"), "-drive", &drive("payload.img")])
        .args(["-kernel", &path("vmlinuz"), "-initrd", &path("initrd")])
        // A kernel that is stuck says where, and ends: a machine that only spins would tell nobody anything.
        .args(["-append", KERNEL_LINE])
        .args(["-serial", &format!("file:{}", path("console.log"))])
        .args(["-serial", &format!("file:{}", path("results.log"))])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot start qemu-system-x86_64")
}

/// Reads results as they come until the machine is off or its time is up.
fn follow(machine: &mut Child, path: &Path) -> Result<Results> {
    let end = Instant::now() + LIMIT;
    let mut results = Results::default();
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = String::new();
    loop {
        // Asked before reading: what was written before the end is then read.
        let over = machine.try_wait()?;
        while reader.read_line(&mut line)? > 0 && line.ends_with('\n') {
            results.take(line.trim_end());
            line.clear();
        }
        if over.is_some() {
            let mut rest = String::new();
            reader.read_to_string(&mut rest)?;
            line.push_str(&rest);
            results.take(line.trim_end());
            return Ok(results);
        }
        if Instant::now() >= end {
            bail!("the machine was not done after {}", ui::seconds(LIMIT));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Results {
        let mut results = Results::default();
        lines.iter().for_each(|line| results.take(line));
        results
    }

    #[test]
    fn only_a_run_to_the_end_without_a_failure_passes() {
        assert_eq!(read(&["# x", "ok one", "done"]).verdict().ok(), Some(1));
        assert!(read(&["ok one"]).verdict().is_err(), "not done");
        assert!(read(&["done"]).verdict().is_err(), "nothing was looked at");
        assert!(read(&["ok one", "not ok two: why", "done"]).verdict().is_err());
    }
}
