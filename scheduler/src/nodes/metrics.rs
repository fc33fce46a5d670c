//! Metrics of the node sessions.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What is counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) sessions: Gauge,
    pub(super) joins_refused: Counter,
    pub(super) sessions_refused: Counter,
    pub(super) snapshots: Counter,
    pub(super) resumes: Counter,
    pub(super) updates: Counter,
    pub(super) statuses: Counter,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = metrics.clone();
        registry.register("gantry_node_sessions", "Node sessions that are open.", m.sessions);
        registry.register("gantry_node_joins_refused", "Join requests that were refused.", m.joins_refused);
        registry.register(
            "gantry_node_sessions_refused",
            "Node sessions that were refused, for their certificate, version or name.",
            m.sessions_refused,
        );
        registry.register("gantry_node_snapshots", "Sessions that began with a snapshot.", m.snapshots);
        registry.register("gantry_node_resumes", "Sessions that went on where they were.", m.resumes);
        registry.register("gantry_node_updates", "Objects sent to nodes.", m.updates);
        registry.register("gantry_node_pod_statuses", "Pod statuses received from nodes.", m.statuses);
        metrics
    }
}
