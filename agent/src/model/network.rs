//! Addresses: the cluster's ranges, the other nodes, and what a pod was given.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// The cluster's ranges, from the session's hello; kept in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClusterNetwork {
    /// `cluster.local`
    pub domain: String,
    /// ClusterIPs.
    pub service_cidr: IpNet,
    /// All pods.
    pub pod_cidr: IpNet,
    /// This node's pods.
    pub node_pod_cidrs: Vec<IpNet>,
    /// What pods have in resolv.conf.
    pub dns_ip: IpAddr,
    /// NodePort range, inclusive.
    pub node_ports: (u16, u16),
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNode {
    /// Internal addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pods' ranges.
    pub pod_cidrs: Vec<IpNet>,
}

/// What a pod's network namespace has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodAddresses {
    /// IPv4 address (a /32 on eth0).
    pub v4: Ipv4Addr,
    /// Index of the host side of the veth pair.
    pub host_ifindex: u32,
}

/// A pod's network as the kernel has it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Path of the pinned network namespace.
    pub netns: std::path::PathBuf,
    /// Path of the pinned IPC namespace.
    pub ipcns: std::path::PathBuf,
    /// Path of the pinned UTS namespace.
    pub utsns: std::path::PathBuf,
    /// `None` with host networking.
    pub addresses: Option<PodAddresses>,
}
