//! What each container of a living pod needs next, in upstream's order: init containers one after the other,
//! sidecars among them stay, then the regular ones; restarts by policy and back-off.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::draft::Draft;
use super::draft::Subjects;
use super::draft::UNREADABLE_MS;
use super::draft::target;
use super::hooks::hook_call;
use super::{
    backoff::{FRESH_MS, delay_ms, go_duration, level_after},
    images,
    launch::{Attempt, launch},
    restart::{self, Round, restarts},
    standing::{End, Standing, standing},
    step::Step,
    termination::{self, Stop},
};
use crate::{
    model::{
        Condemned, ContainerName, Failure, Hook, HookKind, ObservedContainer, ObservedPod, Subject, Target,
        spec::{formatted, is_sidecar},
    },
    plan::standing::IMAGE_LABEL,
};

/// Whether a container lets those after it start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passed {
    Yes,
    No,
}

/// Plans all containers of a pod that is to run.
pub(super) fn plan(subjects: &Subjects<'_>, draft: &mut Draft) {
    let initialized = init_containers(subjects, draft);
    for container in &subjects.spec.containers {
        if !initialized {
            images::look_up(subjects, draft, container, 0);
            continue;
        }
        // Upstream starts in order: a postStart hook delays the containers after it.
        if one(subjects, draft, container, false) == Passed::No && hook_pending(subjects, container) {
            break;
        }
    }
}

/// Nothing will be started any more: the regular containers have ended for good, or an init container has failed and
/// may not be repeated.
pub(super) fn over(subjects: &Subjects<'_>) -> bool {
    let ended_for_good =
        |container: &Container, init: bool| match standing(subjects, &container.name.as_str().into()) {
            Standing::Ended { end, image, .. } => !again(subjects.spec, container, init, &end, image),
            _ => false,
        };
    let spec = subjects.spec;
    let failed = |container: &Container| {
        let standing = standing(subjects, &container.name.as_str().into());
        matches!(standing, Standing::Ended { end, .. } if end.code != 0) && ended_for_good(container, true)
    };
    let plain = spec.init_containers.iter().flatten().filter(|container| !is_sidecar(container));
    (!spec.containers.is_empty() && spec.containers.iter().all(|container| ended_for_good(container, false)))
        || (!main_started(subjects) && plain.into_iter().any(failed))
}

/// Whether an ended container is started again.
fn again(spec: &PodSpec, container: &Container, init: bool, end: &End, image: Option<&str>) -> bool {
    end.superseded || changed(container, image) || restarts(spec, container, init, end.code)
}

/// It was made from another image than the one that is wanted now.
fn changed(container: &Container, image: Option<&str>) -> bool {
    image.is_some() && image != container.image.as_deref()
}

/// Whether all init containers are done; plans the one whose turn it is, and the sidecars before it.
fn init_containers(subjects: &Subjects<'_>, draft: &mut Draft) -> bool {
    let over = main_started(subjects);
    for container in subjects.spec.init_containers.iter().flatten() {
        if over && !is_sidecar(container) {
            continue;
        }
        let passed = one(subjects, draft, container, true);
        if passed == Passed::No && !over {
            return false;
        }
    }
    true
}

/// A regular container has run since the pod's sandbox was made: the init containers are done for good.
pub(super) fn main_started(subjects: &Subjects<'_>) -> bool {
    subjects.spec.containers.iter().any(|container| {
        match standing(subjects, &container.name.as_str().into()) {
            Standing::Running { .. } | Standing::Unreadable(_) => true,
            Standing::Ended { end, .. } => end.counts(),
            Standing::Absent | Standing::Created(_) => false,
        }
    })
}

fn one(subjects: &Subjects<'_>, draft: &mut Draft, container: &Container, init: bool) -> Passed {
    let name = ContainerName::new(container.name.as_str());
    let Round { number: round, .. } = subjects.round;
    match standing(subjects, &name) {
        Standing::Absent => {
            start(subjects, draft, container, Attempt { number: 0, level: 0, round });
            Passed::No
        }
        Standing::Created(created) => {
            let level = super::standing::level(created);
            // A start that failed is not repeated under the same number: it counts as a restart. One of an earlier
            // round is not taken into this one.
            let used = start_failed(subjects.seen, &name, created.attempt) || restart::of(created) < round;
            let number = created.attempt + u32::from(used);
            start(subjects, draft, container, Attempt { number, level, round });
            Passed::No
        }
        Standing::Running { container: observed, .. } => running(subjects, draft, container, init, observed),
        Standing::Unreadable(_) => {
            draft.wake_at(subjects.seen.now_ms + UNREADABLE_MS);
            Passed::No
        }
        Standing::Ended { attempt, end, level, image } => {
            let plain_init = init && !is_sidecar(container);
            if plain_init && end.code == 0 && end.counts() {
                return Passed::Yes;
            }
            let level = level_after(level, end.started_ms, end.finished_ms);
            // What an init container did for a sandbox that is gone must be done for the new one.
            let undone = plain_init && end.code == 0;
            if undone || again(subjects.spec, container, init, &end, image) {
                // What a reboot took, the user replaced or another container's end took along did not crash; the one
                // that asked for a new round did.
                let asked = end.superseded && restart::restarts_all(container, end.code);
                let crashed = (end.counts() || asked) && !changed(container, image);
                let level = crashed.then_some(level);
                restart(subjects, draft, container, attempt, level, end.finished_ms);
            }
            Passed::No
        }
    }
}

/// Starts the next attempt, now or when its back-off is over.
fn restart(
    subjects: &Subjects<'_>,
    draft: &mut Draft,
    container: &Container,
    ended: u32,
    level: Option<u32>,
    finished_ms: i64,
) {
    let next = Attempt {
        number: ended + 1,
        level: level.map_or(0, |level| level + 1),
        round: subjects.round.number,
    };
    let delay = level.map_or(0, delay_ms);
    if subjects.seen.now_ms < finished_ms + delay {
        draft.wake_at(finished_ms + delay);
        draft.wait(
            &container.name.as_str().into(),
            "CrashLoopBackOff",
            crash_text(subjects, container, delay),
        );
        return;
    }
    start(subjects, draft, container, next);
}

fn crash_text(subjects: &Subjects<'_>, container: &Container, delay: i64) -> String {
    format!(
        "back-off {} restarting failed container={} pod={}",
        go_duration(delay),
        container.name,
        formatted(subjects.pod)
    )
}

fn start_failed(seen: &ObservedPod, name: &ContainerName, attempt: u32) -> bool {
    seen.failures
        .get(&Subject::Container(name.clone()))
        .is_some_and(|failure| failure.attempt == attempt && failure.reason == "RunContainerError")
}

fn start(subjects: &Subjects<'_>, draft: &mut Draft, container: &Container, attempt: Attempt) {
    let name = ContainerName::new(container.name.as_str());
    let image = images::look_up(subjects, draft, container, attempt.number);
    if let Some(failure) = subjects.seen.failures.get(&Subject::Container(name.clone()))
        && held_back(subjects, draft, container, failure)
    {
        return;
    }
    let Some(image) = image.filter(|_| subjects.prepared) else { return };
    match launch(subjects.context, subjects.pod, subjects.seen, container, image, attempt) {
        Ok(launch) => draft.steps.push(Step::Launch(Box::new(launch))),
        Err(message) => draft.wait(&name, "CreateContainerConfigError", message),
    }
}

/// A start that failed waits like a crash; its own reason is shown while it is fresh.
fn held_back(subjects: &Subjects<'_>, draft: &mut Draft, container: &Container, failure: &Failure) -> bool {
    let delay = delay_ms(failure.count);
    let until = failure.at_ms + delay;
    let now = subjects.seen.now_ms;
    if now >= until {
        return false;
    }
    draft.wake_at(until);
    let name = container.name.as_str().into();
    if failure.reason == "RunContainerError" && now >= failure.at_ms + FRESH_MS {
        draft.wait(&name, "CrashLoopBackOff", crash_text(subjects, container, delay));
    } else {
        draft.wait(&name, failure.reason, failure.message.clone());
        if now < failure.at_ms + FRESH_MS {
            draft.wake_at(failure.at_ms + FRESH_MS);
        }
    }
    true
}

fn hook_pending(subjects: &Subjects<'_>, container: &Container) -> bool {
    let has_hook = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
    let name = ContainerName::new(container.name.as_str());
    has_hook
        && subjects.seen.latest(&name).is_none_or(|latest| {
            subjects.seen.record.of(&name, latest.attempt).is_none_or(|r| r.post_start == Hook::Pending)
        })
}

fn running(
    subjects: &Subjects<'_>,
    draft: &mut Draft,
    container: &Container,
    init: bool,
    observed: &ObservedContainer,
) -> Passed {
    let target = target(observed);
    let record = subjects.seen.record.of(&target.container, target.attempt);
    let changed = observed
        .labels
        .get(IMAGE_LABEL)
        .is_some_and(|image| Some(image.as_str()) != container.image.as_deref());
    let condemned = record.and_then(|record| record.unhealthy);
    let hook = record.map_or(Hook::Pending, |record| record.post_start.clone());
    let reason = match (changed, condemned, &hook) {
        (true, ..) => Some("definition changed"),
        (_, Some(Condemned::Liveness), _) => Some("failed liveness probe"),
        (_, Some(Condemned::Startup), _) => Some("failed startup probe"),
        (.., Hook::Failed(_)) => Some("failed postStart hook"),
        _ => None,
    };
    if let Some(reason) = reason {
        let comes_back = changed || restart::comes_back(subjects.spec, container);
        let then = if comes_back { ", will be restarted" } else { "" };
        let stop = Stop {
            message: format!("Container {} {reason}{then}", container.name),
            grace_ms: termination::probe_grace_ms(subjects, container, condemned),
        };
        termination::stop(subjects, draft, container, observed, &stop);
        return Passed::No;
    }
    if let Some(step) = post_start(subjects, container, &target, &hook) {
        draft.steps.push(step);
    }
    let started = super::status::started(container, record);
    if init && is_sidecar(container) && started { Passed::Yes } else { Passed::No }
}

fn post_start(subjects: &Subjects<'_>, container: &Container, target: &Target, hook: &Hook) -> Option<Step> {
    let handler = container.lifecycle.as_ref()?.post_start.clone()?;
    if *hook != Hook::Pending || subjects.seen.hooks.contains(&(target.id.clone(), HookKind::PostStart)) {
        return None;
    }
    Some(Step::PostStart(hook_call(subjects, container, target.clone(), handler, None)))
}

/// Attempts that nobody asks for any more: all but the latest two of each container.
pub(super) fn stale(seen: &ObservedPod, draft: &mut Draft) {
    for attempts in seen.containers.values() {
        let keep = attempts.len().saturating_sub(2);
        for old in attempts[..keep].iter().filter(|old| !old.state.may_live()) {
            draft.steps.push(Step::Remove { target: target(old), log: true });
        }
    }
}
