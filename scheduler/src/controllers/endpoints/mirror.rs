//! Endpoints that somebody keeps by hand for a service without a selector, mirrored into EndpointSlices: the nodes
//! follow those alone.
//!
//! A pure plan and its loop. A mirror has its Endpoints for owner and goes with it; it also goes when the service gets
//! a selector, or when the Endpoints say that they are not to be mirrored.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
        discovery::v1::{Endpoint, EndpointConditions, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::plan::{MANAGED_BY, Plan, PortKey, port_key, port_of};
use crate::{
    cache::{Cache, Client, Id, MetaExt, SERVICE_NAME, WriteError},
    controllers::{
        owner::controller_ref,
        runner::{Controller, Next, Queue, Runtime},
    },
    objects::{DeleteOptions, Objects},
};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that elect a leader carry it, as old clients did: they have no addresses worth mirroring.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints object itself.
const OWN_ANNOTATIONS: [&str; 2] =
    ["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
/// Most addresses in one slice, as validation has it; what is beyond is cut off, as upstream does.
const CAPACITY: usize = 1000;

struct Mirrors {
    cache: Cache,
    client: Client,
}

/// Starts the controller.
pub(super) fn start(objects: &Objects, cache: &Cache, runtime: &Runtime) {
    let queue: Arc<Queue<Id>> = runtime.queue(Mirrors::NAME);
    let of_endpoints = queue.clone();
    cache.endpoints.on_change(move |change| {
        if let Some(endpoints) = change.either() {
            of_endpoints.add(Id::of(&endpoints.metadata));
        }
    });
    let of_services = queue.clone();
    cache.services.on_change(move |change| {
        if let Some(service) = change.either() {
            of_services.add(Id::of(&service.metadata));
        }
    });
    let of_slices = queue.clone();
    cache.slices.on_change(move |change| {
        for service in change.both().filter(|s| is_mirror(s)).filter_map(|s| super::service_of(s)) {
            of_slices.add(service);
        }
    });
    let client = Client::new(objects, cache, "endpointslicemirroring-controller");
    runtime.spawn(Mirrors { cache: cache.clone(), client }, &queue);
}

impl Controller for Mirrors {
    type Key = Id;
    const NAME: &'static str = "endpoint_slice_mirroring";
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let mut current = self.cache.slices.of_service(key);
        current.retain(|slice| is_mirror(slice) && !slice.metadata.deleting());
        let (service, endpoints) = (self.cache.services.get(key), self.cache.endpoints.get(key));
        let wanted = mirrored(service.as_deref(), endpoints.as_deref());
        let Plan { create, update, delete } = plan(wanted, &current);
        for slice in &create {
            match self.client.create(slice).await {
                Err(error) if error.is_namespace_ending() => return Ok(Next::Done),
                other => drop(other?),
            }
        }
        for slice in &update {
            self.client.update(slice).await?;
        }
        for slice in &delete {
            self.client.delete(&**slice, DeleteOptions::default()).await?;
        }
        Ok(Next::Done)
    }

    fn all(&self) -> Vec<Id> {
        let (endpoints, slices) = (self.cache.endpoints.all(), self.cache.slices.all());
        let mirrors = slices.iter().filter(|s| is_mirror(s)).filter_map(|s| super::service_of(s));
        endpoints.iter().map(|e| Id::of(&e.metadata)).chain(mirrors).collect()
    }
}

fn is_mirror(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().is_some_and(|l| l.get(MANAGED_BY).is_some_and(|m| m == MANAGER))
}

/// What tells one mirror of the same Endpoints from another.
type Key = (&'static str, PortKey);

/// The mirrors there should be, by what they differ in.
pub(super) fn mirrored(
    service: Option<&Service>,
    endpoints: Option<&Endpoints>,
) -> BTreeMap<Key, EndpointSlice> {
    let (Some(service), Some(endpoints)) = (service, endpoints) else { return BTreeMap::new() };
    let spec = service.spec.as_ref();
    let selects = spec.and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    if selects || skipped || meta.deleting() || meta.annotation(LEADER).is_some() {
        return BTreeMap::new();
    }
    let mut groups: BTreeMap<Key, Vec<Endpoint>> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        for (list, ready) in [(&subset.addresses, true), (&subset.not_ready_addresses, false)] {
            for address in list.iter().flatten() {
                let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
                let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                groups.entry((family, ports.clone())).or_default().push(endpoint(address, ready));
            }
        }
    }
    groups.into_iter().map(|(key, list)| (key.clone(), slice(endpoints, &key, list))).collect()
}

fn ports(subset: &EndpointSubset) -> PortKey {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let mut key: PortKey = subset
        .ports
        .iter()
        .flatten()
        .map(|p| {
            (
                text(&p.name),
                p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                p.port,
                text(&p.app_protocol),
            )
        })
        .collect();
    key.sort();
    key
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(ready), terminating: None }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(endpoints: &Endpoints, (family, ports): &Key, mut list: Vec<Endpoint>) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.remove(SKIP);
    labels.insert(SERVICE_NAME.to_owned(), meta.name_str().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    let mut seen = BTreeSet::new();
    list.retain(|e| seen.insert(e.addresses.clone()));
    list.truncate(CAPACITY);
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", meta.name_str())),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: (*family).to_owned(),
        endpoints: Some(list),
        ports: Some(ports.iter().map(port_of).collect()),
    }
}

/// The writes from the `current` mirrors to those that are `wanted`.
pub(super) fn plan(mut wanted: BTreeMap<Key, EndpointSlice>, current: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    for slice in current {
        let family = if slice.address_type == "IPv6" { "IPv6" } else { "IPv4" };
        let key = (family, port_key(slice.ports.as_deref().unwrap_or_default()));
        let Some(new) = wanted.remove(&key) else {
            plan.delete.push(slice.clone());
            continue;
        };
        let mut changed = (**slice).clone();
        changed.metadata.labels = new.metadata.labels;
        changed.metadata.annotations = new.metadata.annotations;
        changed.metadata.owner_references = new.metadata.owner_references;
        changed.endpoints = new.endpoints;
        if changed != **slice {
            plan.update.push(changed);
        }
    }
    plan.create.extend(wanted.into_values());
    plan
}

#[cfg(test)]
mod tests;
