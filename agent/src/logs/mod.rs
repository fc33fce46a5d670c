//! Container logs on disk in the CRI format: writing, rotation, reading, following.
//!
//! The writer is a process of its own, one per container, started and owned by the containerd shim
//! (docs/adr/0010-container-logs.md). It holds an advisory lock on the file it writes, so a reader knows without
//! asking anybody whether more can come. Nothing here knows pods: paths come from above.

mod format;
mod reader;
mod writer;

use std::path::{Path, PathBuf};

use clap::Parser;

pub use format::Stream;
pub use reader::{LogSink, ReadOptions, read};
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
Started by the containerd shim; not for use by hand"
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
}

/// The URI that makes the shim start our logger.
pub(crate) fn shim_uri(logger: &Path, file: &Path, rotation: &Rotation, terminal: bool) -> String {
    let arguments = form_urlencoded::Serializer::new(String::new())
        .append_pair("--file", &file.to_string_lossy())
        .append_pair("--max-bytes", &rotation.max_bytes.to_string())
        .append_pair("--max-files", &rotation.max_files.to_string())
        .append_pair("--prompt", &terminal.to_string())
        .finish();
    format!("binary://{}?{arguments}", logger.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_carries_the_arguments() {
        let uri = shim_uri(
            Path::new("/usr/bin/gantry-logger"),
            Path::new("/var/log/a b/0.log"),
            &Rotation::default(),
            false,
        );
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
