//! Pod networking through netlink: namespaces (made and pinned by the agent), veth pairs, addresses, routes to
//! other nodes' pods, load balancer addresses on the uplink. Never touches interfaces it did not make, except
//! for routes and announced addresses on the configured uplink.

mod addresses;
mod kernel;
mod masquerade;
mod namespaces;
mod netlink;
mod node;
mod pod;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};

pub use kernel::{KernelNetwork, NetSettings};

use crate::model::{ClusterNetwork, NetworkStatus, NodeName, PeerNode, PodName, PodUid};

/// How often routes, rules and addresses are made as they should be again: a restart of the host's network or firewall
/// service removes what is not its own.
pub const REPAIR: Duration = Duration::from_secs(30);

/// Failure of a network operation.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// A namespace could not be made, pinned or entered.
    #[error("cannot {operation} namespace {path:?}")]
    Namespace {
        /// `create`, `pin`, `enter`, `remove`.
        operation: &'static str,
        /// The pin.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("netlink: cannot {operation} {subject}")]
    Netlink {
        /// `add link`, `add route`, ...
        operation: &'static str,
        /// Link, address or route.
        subject: String,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node's range has no free address.
    #[error("no free pod address in {cidr}: {used} are in use or held back after use")]
    Exhausted {
        /// The node's range.
        cidr: String,
        /// Count.
        used: usize,
    },
    /// A pod was asked for before the cluster's ranges were known.
    #[error("the node has no pod range yet: it comes with the scheduler's first hello")]
    NotConfigured,
    /// Another node is behind a router: a route to its pods would end there.
    #[error(
        "node {node} ({address}) is reached through the router {gateway}: its pods are not reachable from here, because nodes must share one layer 2 network"
    )]
    NotOnLink {
        /// The other node.
        node: NodeName,
        /// Its address.
        address: Ipv4Addr,
        /// The router between.
        gateway: Ipv4Addr,
    },
    /// Another node cannot be reached at all.
    #[error("there is no route to node {node} ({address}): its pods are not reachable from here")]
    NoRoute {
        /// The other node.
        node: NodeName,
        /// Its address.
        address: Ipv4Addr,
    },
    /// Pods would not reach the outside.
    #[error("cannot install the masquerade rules with nft (Debian package nftables)")]
    Masquerade(#[source] std::io::Error),
    /// Load balancer addresses have nowhere to go.
    #[error("there is no uplink to announce addresses on: name one with uplink in [network]")]
    NoUplink,
    /// A kernel setting, or state on disk.
    #[error("cannot {operation} {path:?}")]
    State {
        /// `read`, `write`.
        operation: &'static str,
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

/// What the network of one pod should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// Whose.
    pub uid: PodUid,
    /// For messages.
    pub name: PodName,
    /// UTS host name.
    pub hostname: String,
    /// Only IPC (and UTS) namespaces: the network is the node's.
    pub host_network: bool,
}

/// The port. Every call is idempotent.
#[async_trait]
pub trait Network: Send + Sync {
    /// Takes the cluster's ranges; must come before the first `ensure_pod`. Sets sysctls, routes and rules, also when
    /// somebody else has removed them.
    async fn configure(&self, cluster: &ClusterNetwork) -> Result<(), NetError>;
    /// What exists, by pod, from the pins and the kernel.
    async fn list(&self) -> Result<BTreeMap<PodUid, NetworkStatus>, NetError>;
    /// Namespaces, veth pair, address, routes; returns the same addresses when called again.
    async fn ensure_pod(&self, pod: &PodNetwork) -> Result<NetworkStatus, NetError>;
    /// Removes all of it; the address is held back for a while before reuse.
    async fn remove_pod(&self, pod: &PodUid) -> Result<(), NetError>;
    /// Routes to the other nodes' pod ranges; removes what is no longer there.
    async fn set_peers(&self, peers: &BTreeMap<NodeName, PeerNode>) -> Result<(), NetError>;
    /// Addresses this node answers for on the uplink (load balancer addresses); removes others of ours.
    async fn set_announced(&self, addresses: &[IpAddr]) -> Result<(), NetError>;
    /// The interface by which the node is reached, as it is now.
    async fn uplink_interface(&self) -> Result<Option<String>, NetError>;
    /// The node's own addresses on the uplink.
    async fn node_addresses(&self) -> Result<Vec<IpAddr>, NetError>;
}

/// The IPv4 ranges among these.
fn v4(ranges: &[IpNet]) -> Vec<Ipv4Net> {
    let v4 = ranges.iter().filter_map(|range| match range {
        IpNet::V4(range) => Some(range.trunc()),
        IpNet::V6(_) => None,
    });
    v4.collect()
}
