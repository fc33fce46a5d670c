//! Metrics of the node sessions.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

use super::registry;

/// How far each connected node is, made from the sessions at each scrape. A node that is behind the others is one
/// that does not get its updates or cannot put them in force.
#[derive(Debug)]
pub(super) struct Generations(pub(super) registry::Registry);

impl Collector for Generations {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let progress = self.0.progress();
        let number = |generation: u64| i64::try_from(generation).unwrap_or(i64::MAX);
        let accepted: Vec<i64> = progress.iter().map(|p| number(p.accepted)).collect();
        let programmed: Vec<i64> = progress.iter().map(|p| number(p.programmed)).collect();
        for (name, help, values) in [
            (
                "gantry_node_accepted_generation",
                "The generation that a connected node has on its disk",
                accepted,
            ),
            (
                "gantry_node_programmed_generation",
                "The generation that is in force on a connected node",
                programmed,
            ),
        ] {
            if values.is_empty() {
                continue;
            }
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (node, value) in progress.iter().zip(values) {
                let labels = [("node", &*node.node)];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn each_connected_node_tells_how_far_it_is() {
        let (sessions, mut metrics) = (registry::Registry::default(), Registry::default());
        metrics.register_collector(Box::new(Generations(sessions.clone())));
        let agent = registry::Agent { boot_id: "b".to_owned(), instance: "i".to_owned() };
        let open = sessions.open("n1", agent, mpsc::channel(1).0, Duration::ZERO).unwrap();
        open.session.acknowledge(7, 5);
        let mut text = String::new();
        encode(&mut text, &metrics).unwrap();
        assert!(text.contains("gantry_node_accepted_generation{node=\"n1\"} 7"), "{text}");
        assert!(text.contains("gantry_node_programmed_generation{node=\"n1\"} 5"), "{text}");
    }
}
