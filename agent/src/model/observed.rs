//! What the node has of one pod, as plain data with the time it was seen: together with Desired all that `plan`
//! needs. The durable part that neither containerd nor the kernel can tell is the [`PodRecord`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

use super::{ContainerId, ContainerName, ImageInfo, NetworkStatus, ObservedContainer};

/// One pod as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    /// When it was seen (Unix milliseconds): the only clock that `plan` knows.
    pub now_ms: i64,
    /// Attempts of each container in ascending order.
    pub containers: BTreeMap<ContainerName, Vec<ObservedContainer>>,
    /// Namespaces and addresses, when made.
    pub network: Option<NetworkStatus>,
    /// The datapath has the pod's interface (or it needs none).
    pub attached: bool,
    /// The pod's cgroup exists.
    pub cgroup: bool,
    /// This agent has set its limits: one that was killed between making the cgroup and that has not.
    pub limited: bool,
    /// Digest of the content that each volume was last brought to.
    pub volumes: BTreeMap<String, u64>,
    /// Something of the pod is still on disk.
    pub files: bool,
    /// Volumes, sub paths or shared memory are among it.
    pub mounted: bool,
    /// Image of each container.
    pub images: BTreeMap<ContainerName, ImageState>,
    /// What the agent wrote down.
    pub record: PodRecord,
    /// Steps that failed and were not repeated with success.
    pub failures: BTreeMap<Subject, Failure>,
    /// Containers with a hook that runs now.
    pub hooks: BTreeSet<(ContainerId, HookKind)>,
    /// Termination messages of ended containers.
    pub messages: BTreeMap<ContainerId, String>,
}

impl ObservedPod {
    /// The latest attempt of a container.
    pub fn latest(&self, container: &ContainerName) -> Option<&ObservedContainer> {
        self.containers.get(container)?.last()
    }

    /// Whether any attempt of any container has a live process.
    pub fn any_running(&self) -> bool {
        self.containers.values().flatten().any(|container| container.state.may_live())
    }
}

/// What is known of a container's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// On the node; `checked_for` is the attempt it was looked up for (pull policy Always asks each time).
    Present {
        /// The image.
        info: ImageInfo,
        /// See above.
        checked_for: u32,
    },
    /// On its way; after a failure when the pull is a repeated one.
    Pulling {
        /// The last failure.
        after: Option<ImageFailure>,
        /// How far it is, in words; `None` while there is nothing to say.
        progress: Option<String>,
    },
    /// Not to be had so far.
    Failed(ImageFailure),
}

/// Why an image is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFailure {
    /// Which image, as the user wrote it.
    pub reference: String,
    /// Upstream's reason: `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`.
    pub reason: &'static str,
    /// What the pod's status shows.
    pub message: String,
    /// Failures in a row.
    pub count: u32,
    /// When the last one was (Unix milliseconds).
    pub at_ms: i64,
}

/// What a failed step was about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Namespaces and addresses.
    Network,
    /// The pod's cgroup.
    Cgroup,
    /// A volume by name.
    Volume(String),
    /// Start of a container.
    Container(ContainerName),
    /// A signal to a container: what cannot be removed elsewhere must not hold it back.
    Stop(ContainerName),
    /// Removal of what the pod left.
    Removal,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Upstream's reason where the pod's status shows one: `CreateContainerError`, `RunContainerError`, ...
    pub reason: &'static str,
    /// What the pod's status shows.
    pub message: String,
    /// Failures in a row.
    pub count: u32,
    /// When the last one was (Unix milliseconds).
    pub at_ms: i64,
    /// Which attempt of the container it was.
    pub attempt: u32,
}

/// What must outlive the agent and no one else remembers. A reboot ends what it tells of processes, and leaves the
/// status: a pod that has ended does not begin again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The status as last reported: times of transitions, ends of containers whose record is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Arc<core::PodStatus>>,
    /// Per container, about its latest attempt.
    #[serde(default)]
    pub containers: BTreeMap<ContainerName, ContainerRecord>,
    /// The boot that `containers` is about.
    #[serde(default)]
    pub boot: String,
    /// The last attempt of each container in an earlier boot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub earlier_boots: BTreeMap<ContainerName, u32>,
}

impl PodRecord {
    /// The record of this very attempt; of an older one there is none.
    pub fn of(&self, container: &ContainerName, attempt: u32) -> Option<&ContainerRecord> {
        self.containers.get(container).filter(|record| record.attempt == attempt)
    }

    /// The record of this attempt, made or begun anew; `None` when a later attempt has one: what is late about an
    /// earlier one is of no interest any more.
    pub fn of_mut(&mut self, container: &ContainerName, attempt: u32) -> Option<&mut ContainerRecord> {
        let record = self.containers.entry(container.clone()).or_default();
        if record.attempt < attempt {
            *record = ContainerRecord { attempt, ..ContainerRecord::default() };
        }
        (record.attempt == attempt).then_some(record)
    }

    /// Whether the attempt was before the machine was last started.
    pub fn is_of_earlier_boot(&self, container: &ContainerName, attempt: u32) -> bool {
        self.earlier_boots.get(container).is_some_and(|last| attempt <= *last)
    }

    /// The machine was started anew since this was written: what tells about processes tells nothing any more, and
    /// the attempts reported so far were of an earlier boot. The status stays: an end is an end.
    pub fn reboot(&mut self, boot: &str) {
        boot.clone_into(&mut self.boot);
        self.containers.clear();
        let Some(status) = &self.status else { return };
        let init = status.init_container_statuses.iter().flatten();
        let all = status.container_statuses.iter().flatten().chain(init);
        let attempts =
            all.map(|known| (known.name.as_str().into(), u32::try_from(known.restart_count).unwrap_or(0)));
        self.earlier_boots = attempts.collect();
    }
}

/// What is remembered of one attempt of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Which attempt.
    pub attempt: u32,
    /// Its startup probe succeeded.
    pub started: bool,
    /// Its readiness probe's verdict.
    pub ready: bool,
    /// The probe that condemned it.
    pub unhealthy: Option<Condemned>,
    /// Its postStart hook.
    pub post_start: Hook,
    /// Its end, once begun.
    pub stop: Option<StopRecord>,
}

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    /// After the start.
    PostStart,
    /// Before the stop signal.
    PreStop,
}

/// Progress of a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// Not run, or begun and not ended: it runs again when the agent is restarted, as upstream.
    #[default]
    Pending,
    /// Ended well.
    Done,
    /// Ended badly; the text is for the pod's status.
    Failed(String),
}

/// Why a probe ends a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condemned {
    /// `failed liveness probe`
    Liveness,
    /// `failed startup probe`
    Startup,
}

/// The end of a container, once begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRecord {
    /// When (Unix milliseconds).
    pub since_ms: i64,
    /// preStop is over (or there is none).
    pub pre_stop_done: bool,
    /// The stop signal was sent (Unix milliseconds).
    pub signalled_ms: Option<i64>,
}
