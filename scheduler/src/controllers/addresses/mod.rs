//! The ranges of service addresses, and the addresses in them: ServiceCIDRs are held as long as an address of them is in
//! use, and each service has the IPAddress that says so, and no more than that.
//!
//! Admission keeps both true with every write of a service. What is done here follows the lives of ranges, and repairs
//! what somebody did by hand or an earlier version left.

mod plan;
mod ranges;
mod repair;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use self::{ranges::Ranges, repair::Repair};
use super::runner::{Controller as _, Queue, Runtime};
use crate::{
    admission::Promises,
    cache::{Cache, Client, Id},
    events::Recorder,
    kinds::{ip_address, service::families},
    model::{ApiError, Chain, Object, Resource},
    objects::{Objects, Selection, WatchEvent},
};

/// Wait between a watch that ended and the next list.
const LIST_AGAIN: Duration = Duration::from_millis(200);

/// Starts both controllers.
pub(super) fn start(
    objects: &Objects,
    cache: &Cache,
    recorder: &Recorder,
    runtime: &Runtime,
    promises: Promises,
) {
    let repairs: Arc<Queue<Id>> = runtime.queue(Repair::NAME);
    let ranges: Arc<Queue<Arc<str>>> = runtime.queue(Ranges::NAME);
    let of_services = repairs.clone();
    cache.services.on_change(move |change| {
        let (old, new) = (addresses(change.old), addresses(change.new));
        // What a service has comes with its write, and goes with it: whether it did costs a look.
        let gone = old.iter().filter(|address| !new.contains(address));
        gone.for_each(|address| of_services.add(Id::new("", address)));
    });
    let feed = Feed { objects: objects.clone(), repairs: repairs.clone(), ranges: ranges.clone() };
    // Cancel-safe: what was looked at is looked at again, all that is there, at the next start.
    runtime.tasks.essential("ranges and addresses", feed.run());
    let client = Client::new(objects, cache, ranges::COMPONENT);
    runtime.spawn(Ranges { client, promises }, &ranges);
    let client = Client::new(objects, cache, repair::COMPONENT);
    runtime.spawn(Repair { cache: cache.clone(), client, recorder: recorder.clone() }, &repairs);
}

fn addresses(service: Option<&Arc<Service>>) -> Vec<String> {
    let Some(spec) = service.and_then(|service| service.spec.as_ref()) else { return Vec::new() };
    let spec = json!({"type": spec.type_, "clusterIP": spec.cluster_ip, "clusterIPs": spec.cluster_ips});
    families::addresses(&spec).iter().map(ToString::to_string).collect()
}

/// Tells the controllers what has changed of the two kinds. Nothing of them is kept: there is one for each service.
struct Feed {
    objects: Objects,
    repairs: Arc<Queue<Id>>,
    ranges: Arc<Queue<Arc<str>>>,
}

impl Feed {
    async fn run(self) {
        loop {
            if let Err(error) = self.follow().await {
                tracing::warn!(error = %Chain(&error), "the watch of ranges and addresses ended, listing again");
            }
            tokio::time::sleep(LIST_AGAIN).await;
        }
    }

    async fn follow(&self) -> Result<(), ApiError> {
        let mut watches = Vec::new();
        for resource in [Resource::SERVICE_CIDRS, Resource::IP_ADDRESSES] {
            watches.push(self.objects.watch(resource, Selection::default(), None).await?);
        }
        let mut events = stream::select_all(watches);
        while let Some(event) = events.next().await {
            let (object, gone) = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(_) => continue,
            };
            if object.key.resource == Resource::SERVICE_CIDRS {
                // One that comes may free another that is going.
                self.ranges(|_| true).await?;
            } else {
                self.address(&object, gone).await?;
            }
        }
        Ok(())
    }

    async fn address(&self, object: &Object, gone: bool) -> Result<(), ApiError> {
        if !gone {
            self.repairs.add(Id::new("", &object.key.name));
            return Ok(());
        }
        if let Ok(value) = object.decode::<Value>()
            && let Some((namespace, name)) = ip_address::service(&value)
        {
            self.repairs.add(Id::new(namespace, name));
        }
        self.ranges(|range| range.deleting).await
    }

    async fn ranges(&self, which: impl Fn(&Object) -> bool) -> Result<(), ApiError> {
        let all = self.objects.list(Resource::SERVICE_CIDRS, &Selection::default()).await?.items;
        all.iter().filter(|range| which(range)).for_each(|range| self.ranges.add(range.key.name.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
