//! From a service port to endpoint sets: traffic policies, terminating fallback and locality are decided here,
//! in user space, so that the kernel only ever looks up a flat set. Pure functions of the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
};

use agent_ebpf_common::{
    abi::{FrontendKey, INSIDE, OUTSIDE, TCP, UDP},
    words,
};

use crate::model::{Endpoint, NodeName, Protocol, ServicePort, ServiceSpec};

/// Who comes by which kind of address. Each role of a service port has one endpoint set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Role {
    /// Pods and the node's processes, by cluster address.
    Internal,
    /// The same, by a node port or external address: always the whole cluster's endpoints.
    ExternalFromInside,
    /// The same, by a load balancer address (which may be restricted by source).
    BalancerFromInside,
    /// From outside, by a node port or external address.
    ExternalFromOutside,
    /// From outside, by a load balancer address.
    BalancerFromOutside,
}

impl Role {
    /// As a published set carries it; 0 is a set of an agent that did not say.
    pub(super) fn code(self) -> u16 {
        let number = match self {
            Self::Internal => 1,
            Self::ExternalFromInside => 2,
            Self::BalancerFromInside => 3,
            Self::ExternalFromOutside => 4,
            Self::BalancerFromOutside => 5,
        };
        number << words::ROLE_SHIFT
    }
}

/// A backend of a set; ordered, so that sets compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    /// Address and port.
    pub(super) address: SocketAddrV4,
    /// Runs on this node.
    pub(super) local: bool,
}

/// What one role is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointSet {
    /// Sorted, without duplicates.
    pub(super) targets: Vec<Target>,
    /// Flags of the publish word.
    pub(super) flags: u16,
}

/// A service port, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CompiledPort {
    /// Frontends in the order they are published: cluster addresses first.
    pub(super) frontends: Vec<(FrontendKey, Role)>,
    /// A set for each role that a frontend has.
    pub(super) sets: BTreeMap<Role, EndpointSet>,
    /// Affinity timeout in ticks; 0: none.
    pub(super) timeout: u32,
}

/// The kernel's number of a protocol, when the load balancer serves it.
pub(super) fn protocol_number(protocol: Protocol) -> Option<u8> {
    match protocol {
        Protocol::Tcp => Some(TCP),
        Protocol::Udp => Some(UDP),
        Protocol::Sctp => None,
    }
}

/// Compiles one port of a service as node `node` sees it.
pub(super) fn compile(service: &ServiceSpec, port: &ServicePort, node: &NodeName) -> CompiledPort {
    let Some(proto) = protocol_number(port.protocol) else { return CompiledPort::default() };
    let frontends = frontends(service, port, proto);
    let roles: BTreeSet<Role> = frontends.iter().map(|&(_, role)| role).collect();
    let sets = roles.into_iter().map(|role| (role, endpoint_set(service, port, node, role))).collect();
    let timeout = service.affinity.map_or(0, |timeout| words::ticks(timeout.as_secs() as u32));
    CompiledPort { frontends, sets, timeout }
}

/// Where a port is reached, cluster addresses first, and what for.
pub(super) fn frontends(service: &ServiceSpec, port: &ServicePort, proto: u8) -> Vec<(FrontendKey, Role)> {
    let mut frontends: Vec<(FrontendKey, Role)> = Vec::new();
    let mut add = |address: Ipv4Addr, port: u16, scope: u8, role: Role| {
        let key = FrontendKey {
            addr_be: u32::from_ne_bytes(address.octets()),
            port_be: port.to_be(),
            proto,
            scope,
        };
        match frontends.iter_mut().find(|(known, _)| *known == key) {
            // An address has one role. Of an external address that is the load balancer's too, the balancer's: what it
            // may be restricted by holds for the address, whoever else names it.
            Some((_, known)) if *known != Role::Internal => *known = role,
            Some(_) => {}
            None => frontends.push((key, role)),
        }
    };
    for address in v4(&service.cluster_ips) {
        add(address, port.port, INSIDE, Role::Internal);
    }
    if let Some(node_port) = port.node_port {
        add(Ipv4Addr::UNSPECIFIED, node_port, INSIDE, Role::ExternalFromInside);
        add(Ipv4Addr::UNSPECIFIED, node_port, OUTSIDE, Role::ExternalFromOutside);
    }
    for address in v4(&service.external_ips) {
        add(address, port.port, INSIDE, Role::ExternalFromInside);
        add(address, port.port, OUTSIDE, Role::ExternalFromOutside);
    }
    for address in v4(service.load_balancer_ips.iter().map(|(address, _)| address)) {
        add(address, port.port, INSIDE, Role::BalancerFromInside);
        add(address, port.port, OUTSIDE, Role::BalancerFromOutside);
    }
    frontends
}

fn v4<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> impl Iterator<Item = Ipv4Addr> {
    addresses.into_iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

fn endpoint_set(service: &ServiceSpec, port: &ServicePort, node: &NodeName, role: Role) -> EndpointSet {
    let from_outside = matches!(role, Role::ExternalFromOutside | Role::BalancerFromOutside);
    // Upstream treats local clients of an external address as clients of the cluster: externalTrafficPolicy
    // binds only what comes from outside.
    let local_only = match role {
        Role::Internal => service.internal_local,
        Role::ExternalFromInside | Role::BalancerFromInside => false,
        Role::ExternalFromOutside | Role::BalancerFromOutside => service.external_local,
    };
    let everywhere = usable(service, &port.endpoints, |_| true);
    let endpoints = if local_only {
        usable(service, &port.endpoints, |endpoint| is_local(endpoint, node))
    } else {
        everywhere.clone()
    };
    let targets: BTreeSet<Target> =
        endpoints.into_iter().filter_map(|endpoint| target(endpoint, is_local(endpoint, node))).collect();
    let balancer = matches!(role, Role::BalancerFromInside | Role::BalancerFromOutside);
    let mut flags = 0;
    flags |= if service.affinity.is_some() { words::AFFINITY } else { 0 };
    flags |= if local_only { words::LOCAL_ONLY } else { 0 };
    // Refuse when there is no endpoint at all; drop when there is one, but not where the policy allows.
    flags |= if local_only && !everywhere.is_empty() { words::EMPTY_DROP } else { 0 };
    flags |= if from_outside && !service.external_local { words::MASQUERADE } else { 0 };
    flags |= if balancer && !service.source_ranges.is_empty() { words::SOURCE_RANGES } else { 0 };
    EndpointSet { targets: targets.into_iter().collect(), flags }
}

/// The ready endpoints; where there is none, those that terminate but still serve (KEP-1669). The fallback is
/// taken for each set by itself, as upstream does.
fn usable<'a>(
    service: &ServiceSpec,
    endpoints: &'a [Endpoint],
    keep: impl Fn(&Endpoint) -> bool,
) -> Vec<&'a Endpoint> {
    let is_ready = |endpoint: &Endpoint| endpoint.ready || service.publish_not_ready;
    let ready: Vec<&Endpoint> =
        endpoints.iter().filter(|endpoint| keep(endpoint) && is_ready(endpoint)).collect();
    if !ready.is_empty() {
        return ready;
    }
    endpoints.iter().filter(|endpoint| keep(endpoint) && endpoint.serving && endpoint.terminating).collect()
}

fn is_local(endpoint: &Endpoint, node: &NodeName) -> bool {
    endpoint.node.as_ref() == Some(node)
}

fn target(endpoint: &Endpoint, local: bool) -> Option<Target> {
    match endpoint.address {
        SocketAddr::V4(address) => Some(Target { address, local }),
        SocketAddr::V6(_) => None,
    }
}

/// What of a service is not served: this datapath knows TCP and UDP over IPv4. For people.
pub(crate) fn unserved(service: &ServiceSpec) -> Option<String> {
    if service.headless {
        // Names alone.
        return None;
    }
    let sctp = service.ports.iter().find(|port| protocol_number(port.protocol).is_none());
    if let Some(port) = sctp {
        return Some(format!("port {} is not answered: this node load-balances TCP and UDP", port.port));
    }
    let balanced = service.load_balancer_ips.iter().map(|(address, _)| address);
    let mut addresses = service.cluster_ips.iter().chain(&service.external_ips).chain(balanced);
    if let Some(address) = addresses.find(|address| address.is_ipv6()) {
        return Some(format!("address {address} is not answered: this node load-balances IPv4"));
    }
    let mut endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
    let endpoint = endpoints.find(|endpoint| endpoint.address.is_ipv6())?;
    Some(format!("endpoint {} gets no connections: this node load-balances IPv4", endpoint.address))
}

#[cfg(test)]
pub(super) mod tests;
