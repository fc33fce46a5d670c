//! The network of the node and of its pods through netlink: namespaces (made and pinned by the agent), veth pairs,
//! addresses, routes to pods here and on other nodes, load balancer addresses on the uplink.
//!
//! In: a pod's network, one call each; what the node's own should be, as one value that a pass brings the kernel to.
//! Out: what is there, and a bell for what others change. Never touches interfaces it did not make, except for routes
//! and announced addresses on the uplink, nor a route or address of anybody else's.

mod addresses;
mod changes;
mod kernel;
mod masquerade;
mod namespaces;
mod netlink;
mod passes;
mod plan;
mod pod;
mod ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::watch;

pub use kernel::{KernelNetwork, NetSettings, give_back_ports};

use crate::model::{ClusterNetwork, NetworkStatus, NodeName, PeerNode, PodName, PodUid};

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
    /// The configured uplink is not there, or not yet.
    #[error("the uplink {0} is not there: set it up, or correct `uplink` in the configuration")]
    UplinkMissing(String),
    /// Somebody else's route has the place of one of ours.
    #[error("a route to {to} that is not this agent's is in the way: remove it")]
    Occupied {
        /// Where both lead.
        to: Ipv4Net,
    },
    /// A kernel setting, or state on disk.
    #[error("cannot {operation} {path:?}")]
    State {
        /// `read`, `write`, `remove`.
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

/// Other nodes by name.
pub type Peers = BTreeMap<NodeName, PeerNode>;

/// What the node's own network should be. `None` is what nobody knows yet: what the kernel has of it stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeWants {
    /// The cluster's ranges: forwarding, the cluster DNS address, an answer for addresses that nobody has, the way out, reserved ports.
    pub cluster: Option<ClusterNetwork>,
    /// Routes to the other nodes' pods.
    pub peers: Option<Arc<Peers>>,
    /// Addresses that this node answers for on the uplink.
    pub announced: Option<BTreeSet<IpAddr>>,
}

/// A part of the node's network that can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The cluster's ranges.
    Ranges,
    /// Routes to the pods of this node.
    Pods,
    /// Routes to other nodes' pods.
    Peers,
    /// Announced addresses.
    Announced,
    /// Ports that the node's own connections must not come from.
    Ports,
}

/// The node's network as a pass left it.
#[derive(Debug, Default)]
pub struct NodeNetwork {
    /// The interface by which the node is reached.
    pub uplink: Option<String>,
    /// The node's own addresses there, primary first.
    pub addresses: Vec<IpAddr>,
    /// How much had to be changed.
    pub changed: usize,
    /// What is not as it should be.
    pub failures: Vec<(Part, NetError)>,
}

/// The port. Every call is idempotent.
#[async_trait]
pub trait Network: Send + Sync {
    /// One pass over the node's own network: reads it, sets what differs from `wants`, and tells how it is. The first
    /// one that knows the cluster's ranges must come before the first `ensure_pod`. A `thorough` pass looks also at what
    /// changes without a sound: rules, and the way to each peer.
    async fn settle(&self, wants: &NodeWants, thorough: bool) -> Result<NodeNetwork, NetError>;
    /// Rings when links, addresses or routes changed, whoever changed them.
    fn changes(&self) -> watch::Receiver<()>;
    /// What exists, by pod, from the pins and the kernel.
    async fn list(&self) -> Result<BTreeMap<PodUid, NetworkStatus>, NetError>;
    /// Namespaces, veth pair, address, routes; returns the same addresses when called again.
    async fn ensure_pod(&self, pod: &PodNetwork) -> Result<NetworkStatus, NetError>;
    /// Removes all of it; the address is held back for a while before reuse.
    async fn remove_pod(&self, pod: &PodUid) -> Result<(), NetError>;
}

/// The IPv4 ranges among these.
fn v4(ranges: &[IpNet]) -> Vec<Ipv4Net> {
    let v4 = ranges.iter().filter_map(|range| match range {
        IpNet::V4(range) => Some(range.trunc()),
        IpNet::V6(_) => None,
    });
    v4.collect()
}
