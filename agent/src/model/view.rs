//! The node as its pods see it: what plans look at, constant for the life of the agent, but for the cluster's ranges.

use std::net::IpAddr;

use super::{ClusterNetwork, Layout, NodeName};

/// What plans need to know of the node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// Internal addresses, the first is `status.hostIP`.
    pub addresses: Vec<IpAddr>,
    /// The cluster's ranges; `None` until a session or the ledger told them.
    pub cluster: Option<ClusterNetwork>,
    /// Paths.
    pub layout: Layout,
    /// The node's own resolver configuration.
    pub resolver: Resolver,
    /// Allocatable CPU in millicores.
    pub cpu_milli: i64,
    /// Allocatable memory in bytes.
    pub memory_bytes: i64,
    /// Memory of the machine in bytes, which oom_score_adj is relative to.
    pub memory_capacity: i64,
    /// Size of the disk that pods write to; 0 when it cannot be read.
    pub ephemeral_bytes: i64,
    /// Limits hold on this host (the cgroup v2 controllers are there).
    pub enforced: bool,
    /// Most pods.
    pub max_pods: i64,
    /// Kernel parameters that pods may set besides the safe ones: names, or their beginnings with a `*`.
    pub allowed_sysctls: Vec<String>,
    /// The lowest oom_score_adj that the runtime may give a container.
    pub oom_floor: i32,
    /// Most processes one pod may have; `None`: no limit.
    pub pids_max: Option<i64>,
    /// The kernel confines by AppArmor.
    pub apparmor: bool,
    /// The node's own /etc/hosts, for pods in its network.
    pub hosts: String,
}

/// The parts of a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// `nameserver`
    pub nameservers: Vec<String>,
    /// `search`
    pub searches: Vec<String>,
    /// `options`
    pub options: Vec<String>,
}
