//! What a service and its slices are together. Version 1.1 sends them apart, and both sides have to read alike what that
//! means: the scheduler for agents of version 1.0, the agent for its tables. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::node::v1::{Endpoint, EndpointSlice, Protocol, Service, ServicePort};

/// The service whole: with the endpoints that its slices give its ports.
pub fn joined<'a>(mut service: Service, slices: impl Iterator<Item = &'a EndpointSlice> + Clone) -> Service {
    service.sliced = false;
    let headless = service.headless;
    // A slice that is labelled so is not for whoever serves addresses.
    let slices = slices.filter(move |slice| headless || !slice.headless);
    for port in &mut service.ports {
        let of_port = slices.clone().filter_map(|slice| Some((slice, target(slice, port)?)));
        port.endpoints = endpoints(of_port);
    }
    if headless {
        service.ports.extend(named_only(&service.ports, slices));
    }
    service
}

/// The number that a slice has for a port.
fn target(slice: &EndpointSlice, port: &ServicePort) -> Option<u32> {
    let same = slice.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol);
    same.map(|p| p.port)
}

/// A headless service needs no ports: its names are all there is. Endpoints that have none of its ports, as pods that do
/// not declare the one that it names, are found by their names all the same.
fn named_only<'a>(
    ports: &[ServicePort],
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> Option<ServicePort> {
    let found: BTreeSet<&str> =
        ports.iter().flat_map(|port| &port.endpoints).map(|endpoint| endpoint.address.as_str()).collect();
    let mut rest = endpoints(slices.map(|slice| (slice, 0)));
    rest.retain(|endpoint| !found.contains(endpoint.address.as_str()));
    let protocol = Protocol::Tcp.into();
    (ports.is_empty() || !rest.is_empty()).then(|| ServicePort {
        protocol,
        endpoints: rest,
        ..ServicePort::default()
    })
}

/// Endpoints by address and port: an address may be in two slices while it moves from one to the other, and then the
/// better state counts.
fn endpoints<'a>(slices: impl Iterator<Item = (&'a EndpointSlice, u32)>) -> Vec<Endpoint> {
    let rank = |endpoint: &Endpoint| (endpoint.ready, endpoint.serving, !endpoint.terminating);
    let mut best: BTreeMap<(IpAddr, u32), &Endpoint> = BTreeMap::new();
    for (slice, port) in slices {
        for endpoint in &slice.endpoints {
            let Ok(address) = endpoint.address.parse() else { continue };
            let kept = best.entry((address, port)).or_insert(endpoint);
            if rank(endpoint) > rank(kept) {
                *kept = endpoint;
            }
        }
    }
    best.into_iter().map(|((_, port), endpoint)| Endpoint { port, ..endpoint.clone() }).collect()
}
