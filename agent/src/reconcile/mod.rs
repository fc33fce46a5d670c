//! The loop: who is to look at what, and when. One worker per pod, so that a pod is never in two hands; services and
//! the node's network have a worker each. Workers are woken by what changed (desired state, runtime events, probe verdicts,
//! ended pulls and hooks) and by the time their last plan named; a slow full resync finds what no event told.
//! Nothing here decides what to do: that is `plan`; nothing here does it: that is `apply`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::surplus::Surplus;
use crate::{
    apply::{Apply, Events},
    model::{Desired, NodeView, PodUid, Upstream, chain},
    observe::{Inventory, Observer, PodState},
    probes::Prober,
    records::Records,
    runtime::{Runtime, RuntimeEvent},
    sys::memory,
};

mod conditions;
mod host_ports;
mod known;
mod metrics;
mod names;
mod node_network;
mod pod;
mod programming;
mod surplus;
#[cfg(test)]
mod tests;

pub use conditions::NodeConditions;
pub use known::known;
pub use metrics::Metrics;
pub use names::NameServer;
pub use node_network::{NodeNetworker, NodeNetworking, TableNetwork};
pub use programming::{Programmer, programming};

/// How often everything is looked at without a reason. It should find nothing.
const RESYNC: Duration = Duration::from_secs(60);
/// After the node could not be read.
const RETRY: Duration = Duration::from_secs(1);
/// First delay after network or services could not be set; doubles to the other.
const NETWORK_RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Desired state as `control` knows it; `None` until the ledger or a session told it.
pub type DesiredState = watch::Receiver<Option<Arc<Desired>>>;

/// What all pod workers share.
#[derive(Clone)]
pub struct Tools {
    /// Reads.
    pub observer: Observer,
    /// Writes.
    pub apply: Apply,
    /// Probes.
    pub prober: Prober,
    /// What must outlive the agent.
    pub records: Arc<Records>,
    /// Where reports go.
    pub upstream: Arc<dyn Upstream>,
    /// Where events go.
    pub events: Events,
    /// The node as plans see it.
    pub node: watch::Receiver<Arc<NodeView>>,
    /// Pod counts and pass durations.
    pub metrics: Arc<Metrics>,
}

/// The pods of the node.
pub struct Pods {
    tools: Tools,
    runtime: Arc<dyn Runtime>,
    desired: DesiredState,
    workers: HashMap<PodUid, Arc<PodState>>,
    over: mpsc::UnboundedSender<PodUid>,
    ended: mpsc::UnboundedReceiver<PodUid>,
    tasks: TaskTracker,
    stop: CancellationToken,
    known: Option<Arc<Desired>>,
    /// The node has been read once: before that a worker would not know what its pod has already.
    read: bool,
    surplus: Surplus,
}

impl Pods {
    /// A loop over these.
    pub fn new(
        tools: Tools,
        runtime: Arc<dyn Runtime>,
        desired: DesiredState,
        stop: CancellationToken,
    ) -> Self {
        let (over, ended) = mpsc::unbounded_channel();
        Self {
            tools,
            runtime,
            desired,
            workers: HashMap::new(),
            over,
            ended,
            tasks: TaskTracker::new(),
            stop,
            known: None,
            read: false,
            surplus: Surplus::default(),
        }
    }

    /// Runs until cancelled; then waits for the steps under way.
    pub async fn run(mut self) {
        let mut events = self.runtime.events();
        let mut resync = tokio::time::interval(RESYNC);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stop = self.stop.clone();
        let mut node = self.tools.node.clone();
        loop {
            let quiet = self.surplus.due();
            let quiet = async {
                match quiet {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            // All cancel-safe: watch, channels and interval keep what was not taken; a stream's next() too, and a time is
            // waited for again.
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.desired.changed() => match changed {
                    Ok(()) => {
                        self.desired_changed();
                        if !self.read {
                            resync.reset_immediately();
                        }
                    }
                    // Its sender lives as long as the agent.
                    Err(_) => break,
                },
                // The cluster's ranges or the node's addresses: every plan may be another one.
                changed = node.changed() => match changed {
                    Ok(()) => self.ring_all(),
                    Err(_) => break,
                },
                Some(event) = events.next() => self.event(&event),
                Some(uid) = self.ended.recv() => self.worker_ended(&uid),
                () = quiet => {
                    if self.surplus.is_over(Instant::now(), self.tools.metrics.passes()) {
                        memory::release_unused();
                    }
                }
                _ = resync.tick() => {
                    if !self.resync().await {
                        resync.reset_after(RETRY);
                    }
                }
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn event(&mut self, event: &RuntimeEvent) {
        self.surplus.stir(Instant::now());
        match event {
            RuntimeEvent::Exited(id) | RuntimeEvent::Oom(id) => {
                let worker = id.parts().and_then(|(pod, ..)| self.workers.get(&pod));
                if let Some(state) = worker {
                    state.bell.notify_one();
                }
            }
            RuntimeEvent::Resync => self.ring_all(),
        }
    }

    fn ring_all(&self) {
        for state in self.workers.values() {
            state.bell.notify_one();
        }
    }

    /// Rings for the pods that changed, were added, went away, or use a secret or config map that changed.
    fn desired_changed(&mut self) {
        let Some(now) = self.desired.borrow_and_update().clone() else { return };
        self.surplus.stir(Instant::now());
        let before = self.known.replace(Arc::clone(&now)).unwrap_or_default();
        let namespaces = changed_namespaces(&before, &now);
        let mut concerned: BTreeSet<_> = before.held.symmetric_difference(&now.held).cloned().collect();
        // The next scheduler's generations are others, and may be the same numbers.
        let comparable = before.epoch == now.epoch;
        // Environments need services: those that are not known keep containers waiting.
        let comparable = comparable && before.table.is_some() == now.table.is_some();
        for (uid, pod) in &now.pods {
            let same =
                comparable && before.pods.get(uid).is_some_and(|known| known.generation == pod.generation);
            if !same || namespaces.contains(&*pod.name.namespace) {
                concerned.insert(uid.clone());
            }
        }
        concerned.extend(before.pods.keys().filter(|uid| !now.pods.contains_key(*uid)).cloned());
        for uid in concerned {
            self.ring(&uid);
        }
    }

    /// Compares everything on the node with what is known of it; makes workers for what nobody looks after.
    /// False when the node could not be read.
    async fn resync(&mut self) -> bool {
        // Before Desired is known nothing may be called an orphan.
        if self.known.is_none() {
            self.desired_changed();
        }
        let Some(desired) = self.known.clone() else { return true };
        let inventory = match self.tools.observer.inventory().await {
            Ok(inventory) => inventory,
            Err(error) => {
                warn!(error = %chain(&error), "the node cannot be read");
                return false;
            }
        };
        self.read = true;
        for (uid, state) in &self.workers {
            inventory.correct(uid, &mut state.memory());
        }
        let orphans = inventory
            .pods()
            .into_iter()
            .filter(|uid| !desired.pods.contains_key(uid) && !desired.held.contains(uid));
        for uid in orphans.collect::<Vec<_>>() {
            if !self.workers.contains_key(&uid) {
                info!(pod = %uid, "removing what is left of a pod that is not wanted here");
                self.worker(&uid, Some(&inventory));
            }
        }
        for uid in desired.pods.keys() {
            self.worker(uid, Some(&inventory));
        }
        self.ring_all();
        self.surplus.stir(Instant::now());
        true
    }

    /// Wakes the pod's worker. Before the first resync there are none: it makes them with what is on the node.
    fn ring(&mut self, uid: &PodUid) {
        if self.read {
            self.worker(uid, None);
        }
        if let Some(state) = self.workers.get(uid) {
            state.bell.notify_one();
        }
    }

    fn worker(&mut self, uid: &PodUid, inventory: Option<&Inventory>) {
        if self.workers.contains_key(uid) {
            return;
        }
        let state = Arc::new(PodState::default());
        if let Some(inventory) = inventory {
            inventory.correct(uid, &mut state.memory());
        }
        self.workers.insert(uid.clone(), Arc::clone(&state));
        self.tools.metrics.workers(self.workers.len());
        let worker =
            pod::Worker::new(uid.clone(), state, self.tools.clone(), self.desired.clone(), self.stop.clone());
        let over = self.over.clone();
        let uid = uid.clone();
        self.tasks.spawn(async move {
            worker.run().await;
            // The receiver is gone only when the loop has ended.
            let _ = over.send(uid);
        });
    }

    /// A worker ended because nothing of its pod was left. Should the pod have come back meanwhile, it gets another.
    fn worker_ended(&mut self, uid: &PodUid) {
        self.workers.remove(uid);
        self.tools.metrics.workers(self.workers.len());
        let wanted = self.desired.borrow().as_ref().is_some_and(|desired| desired.pods.contains_key(uid));
        if wanted && !self.stop.is_cancelled() {
            self.ring(uid);
        }
    }
}

/// Namespaces in which a secret or config map is another one than before.
fn changed_namespaces<'a>(before: &'a Desired, now: &'a Desired) -> BTreeSet<&'a str> {
    fn differing<'a, T>(
        comparable: bool,
        before: &'a std::collections::BTreeMap<(Arc<str>, Arc<str>), crate::model::SharedObject<T>>,
        now: &'a std::collections::BTreeMap<(Arc<str>, Arc<str>), crate::model::SharedObject<T>>,
    ) -> impl Iterator<Item = &'a str> {
        let changed = now.iter().filter(move |(key, object)| {
            !comparable || before.get(*key).is_none_or(|known| known.generation != object.generation)
        });
        let gone = before.keys().filter(|key| !now.contains_key(*key));
        changed.map(|(key, _)| &*key.0).chain(gone.map(|key| &*key.0))
    }
    let comparable = before.epoch == now.epoch;
    differing(comparable, &before.secrets, &now.secrets)
        .chain(differing(comparable, &before.config_maps, &now.config_maps))
        .collect()
}
