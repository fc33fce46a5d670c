//! What a plan consists of. A step names one call of one port; `apply` executes it and decides nothing.

use std::{fmt, time::Duration};

use k8s_openapi::api::core::v1::{LifecycleHandler, PodStatus};

use crate::{
    cgroup::Qos,
    model::{ContainerName, Limits, NetworkStatus, ProbeTarget, Subject, Target},
    net::PodNetwork,
    runtime::ContainerSpec,
    volumes::{PodFile, SubPath, VolumeSpec},
};

/// The next steps of one pod, all independent of each other, and what to tell about it now.
#[derive(Clone, Debug)]
pub struct PodPlan {
    /// May run at the same time; starts keep their order.
    pub steps: Vec<Step>,
    /// What to probe from now on.
    pub probes: Vec<ProbeTarget>,
    /// What to report.
    pub status: PodStatus,
    /// What changed against the last report and is worth an event.
    pub notices: Vec<Notice>,
    /// When the plan changes by itself (Unix milliseconds).
    pub wake_ms: Option<i64>,
    /// Nothing of the pod is left.
    pub finished: bool,
}

/// One call of one port.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Namespaces, wire, addresses.
    EnsureNetwork(PodNetwork),
    /// The datapath at the pod's wire. No container of the pod starts before it is done; creating one may go on beside
    /// it, which hides the kernel's grace periods.
    Attach(NetworkStatus),
    /// The pod's cgroup.
    EnsureCgroup {
        /// Its class.
        qos: Qos,
        /// Limits of the pod as a whole.
        limits: Limits,
    },
    /// A volume and its content.
    EnsureVolume(VolumeSpec),
    /// Looks an image up and, as the policy says, begins its pull.
    Image(ImageRequest),
    /// Creates and starts one attempt of a container.
    Launch(Box<Launch>),
    /// Runs the postStart hook of a started container in the background.
    PostStart(HookCall),
    /// Writes down that the container's end has begun, and runs its preStop hook in the background.
    BeginStop {
        /// Which container.
        target: Target,
        /// Why, for the event.
        message: String,
        /// The preStop hook.
        pre_stop: Option<HookCall>,
    },
    /// Runs a preStop hook again that an interrupted agent began.
    PreStop(HookCall),
    /// Sends the stop signal.
    Signal {
        /// Which container.
        target: Target,
        /// `SIGTERM` or the container's own.
        signal: i32,
    },
    /// Sends SIGKILL to all its processes.
    Kill(Target),
    /// Lets go of an ended attempt's task, so that its shim and logger end; what is known of it stays.
    Release(Target),
    /// Removes an ended attempt; its log too unless it is kept for `--previous`.
    Remove {
        /// Which attempt.
        target: Target,
        /// Also its log file.
        log: bool,
    },
    /// Removes namespaces, addresses, links.
    RemoveNetwork,
    /// Removes the pod's cgroup.
    RemoveCgroup,
    /// Removes volumes; logs and termination messages stay.
    RemoveVolumes,
    /// Removes logs, volumes and files.
    RemoveFiles,
}

impl Step {
    /// What it ends or removes: held back for a while after such a step failed.
    pub fn ending(&self) -> Option<Subject> {
        match self {
            Step::Signal { target, .. } | Step::Kill(target) => Some(Subject::Stop(target.container.clone())),
            Step::Release(_)
            | Step::Remove { .. }
            | Step::RemoveNetwork
            | Step::RemoveCgroup
            | Step::RemoveVolumes
            | Step::RemoveFiles => Some(Subject::Removal),
            Step::EnsureNetwork(_)
            | Step::Attach(_)
            | Step::EnsureCgroup { .. }
            | Step::EnsureVolume(_)
            | Step::Image(_)
            | Step::Launch(_)
            | Step::PostStart(_)
            | Step::PreStop(_)
            | Step::BeginStop { .. } => None,
        }
    }
}

/// A hook with what it needs.
#[derive(Clone, Debug, PartialEq)]
pub struct HookCall {
    /// Whose hook.
    pub target: Target,
    /// What to do.
    pub handler: LifecycleHandler,
    /// Address of the pod for httpGet.
    pub host: String,
    /// Named ports of the container.
    pub ports: Vec<(String, u16)>,
    /// At most so long (milliseconds); `None`: as long as the container lives.
    pub limit_ms: Option<i64>,
}

impl HookCall {
    /// `limit_ms` as a duration.
    pub fn limit(&self) -> Option<Duration> {
        self.limit_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }
}

/// An image to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// For which container.
    pub container: ContainerName,
    /// For which attempt of it.
    pub attempt: u32,
    /// As the user wrote it.
    pub reference: String,
    /// `Always`, `IfNotPresent`, `Never`.
    pub policy: PullPolicy,
    /// Pull secrets, by name, to read credentials from.
    pub secrets: Vec<String>,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry before every start.
    Always,
    /// Only when absent.
    IfNotPresent,
    /// Not at all.
    Never,
}

/// A container to create and start. `Debug` tells only its id: the environment may hold secrets.
#[derive(Clone, PartialEq)]
pub struct Launch {
    /// Which attempt.
    pub target: Target,
    /// All the runtime needs.
    pub spec: ContainerSpec,
    /// Files to write first.
    pub files: Vec<PodFile>,
    /// Sub paths to bind first.
    pub sub_paths: Vec<SubPath>,
    /// It mounts the shared memory of its pod.
    pub shared_memory: bool,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Launch({})", self.target.id)
    }
}

/// Something to make an event of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which container, when about one.
    pub field_path: Option<String>,
    /// Warning rather than Normal.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}
