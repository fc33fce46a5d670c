//! What the node has of one pod, as plain data with the time it was seen: together with Desired all that `plan`
//! needs. The durable part that neither containerd nor the kernel can tell is the [`PodRecord`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;
use serde::{Deserialize, Serialize};

use super::{ContainerId, ContainerName, NetworkStatus};
use crate::{images::ImageInfo, runtime::ObservedContainer};

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
    /// Digest of the content that each volume was last brought to.
    pub volumes: BTreeMap<String, u64>,
    /// Something of the pod is still on disk.
    pub files: bool,
    /// Image of each container.
    pub images: BTreeMap<ContainerName, ImageState>,
    /// What the agent wrote down.
    pub record: PodRecord,
    /// Steps that failed and were not repeated with success.
    pub failures: BTreeMap<Subject, Failure>,
    /// Containers with a hook that runs now.
    pub hooks: BTreeSet<ContainerId>,
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
        use crate::runtime::ContainerState::Running;
        self.containers.values().flatten().any(|c| matches!(c.state, Running { .. }))
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

/// What must outlive the agent and no one else remembers. Kept in the run directory: a reboot forgets it
/// together with the processes it tells about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// The status as last reported: times of transitions, ends of containers whose record is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<core::PodStatus>,
    /// Per container, about its latest attempt.
    #[serde(default)]
    pub containers: BTreeMap<ContainerName, ContainerRecord>,
}

impl PodRecord {
    /// The record of this very attempt; of an older one there is none.
    pub fn of(&self, container: &ContainerName, attempt: u32) -> Option<&ContainerRecord> {
        self.containers.get(container).filter(|record| record.attempt == attempt)
    }

    /// The record of this attempt, made or begun anew.
    pub fn of_mut(&mut self, container: &ContainerName, attempt: u32) -> &mut ContainerRecord {
        let record = self.containers.entry(container.clone()).or_default();
        if record.attempt != attempt {
            *record = ContainerRecord { attempt, ..ContainerRecord::default() };
        }
        record
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
