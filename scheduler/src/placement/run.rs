//! The loop: takes changes into the snapshot, decides for one pod after the other, and binds. A decision counts
//! in the snapshot at once; the binding is written beside the loop and undone when it is refused.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Namespace, Node, Pod, PodCondition, Service},
    jiff::Timestamp,
};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    Metrics, PodView, Snapshot, decide,
    queue::{Attempt, Hint, NodeChange, Queue},
    resources::Amounts,
};
use crate::{
    cache::{Cache, Client, Id, MetaExt, WriteError},
    events::{Note, Recorder},
    kinds::Subresource,
    model::LabelSelector,
    objects::Objects,
    tasks::Tasks,
};

const COMPONENT: &str = "default-scheduler";
/// How often pods that were set aside are looked over.
const FLUSH: Duration = Duration::from_secs(30);

/// What placement needs from the process.
pub struct Dependencies {
    /// Where bindings are written.
    pub objects: Objects,
    /// What it follows; not started yet.
    pub cache: Cache,
    /// For `Scheduled` and `FailedScheduling`.
    pub recorder: Recorder,
    /// Its metrics.
    pub metrics: Metrics,
    /// Runs it, as an essential task.
    pub tasks: Tasks,
}

/// Starts placement. Call before the cache is started.
pub fn start(dependencies: Dependencies) {
    let (sender, changes) = mpsc::unbounded_channel();
    subscribe(&dependencies.cache, &sender);
    let Dependencies { objects, cache, recorder, metrics, tasks } = dependencies;
    let client = Client::new(&objects, &cache, COMPONENT);
    let scheduler = Loop {
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        turn: 0,
        binder: Binder { client, recorder, metrics: metrics.clone() },
        cache,
        metrics,
        changes,
        outcomes: sender,
        tracker: tasks.tracker.clone(),
    };
    // Cancel-safe: everything the loop knows is made anew from the cache at the next start.
    tasks.essential("placement", scheduler.run());
}

/// What the loop is told.
enum Told {
    Pod {
        id: Id,
        old: Option<Arc<Pod>>,
        new: Option<Arc<Pod>>,
    },
    Node {
        name: String,
        node: Option<Arc<Node>>,
        hint: Option<Hint>,
    },
    Namespace {
        name: String,
        namespace: Option<Arc<Namespace>>,
    },
    Service {
        id: Id,
        service: Option<Arc<Service>>,
    },
    /// A binding was refused.
    NotBound {
        attempt: Attempt,
        uid: Arc<str>,
    },
}

fn subscribe(cache: &Cache, sender: &mpsc::UnboundedSender<Told>) {
    let to = sender.clone();
    // The loop may have ended: nobody is left to tell.
    cache.pods.on_change(move |change| {
        let Some(pod) = change.either() else { return };
        let id = Id::of(&pod.metadata);
        let _ = to.send(Told::Pod { id, old: change.old.cloned(), new: change.new.cloned() });
    });
    let to = sender.clone();
    cache.nodes.on_change(move |change| {
        let Some(node) = change.either() else { return };
        let hint = match (change.old, change.new) {
            (Some(old), Some(new)) => changed(old, new).map(Hint::NodeChanged),
            (None, _) => Some(Hint::NodeCame),
            (Some(_), None) => Some(Hint::NodeLeft),
        };
        let name = node.metadata.name_str().to_owned();
        let _ = to.send(Told::Node { name, node: change.new.cloned(), hint });
    });
    let to = sender.clone();
    cache.namespaces.on_change(move |change| {
        let Some(namespace) = change.either() else { return };
        let name = namespace.metadata.name_str().to_owned();
        let _ = to.send(Told::Namespace { name, namespace: change.new.cloned() });
    });
    let to = sender.clone();
    cache.services.on_change(move |change| {
        let Some(service) = change.either() else { return };
        let _ = to.send(Told::Service { id: Id::of(&service.metadata), service: change.new.cloned() });
    });
}

/// What of a node changed that matters for where pods can go; `None` after a heartbeat.
fn changed(old: &Node, new: &Node) -> Option<NodeChange> {
    let allocatable = |n: &Node| Amounts::parse(n.status.as_ref().and_then(|s| s.allocatable.as_ref()));
    let taints = |n: &Node| {
        let spec = n.spec.clone().unwrap_or_default();
        (spec.taints.unwrap_or_default(), spec.unschedulable.unwrap_or(false))
    };
    let (before, after) = (allocatable(old), allocatable(new));
    let grown = after.iter().filter(|(name, amount)| *amount > before.get(name));
    let change = NodeChange {
        labels: old.metadata.labels != new.metadata.labels,
        taints: taints(old) != taints(new),
        more: grown.map(|(name, _)| name.to_owned()).collect(),
    };
    (change != NodeChange::default()).then_some(change)
}

fn is_pending(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let ours = spec.and_then(|s| s.scheduler_name.as_deref()).is_none_or(|n| n == COMPONENT);
    ours && home(pod).is_none() && !pod.metadata.deleting() && !is_finished(pod)
}

fn home(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()))
}

struct Loop {
    snapshot: Snapshot,
    queue: Queue,
    turn: usize,
    binder: Binder,
    cache: Cache,
    metrics: Metrics,
    changes: mpsc::UnboundedReceiver<Told>,
    outcomes: mpsc::UnboundedSender<Told>,
    tracker: TaskTracker,
}

impl Loop {
    async fn run(mut self) {
        // A decision on half of the cluster would be a wrong one.
        self.cache.synced().await;
        let mut flush = tokio::time::interval(FLUSH);
        loop {
            while let Ok(told) = self.changes.try_recv() {
                self.take(told);
            }
            let now = Instant::now();
            if let Some(attempt) = self.queue.pop(now) {
                self.place(attempt, now);
                self.metrics.pending(self.queue.depths());
                // The loop must not keep its thread from the bindings it started.
                tokio::task::yield_now().await;
                continue;
            }
            self.metrics.pending(self.queue.depths());
            let wake = self.queue.next_wake(now).unwrap_or(now + FLUSH);
            // Cancel-safe: nothing is taken from any of them unless its arm runs.
            tokio::select! {
                told = self.changes.recv() => match told {
                    Some(told) => self.take(told),
                    None => return,
                },
                () = tokio::time::sleep_until(wake) => {}
                _ = flush.tick() => self.queue.flush(Instant::now()),
            }
        }
    }

    fn take(&mut self, told: Told) {
        let now = Instant::now();
        match told {
            Told::Pod { id, old, new } => self.take_pod(&id, old.as_deref(), new.as_deref(), now),
            Told::Node { name, node, hint } => {
                match node {
                    Some(node) => self.snapshot.set_node(&node),
                    None => self.snapshot.remove_node(&name),
                }
                if let Some(hint) = hint {
                    self.queue.hint(&hint, now);
                }
            }
            Told::Namespace { name, namespace } => {
                match namespace {
                    Some(namespace) => {
                        let labels = namespace.metadata.labels.clone().unwrap_or_default();
                        self.snapshot.set_namespace(&name, labels);
                    }
                    None => self.snapshot.remove_namespace(&name),
                }
                self.queue.hint(&Hint::Namespace, now);
            }
            Told::Service { id, service } => {
                let selector = service.and_then(|s| s.spec.as_ref()?.selector.clone());
                let selector = selector.filter(|s| !s.is_empty()).map(|s| LabelSelector::from_map(&s));
                self.snapshot.set_service(&id.namespace, &id.name, selector);
            }
            Told::NotBound { attempt, uid } => {
                self.snapshot.remove_pod(&uid);
                let pod = self.cache.pods.get(&attempt.id);
                if pod.is_some_and(|p| is_pending(&p) && p.metadata.uid_str() == &*uid) {
                    self.queue.try_again(attempt, now);
                }
                self.queue.hint(&Hint::PodLeft, now);
            }
        }
    }

    fn take_pod(&mut self, id: &Id, old: Option<&Pod>, new: Option<&Pod>, now: Instant) {
        let replaced = matches!((old, new), (Some(o), Some(n)) if o.metadata.uid != n.metadata.uid);
        if (new.is_none() || replaced)
            && let Some(old) = old
        {
            self.forget(id, old, now);
        }
        let Some(pod) = new else { return };
        if is_pending(pod) {
            if is_gated(pod) {
                self.tracker.spawn(self.binder.clone().gated(id.clone()));
            } else if self.snapshot.home(pod.metadata.uid_str()).is_none() {
                self.queue.add(id, pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0));
                if old.is_some_and(|o| o.spec != pod.spec || o.metadata.labels != pod.metadata.labels) {
                    self.queue.touch(id, now);
                }
            }
            return;
        }
        self.queue.remove(id);
        match home(pod) {
            Some(node) if !is_finished(pod) => self.occupy(pod, old, node, now),
            _ => self.forget(id, pod, now),
        }
    }

    fn occupy(&mut self, pod: &Pod, old: Option<&Pod>, node: &str, now: Instant) {
        let moved = self.snapshot.home(pod.metadata.uid_str()).is_none_or(|home| **home != *node);
        let changed = old.is_none_or(|o| o.spec != pod.spec || o.metadata.labels != pod.metadata.labels);
        let leaves = pod.metadata.deleting() && old.is_none_or(|o| !o.metadata.deleting());
        if moved || changed || leaves {
            self.snapshot.set_pod(&Arc::new(PodView::of(pod)), node);
            self.queue.hint(if leaves { &Hint::PodLeft } else { &Hint::PodCame }, now);
        }
    }

    fn forget(&mut self, id: &Id, pod: &Pod, now: Instant) {
        self.queue.remove(id);
        if self.snapshot.remove_pod(pod.metadata.uid_str()) {
            self.queue.hint(&Hint::PodLeft, now);
        }
    }

    fn place(&mut self, attempt: Attempt, now: Instant) {
        let Some(pod) = self.cache.pods.get(&attempt.id).filter(|p| is_pending(p) && !is_gated(p)) else {
            return;
        };
        let view = Arc::new(PodView::of(&pod));
        self.turn = self.turn.wrapping_add(1);
        match decide(&self.snapshot, &view, self.turn) {
            Ok(node) => {
                self.snapshot.set_pod(&view, &node);
                self.queue.hint(&Hint::PodCame, now);
                let (binder, outcomes) = (self.binder.clone(), self.outcomes.clone());
                self.tracker.spawn(async move {
                    if !binder.bind(&pod, &node, now).await {
                        // The loop may have ended: then there is nothing to undo.
                        let _ = outcomes.send(Told::NotBound { attempt, uid: view.uid.clone() });
                    }
                });
            }
            Err(why) => {
                self.metrics.attempt("unschedulable", now.elapsed().as_secs_f64());
                let reasons = why.nodes.values().flatten().cloned().collect();
                self.queue.set_aside(attempt, reasons, now);
                self.tracker.spawn(self.binder.clone().refuse(pod, why.to_string()));
            }
        }
    }
}

/// Writes what the loop decided.
#[derive(Clone)]
struct Binder {
    client: Client,
    recorder: Recorder,
    metrics: Metrics,
}

impl Binder {
    /// Binds; whether it held.
    async fn bind(&self, pod: &Pod, node: &str, since: Instant) -> bool {
        let id = Id::of(&pod.metadata);
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": &*id.name, "namespace": &*id.namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let bound = self.client.replace::<Pod>(&id, Some(Subresource::Binding), binding).await;
        let seconds = since.elapsed().as_secs_f64();
        match bound {
            Ok(_) => {
                self.metrics.attempt("scheduled", seconds);
                let message = format!("Successfully assigned {id} to {node}");
                self.recorder.note(pod, COMPONENT, &Note::normal("Scheduled", message));
                true
            }
            Err(error) => {
                self.metrics.attempt("error", seconds);
                if !error.is_not_found() && !error.is_conflict() {
                    tracing::warn!(pod = %id, node, %error, "binding refused");
                }
                false
            }
        }
    }

    /// Tells in the pod's condition and in an event why it is pending.
    async fn refuse(self, pod: Arc<Pod>, message: String) {
        self.recorder.note(&*pod, COMPONENT, &Note::warning("FailedScheduling", message.clone()));
        self.condition(&Id::of(&pod.metadata), "Unschedulable", &message).await;
    }

    async fn gated(self, id: Id) {
        let message = "Scheduling is blocked due to non-empty scheduling gates";
        self.condition(&id, "SchedulingGated", message).await;
    }

    async fn condition(&self, id: &Id, reason: &str, message: &str) {
        if let Err(error) = self.set_condition(id, reason, message).await
            && !error.is_not_found()
        {
            tracing::warn!(pod = %id, %error, "condition PodScheduled not written");
        }
    }

    async fn set_condition(&self, id: &Id, reason: &str, message: &str) -> Result<(), WriteError> {
        let Some(pod) = self.client.cached::<Pod>(id) else { return Ok(()) };
        if !is_pending(&pod) {
            return Ok(());
        }
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let old = conditions.iter().find(|c| c.type_ == "PodScheduled");
        let generation = pod.metadata.generation;
        let told = |c: &&PodCondition| {
            // What was said of gates when the pod was made is said of no generation in particular.
            c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message)
                && (c.observed_generation.is_none() || c.observed_generation == generation)
        };
        if old.as_ref().is_some_and(told) {
            return Ok(());
        }
        let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
        let since = since.map_or_else(Timestamp::now, |t| t.0);
        let patch = json!({"status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(since),
        }]}});
        self.client.strategic::<Pod>(id, Some(Subresource::Status), patch).await.map(|_| ())
    }
}
