//! What a person sees of a long command: one line a step with its time, a spinner while it runs on a terminal,
//! plain lines elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use anyhow::Result;
use console::style;
use indicatif::{ProgressBar, ProgressStyle};

/// A running step.
pub(crate) struct Step {
    bar: Option<ProgressBar>,
    what: String,
    since: Instant,
    last: String,
}

impl Step {
    /// Starts one.
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("  {spinner:.cyan} {msg} {elapsed:.dim}") {
                bar.set_style(style);
            }
            bar.set_message(what.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            eprintln!("  … {what}");
        }
        Self { bar, what, since: Instant::now(), last: String::new() }
    }

    /// Whether a person sees it change; elsewhere each detail is a line.
    pub(crate) fn is_on_terminal(&self) -> bool {
        self.bar.is_some()
    }

    /// Shows how far it is.
    pub(crate) fn detail(&mut self, detail: impl Into<String>) {
        let detail = detail.into();
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {detail}", self.what)),
            None if detail != self.last => eprintln!("    {detail}"),
            None => {}
        }
        self.last = detail;
    }

    /// Ends it well; `result` is what there is to know.
    pub(crate) fn done(self, result: impl AsRef<str>) {
        let result = result.as_ref();
        let tail = if result.is_empty() { String::new() } else { format!(": {result}") };
        let line = format!("{}{tail}", self.what);
        self.close(&format!("  {} {line}", style("✓").green().for_stderr()));
    }

    fn failed(self) {
        let line = self.what.clone();
        self.close(&format!("  {} {line}", style("✗").red().for_stderr()));
    }

    fn close(self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{line} {}", style(seconds(self.since.elapsed())).dim().for_stderr());
    }
}

/// Runs `work` as a step; what it returns is shown behind the step's name.
pub(crate) fn step(what: impl Into<String>, work: impl FnOnce(&mut Step) -> Result<String>) -> Result<()> {
    let mut step = Step::start(what);
    match work(&mut step) {
        Ok(result) => {
            step.done(result);
            Ok(())
        }
        Err(error) => {
            step.failed();
            Err(error)
        }
    }
}

/// A heading between groups of steps.
pub(crate) fn heading(text: &str) {
    eprintln!("{}", style(text).bold().for_stderr());
}

/// `1.2 s`, `3 min 04 s`.
pub(crate) fn seconds(time: Duration) -> String {
    let s = time.as_secs();
    if s < 60 { format!("{:.1} s", time.as_secs_f64()) } else { format!("{} min {:02} s", s / 60, s % 60) }
}
