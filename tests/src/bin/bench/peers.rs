//! The two that are measured beside each other, as the command line names them.

use std::path::PathBuf;

/// Ours and upstream's.
#[derive(clap::Args)]
pub(crate) struct Peers {
    /// kubeconfig of ours.
    #[arg(long)]
    pub(crate) ours: PathBuf,
    /// Our processes.
    #[arg(long)]
    pub(crate) ours_pid: Vec<u32>,
    /// kubeconfig of upstream's.
    #[arg(long)]
    pub(crate) theirs: PathBuf,
    /// Upstream's processes that memory is compared with: the API server, and what the measurement needs beside it.
    #[arg(long)]
    pub(crate) theirs_pid: Vec<u32>,
}
