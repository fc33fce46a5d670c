//! The service table: one source for the load balancer and for DNS, so that the two can never disagree.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::NodeName;

/// Namespace and name of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// All services by id. Cheap to clone: the values are shared.
pub type ServiceTable = BTreeMap<ServiceId, Arc<ServiceSpec>>;

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    /// Reachable inside the cluster.
    ClusterIp,
    /// Also on every node's port.
    NodePort,
    /// Also on an address from the pool.
    LoadBalancer,
    /// A CNAME.
    ExternalName,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// 6
    Tcp,
    /// 17
    Udp,
    /// 132
    Sctp,
}

/// One service, compiled by the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Generation that brought it.
    pub generation: u64,
    /// Type.
    pub kind: ServiceType,
    /// Empty when headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Target of an ExternalName service.
    pub external_name: Option<String>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses with the node that announces each.
    pub load_balancer_ips: Vec<(IpAddr, Option<NodeName>)>,
    /// Session affinity by client address, with its timeout.
    pub affinity: Option<Duration>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `healthCheckNodePort`.
    pub health_port: Option<u16>,
    /// `loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// Ports with their endpoints.
    pub ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty when unnamed.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the service addresses.
    pub port: u16,
    /// Port on the nodes.
    pub node_port: Option<u16>,
    /// Where to send, sorted by address.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Pod address and resolved target port.
    pub address: SocketAddr,
    /// Node it runs on.
    pub node: Option<NodeName>,
    /// Gets new connections.
    pub ready: bool,
    /// Still answers (also while terminating).
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// Its per-pod DNS name, empty when none.
    pub hostname: String,
    /// The pod's uid, empty when not a pod.
    pub pod: String,
}
