//! The cgroup v2 tree under the agent's own root: QoS class / pod / container, with weights and limits, and the
//! files that statistics and OOM detection read. Works on a root path, so tests use a temporary directory. What
//! cgroups-rs does well it does (`group`); the rest is in `files`.

mod files;
mod group;
mod tree;
mod usage;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use tree::{CgroupTree, TreeSettings};

use crate::model::{Limits, PodUid};

/// Quality-of-service class of a pod, by requests and limits as upstream computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Limits equal requests for every container's cpu and memory.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

/// Whether limits hold here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// cpu, memory and pids are delegated to us.
    Enforced,
    /// The controllers are missing and the configuration says to go on without.
    BestEffort {
        /// Which, for the node condition.
        missing: Vec<String>,
    },
}

/// Failure of a cgroup file operation.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file could not be written.
    #[error("cannot set {path:?} to {value:?}")]
    Write {
        /// File.
        path: PathBuf,
        /// Value.
        value: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file or directory operation failed.
    #[error("cannot {operation} {path:?}")]
    Path {
        /// `create`, `open`, `remove`, `read`.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The host lacks controllers and `enforcement = "required"`.
    #[error(
        "the cgroup v2 controllers {missing} are not available below {root:?}: boot with systemd's unified hierarchy (cgroup v1 off), give the unit Delegate=yes, or set enforcement = \"best-effort\" in [cgroup] to run without limits"
    )]
    ControllersMissing {
        /// Where.
        root: PathBuf,
        /// Comma-separated.
        missing: String,
    },
}

/// Usage counters of one cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Cumulative CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Working set: usage without inactive file pages, bytes.
    pub memory_working_set: u64,
    /// `memory.current`, bytes.
    pub memory_usage: u64,
    /// `memory.events` oom_kill.
    pub oom_kills: u64,
    /// `cpu.stat` nr_throttled.
    pub throttled_periods: u64,
    /// `cpu.stat` throttled time in nanoseconds.
    pub throttled_ns: u64,
    /// `pids.current`.
    pub pids: u64,
}

/// The port.
pub trait Cgroups: Send + Sync {
    /// Whether limits hold.
    fn enforcement(&self) -> Enforcement;
    /// Creates (or updates the limits of) the pod's cgroup.
    fn ensure_pod(&self, pod: &PodUid, qos: Qos, limits: &Limits) -> Result<(), CgroupError>;
    /// Path of a container's cgroup below the cgroup v2 mount, for `ContainerSpec::cgroup`.
    fn container_path(&self, pod: &PodUid, qos: Qos, container: &str) -> String;
    /// Removes the pod's cgroup with everything below; kills what is still in it.
    fn remove_pod(&self, pod: &PodUid) -> Result<(), CgroupError>;
    /// Pods that have a cgroup.
    fn list_pods(&self) -> Result<Vec<PodUid>, CgroupError>;
    /// Counters of a container; `None` when it has no cgroup. Falls back to what the host offers where the
    /// controllers are missing (/proc of the processes in the cgroup).
    fn container_usage(&self, pod: &PodUid, container: &str) -> Result<Option<Usage>, CgroupError>;
    /// Counters of the node's pods together.
    fn node_usage(&self) -> Result<Usage, CgroupError>;
}

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> CgroupError + use<> {
    let path = path.to_owned();
    move |source| CgroupError::Path { operation, path: path.clone(), source }
}
