//! Probes and hooks with everything resolved: what is asked of which attempt, when, and what the answer means.

use super::{ContainerId, ContainerName, PodName, PodUid};

/// One attempt of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// containerd's id.
    pub id: ContainerId,
    /// Name in the pod.
    pub container: ContainerName,
    /// Attempt.
    pub attempt: u32,
}

/// One probe of one attempt of one container, with everything resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Whose.
    pub pod: PodUid,
    /// For events.
    pub name: PodName,
    /// Which attempt.
    pub target: Target,
    /// What its verdict means.
    pub kind: ProbeKind,
    /// What to do.
    pub check: Check,
    /// When, and how often.
    pub timing: Timing,
    /// When the attempt began (Unix milliseconds).
    pub started_ms: i64,
}

/// Kinds of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Gates the other two.
    Startup,
    /// Its failure ends the container.
    Liveness,
    /// Decides whether it gets traffic.
    Readiness,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A command in the container.
    Exec {
        /// Argument vector.
        command: Vec<String>,
    },
    /// Nothing: it cannot be asked as it is written. The reason is told each time.
    Impossible(String),
    /// A GET request.
    Http(HttpCheck),
    /// A connection.
    Tcp {
        /// Address or name.
        host: String,
        /// Port.
        port: u16,
    },
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// Address.
        host: String,
        /// Port.
        port: u16,
        /// `service` of the request.
        service: String,
    },
}

/// A GET request of a probe or a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// TLS, unverified.
    pub https: bool,
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// Additional headers.
    pub headers: Vec<(String, String)>,
}

/// When a probe runs, and how many results make a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Seconds after the container's start.
    pub initial_delay_s: u32,
    /// Seconds between two.
    pub period_s: u32,
    /// Seconds for one.
    pub timeout_s: u32,
    /// Successes in a row for a success.
    pub success_threshold: u32,
    /// Failures in a row for a failure.
    pub failure_threshold: u32,
}
