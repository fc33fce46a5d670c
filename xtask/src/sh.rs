//! Runs programs. Every failure names the command, how it ended and the last lines it printed: nobody should
//! have to run a step by hand to learn why it failed.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{BufReader, Read as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

/// How many lines of a failed command's output are shown.
const SHOWN_LINES: usize = 25;

/// A command being put together.
pub(crate) struct Sh {
    command: Command,
    shown: String,
}

/// Starts a command.
pub(crate) fn sh(program: impl AsRef<OsStr>) -> Sh {
    let shown = program.as_ref().to_string_lossy().into_owned();
    Sh { command: Command::new(program), shown }
}

impl Sh {
    /// Adds one argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.shown = format!("{} {}", self.shown, argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub(crate) fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, arguments: I) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes an environment variable.
    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Sets the working directory.
    pub(crate) fn dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs it quietly; its output is only shown when it fails.
    pub(crate) fn run(self) -> Result<()> {
        self.output().map(drop)
    }

    /// Runs it and returns what it printed, trimmed.
    pub(crate) fn text(self) -> Result<String> {
        let bytes = self.output()?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Whether it succeeds; a program that does not exist does not.
    pub(crate) fn succeeds(mut self) -> bool {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.command.status().is_ok_and(|s| s.success())
    }

    /// Runs it with this process's own output: for long work that shows its own progress.
    pub(crate) fn shown(mut self) -> Result<()> {
        let status = self
            .command
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("cannot run `{}`", self.shown))?;
        if !status.success() {
            bail!("`{}` ended with {status}", self.shown);
        }
        Ok(())
    }

    /// Runs it and hands every line of its standard error to `each` as it comes; a carriage return ends a line too.
    /// Its standard output is this process's own.
    pub(crate) fn told(mut self, mut each: impl FnMut(&str)) -> Result<()> {
        self.command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.command.spawn().with_context(|| format!("cannot run `{}`", self.shown))?;
        let mut line = Vec::new();
        for byte in BufReader::new(child.stderr.take().context("no pipe to its standard error")?).bytes() {
            match byte.with_context(|| format!("cannot read what `{}` says", self.shown))? {
                b'\n' | b'\r' => each(&String::from_utf8_lossy(&std::mem::take(&mut line))),
                byte => line.push(byte),
            }
        }
        each(&String::from_utf8_lossy(&line));
        let status = child.wait()?;
        ensure!(status.success(), "`{}` ended with {status}", self.shown);
        Ok(())
    }

    /// Runs it with everything it prints in the file `log`; returns how it ended, which is no error.
    pub(crate) fn logged(mut self, log: &Path) -> Result<ExitStatus> {
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        self.command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        self.command.status().with_context(|| format!("cannot run `{}`", self.shown))
    }

    fn output(mut self) -> Result<Vec<u8>> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self
            .command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run `{}`", self.shown))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let mut printed = output.stdout;
        printed.extend(output.stderr);
        let printed = String::from_utf8_lossy(&printed).into_owned();
        let lines: Vec<&str> = printed.lines().collect();
        let tail = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n    ");
        bail!("`{}` ended with {}:\n    {tail}", self.shown, output.status)
    }
}

/// `cargo` as this process was started by, without what cargo tells its children: a nested cargo with another
/// target must not inherit it.
pub(crate) fn cargo() -> Sh {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    std::env::vars()
        .map(|(name, _)| name)
        .filter(|name| {
            name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH"
        })
        .fold(sh(cargo), |sh, name| sh.without_env(&name))
}
