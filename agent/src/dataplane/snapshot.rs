//! Figures of the datapath for the metrics endpoint.

use std::time::Duration;

use super::{
    maps::NodeMaps,
    table::{Fill, Table, TableMaps},
};
use crate::model::ServiceId;

/// A reading of the datapath's figures.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// `gantry_agent_dataplane_map_entries` and `gantry_agent_dataplane_map_capacity`, by map.
    pub fill: Vec<Fill>,
    /// `gantry_agent_dataplane_publish_duration_seconds` of the last publish.
    pub last_publish: Duration,
    /// `gantry_agent_dataplane_drops_total`, by reason.
    pub drops: Vec<(&'static str, u64)>,
    /// `gantry_agent_dataplane_service_connections_total`, by service: connections and datagram flows it was chosen
    /// for, over all its ports.
    pub connections: Vec<(ServiceId, u64)>,
    /// `gantry_agent_dataplane_pods`: pods with the packet path attached.
    pub pods: usize,
}

pub(super) fn take<M: TableMaps>(
    table: &Table<M>,
    node: &NodeMaps,
    ends: Fill,
    last_publish: Duration,
    pods: usize,
) -> Snapshot {
    let mut connections: Vec<(ServiceId, u64)> = Vec::new();
    for (index, id) in table.service_names() {
        let count = node.connections(index);
        match connections.last_mut() {
            Some((service, sum)) if *service == id.service => *sum += count,
            _ => connections.push((id.service.clone(), count)),
        }
    }
    let fill = table.fill().into_iter().chain([ends]).collect();
    Snapshot { fill, last_publish, drops: node.drops(), connections, pods }
}
