//! Where one container stands: the latest attempt as observed, or as last reported when its record is gone.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

use super::{draft::Subjects, restart};
use crate::{
    model::{
        ContainerId, ContainerName, ContainerState, DesiredPod, Hook, ObservedContainer, ObservedPod,
        PodRecord,
    },
    runtime::START_ERROR,
};

/// Label: the image as the user wrote it.
pub const IMAGE_LABEL: &str = "gantry.dev/image";

/// Label: how many restarts in a row were delayed before this attempt.
pub const LEVEL_LABEL: &str = "gantry.dev/backoff-level";

/// Label: the number of the signal that is to end it.
pub(super) const STOP_SIGNAL_LABEL: &str = "gantry.dev/stop-signal";

/// Exit code of a container whose end nobody saw, as upstream reports it.
const LOST_CODE: i32 = 137;

/// The latest attempt of a container.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing<'a> {
    /// Never created.
    Absent,
    /// Created and not started: the agent was interrupted, or the start failed.
    Created(&'a ObservedContainer),
    /// Its process lives.
    Running {
        /// The attempt.
        container: &'a ObservedContainer,
        /// Unix milliseconds.
        started_ms: i64,
    },
    /// Nobody can tell: nothing may be decided about it now.
    Unreadable(&'a ObservedContainer),
    /// Its process ended.
    Ended {
        /// Which attempt.
        attempt: u32,
        /// How.
        end: End,
        /// Back-off level it was started with.
        level: u32,
        /// The image it was made from, as the user wrote it.
        image: Option<&'a str>,
    },
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Exit code.
    pub code: i32,
    /// Unix milliseconds; 0 when unknown.
    pub started_ms: i64,
    /// Unix milliseconds; 0 when unknown.
    pub finished_ms: i64,
    /// `Completed`, `Error`, `OOMKilled`, ...
    pub reason: String,
    /// The runtime lost it (reboot): nobody knows how it ended.
    pub lost: bool,
    /// It was in a sandbox that a reboot took: what it did there must be done again.
    pub earlier_boot: bool,
    /// It was in an earlier round of its pod: the container is started again, whatever it did.
    pub superseded: bool,
}

impl End {
    /// Nobody saw it.
    fn unseen(earlier_boot: bool) -> Self {
        let reason = "ContainerStatusUnknown".to_owned();
        Self {
            code: LOST_CODE,
            started_ms: 0,
            finished_ms: 0,
            reason,
            lost: true,
            earlier_boot,
            superseded: false,
        }
    }

    /// It counts for what comes after it in the sandbox that is there now.
    pub(super) fn counts(&self) -> bool {
        !self.lost && !self.earlier_boot && !self.superseded
    }
}

/// The standing of a container.
pub(super) fn standing<'a>(subjects: &Subjects<'a>, name: &ContainerName) -> Standing<'a> {
    let Subjects { pod, seen, round, .. } = *subjects;
    let Some(container) = seen.latest(name) else {
        return reported(previous(pod, seen), &seen.record, name);
    };
    match &container.state {
        ContainerState::Created => Standing::Created(container),
        ContainerState::Running { started_ms, .. } => {
            Standing::Running { container, started_ms: *started_ms }
        }
        ContainerState::Unreadable => Standing::Unreadable(container),
        ContainerState::Exited { .. } | ContainerState::Lost => Standing::Ended {
            attempt: container.attempt,
            end: End { superseded: restart::of(container) < round.number, ..end_of(container) },
            level: level(container),
            image: container.labels.get(IMAGE_LABEL).map(String::as_str),
        },
    }
}

/// How an ended container ended.
pub(super) fn end_of(container: &ObservedContainer) -> End {
    match container.state {
        ContainerState::Exited { code, started_ms, finished_ms, oom_killed } => {
            let reason = match (oom_killed, code) {
                _ if container.labels.contains_key(START_ERROR) => "StartError",
                (true, _) => "OOMKilled",
                (false, 0) => "Completed",
                (false, _) => "Error",
            };
            let (reason, earlier_boot) = (reason.to_owned(), container.earlier_boot);
            End { code, started_ms, finished_ms, reason, lost: false, earlier_boot, superseded: false }
        }
        _ => End::unseen(container.earlier_boot),
    }
}

/// The back-off level an attempt was started with.
pub(super) fn level(container: &ObservedContainer) -> u32 {
    container.labels.get(LEVEL_LABEL).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The status as last reported by this agent, or as the scheduler has it.
pub(super) fn previous<'a>(pod: &'a DesiredPod, seen: &'a ObservedPod) -> Option<&'a PodStatus> {
    seen.record.status.as_deref().or(pod.pod.status.as_ref())
}

/// The last reported status of one container.
pub(super) fn previous_container<'a>(
    status: Option<&'a PodStatus>,
    name: &str,
) -> Option<&'a ContainerStatus> {
    let status = status?;
    let init = status.init_container_statuses.iter().flatten();
    status.container_statuses.iter().flatten().chain(init).find(|status| status.name == name)
}

/// The runtime knows nothing of a container that was reported to exist: it is lost, or was removed after its end.
fn reported<'a>(status: Option<&PodStatus>, record: &PodRecord, name: &ContainerName) -> Standing<'a> {
    let Some(known) = previous_container(status, name.as_str()) else { return Standing::Absent };
    let attempt = u32::try_from(known.restart_count).unwrap_or(0);
    let state = known.state.as_ref();
    let earlier_boot = record.is_of_earlier_boot(name, attempt);
    let ended = |terminated| Standing::Ended {
        attempt,
        end: from_status(terminated, earlier_boot),
        level: 0,
        image: None,
    };
    if let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) {
        return ended(terminated);
    }
    let last = known.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if state.is_some_and(|state| state.running.is_some()) {
        return Standing::Ended { attempt, end: End::unseen(earlier_boot), level: 0, image: None };
    }
    // Waiting after an end, as this very agent reported it.
    match last.filter(|_| record.status.is_some()) {
        Some(last) => ended(last),
        None => Standing::Absent,
    }
}

fn from_status(terminated: &ContainerStateTerminated, earlier_boot: bool) -> End {
    let ms = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map_or(0, |time| time.0.as_millisecond())
    };
    End {
        code: terminated.exit_code,
        started_ms: ms(&terminated.started_at),
        finished_ms: ms(&terminated.finished_at),
        reason: terminated.reason.clone().unwrap_or_default(),
        lost: false,
        earlier_boot,
        superseded: false,
    }
}

/// The id an attempt has in `status.containerStatuses[].containerID`.
pub fn container_id(id: &ContainerId) -> String {
    format!("containerd://{id}")
}

/// A postStart hook that failed shows its text with the container's end.
pub(super) fn hook_failure<'a>(seen: &'a ObservedPod, observed: &ObservedContainer) -> Option<&'a str> {
    match &seen.record.of(&observed.container, observed.attempt)?.post_start {
        Hook::Failed(message) => Some(message),
        Hook::Pending | Hook::Done => None,
    }
}
