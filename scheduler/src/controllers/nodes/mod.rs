//! Node lifecycle: a node that is not heard of becomes Unknown, its pods unready at once and evicted when their
//! tolerations end; a node that is deleted takes its pods with it.
//!
//! Silence is measured by this process's own clock, from the last renewal of the node's lease that it saw: after
//! a restart every node has its whole lease again.

mod plan;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, Pod},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use serde_json::json;
use tokio::time::Instant;

use self::plan::{Leave, leave, ready, silenced, taints};
use super::{
    pods,
    runner::{Controller, Next, Queue, Runtime},
};
use crate::{
    cache::{Cache, Client, Id, MetaExt, WriteError},
    events::{Note, Recorder},
    kinds::Subresource,
    objects::{DeleteOptions, Objects},
};

const COMPONENT: &str = "node-controller";
const LEASES: &str = "kube-node-lease";
/// A node that was deleted may be registered again at once: its pods wait so long before they follow it.
const QUARANTINE: Duration = Duration::from_secs(10);

/// When something was last seen to change.
#[derive(Default)]
struct Seen {
    renewals: HashMap<Id, (Option<MicroTime>, Instant)>,
    missing: HashMap<Id, Instant>,
}

struct Nodes {
    cache: Cache,
    client: Client,
    recorder: Recorder,
    lease: Duration,
    seen: Mutex<Seen>,
}

/// Starts the controller. A node is lost after `lease` of silence.
pub(super) fn start(
    objects: &Objects,
    cache: &Cache,
    recorder: &Recorder,
    runtime: &Runtime,
    lease: Duration,
) {
    let queue: Arc<Queue<Id>> = runtime.queue(Nodes::NAME);
    let of_nodes = queue.clone();
    cache.nodes.on_change(move |change| {
        if let Some(node) = change.either() {
            of_nodes.add(Id::of(&node.metadata));
        }
    });
    // A lease that is renewed says nothing new unless the node was lost; its expiry is a deadline of the queue.
    let (of_leases, nodes) = (queue.clone(), cache.nodes.clone());
    cache.leases.on_change(move |change| {
        let Some(lease) = change.either().filter(|l| l.metadata.namespace_str() == LEASES) else { return };
        let id = Id::new("", lease.metadata.name_str());
        if nodes.get(&id).is_some_and(|n| ready(&n) != Some("True")) {
            of_leases.add(id);
        }
    });
    let (of_pods, nodes) = (queue.clone(), cache.nodes.clone());
    cache.pods.on_change(move |change| {
        let Some(name) = change.new.and_then(|p| pods::node(p)) else { return };
        let id = Id::new("", name);
        if nodes.get(&id).is_none_or(|n| evicts(&n)) {
            of_pods.add(id);
        }
    });
    let client = Client::new(objects, cache, COMPONENT);
    let (recorder, seen) = (recorder.clone(), Mutex::default());
    runtime.spawn(Nodes { cache: cache.clone(), client, recorder, lease, seen }, &queue);
}

fn evicts(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    taints.iter().any(|t| t.effect == "NoExecute")
}

impl Controller for Nodes {
    type Key = Id;
    const NAME: &'static str = "node_lifecycle";

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let Some(node) = self.cache.nodes.get(key) else { return self.gone(key).await };
        self.present(key);
        let left = self.lease.saturating_sub(self.silence(key));
        let node = self.conditions(node, left.is_zero()).await?;
        let node = self.taints(node).await?;
        let mut next = if left.is_zero() { Next::Done } else { Next::After(left) };
        if ready(&node).is_some_and(|r| r != "True") {
            self.unready(&node).await?;
        }
        if evicts(&node) {
            next = next.sooner(self.evict(&node).await?);
        }
        Ok(next)
    }

    fn all(&self) -> Vec<Id> {
        let homes = self.cache.pods.all();
        let homes = homes.iter().filter_map(|p| pods::node(p)).map(|n| Id::new("", n));
        let homes: std::collections::BTreeSet<Id> = homes.collect();
        let nodes = self.cache.nodes.all();
        nodes.iter().map(|n| Id::of(&n.metadata)).chain(homes).collect()
    }
}

impl Nodes {
    /// How long the node has not been heard of.
    fn silence(&self, key: &Id) -> Duration {
        let lease = self.cache.leases.get(&Id::new(LEASES, &key.name));
        let renewed = lease.and_then(|l: Arc<Lease>| l.spec.as_ref()?.renew_time.clone());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = seen.renewals.entry(key.clone()).or_insert_with(|| (renewed.clone(), Instant::now()));
        if entry.0 != renewed {
            // The lease changed some time after the last look: as if just now, for a deadline at most too late.
            *entry = (renewed, Instant::now());
        }
        entry.1.elapsed()
    }

    fn present(&self, key: &Id) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).missing.remove(key);
    }

    async fn conditions(&self, node: Arc<Node>, lost: bool) -> Result<Arc<Node>, WriteError> {
        let Some(conditions) = lost.then(|| silenced(&node, Timestamp::now())).flatten() else {
            return Ok(node);
        };
        let mut changed = (*node).clone();
        changed.status.get_or_insert_default().conditions = Some(conditions);
        let node = self.client.update_status(&changed).await?;
        let message = format!("Node {} status is now: NodeNotReady", node.metadata.name_str());
        self.recorder.note(&*node, COMPONENT, &Note::normal("NodeNotReady", message));
        Ok(node)
    }

    async fn taints(&self, node: Arc<Node>) -> Result<Arc<Node>, WriteError> {
        let wanted = taints(&node, Timestamp::now());
        let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        if wanted == current || node.metadata.deleting() {
            return Ok(node);
        }
        let mut changed = (*node).clone();
        changed.spec.get_or_insert_default().taints = (!wanted.is_empty()).then_some(wanted);
        self.client.update(&changed).await
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        self.cache.pods.all().into_iter().filter(|p| pods::node(p) == Some(node)).collect()
    }

    /// Traffic must not wait for the eviction: the pods are no endpoints from now on.
    async fn unready(&self, node: &Node) -> Result<(), WriteError> {
        for pod in self.pods_on(node.metadata.name_str()).iter().filter(|p| pods::is_ready(p)) {
            let since = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now());
            let patch = json!({"status": {"conditions": [
                {"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": since}]}});
            let id = Id::of(&pod.metadata);
            match self.client.strategic::<Pod>(&id, Some(Subresource::Status), patch).await {
                Err(error) if error.is_not_found() => {}
                other => {
                    other?;
                    let note = Note::warning("NodeNotReady", "Node is not ready");
                    self.recorder.note(&**pod, COMPONENT, &note);
                }
            }
        }
        Ok(())
    }

    async fn evict(&self, node: &Node) -> Result<Next, WriteError> {
        let mut next = Next::Done;
        for pod in self.pods_on(node.metadata.name_str()).iter().filter(|p| pods::is_active(p)) {
            match leave(pod, node, Timestamp::now()) {
                Leave::Never => {}
                Leave::After(delay) => next = next.sooner(Next::After(delay)),
                Leave::Now => {
                    let message = format!("Marking for deletion Pod {}", Id::of(&pod.metadata));
                    let note = Note::normal("TaintManagerEviction", message);
                    self.recorder.note(&**pod, "taint-eviction-controller", &note);
                    self.client.delete(&**pod, DeleteOptions::default()).await?;
                }
            }
        }
        Ok(next)
    }

    /// The node does not exist: nobody will ever confirm that its pods have ended.
    async fn gone(&self, key: &Id) -> Result<Next, WriteError> {
        let stranded = self.pods_on(&key.name);
        let since = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.renewals.remove(key);
            if stranded.is_empty() {
                seen.missing.remove(key);
                return Ok(Next::Done);
            }
            *seen.missing.entry(key.clone()).or_insert_with(Instant::now)
        };
        let left = QUARANTINE.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        for pod in stranded {
            let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
            self.client.delete(&*pod, options).await?;
        }
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests;
