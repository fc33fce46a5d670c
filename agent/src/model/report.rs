//! What the agent tells the scheduler, and the sink it goes into. `control` implements the sink; `reconcile`,
//! `apply` and `probes` write to it. A sink never blocks its caller: it keeps the latest status per pod and a
//! bounded queue of events, and sends when there is a session.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::{PodName, PodUid};

/// A pod's whole status. A later report of one pod replaces an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub struct PodReport {
    /// Whose.
    pub uid: PodUid,
    /// Its name.
    pub name: PodName,
    /// As upstream computes it.
    pub status: Arc<core::PodStatus>,
    /// Everything of the pod is gone from the node: its object may be deleted.
    pub finished: bool,
}

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// All as it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSubject {
    /// A pod on this node.
    Pod {
        /// Its uid.
        uid: PodUid,
        /// Its name.
        name: PodName,
        /// Which container, when it is about one: `spec.containers{web}`.
        field_path: Option<String>,
    },
    /// The node itself.
    Node,
}

/// Something that happened, as `kubectl describe` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// What it is about.
    pub subject: EventSubject,
    /// Normal or Warning.
    pub kind: EventType,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Unix milliseconds.
    pub time_ms: i64,
}

/// Which kind of object failed to be understood or programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailedKind {
    /// A pod.
    Pod,
    /// A secret that a pod here names.
    Secret,
    /// A config map that a pod here names.
    ConfigMap,
    /// The service table.
    Service,
    /// Routes to a node.
    Peer,
    /// A part of a service's endpoints.
    EndpointSlice,
    /// The node itself.
    Node,
}

/// An object that is accepted and not programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedObject {
    /// Kind.
    pub kind: FailedKind,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The generation that could not be programmed.
    pub generation: u64,
    /// Why.
    pub message: String,
}

/// Where reports go. Never blocks, never fails: what cannot be sent now is kept or counted as lost.
pub trait Upstream: Send + Sync {
    /// Sends a pod's status, again after a reconnect until the scheduler has stored it.
    fn pod_status(&self, report: PodReport);
    /// Sends an event.
    fn event(&self, event: NodeEvent);
    /// Everything up to `generation` of `epoch` is programmed, but for `failed`.
    fn programmed(&self, epoch: u64, generation: u64, failed: Vec<FailedObject>);
}
