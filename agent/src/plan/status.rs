//! Statuses of a pod's containers, as upstream derives them.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

use super::standing::{container_id, end_of, previous, previous_container};
use crate::{
    model::{ContainerName, ContainerRecord, ContainerState, Hook, ObservedContainer, spec::is_sidecar},
    plan::{
        draft::{Draft, Subjects, Waiting},
        standing::hook_failure,
    },
    runtime::START_ERROR,
};

/// Unix milliseconds as the API writes time: whole seconds.
pub(super) fn time(ms: i64) -> Option<Time> {
    if ms <= 0 {
        return None;
    }
    Timestamp::from_second(ms.div_euclid(1000)).ok().map(Time)
}

/// A running container counts as started when its postStart hook and its startup probe are done.
pub(super) fn started(container: &Container, record: Option<&ContainerRecord>) -> bool {
    let hook = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
    let hook_done = !hook || record.is_some_and(|record| record.post_start == Hook::Done);
    hook_done && (container.startup_probe.is_none() || record.is_some_and(|record| record.started))
}

/// The status of one container.
pub(super) fn container_status(
    subjects: &Subjects<'_>,
    draft: &Draft,
    container: &Container,
    init: bool,
    default: &Waiting,
) -> ContainerStatus {
    let name = ContainerName::new(container.name.as_str());
    let seen = subjects.seen;
    let known = previous_container(previous(subjects.pod, seen), name.as_str());
    let attempts = seen.containers.get(&name).map_or(&[][..], Vec::as_slice);
    let (latest, older) = match attempts.split_last() {
        Some((latest, older)) => (Some(latest), older.last()),
        None => (None, None),
    };
    let latest = latest.filter(|latest| latest.state != ContainerState::Created || older.is_none());
    let shown = latest.or(older);
    let waiting = draft.waiting.get(&name);
    let (state, last) = states(subjects, shown, attempts, waiting, known, default);
    let running = state.running.is_some();
    let record = shown.and_then(|shown| seen.record.of(&name, shown.attempt));
    let is_started = running && started(container, record);
    let probe_ready = container.readiness_probe.is_none() || record.is_some_and(|record| record.ready);
    let succeeded = state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code == 0);
    let resources = container.resources.clone();
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: shown
            .map(|shown| shown.image_id.clone())
            .or_else(|| known.map(|known| known.image_id.clone()))
            .unwrap_or_default(),
        container_id: shown
            .filter(|shown| shown.state != ContainerState::Created)
            .map(|shown| container_id(&shown.id))
            .or_else(|| known.and_then(|known| known.container_id.clone())),
        ready: if init && !is_sidecar(container) { succeeded } else { is_started && probe_ready },
        started: Some(if init && !is_sidecar(container) { running } else { is_started }),
        restart_count: shown
            .map(|shown| i32::try_from(shown.attempt).unwrap_or(i32::MAX))
            .or_else(|| known.map(|known| known.restart_count))
            .unwrap_or(0),
        state: Some(state),
        last_state: Some(last),
        allocated_resources: resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources,
        volume_mounts: mounts(container),
        ..ContainerStatus::default()
    }
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?;
    let status = mounts.iter().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only,
        ..VolumeMountStatus::default()
    });
    Some(status.collect())
}

/// `state` and `lastState`.
fn states(
    subjects: &Subjects<'_>,
    shown: Option<&ObservedContainer>,
    attempts: &[ObservedContainer],
    waiting: Option<&Waiting>,
    known: Option<&ContainerStatus>,
    default: &Waiting,
) -> (State, State) {
    let ended = |observed: &ObservedContainer| match observed.state {
        ContainerState::Exited { .. } | ContainerState::Lost => Some(terminated(subjects, observed)),
        _ => None,
    };
    let before = shown.and_then(|shown| attempts.iter().rfind(|older| older.attempt < shown.attempt));
    let last = State { terminated: before.and_then(ended), ..State::default() };
    let Some(shown) = shown else {
        return unseen(waiting, known, default);
    };
    if let ContainerState::Running { started_ms, .. } = shown.state {
        let running = ContainerStateRunning { started_at: time(started_ms) };
        return (State { running: Some(running), ..State::default() }, last);
    }
    if shown.state == ContainerState::Unreadable
        && let Some(state) = known.and_then(|known| known.state.clone())
    {
        return (state, last);
    }
    match (ended(shown), waiting) {
        (Some(end), Some(waiting)) => {
            (waiting_state(waiting), State { terminated: Some(end), ..State::default() })
        }
        (Some(end), None) => (State { terminated: Some(end), ..State::default() }, last),
        (None, waiting) => (waiting_state(waiting.unwrap_or(default)), last),
    }
}

/// Nothing of the container is on the node: what was reported of its end stays true.
fn unseen(waiting: Option<&Waiting>, known: Option<&ContainerStatus>, default: &Waiting) -> (State, State) {
    let state = known.and_then(|known| known.state.clone()).unwrap_or_default();
    let last = known.and_then(|known| known.last_state.clone()).unwrap_or_default();
    if state.running.is_some() && waiting.is_none() {
        let lost = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        };
        return (State { terminated: Some(lost), ..State::default() }, last);
    }
    match waiting {
        Some(waiting) if state.terminated.is_some() => (waiting_state(waiting), state),
        Some(waiting) => (waiting_state(waiting), last),
        None if state.terminated.is_some() => (state, last),
        None => (waiting_state(default), last),
    }
}

fn waiting_state(waiting: &Waiting) -> State {
    let message = (!waiting.message.is_empty()).then(|| waiting.message.clone());
    let waiting = ContainerStateWaiting { reason: Some(waiting.reason.to_owned()), message };
    State { waiting: Some(waiting), ..State::default() }
}

fn terminated(subjects: &Subjects<'_>, observed: &ObservedContainer) -> ContainerStateTerminated {
    let end = end_of(observed);
    let message = subjects
        .seen
        .messages
        .get(&observed.id)
        .cloned()
        .or_else(|| observed.labels.get(START_ERROR).cloned())
        .or_else(|| hook_failure(subjects.seen, observed).map(str::to_owned))
        .or_else(|| {
            end.lost.then(|| "The container could not be located when the pod was observed".to_owned())
        });
    ContainerStateTerminated {
        container_id: Some(container_id(&observed.id)),
        exit_code: end.code,
        started_at: time(end.started_ms),
        finished_at: time(end.finished_ms),
        reason: Some(end.reason),
        message,
        signal: None,
    }
}
