//! Container logs on disk in the CRI format: writing, rotation, reading, following.
//!
//! The writer is a process of its own, one per container, owned by nobody the container could outlive
//! (docs/adr/0010-container-logs.md). It holds an advisory lock on the file it writes, so a reader knows without
//! asking anybody whether more can come. Nothing here knows pods: paths come from above.

mod format;
mod reader;
mod writer;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Parser;

pub use format::Stream;
pub use reader::{LogSink, OpenLog, ReadOptions, read};
pub use writer::{LoggerInput, run as run_logger};
pub(crate) use writer::{release, remove};

/// When a log file is put aside, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Size of one file.
    pub max_bytes: u64,
    /// Files per attempt, the current one included.
    pub max_files: u32,
}

impl Default for Rotation {
    /// The kubelet's values.
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5 }
    }
}

/// Arguments of the logger program. Every one has a name, because older shims pass them in any order.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "gantry-logger",
    version,
    about = "Writes one container's output to its log file.
Started by the containerd shim or the agent; not for use by hand"
)]
pub struct LoggerArgs {
    /// The log file
    #[arg(long)]
    pub file: PathBuf,
    /// Size at which the file is put aside
    #[arg(long)]
    pub max_bytes: u64,
    /// Files to keep, the current one included
    #[arg(long)]
    pub max_files: u32,
    /// Write what a terminal shows as it comes, without waiting for the end of the line
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub prompt: bool,
    /// FIFO with the standard output, instead of what the shim hands over
    #[arg(long, requires = "stderr")]
    pub stdout: Option<PathBuf>,
    /// FIFO with the standard error
    #[arg(long, requires = "stdout")]
    pub stderr: Option<PathBuf>,
}

impl LoggerArgs {
    /// For a container whose output the shim hands over.
    pub(crate) fn of(file: &Path, rotation: &Rotation, terminal: bool) -> Self {
        let Rotation { max_bytes, max_files } = *rotation;
        Self { file: file.to_owned(), max_bytes, max_files, prompt: terminal, stdout: None, stderr: None }
    }

    fn pairs(&self) -> Vec<(&'static str, OsString)> {
        let mut pairs = vec![
            ("--file", self.file.clone().into()),
            ("--max-bytes", self.max_bytes.to_string().into()),
            ("--max-files", self.max_files.to_string().into()),
            ("--prompt", self.prompt.to_string().into()),
        ];
        pairs.extend(self.stdout.iter().map(|path| ("--stdout", path.clone().into())));
        pairs.extend(self.stderr.iter().map(|path| ("--stderr", path.clone().into())));
        pairs
    }

    /// The command line.
    pub(crate) fn to_words(&self) -> Vec<OsString> {
        self.pairs().into_iter().flat_map(|(name, value)| [name.into(), value]).collect()
    }

    /// The URI that makes the shim start the program `logger` with these.
    pub(crate) fn uri(&self, logger: &Path) -> String {
        let pairs = self.pairs();
        let pairs = pairs.iter().map(|(name, value)| (name, value.to_string_lossy()));
        let arguments = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        format!("binary://{}?{arguments}", logger.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_carries_the_arguments() {
        let args = LoggerArgs::of(Path::new("/var/log/a b/0.log"), &Rotation::default(), false);
        let uri = args.uri(Path::new("/usr/bin/gantry-logger"));
        assert_eq!(
            uri,
            "binary:///usr/bin/gantry-logger?--file=%2Fvar%2Flog%2Fa+b%2F0.log&--max-bytes=10485760&--max-files=5&--prompt=false"
        );
    }

    #[test]
    fn logger_takes_its_arguments_in_any_order() {
        let args = LoggerArgs::try_parse_from([
            "gantry-logger",
            "--prompt",
            "true",
            "--max-files",
            "2",
            "--file",
            "/l/0.log",
            "--max-bytes",
            "100",
        ])
        .unwrap();
        assert_eq!((args.file.to_str(), args.max_files, args.prompt), (Some("/l/0.log"), 2, true));
    }
}
