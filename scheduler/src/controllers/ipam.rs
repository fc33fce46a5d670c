//! Pod ranges: every node gets one of its own, cut from the cluster's.

mod ranges;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use self::ranges::Ranges;
use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{Cache, Client, Id, MetaExt, WriteError},
    events::{Note, Recorder},
    objects::Objects,
};

const COMPONENT: &str = "cidr-allocator";

struct NodeRanges {
    cache: Cache,
    client: Client,
    recorder: Recorder,
    /// Those of the nodes that the cache has.
    ranges: Arc<Mutex<Ranges>>,
}

/// Starts the controller: ranges of `prefix` bits from `cluster`.
pub(super) fn start(
    objects: &Objects,
    cache: &Cache,
    recorder: &Recorder,
    runtime: &Runtime,
    cluster: Ipv4Net,
    prefix: u8,
) {
    let queue: Arc<Queue<Id>> = runtime.queue(NodeRanges::NAME);
    let ranges = Arc::new(Mutex::new(Ranges::new(cluster, prefix)));
    let (of_nodes, taken) = (queue.clone(), ranges.clone());
    cache.nodes.on_change(move |change| {
        let of = |node: Option<&Arc<Node>>| node.and_then(|node| range(node));
        lock(&taken).change(of(change.old), of(change.new));
        if let Some(node) = change.new.filter(|n| range(n).is_none()) {
            of_nodes.add(Id::of(&node.metadata));
        }
    });
    let client = Client::new(objects, cache, COMPONENT);
    let controller = NodeRanges { cache: cache.clone(), client, recorder: recorder.clone(), ranges };
    runtime.spawn(controller, &queue);
}

fn range(node: &Node) -> Option<Ipv4Net> {
    node.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()
}

// Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
fn lock(ranges: &Mutex<Ranges>) -> MutexGuard<'_, Ranges> {
    ranges.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Controller for NodeRanges {
    type Key = Id;
    const NAME: &'static str = "node_ipam";
    // One at a time: two nodes must not be given the same range.
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let Some(node) = self.cache.nodes.get(key) else { return Ok(Next::Done) };
        if range(&node).is_some() || node.metadata.deleting() {
            return Ok(Next::Done);
        }
        // What the last pass gave is in it: our own writes are in the cache before they return.
        let free = lock(&self.ranges).first_free();
        let Some(free) = free else {
            let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.note(&*node, COMPONENT, &Note::warning("CIDRNotAvailable", message));
            // A node that leaves frees its range.
            return Ok(Next::After(std::time::Duration::from_secs(30)));
        };
        let patch = json!({"spec": {"podCIDR": free, "podCIDRs": [free]}});
        match self.client.merge::<Node>(key, None, patch).await {
            Err(error) if error.is_not_found() => {}
            other => {
                other?;
            }
        }
        Ok(Next::Done)
    }

    fn all(&self) -> Vec<Id> {
        self.cache.nodes.all().iter().map(|n| Id::of(&n.metadata)).collect()
    }
}
