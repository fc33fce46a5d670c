//! The endpoints of a service as a pure function of the service and its pods, and the fewest writes that bring
//! its slices there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use crate::{
    cache::{MetaExt, Pod, SERVICE_NAME},
    controllers::{owner::controller_ref, pods},
};

pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Marks what belongs to a service without an address of its own.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Most endpoints in one slice, as upstream: a change of one rewrites no more than so many.
pub(super) const SLICE_SIZE: usize = 100;

/// The ports of one group of endpoints, as a key: pods may resolve a named port differently.
pub(super) type PortKey = Vec<(String, String, i32, String)>;

/// The zone of a node.
pub(super) type Zones<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Writes that bring the slices in line.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
}

/// Whether a slice is ours to change.
pub(super) fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().is_some_and(|l| l.get(MANAGED_BY).is_some_and(|m| m == MANAGER))
}

/// Whether a pod can be an endpoint at all: it has an address and has not finished.
pub(super) fn can_serve(pod: &Pod) -> bool {
    !pod.is_finished() && address(pod).is_some()
}

pub(super) fn address(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let first = status.pod_ips.as_ref().and_then(|ips| ips.first()).map(|ip| ip.ip.as_str());
    first.or(status.pod_ip.as_deref()).filter(|ip| !ip.is_empty())
}

/// Plans. `current` are the slices of the service that are ours.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    current: &[Arc<EndpointSlice>],
    zones: Zones<'_>,
) -> Plan {
    let mut groups: BTreeMap<PortKey, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for pod in pods.iter().filter(|p| can_serve(p)) {
        if let Some(address) = address(pod) {
            let key = port_key(&ports_of(service, pod));
            let endpoint = endpoint(service, pod, address, zones);
            groups.entry(key).or_default().insert(pod.metadata.uid_str().to_owned(), endpoint);
        }
    }
    let mut plan = Plan::default();
    let mut by_key: BTreeMap<PortKey, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in current {
        by_key.entry(port_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    let keys: BTreeSet<PortKey> = groups.keys().chain(by_key.keys()).cloned().collect();
    for key in keys {
        let wanted = groups.remove(&key).unwrap_or_default();
        let slices = by_key.remove(&key).unwrap_or_default();
        plan_group(service, &key, wanted, &slices, &mut plan);
    }
    keep_one(service, current, &mut plan);
    plan
}

/// One group: endpoints stay in the slice they are in; new ones fill slices that change anyway, then others that
/// have room, then new slices.
fn plan_group(
    service: &Service,
    key: &PortKey,
    mut wanted: BTreeMap<String, Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    let labels = labels(service);
    let mut kept: Vec<(EndpointSlice, bool)> = Vec::new();
    for slice in slices {
        let mut new = (***slice).clone();
        let old = new.endpoints.take().unwrap_or_default();
        let still: Vec<Endpoint> = old.iter().filter_map(|e| wanted.remove(uid_of(e))).collect();
        let mut changed = still != old;
        new.endpoints = Some(still);
        let own = new.metadata.labels.get_or_insert_default();
        if *own != labels {
            own.clone_from(&labels);
            changed = true;
        }
        kept.push((new, changed));
    }
    let mut rest = wanted.into_values();
    for pass in [true, false] {
        for (slice, changed) in kept.iter_mut().filter(|(_, changed)| *changed == pass) {
            let endpoints = slice.endpoints.get_or_insert_default();
            let room = SLICE_SIZE.saturating_sub(endpoints.len());
            let before = endpoints.len();
            endpoints.extend(rest.by_ref().take(room));
            *changed |= endpoints.len() != before;
        }
    }
    loop {
        let endpoints: Vec<Endpoint> = rest.by_ref().take(SLICE_SIZE).collect();
        if endpoints.is_empty() {
            break;
        }
        plan.create.push(new_slice(service, labels.clone(), key, endpoints));
    }
    for ((slice, changed), old) in kept.into_iter().zip(slices) {
        if slice.endpoints.as_ref().is_none_or(Vec::is_empty) {
            plan.delete.push((*old).clone());
        } else if changed {
            plan.update.push(slice);
        }
    }
}

/// A service without endpoints keeps one empty slice, so that watchers see that there are none.
fn keep_one(service: &Service, current: &[Arc<EndpointSlice>], plan: &mut Plan) {
    let stay = current.len() - plan.delete.len() + plan.create.len();
    if stay > 0 {
        return;
    }
    let labels = labels(service);
    match plan.delete.pop() {
        None => plan.create.push(new_slice(service, labels, &Vec::new(), Vec::new())),
        Some(last) => {
            let empty = last.endpoints.as_ref().is_none_or(Vec::is_empty);
            if !empty || last.metadata.labels.as_ref() != Some(&labels) {
                let mut slice = (*last).clone();
                slice.endpoints = Some(Vec::new());
                slice.metadata.labels = Some(labels);
                plan.update.push(slice);
            }
        }
    }
}

fn new_slice(
    service: &Service,
    labels: BTreeMap<String, String>,
    ports: &PortKey,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.metadata.name_str())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_ref(service)]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.iter().map(port_of).collect()),
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name_str().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels
}

pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"))
}

fn uid_of(endpoint: &Endpoint) -> &str {
    endpoint.target_ref.as_ref().and_then(|t| t.uid.as_deref()).unwrap_or("")
}

pub(super) fn port_key(ports: &[EndpointPort]) -> PortKey {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let one =
        |p: &EndpointPort| (text(&p.name), text(&p.protocol), p.port.unwrap_or(0), text(&p.app_protocol));
    let mut key: PortKey = ports.iter().map(one).collect();
    key.sort();
    key
}

pub(super) fn port_of((name, protocol, port, app): &(String, String, i32, String)) -> EndpointPort {
    EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: Some(*port),
        app_protocol: (!app.is_empty()).then(|| app.clone()),
    }
}

/// The ports of the service as this pod has them. A named port that the pod does not have is left out.
pub(super) fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let resolved = ports.iter().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target(port, &protocol, pod)?),
            protocol: Some(protocol),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn target(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|p| p.container_port)
}

fn endpoint(service: &Service, pod: &Pod, address: &str, zones: Zones<'_>) -> Endpoint {
    let spec = service.spec.as_ref();
    let publish = spec.and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let (serving, terminating) = (pods::is_ready(pod), pod.metadata.deleting());
    let node = pod.node();
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(service, pod),
        node_name: node.map(str::to_owned),
        target_ref: Some(target_ref(pod)),
        zone: node.and_then(zones),
        ..Endpoint::default()
    }
}

/// The pod's own DNS name under the service, when it asks for one.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    (spec.subdomain == service.metadata.name).then(|| spec.hostname.clone())?.filter(|h| !h.is_empty())
}

pub(super) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}
