//! Node lifecycle: a node that is not heard of becomes Unknown, its pods unready at once and evicted when their
//! tolerations end; one that comes back gives its pods their readiness back; a node that is deleted takes its pods
//! with it.
//!
//! Silence is measured by this process's own clock, from when it saw the last renewal of the node's lease: after
//! a restart every node has its whole lease again.

mod health;
mod plan;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use serde_json::json;

use self::{
    health::Health,
    plan::{
        Census, Leave, Lost, NODE_NOT_READY, is_marked_unready, leave, ready, restored, silenced, taints,
    },
};
use super::{
    pods,
    runner::{Controller, Next, Queue, Runtime},
};
use crate::{
    cache::{Cache, Client, Id, MetaExt, Pod, WriteError},
    events::{Note, Recorder},
    kinds::Subresource,
    objects::{DeleteOptions, Objects},
};

const COMPONENT: &str = "node-controller";
const LEASES: &str = "kube-node-lease";
/// A node that was deleted may be registered again at once: its pods wait so long before they follow it.
const QUARANTINE: Duration = Duration::from_secs(10);

struct Nodes {
    cache: Cache,
    client: Client,
    recorder: Recorder,
    lease: Duration,
    health: Arc<Health>,
    census: Arc<Mutex<Census>>,
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
    let health = Arc::new(Health::new(lease));
    let census = Arc::new(Mutex::new(Census::default()));
    let (of_nodes, told, counted) = (queue.clone(), recorder.clone(), census.clone());
    cache.nodes.on_change(move |change| {
        let (old, new) = (change.old.map(|old| &**old), change.new.map(|new| &**new));
        lock(&counted).change(old, new);
        if let Some(node) = change.either() {
            for note in news(old, new) {
                told.note(&**node, COMPONENT, &note);
            }
            of_nodes.add(Id::of(&node.metadata));
        }
    });
    // A lease that is renewed says nothing new unless the node was lost; its expiry is a deadline of the queue.
    let (of_leases, nodes, renewals) = (queue.clone(), cache.nodes.clone(), health.clone());
    cache.leases.on_change(move |change| {
        let Some(lease) = change.either().filter(|l| l.metadata.namespace_str() == LEASES) else { return };
        let id = Id::new("", lease.metadata.name_str());
        renewals.renewed(&id, lease.spec.as_ref().and_then(|s| s.renew_time.as_ref()));
        if nodes.get(&id).is_some_and(|n| ready(&n) != Some("True")) {
            of_leases.add(id);
        }
    });
    let (of_pods, nodes, marked) = (queue.clone(), cache.nodes.clone(), health.clone());
    cache.pods.on_change(move |change| {
        let Some(pod) = change.new else { return };
        let Some(id) = pod.node().map(|name| Id::new("", name)) else { return };
        let unready = is_marked_unready(pod);
        if unready {
            marked.mark_unready(&id);
        }
        if nodes.get(&id).is_none_or(|n| evicts(&n) || (unready && ready(&n) == Some("True"))) {
            of_pods.add(id);
        }
    });
    let client = Client::new(objects, cache, COMPONENT);
    let recorder = recorder.clone();
    runtime.spawn(Nodes { cache: cache.clone(), client, recorder, lease, health, census }, &queue);
}

// Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
fn lock(census: &Mutex<Census>) -> std::sync::MutexGuard<'_, Census> {
    census.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a change of a node tells, in upstream's words.
fn news(old: Option<&Node>, new: Option<&Node>) -> Vec<Note> {
    let name = |node: &Node| node.metadata.name_str().to_owned();
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (None, Some(new)) => {
            let name = name(new);
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            return vec![Note::normal("RegisteredNode", message)];
        }
        (Some(old), None) => {
            let name = name(old);
            return vec![Note::normal(
                "RemovingNode",
                format!("Node {name} event: Removing Node {name} from Controller"),
            )];
        }
        (None, None) => return Vec::new(),
    };
    let is_ready = |node: &Node| ready(node).map(|says| says == "True");
    let is_open = |node: &Node| !node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let mut reasons = Vec::new();
    if is_ready(old) != is_ready(new)
        && let Some(now) = is_ready(new)
    {
        reasons.push(if now { "NodeReady" } else { "NodeNotReady" });
    }
    if is_open(old) != is_open(new) {
        reasons.push(if is_open(new) { "NodeSchedulable" } else { "NodeNotSchedulable" });
    }
    let note = |reason| Note::normal(reason, format!("Node {} status is now: {reason}", name(new)));
    reasons.into_iter().map(note).collect()
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
        self.health.present(key);
        let left = self.health.left(key);
        let node = self.conditions(node, left.is_zero()).await?;
        let node = self.taints(node).await?;
        let mut next = if left.is_zero() { Next::Done } else { Next::After(left) };
        let says = ready(&node);
        match says {
            Some("True") => self.restore(key).await?,
            Some(_) => self.unready(key).await?,
            None => {}
        }
        let too_many = lock(&self.census).disrupted();
        let lost = self.health.lost(key, says.is_some_and(|r| r != "True"), too_many);
        if evicts(&node) {
            next = next.sooner(self.evict(&node, lost).await?);
            if lost.is_none() {
                // The end of the disruption is told by other nodes.
                next = next.sooner(Next::After(self.lease));
            }
        }
        Ok(next)
    }

    fn all(&self) -> Vec<Id> {
        let homes = self.cache.pods.nodes().into_iter().map(|node| Id::new("", &node));
        let homes: std::collections::BTreeSet<Id> = homes.collect();
        let nodes = self.cache.nodes.all();
        nodes.iter().map(|n| Id::of(&n.metadata)).chain(homes).collect()
    }
}

impl Nodes {
    async fn conditions(&self, node: Arc<Node>, lost: bool) -> Result<Arc<Node>, WriteError> {
        let Some(conditions) = lost.then(|| silenced(&node, Timestamp::now())).flatten() else {
            return Ok(node);
        };
        let mut changed = (*node).clone();
        changed.status.get_or_insert_default().conditions = Some(conditions);
        self.client.update_status(&changed).await
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
        self.cache.pods.on_node(node)
    }

    /// Traffic must not wait for the eviction: the pods are no endpoints from now on.
    async fn unready(&self, node: &Id) -> Result<(), WriteError> {
        for pod in self.pods_on(&node.name).iter().filter(|p| pods::is_ready(p)) {
            let since = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now());
            let patch = json!({"status": {"conditions": [
                {"type": "Ready", "status": "False", "reason": NODE_NOT_READY, "lastTransitionTime": since}]}});
            let id = Id::of(&pod.metadata);
            match self.client.strategic::<Pod>(&id, Some(Subresource::Status), patch).await {
                Err(error) if error.is_not_found() => {}
                other => {
                    other?;
                    let note = Note::warning(NODE_NOT_READY, "Node is not ready");
                    self.recorder.note(&**pod, COMPONENT, &note);
                }
            }
        }
        Ok(())
    }

    /// The node is ready: what its pods say of themselves holds again.
    async fn restore(&self, node: &Id) -> Result<(), WriteError> {
        if !self.health.take_unready(node) {
            return Ok(());
        }
        for pod in self.pods_on(&node.name) {
            let Some(ready) = restored(&pod, Timestamp::now()) else { continue };
            // Of the state that was looked at: it may be another one by now.
            let patch = json!({"metadata": {"resourceVersion": pod.metadata.resource_version},
                "status": {"conditions": [{"type": ready.type_, "status": ready.status, "reason": ready.reason,
                    "message": ready.message, "lastTransitionTime": ready.last_transition_time}]}});
            let id = Id::of(&pod.metadata);
            match self.client.strategic::<Pod>(&id, Some(Subresource::Status), patch).await {
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    self.health.mark_unready(node);
                    return Err(error);
                }
                Ok(_) => {}
            }
        }
        Ok(())
    }

    async fn evict(&self, node: &Node, lost: Option<Lost>) -> Result<Next, WriteError> {
        let mut next = Next::Done;
        for pod in self.pods_on(node.metadata.name_str()).iter().filter(|p| pods::is_active(p)) {
            match leave(pod, node, lost, Timestamp::now()) {
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
        let left = QUARANTINE.saturating_sub(self.health.absent(key, !stranded.is_empty()));
        if !stranded.is_empty() && !left.is_zero() {
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
mod loop_tests;
#[cfg(test)]
mod tests;
