//! Containers: what they may use, and what is seen of one attempt.

use std::collections::BTreeMap;

use super::{ContainerId, ContainerName, PodUid};

/// cgroup v2 values of one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `cpu.weight`, 1 to 10,000.
    pub cpu_weight: Option<u64>,
    /// `cpu.max` quota in microseconds per `cpu_period_us`.
    pub cpu_quota_us: Option<i64>,
    /// Period of the quota.
    pub cpu_period_us: Option<u64>,
    /// `memory.max` in bytes.
    pub memory_max: Option<i64>,
    /// `pids.max`.
    pub pids_max: Option<i64>,
}

/// What runs, or ran and was not removed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedContainer {
    /// Our id.
    pub id: ContainerId,
    /// Parsed from the id.
    pub pod: PodUid,
    /// Parsed from the id.
    pub container: ContainerName,
    /// Parsed from the id: 0 is the first start.
    pub attempt: u32,
    /// Image reference it was created from.
    pub image: String,
    /// Image digest, for `imageID`.
    pub image_id: String,
    /// State.
    pub state: ContainerState,
    /// Labels that were put on it.
    pub labels: BTreeMap<String, String>,
    /// It was made before the machine was last started: what it did is gone with the pod's sandbox of then.
    pub earlier_boot: bool,
    /// Its task is still there: a shim and a logger keep it, even when its process has ended.
    pub task: bool,
}

/// Phase of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Created, not started: start it or remove it.
    Created,
    /// Running since (Unix milliseconds).
    Running {
        /// Init process on the node.
        pid: u32,
        /// Unix milliseconds.
        started_ms: i64,
    },
    /// Ended; the record stays until removed.
    Exited {
        /// Exit code; 128 + signal when killed.
        code: i32,
        /// Unix milliseconds.
        started_ms: i64,
        /// Unix milliseconds.
        finished_ms: i64,
        /// The kernel killed it for memory.
        oom_killed: bool,
    },
    /// It was started and has no task any more, and nobody saw how it ended (reboot, shim gone).
    Lost,
    /// Its shim does not answer, and no process of it can be found either: nobody can tell. Look again later.
    Unreadable,
}

impl ContainerState {
    /// It has a process, or may have one.
    pub fn may_live(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Unreadable)
    }
}
