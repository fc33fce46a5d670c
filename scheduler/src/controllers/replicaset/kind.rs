//! What the controller needs of a kind that keeps a number of pods of one template. A ReplicationController is seen
//! in the form of a ReplicaSet, so that there is one plan for both.

use std::borrow::Cow;

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus},
        core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector as Labels,
};

use crate::{
    cache::{Cached, Written},
    model::LabelSelector,
};

/// A kind with replicas, a selector and a template.
pub(super) trait Replicated: Cached + Written<Kept = Self> + Resource {
    /// The controller's name, of its metrics and its queue.
    const NAME: &'static str;
    /// In whose name it writes and tells.
    const COMPONENT: &'static str;

    /// Which pods it selects; `None` when nobody can say.
    fn selector(&self) -> Option<LabelSelector>;

    /// The object as a ReplicaSet.
    fn as_set(&self) -> Cow<'_, ReplicaSet>;

    /// Whether `status` is another one than it has.
    fn status_differs(&self, status: &ReplicaSetStatus) -> bool;

    /// Gives it this status.
    fn set_status(&mut self, status: ReplicaSetStatus);
}

impl Replicated for ReplicaSet {
    const NAME: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";

    fn selector(&self) -> Option<LabelSelector> {
        LabelSelector::from_object(&self.spec.selector).ok()
    }

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn status_differs(&self, status: &ReplicaSetStatus) -> bool {
        self.status.as_ref() != Some(status)
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

impl Replicated for ReplicationController {
    const NAME: &'static str = "replicationcontroller";
    const COMPONENT: &'static str = "replication-controller";

    fn selector(&self) -> Option<LabelSelector> {
        let selector = self.spec.as_ref()?.selector.as_ref()?;
        // An empty one would take every pod of the namespace.
        (!selector.is_empty()).then(|| LabelSelector::from_map(selector))
    }

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        let spec = self.spec.clone().unwrap_or_default();
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: Labels { match_labels: spec.selector, match_expressions: None },
                template: spec.template,
            },
            status: self.status.clone().map(|status| ReplicaSetStatus {
                available_replicas: status.available_replicas,
                conditions: status.conditions.map(|all| all.into_iter().map(set_condition).collect()),
                fully_labeled_replicas: status.fully_labeled_replicas,
                observed_generation: status.observed_generation,
                ready_replicas: status.ready_replicas,
                replicas: status.replicas,
                terminating_replicas: None,
            }),
        })
    }

    fn status_differs(&self, status: &ReplicaSetStatus) -> bool {
        self.status.as_ref() != Some(&controller_status(status.clone()))
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(controller_status(status));
    }
}

/// Without the count of terminating pods, which this kind does not tell.
fn controller_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    ReplicationControllerStatus {
        available_replicas: status.available_replicas,
        conditions: status.conditions.map(|all| all.into_iter().map(controller_condition).collect()),
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
    }
}

fn set_condition(condition: ReplicationControllerCondition) -> ReplicaSetCondition {
    ReplicaSetCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: Some(condition.status),
        type_: Some(condition.type_),
    }
}

fn controller_condition(condition: ReplicaSetCondition) -> ReplicationControllerCondition {
    ReplicationControllerCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: condition.status.unwrap_or_default(),
        type_: condition.type_.unwrap_or_default(),
    }
}
