//! Metrics of the scheduler session.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// What is counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pub(super) connected: Gauge,
    pub(super) sessions: Counter,
    pub(super) failures: Counter,
    pub(super) updates: Counter,
    pub(super) rejected: Counter,
    pub(super) events_dropped: Counter,
    pub(super) certificate_expiry: Gauge,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = metrics.clone();
        registry.register(
            "gantry_agent_control_connected",
            "1 while a session with the scheduler is open.",
            m.connected,
        );
        registry.register("gantry_agent_control_sessions", "Sessions that were opened.", m.sessions);
        registry.register(
            "gantry_agent_control_session_failures",
            "Attempts at a session that failed, and sessions that broke.",
            m.failures,
        );
        registry.register(
            "gantry_agent_control_updates",
            "Updates of the desired state that came in.",
            m.updates,
        );
        registry.register(
            "gantry_agent_control_updates_rejected",
            "Updates of the desired state that this agent could not read.",
            m.rejected,
        );
        registry.register(
            "gantry_agent_control_events_dropped",
            "Events that were never sent.",
            m.events_dropped,
        );
        registry.register(
            "gantry_agent_control_certificate_expiry_seconds",
            "When the node's certificate expires, in Unix seconds.",
            m.certificate_expiry,
        );
        metrics
    }
}
