//! The datapath's figures as metrics.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::metrics::{counters, gauge, gauges};
use crate::dataplane::Snapshot;

/// Reads a snapshot at each scrape.
pub(super) struct Figures(pub(super) Arc<dyn Fn() -> Option<Snapshot> + Send + Sync>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(snapshot) = (self.0)() else { return Ok(()) };
        let encoder = &mut encoder;
        gauges(
            encoder,
            "gantry_agent_dataplane_map_entries",
            "Entries in use of each map",
            snapshot.fill.iter().map(|fill| ([("map", fill.map)], f64::from(fill.used))),
        )?;
        gauges(
            encoder,
            "gantry_agent_dataplane_map_capacity",
            "Entries that each map can have",
            snapshot.fill.iter().map(|fill| ([("map", fill.map)], f64::from(fill.capacity))),
        )?;
        gauge(
            encoder,
            "gantry_agent_dataplane_publish_duration_seconds",
            "Time that the last publication of services took",
            snapshot.last_publish.as_secs_f64(),
        )?;
        gauge(
            encoder,
            "gantry_agent_dataplane_pods",
            "Pods with the packet path attached",
            snapshot.pods as f64,
        )?;
        counters(
            encoder,
            "gantry_agent_dataplane_drops",
            "Packets and connections that the datapath refused, by reason",
            snapshot.drops.iter().map(|(reason, count)| ([("reason", *reason)], *count as f64)),
        )?;
        let by_service = snapshot.connections.iter().map(|(service, count)| {
            let labels =
                [("namespace", service.namespace.to_string()), ("service", service.name.to_string())];
            (labels, *count as f64)
        });
        counters(
            encoder,
            "gantry_agent_dataplane_service_connections",
            "Connections and datagram flows for which the service was chosen",
            by_service,
        )
    }
}
