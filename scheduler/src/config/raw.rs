//! The file as it is written. Every key is optional; the defaults make a cluster on one machine.

use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Config {
    pub(super) data_dir: PathBuf,
    pub(super) api: Api,
    pub(super) nodes: Nodes,
    pub(super) metrics: Metrics,
    pub(super) cluster: Cluster,
    pub(super) timing: Timing,
    pub(super) log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/gantry/scheduler".into(),
            api: Api::default(),
            nodes: Nodes::default(),
            metrics: Metrics::default(),
            cluster: Cluster::default(),
            timing: Timing::default(),
            log: Log::default(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Api {
    pub(super) listen: String,
    pub(super) advertise: Option<String>,
    pub(super) names: Vec<String>,
    pub(super) connections: usize,
    pub(super) connections_per_user: usize,
    pub(super) reads_in_flight: usize,
    pub(super) writes_in_flight: usize,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: "0.0.0.0:6443".to_owned(),
            advertise: None,
            names: Vec::new(),
            connections: 8192,
            connections_per_user: 2048,
            reads_in_flight: 400,
            writes_in_flight: 200,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Nodes {
    pub(super) listen: String,
    pub(super) connections: usize,
    pub(super) connections_per_node: usize,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { listen: "0.0.0.0:6444".to_owned(), connections: 8192, connections_per_node: 1024 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub(super) listen: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: "127.0.0.1:6445".to_owned() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cluster {
    pub(super) domain: String,
    pub(super) service_cidr: String,
    pub(super) dns_ip: Option<String>,
    pub(super) pod_cidr: String,
    pub(super) node_mask: u8,
    pub(super) node_ports: String,
    pub(super) load_balancer_pool: Vec<String>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            domain: "cluster.local".to_owned(),
            service_cidr: "10.96.0.0/16".to_owned(),
            dns_ip: None,
            pod_cidr: "10.244.0.0/16".to_owned(),
            node_mask: 24,
            node_ports: "30000-32767".to_owned(),
            load_balancer_pool: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Timing {
    pub(super) heartbeat: String,
    pub(super) lease: String,
    pub(super) eviction: String,
}

impl Default for Timing {
    fn default() -> Self {
        Self { heartbeat: "5s".to_owned(), lease: "40s".to_owned(), eviction: "5m".to_owned() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) format: String,
    pub(super) filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: "human".to_owned(), filter: "info".to_owned() }
    }
}
