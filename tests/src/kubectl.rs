//! kubectl as a person uses it: arguments in, exit code and both outputs out.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// One kubectl binary with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
}

/// What a run printed.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it exited 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Kubectl {
    pub(crate) fn new(binary: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { binary, kubeconfig }
    }

    /// Runs with arguments split at white space; for arguments with spaces use [`Self::run_args`].
    pub fn run(&self, words: &str) -> Result<Output> {
        self.run_args(&words.split_whitespace().collect::<Vec<_>>(), None)
    }

    /// Runs and demands success; returns standard output.
    pub fn ok(&self, words: &str) -> Result<String> {
        let output = self.run(words)?;
        ensure!(output.success, "kubectl {words} failed:\n{}{}", output.stdout, output.stderr);
        Ok(output.stdout)
    }

    /// Runs and demands failure; returns standard error.
    pub fn fails(&self, words: &str) -> Result<String> {
        let output = self.run(words)?;
        ensure!(!output.success, "kubectl {words} should have failed, but printed:\n{}", output.stdout);
        Ok(output.stderr)
    }

    /// `apply -f` of a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Result<Output> {
        // The separator keeps kubectl from taking a flow mapping for JSON.
        self.run_args(&["apply", "-f", "-"], Some(&format!("---\n{manifest}")))
    }

    /// `apply -f` of a file, demanding success.
    pub fn apply_file(&self, namespace: Option<&str>, path: &Path) -> Result<String> {
        let file = path.to_str().context("path is not UTF-8")?;
        let mut words = vec!["apply", "-f", file];
        words.extend(namespace.into_iter().flat_map(|n| ["-n", n]));
        let output = self.run_args(&words, None)?;
        ensure!(output.success, "kubectl apply -f {file} failed:\n{}{}", output.stdout, output.stderr);
        Ok(output.stdout)
    }

    /// An object (or list) as JSON.
    pub fn json(&self, words: &str) -> Result<Value> {
        let text = self.ok(&format!("{words} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {words} printed no JSON: {text}"))
    }

    /// Runs with exact arguments and optional standard input.
    pub fn run_args(&self, words: &[&str], input: Option<&str>) -> Result<Output> {
        self.finish(self.command(words), input)
    }

    fn finish(&self, mut command: Command, input: Option<&str>) -> Result<Output> {
        let mut child = command.stdin(Stdio::piped()).spawn().context("cannot run kubectl")?;
        if let Some(mut stdin) = child.stdin.take()
            && let Some(text) = input
        {
            stdin.write_all(text.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs on a terminal of its own (33 rows of 101 columns), where `typed` is entered: as a person with `exec -it` would.
    /// What the terminal shows, echo included, is in `stdout`.
    pub fn on_terminal(&self, words: &str, typed: &str) -> Result<Output> {
        let line = format!("stty rows 33 cols 101 && exec {} {words}", self.binary.display());
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &line, "/dev/null"]);
        self.finish(self.prepared(command), Some(typed))
    }

    /// Starts a long-running kubectl (`-w`, `logs -f`, `port-forward`); its outputs are piped.
    pub fn spawn(&self, words: &str) -> Result<Child> {
        self.spawn_args(&words.split_whitespace().collect::<Vec<_>>())
    }

    /// [`Self::spawn`] with exact arguments.
    pub fn spawn_args(&self, words: &[&str]) -> Result<Child> {
        self.command(words).stdin(Stdio::null()).spawn().context("cannot run kubectl")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words);
        self.prepared(command)
    }

    fn prepared(&self, mut command: Command) -> Command {
        command
            .env("KUBECONFIG", &self.kubeconfig)
            // kubectl caches discovery in the home directory by host and port: one cluster a test run.
            .env("HOME", self.kubeconfig.parent().unwrap_or(Path::new("/")))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}
