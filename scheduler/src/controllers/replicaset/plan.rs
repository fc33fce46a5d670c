//! What a ReplicaSet needs done, as a pure function of the set, the pods around it and the time. A
//! ReplicationController is planned for in the form of a ReplicaSet.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::Pod as Whole,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
    jiff::Timestamp,
};

use super::rank::deletion_order;
use crate::{
    cache::{MetaExt, Pod},
    controllers::{
        owner::{Claim, claim},
        pods,
    },
    model::LabelSelector,
};

/// Most pods created or deleted in one pass, as upstream.
const BURST: usize = 500;
/// The condition that tells of failed creates and deletes.
const FAILURE: &str = "ReplicaFailure";

/// What to do. Applied in the order of the fields.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods that fit and have no controller.
    pub(super) adopt: Vec<Arc<Pod>>,
    /// Pods that fit no more.
    pub(super) release: Vec<Arc<Pod>>,
    /// Pods to delete, worst first.
    pub(super) delete: Vec<Arc<Pod>>,
    /// How many pods to create.
    pub(super) create: usize,
    /// The pods that the set has now: the base of the status.
    pub(super) owned: Vec<Arc<Pod>>,
}

/// Plans. `candidates` are the pods of the namespace that the set controls or selects; `related` the active
/// pods of all sets under the same owner, asked for when there are more candidates than wanted.
pub(super) fn plan(
    set: &ReplicaSet,
    selector: &LabelSelector,
    candidates: &[Arc<Pod>],
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    for pod in candidates {
        match claim(&set.metadata, selector, &pod.metadata, &pod.labels) {
            Claim::Keep => plan.owned.push(pod.clone()),
            Claim::Adopt if pods::is_active(pod) => plan.adopt.push(pod.clone()),
            Claim::Release => plan.release.push(pod.clone()),
            Claim::Adopt | Claim::Ignore => {}
        }
    }
    if set.metadata.deleting() {
        return plan;
    }
    let mut active: Vec<Arc<Pod>> =
        plan.owned.iter().chain(&plan.adopt).filter(|p| pods::is_active(p)).cloned().collect();
    let wanted = wanted(set);
    if active.len() < wanted {
        plan.create = (wanted - active.len()).min(BURST);
    } else if active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST);
        deletion_order(&mut active, related, now);
        active.truncate(surplus);
        plan.delete = active;
    }
    plan
}

/// How many pods the set is to have.
pub(super) fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.replicas.unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// Sizes of the batches in which `count` pods are created: 1, 2, 4, ... so that a template that is refused is
/// refused once and not `count` times.
pub(super) fn batches(count: usize) -> impl Iterator<Item = usize> {
    let mut left = count;
    let mut size = 1;
    std::iter::from_fn(move || {
        let batch = size.min(left);
        left -= batch;
        size *= 2;
        (batch > 0).then_some(batch)
    })
}

/// The pod that the template makes, for the owner that the reference names.
pub(super) fn pod_of(set: &ReplicaSet, owner: OwnerReference) -> Whole {
    let template = set.spec.template.clone().unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let name = set.metadata.name_str();
    Whole {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: set.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// A create or delete that failed in this pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(super) reason: &'static str,
    /// The first error.
    pub(super) message: String,
}

/// The status over `owned` pods, and when a pod that is ready now becomes available.
pub(super) fn status(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    failure: Option<&Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let no_labels = BTreeMap::new();
    let template =
        set.spec.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.as_ref()).unwrap_or(&no_labels);
    let full = LabelSelector::from_map(template);
    let active: Vec<_> = owned.iter().filter(|p| pods::is_active(p)).collect();
    let count = |keep: &dyn Fn(&Pod) -> bool| {
        let n = active.iter().filter(|p| keep(p)).count();
        i32::try_from(n).unwrap_or(i32::MAX)
    };
    let terminating = owned.iter().filter(|p| p.metadata.deleting() && !p.is_finished()).count();
    let next = active.iter().filter_map(|p| pods::available_at(p, min_ready)).filter(|at| *at > now).min();
    let nonzero = |n: i32| (n != 0).then_some(n);
    let status = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: nonzero(count(&|p| full.matches(&p.labels))),
        ready_replicas: nonzero(count(&pods::is_ready)),
        available_replicas: nonzero(count(&|p| pods::is_available(p, min_ready, now))),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, failure, now),
    };
    (status, next.map(|at| at.duration_since(now).unsigned_abs()))
}

fn conditions(
    set: &ReplicaSet,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let old = set.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let (mut kept, known): (Vec<_>, Vec<_>) =
        old.into_iter().partition(|c| c.type_.as_deref() != Some(FAILURE));
    if let Some(failure) = failure {
        // The time is when it began to fail, not when it failed last: else each pass would be a new status.
        let since = known.into_iter().find(|c| c.reason.as_deref() == Some(failure.reason));
        kept.push(ReplicaSetCondition {
            type_: Some(FAILURE.to_owned()),
            status: Some("True".to_owned()),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: since.and_then(|c| c.last_transition_time).or(Some(Time(now))),
        });
    }
    (!kept.is_empty()).then_some(kept)
}
