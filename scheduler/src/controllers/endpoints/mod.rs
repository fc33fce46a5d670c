//! Services to endpoints: EndpointSlices, which the nodes follow, Endpoints for older clients, and the way back from
//! Endpoints that somebody keeps by hand.

mod legacy;
mod mirror;
mod plan;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{Endpoints, Service},
    discovery::v1::EndpointSlice,
};

use self::plan::{is_ours, plan};
use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{Cache, Client, Id, MetaExt, Pod, SERVICE_NAME, WriteError},
    events::{Note, Recorder},
    objects::{DeleteOptions, Objects},
};

const COMPONENT: &str = "endpointslice-controller";
const ZONE: &str = "topology.kubernetes.io/zone";

struct Slices {
    cache: Cache,
    client: Client,
    recorder: Recorder,
}

struct Legacy {
    cache: Cache,
    client: Client,
}

/// Starts the controllers. Slices have a queue of their own: traffic waits for them and not for the rest.
pub(super) fn start(objects: &Objects, cache: &Cache, recorder: &Recorder, runtime: &Runtime) {
    let slices: Arc<Queue<Id>> = runtime.queue(Slices::NAME);
    let legacy: Arc<Queue<Id>> = runtime.queue(Legacy::NAME);
    subscribe(cache, &slices);
    subscribe(cache, &legacy);
    let of_slices = slices.clone();
    cache.slices.on_change(move |change| {
        for slice in change.both().filter(|s| is_ours(s)) {
            if let Some(service) = service_of(slice) {
                of_slices.add(service);
            }
        }
    });
    let client = Client::new(objects, cache, COMPONENT);
    let recorder = recorder.clone();
    runtime.spawn(Slices { cache: cache.clone(), client, recorder }, &slices);
    let client = Client::new(objects, cache, "endpoint-controller");
    runtime.spawn(Legacy { cache: cache.clone(), client }, &legacy);
    mirror::start(objects, cache, runtime);
}

fn service_of(slice: &EndpointSlice) -> Option<Id> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Id::new(slice.metadata.namespace_str(), name))
}

fn subscribe(cache: &Cache, queue: &Arc<Queue<Id>>) {
    let of_services = queue.clone();
    cache.services.on_change(move |change| {
        if let Some(service) = change.either() {
            of_services.add(Id::of(&service.metadata));
        }
    });
    let (of_pods, services) = (queue.clone(), cache.services.clone());
    cache.pods.on_change(move |change| {
        if let (Some(old), Some(new)) = (change.old, change.new)
            && looks_the_same(old, new)
        {
            return;
        }
        let moved = |old: &&Arc<Pod>| change.new.is_none_or(|new| new.labels != old.labels);
        for pod in change.old.filter(moved).into_iter().chain(change.new) {
            let selecting = |service: &Service| selects(service, &pod.labels);
            for service in services.selecting(pod.metadata.namespace_str(), &pod.labels, selecting) {
                of_pods.add(Id::of(&service.metadata));
            }
        }
    });
}

fn selects(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()) else { return false };
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether nothing that an endpoint tells has changed.
fn looks_the_same(old: &Pod, new: &Pod) -> bool {
    old.labels == new.labels
        && old.metadata.deleting() == new.metadata.deleting()
        && plan::can_serve(old) == plan::can_serve(new)
        && plan::address(old) == plan::address(new)
        && super::pods::is_ready(old) == super::pods::is_ready(new)
        && old.node() == new.node()
}

/// The service, when its endpoints are made from a selector; and its pods.
fn observed(cache: &Cache, key: &Id) -> Option<(Arc<Service>, Vec<Arc<Pod>>)> {
    let service = cache.services.get(key).filter(|s| !s.metadata.deleting())?;
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") || spec.selector.as_ref().is_none_or(BTreeMap::is_empty)
    {
        return None;
    }
    let pods = cache.pods.labelled(&key.namespace, |labels| selects(&service, labels));
    Some((service, pods))
}

impl Controller for Slices {
    type Key = Id;
    const NAME: &'static str = "endpoint_slice";
    const WORKERS: usize = 4;

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let mut current = self.cache.slices.of_service(key);
        current.retain(|slice| is_ours(slice) && !slice.metadata.deleting());
        let Some((service, pods)) = observed(&self.cache, key) else {
            return self.clear(&current).await;
        };
        let zones = |node: &str| {
            self.cache.nodes.get(&Id::new("", node))?.metadata.labels.as_ref()?.get(ZONE).cloned()
        };
        let plan = plan(&service, &pods, &current, &zones);
        match self.apply(plan).await {
            Err(error) if error.is_namespace_ending() => Ok(Next::Done),
            Err(error) if !error.is_conflict() => {
                let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
                let note = Note::warning("FailedToUpdateEndpointSlices", message);
                self.recorder.note(&*service, COMPONENT, &note);
                Err(error)
            }
            other => other.map(|()| Next::Done),
        }
    }

    fn all(&self) -> Vec<Id> {
        let orphans = self.cache.slices.all();
        let orphans = orphans.iter().filter(|s| is_ours(s)).filter_map(|s| service_of(s));
        self.cache.services.all().iter().map(|s| Id::of(&s.metadata)).chain(orphans).collect()
    }
}

impl Slices {
    async fn apply(&self, plan: plan::Plan) -> Result<(), WriteError> {
        // Additions before removals: an endpoint that moves to another slice is never in none.
        for slice in &plan.create {
            self.client.create(slice).await?;
        }
        for slice in &plan.update {
            self.client.update(slice).await?;
        }
        for slice in &plan.delete {
            self.client.delete(&**slice, DeleteOptions::default()).await?;
        }
        Ok(())
    }

    /// The service has gone, or its endpoints are no longer ours to make.
    async fn clear(&self, current: &[Arc<EndpointSlice>]) -> Result<Next, WriteError> {
        for slice in current {
            self.client.delete(&**slice, DeleteOptions::default()).await?;
        }
        Ok(Next::Done)
    }
}

impl Controller for Legacy {
    type Key = Id;
    const NAME: &'static str = "endpoint";
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let current = self.cache.endpoints.get(key);
        let Some((service, pods)) = observed(&self.cache, key) else {
            // Endpoints without a selector are somebody else's; without a service they are nobody's.
            if let Some(current) = current.filter(|_| self.cache.services.get(key).is_none()) {
                self.client.delete(&*current, DeleteOptions::default()).await?;
            }
            return Ok(Next::Done);
        };
        let wanted = legacy::endpoints(&service, &pods, current.as_deref());
        let written = match &current {
            Some(current) if **current == wanted => return Ok(Next::Done),
            Some(_) => self.client.update(&wanted).await,
            None => self.client.create::<Endpoints>(&wanted).await,
        };
        match written {
            Err(error) if error.is_namespace_ending() => Ok(Next::Done),
            other => other.map(|_| Next::Done),
        }
    }

    fn all(&self) -> Vec<Id> {
        self.cache.services.all().iter().map(|s| Id::of(&s.metadata)).collect()
    }
}

#[cfg(test)]
mod tests;
