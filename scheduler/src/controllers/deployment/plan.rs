//! One step of a Deployment, as a pure function of the Deployment, its ReplicaSets and the time. A rollout is
//! many such steps; each ends when a set changes and goes on when the set's status follows.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    jiff::Timestamp,
};

use super::{
    model::{REVISION, Wanted, actual, made_from, replicas, revision},
    scale,
    sets::{Sets, new_set},
    status::{Milestone, is_finished, status},
};
use crate::{cache::MetaExt, events::Note};

/// What to do. Applied in the order of the fields.
#[derive(Debug)]
pub(super) struct Plan {
    /// Sets whose size or annotations change.
    pub(super) update: Vec<ReplicaSet>,
    /// The set of a template that has none.
    pub(super) create: Option<ReplicaSet>,
    /// Old sets beyond the history limit.
    pub(super) delete: Vec<ReplicaSet>,
    /// What to tell, once the above is done.
    pub(super) notes: Vec<Note>,
    /// The Deployment's own revision annotation.
    pub(super) revision: Option<String>,
    /// The status, if nothing above fails.
    pub(super) status: DeploymentStatus,
    /// When to look again for a deadline.
    pub(super) next: Option<Duration>,
}

/// Plans the next step. `old_pods` says whether pods of old sets are still there (Recreate waits for them).
pub(super) fn plan(
    deployment: &Deployment,
    owned: &[Arc<ReplicaSet>],
    old_pods: bool,
    now: Timestamp,
) -> Plan {
    let wanted = Wanted::of(deployment);
    let mut sets = Sets::of(deployment, owned);
    if deployment.metadata.deleting() {
        return finish(deployment, sets, wanted, Step::default(), now);
    }
    let paused = deployment.spec.paused.unwrap_or(false);
    if paused || scale::is_scaling(&sets, wanted) {
        let known = sets.new.is_some();
        if known {
            sets.refresh_new(deployment);
        }
        scale::share_out(&mut sets, deployment, wanted);
        let delete = if paused { surplus(deployment, &sets) } else { Vec::new() };
        let step = Step { delete, ..Step::default() };
        return finish(deployment, sets, wanted, step, now);
    }
    let step = if wanted.rolling {
        rolling(deployment, &mut sets, wanted)
    } else {
        recreate(deployment, &mut sets, wanted, old_pods)
    };
    finish(deployment, sets, wanted, step, now)
}

/// The outcome of one kind of step, besides what it did to the sets.
#[derive(Default)]
struct Step {
    create: Option<ReplicaSet>,
    delete: Vec<ReplicaSet>,
    milestone: Option<Milestone>,
    rollout: bool,
}

fn rolling(deployment: &Deployment, sets: &mut Sets, wanted: Wanted) -> Step {
    let mut step = ensure_new(deployment, sets, wanted);
    if step.create.is_none() && !scale::step_new(sets, wanted) && !scale::step_old(sets, wanted) {
        step.delete = surplus_when_finished(deployment, sets, wanted);
    }
    step
}

fn recreate(deployment: &Deployment, sets: &mut Sets, wanted: Wanted, old_pods: bool) -> Step {
    if scale::empty_old(sets, wanted) || old_pods {
        return Step { rollout: true, ..Step::default() };
    }
    let mut step = ensure_new(deployment, sets, wanted);
    if step.create.is_none() && !scale::step_new(sets, wanted) {
        step.delete = surplus_when_finished(deployment, sets, wanted);
    }
    step
}

fn ensure_new(deployment: &Deployment, sets: &mut Sets, wanted: Wanted) -> Step {
    let mut step = Step { rollout: true, ..Step::default() };
    if let Some(slot) = &sets.new {
        step.milestone = Some(Milestone::Found(slot.set.metadata.name_str().to_owned()));
        sets.refresh_new(deployment);
        return step;
    }
    let size = scale::next_new_size(wanted, 0, sets.sum(replicas));
    let set = new_set(deployment, wanted, size, sets.last_revision() + 1);
    let name = set.metadata.name_str().to_owned();
    if size > 0 {
        let message = format!("Scaled up replica set {name} from 0 to {size}");
        sets.notes.push(Note::normal("ScalingReplicaSet", message));
    }
    step.milestone = Some(Milestone::Created(name));
    step.create = Some(set);
    step
}

fn surplus_when_finished(deployment: &Deployment, sets: &Sets, wanted: Wanted) -> Vec<ReplicaSet> {
    if is_finished(deployment, sets, wanted) { surplus(deployment, sets) } else { Vec::new() }
}

/// Empty old sets beyond the history limit, those of the lowest revision.
fn surplus(deployment: &Deployment, sets: &Sets) -> Vec<ReplicaSet> {
    let limit = usize::try_from(deployment.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let idle = |set: &ReplicaSet| {
        let seen = set.status.as_ref().and_then(|s| s.observed_generation);
        replicas(set) == 0 && actual(set) == 0 && seen >= set.metadata.generation && !set.metadata.deleting()
    };
    let mut old: Vec<&ReplicaSet> = sets.old.iter().map(|s| &s.set).collect();
    old.sort_by_key(|set| revision(set));
    let over = old.len().saturating_sub(limit);
    old.into_iter().take(over).filter(|set| idle(set)).cloned().collect()
}

fn finish(deployment: &Deployment, sets: Sets, wanted: Wanted, step: Step, now: Timestamp) -> Plan {
    // A change of a set is followed by its status, and that by the next step: progress is judged then.
    let rollout = step.rollout;
    let (status, next) = status(deployment, &sets, wanted, step.milestone.as_ref(), rollout, now);
    let current = step.create.as_ref().or(sets.new.as_ref().map(|slot| &slot.set));
    let number = current.and_then(|set| set.metadata.annotation(REVISION)).map(str::to_owned);
    let revision = number.filter(|n| deployment.metadata.annotation(REVISION) != Some(n));
    let changed = |slot: super::sets::Slot| slot.changed.then_some(slot.set);
    Plan {
        update: sets.old.into_iter().chain(sets.new).filter_map(changed).collect(),
        create: step.create,
        delete: step.delete,
        notes: sets.notes,
        revision,
        status,
        next,
    }
}

/// Replaces what the status tells of a new set that could not be created.
pub(super) fn refused(
    deployment: &Deployment,
    owned: &[Arc<ReplicaSet>],
    why: &str,
    now: Timestamp,
) -> DeploymentStatus {
    let sets = Sets::of(deployment, owned);
    let milestone = Milestone::Refused(why.to_owned());
    status(deployment, &sets, Wanted::of(deployment), Some(&milestone), false, now).0
}

/// Whether `other`, which has the name that the new set wants, is not the new set: the hash collided.
pub(super) fn collides(deployment: &Deployment, other: &ReplicaSet) -> bool {
    let owner = crate::controllers::owner::controller_of(&other.metadata);
    !(owner.is_some_and(|o| o.uid == deployment.metadata.uid_str())
        && made_from(other, &deployment.spec.template))
}
