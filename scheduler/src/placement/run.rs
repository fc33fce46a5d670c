//! The loop: takes changes into the snapshot and decides for one pod after the other. A decision counts in the
//! snapshot at once; the binding is written beside the loop and undone when it is refused.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::TaskTracker;

use super::{
    COMPONENT, Metrics, Placer, PodView, Sampling, Snapshot, Unplaced,
    bind::{Binder, Decided},
    follow::{self, Told, is_gated, is_pending, same_place},
    hint::Hint,
    pod::Shape,
    queue::{Attempt, Queue},
};
use crate::{
    cache::{Cache, Client, Id, MetaExt, Pod},
    events::Recorder,
    model::LabelSelector,
    objects::Objects,
    tasks::Tasks,
};

/// How often pods that were set aside are looked over.
const FLUSH: Duration = Duration::from_secs(30);
/// The loop lets others have its thread after so long.
const SLICE: Duration = Duration::from_millis(1);

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
    follow::subscribe(&dependencies.cache, &sender);
    let Dependencies { objects, cache, recorder, metrics, tasks } = dependencies;
    let client = Client::new(&objects, &cache, COMPONENT);
    let binder = Binder { client, recorder, metrics: metrics.clone() };
    let (decisions, decided) = mpsc::unbounded_channel();
    tasks.essential("bindings", binder.clone().run(decided, sender, tasks.tracker.clone()));
    let scheduler = Loop {
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        placer: Placer::new(Sampling::Adaptive, 0),
        binder,
        cache,
        metrics,
        changes,
        decisions,
        told: None,
        tracker: tasks.tracker.clone(),
    };
    // Cancel-safe: everything the loop knows is made anew from the cache at the next start.
    tasks.essential("placement", scheduler.run());
}

struct Loop {
    snapshot: Snapshot,
    queue: Queue,
    placer: Placer,
    binder: Binder,
    cache: Cache,
    metrics: Metrics,
    changes: mpsc::UnboundedReceiver<Told>,
    decisions: mpsc::UnboundedSender<Decided>,
    /// The last refusal and its text: equal pods are refused in equal words.
    told: Option<(Arc<Unplaced>, Arc<str>)>,
    tracker: TaskTracker,
}

impl Loop {
    async fn run(mut self) {
        // A decision on half of the cluster would be a wrong one.
        self.cache.synced().await;
        let mut flush = tokio::time::interval(FLUSH);
        loop {
            let busy = self.slice();
            self.metrics.pending(self.queue.depths());
            if busy {
                // The loop must not keep its thread from the bindings it started.
                tokio::task::yield_now().await;
                continue;
            }
            let now = Instant::now();
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

    /// Takes in what happened and decides for pods for a while; whether there may be more to do.
    fn slice(&mut self) -> bool {
        let begin = Instant::now();
        loop {
            while let Ok(told) = self.changes.try_recv() {
                self.take(told);
            }
            let now = Instant::now();
            let Some(attempt) = self.queue.pop(now) else { return false };
            self.place(attempt, now);
            if begin.elapsed() >= SLICE {
                return true;
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
                    self.hint(&hint, now);
                }
            }
            Told::Namespace { name, namespace } => {
                let labels = namespace.map(|n| n.metadata.labels.clone().unwrap_or_default());
                let changed = match labels {
                    Some(labels) => self.snapshot.set_namespace(&name, labels),
                    None => self.snapshot.remove_namespace(&name),
                };
                if changed {
                    self.hint(&Hint::Namespace, now);
                }
            }
            Told::Service { id, service } => {
                let selector = service.and_then(|s| s.spec.as_ref()?.selector.clone());
                let selector = selector.filter(|s| !s.is_empty()).map(|s| LabelSelector::from_map(&s));
                self.snapshot.set_service(&id.namespace, &id.name, selector);
            }
            Told::NotBound { attempt, uid } => {
                let undone = self.snapshot.remove_pod(&uid);
                let pod = self.cache.pods.get(&attempt.id);
                if pod.is_some_and(|p| is_pending(&p) && p.metadata.uid_str() == &*uid) {
                    self.queue.try_again(attempt, now);
                }
                if let Some(pod) = undone {
                    self.hint(&Hint::PodLeft(pod.shape.clone()), now);
                }
            }
        }
    }

    fn hint(&mut self, hint: &Hint, now: Instant) {
        self.queue.hint(hint, &self.snapshot.namespaces, now);
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
                if old.is_some_and(|o| !o.same_spec(pod) || o.labels != pod.labels) {
                    self.queue.touch(id, now);
                }
            }
            return;
        }
        self.queue.remove(id);
        match pod.node() {
            Some(node) if !pod.is_finished() => self.occupy(pod, old, node, now),
            _ => self.forget(id, pod, now),
        }
    }

    fn occupy(&mut self, pod: &Pod, old: Option<&Pod>, node: &str, now: Instant) {
        let uid = pod.metadata.uid_str();
        let stays = self.snapshot.home(uid).is_some_and(|home| **home == *node);
        // Most changes of a pod are of its status.
        if stays && old.is_some_and(|old| same_place(old, pod)) {
            return;
        }
        let view = self.snapshot.view(pod);
        let before = self.snapshot.placed(uid).cloned();
        let same = |b: &Arc<PodView>| b.leaving == view.leaving && b.shape == view.shape;
        if stays && before.as_ref().is_some_and(same) {
            return;
        }
        self.snapshot.set_pod(&view, node);
        let Some(before) = before else { return self.hint(&Hint::PodCame(view.shape.clone()), now) };
        if view.leaving && !before.leaving {
            self.hint(&Hint::PodLeaving(view.shape.clone()), now);
        }
        if !stays || before.shape != view.shape {
            self.hint(&Hint::PodLeft(before.shape.clone()), now);
            self.hint(&Hint::PodCame(view.shape.clone()), now);
        }
    }

    fn forget(&mut self, id: &Id, pod: &Pod, now: Instant) {
        self.queue.remove(id);
        if let Some(pod) = self.snapshot.remove_pod(pod.metadata.uid_str()) {
            self.hint(&Hint::PodLeft(pod.shape.clone()), now);
        }
    }

    fn place(&mut self, attempt: Attempt, now: Instant) {
        let Some(pod) = self.cache.pods.get(&attempt.id).filter(|p| is_pending(p) && !is_gated(p)) else {
            return;
        };
        let view = self.snapshot.view(&pod);
        match self.placer.decide(&mut self.snapshot, &view) {
            Ok(node) => {
                self.snapshot.set_pod(&view, &node);
                self.hint(&Hint::PodCame(view.shape.clone()), now);
                let decided = Decided { attempt, pod, uid: view.uid.clone(), node, since: now };
                // The binder ends only with the process.
                let _ = self.decisions.send(decided);
            }
            Err(why) => self.refuse(attempt, pod, &view.shape, why, now),
        }
    }

    fn refuse(
        &mut self,
        attempt: Attempt,
        pod: Arc<Pod>,
        shape: &Arc<Shape>,
        why: Arc<Unplaced>,
        now: Instant,
    ) {
        self.metrics.attempt("unschedulable", now.elapsed().as_secs_f64());
        self.queue.set_aside(attempt, shape.clone(), why.reasons.keys().cloned().collect(), now);
        let words = match &self.told {
            Some((told, words)) if Arc::ptr_eq(told, &why) => words.clone(),
            _ => {
                let words: Arc<str> = why.to_string().into();
                self.told = Some((why, words.clone()));
                words
            }
        };
        self.tracker.spawn(self.binder.clone().refuse(pod, words));
    }
}
