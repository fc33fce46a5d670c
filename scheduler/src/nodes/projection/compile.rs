//! Services compiled for the datapath: a Service with its EndpointSlices becomes addresses, ports and flat lists
//! of endpoints. Pure; done once per change, whatever the number of nodes.
//!
//! Addresses and ranges go out in their one form. What has none is sent as it stands: nodes refuse what they do not
//! understand and say so, while something left out would be another service.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use gantry_proto::node::v1 as pb;
use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort},
        discovery::v1::{Endpoint, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::item::NodeName;
use crate::kinds::{meant_address, meant_range};

/// Names who is to serve the address of a service instead of the nodes.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// On a service or a slice: not for whoever serves addresses.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Upstream's default for ClientIP affinity: three hours.
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// Compiles one service. `announcers` are the nodes that may answer for load balancer addresses.
pub(super) fn compile<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    announcers: &BTreeSet<NodeName>,
) -> pb::Service {
    let spec = service.spec.clone().unwrap_or_default();
    let kind = spec.type_.unwrap_or_else(|| "ClusterIP".to_owned());
    let addresses: Vec<String> = match spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips,
        _ => spec.cluster_ip.into_iter().collect(),
    };
    let headless = kind != "ExternalName" && addresses.iter().any(|a| a == "None");
    let wanted = spec.ports.as_deref().unwrap_or_default();
    let somebody_elses = !headless && is_somebody_elses(service);
    let ports = if headless {
        headless_ports(wanted, slices)
    } else if somebody_elses {
        // Its name still leads to its address, where nothing of ours answers.
        Vec::new()
    } else {
        let slices = slices.filter(|slice| !has_label(&slice.metadata, HEADLESS));
        wanted.iter().map(|p| port(p, slices.clone())).collect()
    };
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let load_balancer_ips = if somebody_elses { Vec::new() } else { load_balancer_ips(service) };
    let external_ips = spec.external_ips.filter(|_| !somebody_elses).unwrap_or_default();
    let announcers = announce(&load_balancer_ips, announcers, &ports, external_local);
    pb::Service {
        r#type: kind,
        cluster_ips: each(addresses, meant_address).filter(|a| a != "None" && !a.is_empty()).collect(),
        headless,
        external_name: spec.external_name.unwrap_or_default(),
        external_ips: each(external_ips, meant_address).collect(),
        load_balancer_ips,
        announcers,
        affinity_seconds: match spec.session_affinity.as_deref() {
            Some("ClientIP") => spec
                .session_affinity_config
                .and_then(|c| c.client_ip)
                .and_then(|c| c.timeout_seconds)
                .unwrap_or(DEFAULT_AFFINITY_SECONDS)
                .unsigned_abs(),
            _ => 0,
        },
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        ports,
        source_ranges: each(spec.load_balancer_source_ranges.unwrap_or_default(), meant_range).collect(),
        health_check_node_port: spec.health_check_node_port.filter(|_| !somebody_elses).map_or(0, number),
    }
}

/// Texts in the form that they are meant in, and those without one as they are.
fn each(texts: Vec<String>, meant: fn(&str) -> Option<String>) -> impl Iterator<Item = String> {
    texts.into_iter().map(move |text| meant(&text).unwrap_or(text))
}

fn has_label(meta: &ObjectMeta, label: &str) -> bool {
    meta.labels.as_ref().is_some_and(|labels| labels.contains_key(label))
}

/// Whether the service says that others than the nodes' own datapath are to serve its address.
fn is_somebody_elses(service: &Service) -> bool {
    [PROXY_NAME, HEADLESS].iter().any(|label| has_label(&service.metadata, label))
}

fn load_balancer_ips(service: &Service) -> Vec<String> {
    let ingress =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    each(ingress.into_iter().flatten().filter_map(|i| i.ip.clone()).collect(), meant_address).collect()
}

fn port<'a>(wanted: &ServicePort, slices: impl Iterator<Item = &'a EndpointSlice>) -> pb::ServicePort {
    let name = wanted.name.clone().unwrap_or_default();
    let protocol = wanted.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let mut endpoints = Endpoints::default();
    for slice in slices {
        let same = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            p.name.as_deref().unwrap_or("") == name && p.protocol.as_deref().unwrap_or("TCP") == protocol
        };
        if let Some(target) = slice.ports.iter().flatten().find(same).and_then(|p| p.port) {
            endpoints.add(slice, number(target));
        }
    }
    pb::ServicePort {
        protocol: self::protocol(&protocol).into(),
        port: number(wanted.port),
        node_port: wanted.node_port.map_or(0, number),
        endpoints: endpoints.sorted(),
        name,
    }
}

/// A headless service needs no ports: its names are all there is. Endpoints that have none of its ports, as pods that do
/// not declare the one that it names, are found by their names all the same.
fn headless_ports<'a>(
    wanted: &[ServicePort],
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
) -> Vec<pb::ServicePort> {
    let mut ports: Vec<_> = wanted.iter().map(|p| port(p, slices.clone())).collect();
    let found: BTreeSet<String> =
        ports.iter().flat_map(|p| &p.endpoints).map(|endpoint| endpoint.address.clone()).collect();
    let mut rest = Endpoints::default();
    for slice in slices {
        rest.add(slice, 0);
    }
    let mut rest = rest.sorted();
    rest.retain(|endpoint| !found.contains(&endpoint.address));
    if wanted.is_empty() || !rest.is_empty() {
        let protocol = pb::Protocol::Tcp.into();
        ports.push(pb::ServicePort { protocol, endpoints: rest, ..pb::ServicePort::default() });
    }
    ports
}

/// Endpoints by address and port: an address may be in two slices while it moves from one to the other, and
/// then the better state counts.
#[derive(Default)]
struct Endpoints(BTreeMap<(IpAddr, u32), pb::Endpoint>);

impl Endpoints {
    fn add(&mut self, slice: &EndpointSlice, port: u32) {
        for endpoint in slice.endpoints.iter().flatten() {
            for address in &endpoint.addresses {
                // FQDN slices carry names: nothing to load-balance to.
                let Some(ip) = meant_address(address).and_then(|text| text.parse::<IpAddr>().ok()) else {
                    continue;
                };
                let new = convert(endpoint, &ip.to_string(), port);
                let rank = |e: &pb::Endpoint| (e.ready, e.serving, !e.terminating);
                let kept = self.0.entry((ip, port)).or_insert_with(|| new.clone());
                if rank(&new) > rank(kept) {
                    *kept = new;
                }
            }
        }
    }

    fn sorted(self) -> Vec<pb::Endpoint> {
        self.0.into_values().collect()
    }
}

fn convert(endpoint: &Endpoint, address: &str, port: u32) -> pb::Endpoint {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    // Unset means ready; serving falls back to ready: upstream's reading of the API.
    let ready = conditions.ready.unwrap_or(true);
    let target = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
    pb::Endpoint {
        address: address.to_owned(),
        port,
        node: endpoint.node_name.clone().unwrap_or_default(),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        hostname: endpoint.hostname.clone().unwrap_or_default(),
        pod_uid: target.and_then(|t| t.uid.clone()).unwrap_or_default(),
    }
}

/// One node per address answers for it on the local network: the one with the highest hash, so that a node that
/// comes or goes moves only its own addresses. With `externalTrafficPolicy: Local`, one that has an endpoint.
fn announce(
    addresses: &[String],
    nodes: &BTreeSet<NodeName>,
    ports: &[pb::ServicePort],
    external_local: bool,
) -> Vec<String> {
    let with_endpoint: BTreeSet<&str> =
        ports.iter().flat_map(|p| &p.endpoints).filter(|e| e.ready).map(|e| e.node.as_str()).collect();
    let prefer_local = external_local && nodes.iter().any(|n| with_endpoint.contains(&**n));
    let score = |address: &str, node: &str| {
        let mut hasher = DefaultHasher::new();
        (address, node).hash(&mut hasher);
        hasher.finish()
    };
    let choose = |address: &String| {
        let eligible = nodes.iter().filter(|n| !prefer_local || with_endpoint.contains(&***n));
        eligible.max_by_key(|n| score(address, n)).map(ToString::to_string).unwrap_or_default()
    };
    addresses.iter().map(choose).collect()
}

fn protocol(text: &str) -> pb::Protocol {
    match text {
        "UDP" => pb::Protocol::Udp,
        "SCTP" => pb::Protocol::Sctp,
        "TCP" => pb::Protocol::Tcp,
        _ => pb::Protocol::Unspecified,
    }
}

/// Ports are validated to 1..=65535 on the way in; another number is none that a node takes.
fn number(port: i32) -> u32 {
    u32::try_from(port).unwrap_or(u32::MAX)
}
