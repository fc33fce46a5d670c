//! The older Endpoints object of a service, for `kubectl describe` and for clients that know nothing newer.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::plan::{HEADLESS, address, can_serve, hostname, is_headless, ports_of, target_ref};
use crate::{
    cache::{MetaExt, Pod},
    controllers::pods,
};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// More addresses than this are cut off, and the object says so, as upstream.
const CAPACITY: usize = 1000;
const OVER: &str = "endpoints.kubernetes.io/over-capacity";

type Ports = Vec<(Option<String>, i32, String, Option<String>)>;

/// What the object should be; `current` is what it is.
pub(super) fn endpoints(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Endpoints {
    let mut endpoints = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    endpoints.metadata.labels = Some(labels);
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let serving: Vec<&Arc<Pod>> =
        pods.iter().filter(|p| can_serve(p) && (publish || !p.metadata.deleting())).collect();
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    if serving.len() > CAPACITY {
        annotations.insert(OVER.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER);
    }
    endpoints.metadata.annotations = endpoints.metadata.annotations.take().filter(|a| !a.is_empty());
    let subsets = subsets(service, &serving, publish);
    endpoints.subsets = (!subsets.is_empty()).then_some(subsets);
    endpoints
}

fn subsets(service: &Service, pods: &[&Arc<Pod>], publish: bool) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<Ports, EndpointSubset> = BTreeMap::new();
    for pod in pods.iter().take(CAPACITY) {
        let Some(ip) = address(pod) else { continue };
        let key: Ports = ports_of(service, pod)
            .into_iter()
            .map(|p| {
                let name = p.name.filter(|n| !n.is_empty());
                (name, p.port.unwrap_or(0), p.protocol.unwrap_or_default(), p.app_protocol)
            })
            .collect();
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: hostname(service, pod),
            node_name: pod.node().map(str::to_owned),
            target_ref: Some(target_ref(pod)),
        };
        let subset = groups.entry(key).or_default();
        let list = if publish || pods::is_ready(pod) {
            subset.addresses.get_or_insert_default()
        } else {
            subset.not_ready_addresses.get_or_insert_default()
        };
        list.push(address);
    }
    groups.into_iter().map(|(ports, subset)| sorted(ports, subset)).collect()
}

fn sorted(ports: Ports, mut subset: EndpointSubset) -> EndpointSubset {
    for list in [&mut subset.addresses, &mut subset.not_ready_addresses].into_iter().flatten() {
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
    }
    let ports: Vec<EndpointPort> = ports
        .into_iter()
        .map(|(name, port, protocol, app_protocol)| EndpointPort {
            name,
            port,
            protocol: Some(protocol),
            app_protocol,
        })
        .collect();
    subset.ports = (!ports.is_empty()).then_some(ports);
    subset
}
