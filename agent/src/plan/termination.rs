//! How containers and pods end: preStop, stop signal, grace, SIGKILL; regular containers together, sidecars
//! after them in reverse order; then everything else of the pod.

use k8s_openapi::api::core::v1::Container;

use super::{signals, step::Step};
use crate::{
    model::{
        Condemned, ContainerName, ContainerState, DesiredPod, HookKind, ObservedContainer, ObservedPod,
        StopRecord,
        spec::{find, grace_ms, is_sidecar},
    },
    plan::{
        draft::{Draft, Subjects, UNREADABLE_MS, target},
        hooks::hook_call,
    },
};

/// A container whose preStop hook took all the grace gets this long after its signal, as upstream.
const MIN_GRACE_MS: i64 = 2_000;

/// Why and how gently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// For the event.
    pub message: String,
    /// From the first step to SIGKILL.
    pub grace_ms: i64,
}

/// Grace of a container that a probe condemned: the probe's own, else the pod's.
pub(super) fn probe_grace_ms(
    subjects: &Subjects<'_>,
    container: &Container,
    condemned: Option<Condemned>,
) -> i64 {
    let probe = match condemned {
        Some(Condemned::Liveness) => container.liveness_probe.as_ref(),
        Some(Condemned::Startup) => container.startup_probe.as_ref(),
        None => None,
    };
    let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
    own.map_or_else(|| grace_ms(&subjects.pod.pod), |seconds| seconds.saturating_mul(1000))
}

/// The next step towards the end of one running container.
pub(super) fn stop(
    subjects: &Subjects<'_>,
    draft: &mut Draft,
    container: &Container,
    observed: &ObservedContainer,
    stop: &Stop,
) {
    let target = target(observed);
    let seen = subjects.seen;
    if observed.state == ContainerState::Unreadable {
        return draft.wake_at(seen.now_ms + UNREADABLE_MS);
    }
    let pre_stop = |left_ms: i64| {
        let handler = container.lifecycle.as_ref()?.pre_stop.clone().filter(|_| left_ms > 0)?;
        Some(hook_call(subjects, container, target.clone(), handler, Some(left_ms)))
    };
    let Some(begun) = begun(seen, observed) else {
        let (message, pre_stop) = (stop.message.clone(), pre_stop(stop.grace_ms));
        draft.steps.push(Step::BeginStop { target, message, pre_stop });
        return;
    };
    let deadline = begun.since_ms + stop.grace_ms;
    if let Some(signalled) = begun.signalled_ms {
        return kill_when_due(seen, draft, observed, deadline.max(signalled + least(stop)));
    }
    match pre_stop(deadline - seen.now_ms).filter(|_| !begun.pre_stop_done) {
        None => {
            draft.steps.push(Step::Signal { target, signal: signals::of_attempt(observed, Some(container)) });
        }
        Some(_) if seen.hooks.contains(&(target.id.clone(), HookKind::PreStop)) => draft.wake_at(deadline),
        // The agent was restarted meanwhile. The hook may be what drains connections: it gets the rest of the grace.
        Some(call) => draft.steps.push(Step::PreStop(call)),
    }
}

/// No grace at all means at once.
fn least(stop: &Stop) -> i64 {
    if stop.grace_ms == 0 { 0 } else { MIN_GRACE_MS.min(stop.grace_ms) }
}

fn kill_when_due(seen: &ObservedPod, draft: &mut Draft, observed: &ObservedContainer, due: i64) {
    if seen.now_ms >= due {
        draft.steps.push(Step::Kill(target(observed)));
        // Should the kill be lost, it is repeated.
        draft.wake_at(seen.now_ms + MIN_GRACE_MS);
    } else {
        draft.wake_at(due);
    }
}

fn begun<'a>(seen: &'a ObservedPod, observed: &ObservedContainer) -> Option<&'a StopRecord> {
    seen.record.of(&observed.container, observed.attempt)?.stop.as_ref()
}

/// Stops all that runs in a pod which is to end. True when nothing runs any more.
pub(super) fn stop_all(subjects: &Subjects<'_>, draft: &mut Draft, grace_ms: i64) -> bool {
    let running = |container: &Container| {
        let latest = subjects.seen.latest(&ContainerName::new(container.name.as_str()))?;
        latest.state.may_live().then_some(latest)
    };
    let plain =
        |container: &Container| Stop { message: format!("Stopping container {}", container.name), grace_ms };
    let init = || subjects.spec.init_containers.iter().flatten();
    let main = subjects.spec.containers.iter().chain(init().filter(|container| !is_sidecar(container)));
    let mut over = true;
    for container in main {
        if let Some(observed) = running(container) {
            stop(subjects, draft, container, observed, &plain(container));
            over = false;
        }
    }
    if !over {
        return false;
    }
    let sidecars: Vec<_> = init().filter(|container| is_sidecar(container)).collect();
    for container in sidecars.into_iter().rev() {
        if let Some(observed) = running(container) {
            let grace_ms = rest(subjects, observed, grace_ms);
            stop(subjects, draft, container, observed, &Stop { grace_ms, ..plain(container) });
            return false;
        }
    }
    unknown_containers(subjects.pod, subjects.seen, draft)
}

/// The grace is the pod's: a sidecar gets what those before it have left, and never less than the least.
fn rest(subjects: &Subjects<'_>, sidecar: &ObservedContainer, grace_ms: i64) -> i64 {
    let seen = subjects.seen;
    let since = |container: &Container| {
        let latest = seen.latest(&ContainerName::new(container.name.as_str()))?;
        Some(begun(seen, latest)?.since_ms)
    };
    let (sidecars, plain): (Vec<_>, Vec<_>) =
        subjects.spec.init_containers.iter().flatten().partition(|container| is_sidecar(container));
    let main = subjects.spec.containers.iter().chain(plain).filter_map(since).max();
    let own = begun(seen, sidecar).map_or(seen.now_ms, |begun| begun.since_ms);
    let Some(began) = main.or_else(|| sidecars.into_iter().filter_map(since).min()) else { return grace_ms };
    (began + grace_ms - own).clamp(MIN_GRACE_MS.min(grace_ms), grace_ms)
}

/// Containers of the pod that its specification does not name (any more): killed without ceremony.
fn unknown_containers(pod: &DesiredPod, seen: &ObservedPod, draft: &mut Draft) -> bool {
    let known = |name: &ContainerName| pod.pod.spec.as_ref().is_some_and(|spec| find(spec, name).is_some());
    let mut over = true;
    for (name, attempts) in &seen.containers {
        for observed in attempts {
            let latest = seen.latest(name).is_some_and(|latest| latest.id == observed.id);
            if !observed.state.may_live() || (known(name) && latest) {
                continue;
            }
            over = false;
            if observed.state == ContainerState::Unreadable {
                draft.wake_at(seen.now_ms + UNREADABLE_MS);
            } else {
                draft.steps.push(Step::Kill(target(observed)));
            }
        }
    }
    over
}

/// Removes what is left of a pod in which nothing runs: containers, then the rest. True when nothing is.
pub(super) fn clear(seen: &ObservedPod, draft: &mut Draft) -> bool {
    let containers = seen.containers.values().flatten();
    let removals = containers.map(|observed| Step::Remove { target: target(observed), log: false });
    draft.steps.extend(removals);
    if !draft.steps.is_empty() {
        return false;
    }
    if seen.network.is_some() {
        draft.steps.push(Step::RemoveNetwork);
    }
    if seen.cgroup {
        draft.steps.push(Step::RemoveCgroup);
    }
    if seen.files {
        draft.steps.push(Step::RemoveFiles);
    }
    draft.steps.is_empty()
}

/// The end of a pod that nobody wants any more and whose specification nobody may know: a signal, two seconds,
/// SIGKILL, and everything removed. True when nothing is left.
pub(super) fn abandon(seen: &ObservedPod, draft: &mut Draft) -> bool {
    let mut over = true;
    for observed in seen.containers.values().flatten() {
        if !observed.state.may_live() {
            continue;
        }
        over = false;
        if observed.state == ContainerState::Unreadable {
            draft.wake_at(seen.now_ms + UNREADABLE_MS);
            continue;
        }
        let target = target(observed);
        match begun(seen, observed) {
            None => draft.steps.push(Step::BeginStop {
                message: format!("Stopping container {}", target.container),
                target,
                pre_stop: None,
            }),
            Some(StopRecord { signalled_ms: None, .. }) => {
                draft.steps.push(Step::Signal { target, signal: signals::of_attempt(observed, None) });
            }
            Some(StopRecord { since_ms, .. }) => {
                kill_when_due(seen, draft, observed, since_ms + MIN_GRACE_MS);
            }
        }
    }
    over && clear(seen, draft)
}
