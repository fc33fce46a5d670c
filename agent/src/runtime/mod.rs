//! The container runtime port: what the agent needs of containerd, as few calls as that takes. The adapter is
//! in this module too; nothing above it knows which runtime handler runs a container.

mod capabilities;
mod containerd;
mod devices;
mod errors;
mod events;
mod exec;
mod facts;
mod host;
mod labels;
mod listing;
pub mod oom;
mod options;
mod piped;
mod rootfs;
mod seccomp;
mod spec;
mod timed;
mod user;

use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf};

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use containerd::{ContainerdRuntime, Handler, Options};
pub use labels::{LOG as LOG_LABEL, START_ERROR, STDIN_ONCE};
pub use timed::Timed;

use crate::model::{ContainerId, Limits, ObservedContainer, PodUid};

/// Everything needed to create one attempt of one container. All decisions (environment, user, mounts, limits)
/// are already taken: the adapter only builds the OCI spec.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerSpec {
    /// `<pod uid>.<container>.<attempt>`.
    pub id: ContainerId,
    /// For labels on the containerd object, so that an observation alone identifies it.
    pub pod_namespace: String,
    /// See `pod_namespace`.
    pub pod_name: String,
    /// Image reference as resolved by the image store (present locally).
    pub image: String,
    /// Entry point and arguments; empty parts fall back to the image's own.
    pub command: Vec<String>,
    /// See `command`.
    pub args: Vec<String>,
    /// Overrides the image's working directory.
    pub working_dir: Option<String>,
    /// Complete environment besides the image's own, in order; later wins.
    pub env: Vec<(String, String)>,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// Overrides the image's user.
    pub user: Option<u32>,
    /// Overrides the image's group.
    pub group: Option<u32>,
    /// Refuse when the effective user is 0 (decided with the image's configuration).
    pub run_as_non_root: bool,
    /// `fsGroup` and `supplementalGroups`.
    pub extra_groups: Vec<u32>,
    /// Capabilities to add to and drop from the default set (`ALL` allowed), without `CAP_`.
    pub add_capabilities: Vec<String>,
    /// See `add_capabilities`.
    pub drop_capabilities: Vec<String>,
    /// All capabilities, devices and no confinement.
    pub privileged: bool,
    /// `false` sets no_new_privs.
    pub allow_privilege_escalation: bool,
    /// Read-only root file system.
    pub read_only_root: bool,
    /// Seccomp profile.
    pub seccomp: Seccomp,
    /// Namespaces to join (paths of pinned namespaces); `None`: the host's.
    pub netns: Option<PathBuf>,
    /// See `netns`.
    pub ipcns: Option<PathBuf>,
    /// See `netns`.
    pub utsns: Option<PathBuf>,
    /// Path of the container's cgroup below the cgroup v2 mount: `/gantry/pods/burstable/pod<uid>/<container>`. The
    /// attempt gets a directory of its own in it.
    pub cgroup: String,
    /// Limits; all `None` where the host enforces none.
    pub limits: Limits,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: i32,
    /// File that stdout and stderr go to, in the CRI log format.
    pub log_path: PathBuf,
    /// Keep stdin open (`stdin: true`).
    pub stdin: bool,
    /// The end of the first client's input is the end of stdin.
    pub stdin_once: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// Runtime handler of the RuntimeClass; `None`: the configured default.
    pub handler: Option<String>,
    /// Kernel parameters of the namespaces it is in.
    pub sysctls: BTreeMap<String, String>,
    /// `hostPID`: the node's process namespace instead of one of its own.
    pub host_pid: bool,
    /// Written to the containerd object as they are, read back in `ObservedContainer::labels`.
    pub labels: BTreeMap<String, String>,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Directory or file on the node.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// Whether mounts made on one side are seen on the other.
    pub propagation: Propagation,
}

/// `mountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Neither sees the other's.
    #[default]
    None,
    /// The container sees those of the node.
    HostToContainer,
    /// The node, and with it other pods, sees those of the container too.
    Bidirectional,
}

/// Seccomp choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// The built-in default profile.
    RuntimeDefault,
    /// None at all.
    Unconfined,
    /// A profile file on the node.
    Localhost(PathBuf),
}

/// Something changed: observe again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container's process ended.
    Exited(ContainerId),
    /// A container hit its memory limit.
    Oom(ContainerId),
    /// The event stream was interrupted: anything may have changed.
    Resync,
}

/// A process to run inside a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Argument vector.
    pub command: Vec<String>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Connect stdin.
    pub stdin: bool,
    /// What it leaves running in its process group ends with it.
    pub group: bool,
}

/// A running exec: pipes and a handle.
#[derive(Debug)]
pub struct ExecSession {
    /// Write end, when asked for.
    pub stdin: Option<OwnedFd>,
    /// Read end.
    pub stdout: OwnedFd,
    /// Read end; `None` with a terminal.
    pub stderr: Option<OwnedFd>,
    /// For `exec_wait`, `exec_resize`, `exec_kill`.
    pub id: String,
}

/// What the runtime can refuse or fail.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// containerd answered with an error.
    #[error("containerd: {operation} of {subject} failed")]
    Call {
        /// `create`, `start`, ...
        operation: &'static str,
        /// Container or image.
        subject: String,
        /// Its answer.
        #[source]
        source: Box<tonic::Status>,
    },
    /// The container cannot be as specified; the message is what the user should read
    /// (`CreateContainerConfigError`).
    #[error("{message}")]
    Config {
        /// For the pod's status.
        message: String,
    },
    /// The image's command cannot be run (`RunContainerError`, `StartError`).
    #[error("{message}")]
    Start {
        /// For the pod's status.
        message: String,
    },
    /// Files or pipes on the node.
    #[error("{operation} {path:?}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// No such container.
    #[error("container {0} does not exist")]
    NotFound(ContainerId),
}

/// The port. Every call is idempotent: repeating it after a crash is safe.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Name and version, `containerd://1.6.20`.
    async fn version(&self) -> Result<String, RuntimeError>;
    /// Everything of ours, in any state.
    async fn list(&self) -> Result<Vec<ObservedContainer>, RuntimeError>;
    /// Everything of ours that belongs to one pod: what a reconcile pass asks for.
    async fn list_pod(&self, pod: &PodUid) -> Result<Vec<ObservedContainer>, RuntimeError> {
        Ok(self.list().await?.into_iter().filter(|container| container.pod == *pod).collect())
    }
    /// Snapshot, container and task, not started. Replaces a left-over of the same id that never started.
    ///
    /// When the container's command cannot be run, here or at `start`, the error is `Start` and the attempt stays on
    /// record as `Exited` with code 128 and the message in the label [`START_ERROR`], until removed.
    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError>;
    /// Starts a created task; returns its pid.
    async fn start(&self, id: &ContainerId) -> Result<u32, RuntimeError>;
    /// Sends a signal to the init process; with `all` to every process of it. Not running is not an error.
    async fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> Result<(), RuntimeError>;
    /// Lets go of an ended container's task, so that its shim and logger end. How it ended is on record before, and
    /// stays. Not ended, or no task any more, is not an error.
    async fn release(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Removes task, container and snapshot. Absence is not an error.
    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Runs a process in a running container.
    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession, RuntimeError>;
    /// Waits for its end; the exit code.
    async fn exec_wait(&self, id: &ContainerId, exec: &str) -> Result<i32, RuntimeError>;
    /// Resizes its terminal; with an empty `exec` the container's own.
    async fn exec_resize(
        &self,
        id: &ContainerId,
        exec: &str,
        width: u16,
        height: u16,
    ) -> Result<(), RuntimeError>;
    /// Kills and forgets it.
    async fn exec_kill(&self, id: &ContainerId, exec: &str) -> Result<(), RuntimeError>;
    /// Write end of the standard input of a container with `stdin: true`; `None` when it has none. With `once` (see
    /// [`STDIN_ONCE`]) its end is the end of the container's input; else another client may follow.
    async fn attach_stdin(&self, _id: &ContainerId, _once: bool) -> Result<Option<OwnedFd>, RuntimeError> {
        Ok(None)
    }
    /// Changes; never ends (reconnects and yields `Resync`).
    fn events(&self) -> BoxStream<'static, RuntimeEvent>;
}
