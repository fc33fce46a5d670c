//! Services compiled for the datapath: a Service becomes addresses and ports, an EndpointSlice a flat list of endpoints.
//! Pure; each is done once per change of it, whatever the number of nodes.
//!
//! Addresses and ranges go out in their one form. What has none is sent as it stands: nodes refuse what they do not
//! understand and say so, while something left out would be another service.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use gantry_proto::node::v1 as pb;
use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
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

/// Compiles a service without its endpoints. `announcers` are the nodes that may answer for load balancer addresses;
/// which of them do may depend on where the endpoints are.
pub(super) fn service<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a pb::EndpointSlice> + Clone,
    announcers: &BTreeSet<NodeName>,
) -> pb::Service {
    let spec = service.spec.clone().unwrap_or_default();
    let kind = spec.type_.unwrap_or_else(|| "ClusterIP".to_owned());
    let addresses: Vec<String> = match spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips,
        _ => spec.cluster_ip.into_iter().collect(),
    };
    let headless = kind != "ExternalName" && addresses.iter().any(|a| a == "None");
    let somebody_elses = !headless && is_somebody_elses(service);
    // Its name still leads to its address, where nothing of ours answers.
    let ports = spec.ports.filter(|_| !somebody_elses).unwrap_or_default().iter().map(port).collect();
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let load_balancer_ips = if somebody_elses { Vec::new() } else { load_balancer_ips(service) };
    let external_ips = spec.external_ips.filter(|_| !somebody_elses).unwrap_or_default();
    let mut compiled = pb::Service {
        r#type: kind,
        cluster_ips: each(addresses, meant_address).filter(|a| a != "None" && !a.is_empty()).collect(),
        headless,
        external_name: spec.external_name.unwrap_or_default(),
        external_ips: each(external_ips, meant_address).collect(),
        load_balancer_ips,
        announcers: Vec::new(),
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
        sliced: true,
    };
    compiled.announcers = announce(&compiled, slices, announcers);
    compiled
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

fn port(wanted: &ServicePort) -> pb::ServicePort {
    pb::ServicePort {
        name: wanted.name.clone().unwrap_or_default(),
        protocol: protocol(wanted.protocol.as_deref()).into(),
        port: number(wanted.port),
        node_port: wanted.node_port.map_or(0, number),
        endpoints: Vec::new(),
    }
}

/// Compiles a slice, whatever its service is like.
pub(super) fn slice(slice: &EndpointSlice) -> pb::EndpointSlice {
    let port = |port: &EndpointPort| {
        Some(pb::SlicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref()).into(),
            port: number(port.port?),
        })
    };
    let mut endpoints: Vec<_> = slice
        .endpoints
        .iter()
        .flatten()
        .flat_map(|endpoint| endpoint.addresses.iter().filter_map(|address| convert(endpoint, address)))
        .collect();
    // Another order is no other slice.
    endpoints.sort_by(|a, b| a.address.cmp(&b.address));
    pb::EndpointSlice {
        headless: has_label(&slice.metadata, HEADLESS),
        ports: slice.ports.iter().flatten().filter_map(port).collect(),
        endpoints,
    }
}

/// `None` when there is nothing to load-balance to: FQDN slices carry names.
fn convert(endpoint: &Endpoint, address: &str) -> Option<pb::Endpoint> {
    let address = meant_address(address)?.parse::<IpAddr>().ok()?.to_string();
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    // Unset means ready; serving falls back to ready: upstream's reading of the API.
    let ready = conditions.ready.unwrap_or(true);
    let target = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"));
    Some(pb::Endpoint {
        address,
        port: 0,
        node: endpoint.node_name.clone().unwrap_or_default(),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        hostname: endpoint.hostname.clone().unwrap_or_default(),
        pod_uid: target.and_then(|t| t.uid.clone()).unwrap_or_default(),
    })
}

/// One node per address answers for it on the local network: the one with the highest hash, so that a node that
/// comes or goes moves only its own addresses. With `externalTrafficPolicy: Local`, one that has an endpoint.
fn announce<'a>(
    service: &pb::Service,
    slices: impl Iterator<Item = &'a pb::EndpointSlice> + Clone,
    nodes: &BTreeSet<NodeName>,
) -> Vec<String> {
    let addresses = &service.load_balancer_ips;
    let with_endpoint: BTreeSet<String> = if service.external_local && !addresses.is_empty() {
        let ports = gantry_proto::joined(service.clone(), slices).ports;
        ports.into_iter().flat_map(|p| p.endpoints).filter(|e| e.ready).map(|e| e.node).collect()
    } else {
        BTreeSet::new()
    };
    let prefer_local = nodes.iter().any(|n| with_endpoint.contains(&**n));
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

fn protocol(text: Option<&str>) -> pb::Protocol {
    match text.unwrap_or("TCP") {
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
