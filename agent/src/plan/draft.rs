//! A plan in the making, and what it is made for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

use super::{context::Context, restart::Round, step::Step};
use crate::model::{ContainerName, DesiredPod, ObservedContainer, ObservedPod, Target};

/// A shim that did not answer is asked again after this time.
pub(super) const UNREADABLE_MS: i64 = 2_000;

/// Why a container is not running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Upstream's reason.
    pub reason: &'static str,
    /// For people; empty for none.
    pub message: String,
}

/// Steps of a pod in the making.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Steps so far.
    pub steps: Vec<Step>,
    /// Why containers wait.
    pub waiting: BTreeMap<ContainerName, Waiting>,
    /// Why the pod cannot have a name, and so no network.
    pub unnamed: Option<String>,
    /// Earliest time at which something changes by itself.
    pub wake_ms: Option<i64>,
}

impl Draft {
    /// Asks for another plan at this time.
    pub(super) fn wake_at(&mut self, ms: i64) {
        self.wake_ms = Some(self.wake_ms.map_or(ms, |known| known.min(ms)));
    }

    pub(super) fn wait(&mut self, name: &ContainerName, reason: &'static str, message: impl Into<String>) {
        self.waiting.insert(name.clone(), Waiting { reason, message: message.into() });
    }
}

/// The pod that is planned for.
#[derive(Clone, Copy, Debug)]
pub struct Subjects<'a> {
    /// Desired and facts.
    pub context: &'a Context<'a>,
    /// The pod.
    pub pod: &'a DesiredPod,
    /// Its specification.
    pub spec: &'a PodSpec,
    /// Its observation.
    pub seen: &'a ObservedPod,
    /// Network, volumes and cgroup are there: containers may start.
    pub prepared: bool,
    /// Which of its rounds is planned for.
    pub round: Round,
}

pub(super) fn target(observed: &ObservedContainer) -> Target {
    Target { id: observed.id.clone(), container: observed.container.clone(), attempt: observed.attempt }
}
