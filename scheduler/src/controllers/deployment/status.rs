//! The status of a Deployment: counters over its sets, and the Available, Progressing and ReplicaFailure
//! conditions in upstream's words. `kubectl rollout status` reads them.

use std::time::Duration;

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

use super::{
    model::{Wanted, actual, available, ready, replicas},
    sets::Sets,
};
use crate::cache::MetaExt;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const COMPLETE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

/// What happened to the sets in this pass that the Progressing condition tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Milestone {
    /// The new set was created now.
    Created(String),
    /// The new set was there, and the Deployment did not know of it.
    Found(String),
    /// It could not be created.
    Refused(String),
}

/// Counters only.
fn counters(deployment: &Deployment, sets: &Sets) -> DeploymentStatus {
    let nonzero = |n: i32| (n != 0).then_some(n);
    let old = deployment.status.as_ref();
    let available = sets.sum(available);
    let terminating = sets.sum(|s| s.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0));
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sets.sum(actual)),
        updated_replicas: nonzero(sets.new.as_ref().map_or(0, |s| actual(&s.set))),
        ready_replicas: nonzero(sets.sum(ready)),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((sets.sum(replicas) - available).max(0)),
        terminating_replicas: Some(terminating),
        collision_count: old.and_then(|s| s.collision_count),
        conditions: old.and_then(|s| s.conditions.clone()),
    }
}

/// The status after this pass, and when to look again for the progress deadline. `rollout` is false while the
/// Deployment is paused or only being scaled: progress is not judged then.
pub(super) fn status(
    deployment: &Deployment,
    sets: &Sets,
    wanted: Wanted,
    milestone: Option<&Milestone>,
    rollout: bool,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = counters(deployment, sets);
    let mut conditions = Conditions { list: status.conditions.take().unwrap_or_default(), now };
    conditions.set_available(available_enough(&status, wanted));
    if deployment.spec.progress_deadline_seconds.is_some_and(|s| s != i32::MAX) {
        conditions.tell(deployment, milestone);
        if rollout {
            conditions.judge(deployment, sets, &status, wanted);
        }
    } else {
        conditions.remove(PROGRESSING);
    }
    conditions.set_failure(sets);
    let next = if rollout { conditions.deadline(deployment) } else { None };
    status.conditions = (!conditions.list.is_empty()).then_some(conditions.list);
    (status, next)
}

fn available_enough(status: &DeploymentStatus, wanted: Wanted) -> bool {
    status.available_replicas.unwrap_or(0) >= wanted.minimum_available()
}

/// Everything asked for is there, made from the new template, available, and seen by us.
fn is_complete(deployment: &Deployment, status: &DeploymentStatus, wanted: Wanted) -> bool {
    status.updated_replicas.unwrap_or(0) == wanted.replicas
        && status.replicas.unwrap_or(0) == wanted.replicas
        && status.available_replicas.unwrap_or(0) == wanted.replicas
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether the rollout has come to its end, so that old sets may be cleaned up.
pub(super) fn is_finished(deployment: &Deployment, sets: &Sets, wanted: Wanted) -> bool {
    is_complete(deployment, &counters(deployment, sets), wanted)
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |field: Option<i32>| field.unwrap_or(0);
    n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|c| c.type_.as_deref() == Some(type_))
    }

    fn reason(&self, type_: &str) -> Option<&str> {
        self.get(type_)?.reason.as_deref()
    }

    fn remove(&mut self, type_: &str) {
        self.list.retain(|c| c.type_.as_deref() != Some(type_));
    }

    /// Sets the condition unless status and reason are what they were.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let same = self
            .get(type_)
            .is_some_and(|c| c.status.as_deref() == Some(status) && c.reason.as_deref() == Some(reason));
        if !same {
            self.put(type_, status, reason, message);
        }
    }

    /// Sets the condition with a new update time; the transition time moves only when the status does.
    fn put(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let old = self.get(type_).filter(|c| c.status.as_deref() == Some(status));
        let since = old.and_then(|c| c.last_transition_time.clone()).unwrap_or(Time(self.now));
        self.remove(type_);
        self.list.push(DeploymentCondition {
            type_: Some(type_.to_owned()),
            status: Some(status.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_update_time: Some(Time(self.now)),
            last_transition_time: Some(since),
        });
    }

    fn set_available(&mut self, enough: bool) {
        if enough {
            let message = "Deployment has minimum availability.";
            self.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.";
            self.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
        }
    }

    fn tell(&mut self, deployment: &Deployment, milestone: Option<&Milestone>) {
        match milestone {
            Some(Milestone::Created(name)) => {
                let message = format!("Created new replica set {name:?}");
                self.put(PROGRESSING, "True", "NewReplicaSetCreated", &message);
            }
            Some(Milestone::Found(name)) if self.get(PROGRESSING).is_none() => {
                let message = format!("Found new replica set {name:?}");
                self.put(PROGRESSING, "True", "FoundNewReplicaSet", &message);
            }
            Some(Milestone::Refused(why)) => {
                let message = format!("Failed to create new replica set: {why}");
                self.set(PROGRESSING, "False", "ReplicaSetCreateError", &message);
            }
            Some(Milestone::Found(_)) | None => {}
        }
        let paused = deployment.spec.paused.unwrap_or(false);
        let was_paused = self.reason(PROGRESSING) == Some(PAUSED);
        if self.reason(PROGRESSING) == Some(TIMED_OUT) {
            // A rollout that has failed stays failed while it is paused.
        } else if paused && !was_paused {
            self.put(PROGRESSING, "Unknown", PAUSED, "Deployment is paused");
        } else if !paused && was_paused {
            self.put(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
        }
    }

    fn judge(&mut self, deployment: &Deployment, sets: &Sets, status: &DeploymentStatus, wanted: Wanted) {
        let old = deployment.status.clone().unwrap_or_default();
        let at_rest =
            status.replicas == status.updated_replicas && self.reason(PROGRESSING) == Some(COMPLETE);
        if at_rest {
            return;
        }
        let subject = sets.new.as_ref().map_or_else(
            || format!("Deployment {:?}", deployment.metadata.name_str()),
            |slot| format!("ReplicaSet {:?}", slot.set.metadata.name_str()),
        );
        if is_complete(deployment, status, wanted) {
            let message = format!("{subject} has successfully progressed.");
            self.put(PROGRESSING, "True", COMPLETE, &message);
        } else if has_progressed(&old, status) {
            self.put(PROGRESSING, "True", "ReplicaSetUpdated", &format!("{subject} is progressing."));
        } else if self.deadline(deployment).is_some_and(|left| left.is_zero()) {
            self.set(PROGRESSING, "False", TIMED_OUT, &format!("{subject} has timed out progressing."));
        }
    }

    /// Time left until the progress deadline; `None` when none runs.
    fn deadline(&self, deployment: &Deployment) -> Option<Duration> {
        let seconds = deployment.spec.progress_deadline_seconds.filter(|s| *s != i32::MAX)?;
        let condition = self.get(PROGRESSING)?;
        if matches!(condition.reason.as_deref(), Some(COMPLETE | TIMED_OUT | PAUSED)) {
            return None;
        }
        let from = condition.last_update_time.as_ref()?.0;
        let end = from.saturating_add(SignedDuration::from_secs(seconds.into())).unwrap_or(Timestamp::MAX);
        Some(if end <= self.now { Duration::ZERO } else { end.duration_since(self.now).unsigned_abs() })
    }

    fn set_failure(&mut self, sets: &Sets) {
        // The new set's failure tells more than an old one's.
        let all = sets.new.iter().chain(&sets.old).map(|slot| &slot.set);
        match all.filter_map(failure).next() {
            Some((reason, message)) => self.set(FAILURE, "True", &reason, &message),
            None => self.remove(FAILURE),
        }
    }
}

fn failure(set: &ReplicaSet) -> Option<(String, String)> {
    let conditions = set.status.as_ref()?.conditions.as_deref()?;
    let found = conditions
        .iter()
        .find(|c| c.type_.as_deref() == Some(FAILURE) && c.status.as_deref() == Some("True"))?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}
