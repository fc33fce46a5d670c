//! The one task that owns the projection: changes in, batches for sessions out.
//!
//! A session subscribes with what its agent has and gets a first batch (a snapshot or what changed since) and
//! then changes, without a gap between the two. A session that does not take its batches is dropped: its agent
//! comes back and resumes, instead of the scheduler keeping an ever longer queue for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use k8s_openapi::api::{core::v1::Node, node::v1::RuntimeClass};
use tokio::sync::{mpsc, oneshot};

use super::{
    convert,
    feed::{self, Change, RESOURCES, name_of},
    projection::{Audience, Form, Item, Name, NodeFacts, NodeName, Projection, SharedKind},
};
use crate::{
    model::{Chain, Key, Object, ObjectError, Resource, Revision},
    objects::Objects,
    tasks::Tasks,
};

/// Changes between the watches and the hub.
const CHANGES: usize = 4096;
/// Changes taken into one batch: bounds the delay of the first of them.
const BATCH: usize = 512;
/// Batches that wait for one session before it counts as stalled.
const WAITING: usize = 256;
/// What labels an EndpointSlice with its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What a session starts with, and where its changes come from.
#[derive(Debug)]
pub(super) struct Subscription {
    /// This scheduler's epoch.
    pub(super) epoch: u64,
    /// Whether `first` replaces everything.
    pub(super) snapshot: bool,
    /// The first batch.
    pub(super) first: Vec<Item>,
    /// The generation that `first` leads to.
    pub(super) generation: u64,
    /// Ends when the session stalled or was displaced.
    pub(super) changes: mpsc::Receiver<Vec<Item>>,
}

struct Subscribe {
    node: NodeName,
    form: Form,
    epoch: u64,
    accepted: u64,
    answer: oneshot::Sender<Subscription>,
}

/// The handle of sessions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Hub {
    subscribe: mpsc::Sender<Subscribe>,
}

impl Hub {
    /// Starts the hub and its watches.
    pub(super) fn start(objects: &Objects, tasks: &Tasks) -> Self {
        let (changes, receive) = mpsc::channel(CHANGES);
        for resource in RESOURCES {
            tasks.essential("projection feed", feed::follow(objects.clone(), resource, changes.clone()));
        }
        let (subscribe, subscriptions) = mpsc::channel(64);
        let state = State::new(objects.clone());
        // Cancel-safe: the projection is rebuilt at the next start.
        tasks.essential("projection", state.run(receive, subscriptions));
        Self { subscribe }
    }

    /// Takes a session up; `None` when the scheduler is stopping. Waits until the projection is complete: a
    /// snapshot of half a cluster would stop the other half.
    pub(super) async fn subscribe(
        &self,
        node: &str,
        form: Form,
        epoch: u64,
        accepted: u64,
    ) -> Option<Subscription> {
        let (answer, subscription) = oneshot::channel();
        let request = Subscribe { node: node.into(), form, epoch, accepted, answer };
        self.subscribe.send(request).await.ok()?;
        subscription.await.ok()
    }
}

/// A Node as it is stored, when that is newer than what is known of it: watches of two kinds do not wait for each other.
fn newer(objects: &Objects, name: &str, known: Option<Revision>) -> Option<NodeFacts> {
    let node = objects.stored(&Key::cluster(Resource::NODES, name))?;
    if known.is_some_and(|known| known >= node.revision) {
        return None;
    }
    node.decode_bare().ok().map(|decoded| convert::node_facts(&decoded, node.revision))
}

struct State {
    /// Where the classes are that pods name, and the nodes that they are bound to.
    objects: Objects,
    epoch: u64,
    projection: Projection,
    known: BTreeMap<Resource, HashSet<Name>>,
    subscribers: HashMap<NodeName, Subscriber>,
}

struct Subscriber {
    /// In which it is told services.
    form: Form,
    changes: mpsc::Sender<Vec<Item>>,
}

impl State {
    fn new(objects: Objects) -> Self {
        // Generations start again with the process: the epoch must be one that no agent has seen.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).max(1);
        Self {
            objects,
            epoch,
            projection: Projection::default(),
            known: BTreeMap::new(),
            subscribers: HashMap::new(),
        }
    }

    async fn run(mut self, mut changes: mpsc::Receiver<Change>, mut requests: mpsc::Receiver<Subscribe>) {
        loop {
            let complete = self.known.len() == RESOURCES.len();
            // Cancel-safe: both are channel receives, which lose nothing when they are not chosen.
            tokio::select! {
                change = changes.recv() => {
                    let Some(change) = change else { return };
                    self.apply(change);
                    for _ in 1..BATCH {
                        let Ok(change) = changes.try_recv() else { break };
                        self.apply(change);
                    }
                    let items = self.projection.flush();
                    self.distribute(items);
                }
                request = requests.recv(), if complete => {
                    let Some(request) = request else { return };
                    self.subscribe(request);
                }
            }
        }
    }

    fn subscribe(&mut self, request: Subscribe) {
        let Subscribe { node, form, epoch, accepted, answer } = request;
        // It was registered a moment ago: what it is goes before all that is asked of it.
        if let Some(facts) = newer(&self.objects, &node, self.projection.known(&node)) {
            self.projection.node(&node, facts);
            let items = self.projection.flush();
            self.distribute(items);
        }
        let resumed = if epoch == self.epoch { self.projection.since(&node, form, accepted) } else { None };
        let snapshot = resumed.is_none();
        let first = resumed.unwrap_or_else(|| self.projection.snapshot(&node, form));
        let (sender, changes) = mpsc::channel(WAITING);
        let generation = self.projection.generation();
        let subscription = Subscription { epoch: self.epoch, snapshot, first, generation, changes };
        if answer.send(subscription).is_ok() {
            self.subscribers.insert(node, Subscriber { form, changes: sender });
        }
    }

    fn distribute(&mut self, items: Vec<(Audience, Item)>) {
        if items.is_empty() || self.subscribers.is_empty() {
            return;
        }
        let mut batches: HashMap<NodeName, Vec<Item>> = HashMap::new();
        for (audience, item) in items {
            if let Audience::One(node) = &audience {
                if self.subscribers.contains_key(node) {
                    batches.entry(node.clone()).or_default().push(item);
                }
                continue;
            }
            for (node, subscriber) in &self.subscribers {
                if audience.includes(node) && item.is_for(subscriber.form) {
                    batches.entry(node.clone()).or_default().push(item.clone());
                }
            }
        }
        for (node, batch) in batches {
            let sent = self.subscribers.get(&node).map(|s| s.changes.try_send(batch));
            if let Some(Err(error)) = sent {
                self.subscribers.remove(&node);
                if matches!(error, mpsc::error::TrySendError::Full(_)) {
                    tracing::warn!(%node, "agent does not take its updates, session dropped");
                }
            }
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Put(object) => {
                if let Some(known) = self.known.get_mut(&object.key.resource) {
                    known.insert(name_of(&object));
                }
                if let Err(error) = self.put(&object) {
                    tracing::error!(error = %Chain(&error), "object not projected to nodes");
                }
            }
            Change::Gone(object) => {
                let name = name_of(&object);
                if let Some(known) = self.known.get_mut(&object.key.resource) {
                    known.remove(&name);
                }
                self.gone(object.key.resource, &name);
            }
            Change::Listed(resource, listed) => {
                let before = self.known.insert(resource, listed.clone()).unwrap_or_default();
                for name in before.difference(&listed) {
                    self.gone(resource, name);
                }
            }
        }
    }

    fn put(&mut self, object: &Arc<Object>) -> Result<(), ObjectError> {
        let name = name_of(object);
        match object.key.resource {
            Resource::PODS => {
                let handler = |class: &str| {
                    let class = self.objects.stored(&Key::cluster(Resource::RUNTIME_CLASSES, class))?;
                    class.decode::<RuntimeClass>().ok().map(|class| class.handler)
                };
                let node = |name: &str, known| newer(&self.objects, name, known);
                self.projection.pod(object, handler, node)?;
            }
            Resource::SECRETS => self.projection.shared(SharedKind::Secret, &name, &object.json),
            Resource::CONFIG_MAPS => {
                self.projection.shared(SharedKind::ConfigMap, &name, &object.json);
            }
            Resource::SERVICES => self.projection.service(&name, object.decode_bare()?),
            Resource::ENDPOINT_SLICES => {
                let owner = object.labels.get(SERVICE_LABEL).map(String::as_str);
                self.projection.slice(&name, owner, &object.decode_bare()?);
            }
            Resource::NODES => {
                let node: Node = object.decode_bare()?;
                self.projection.node(&name.name, convert::node_facts(&node, object.revision));
            }
            _ => {}
        }
        Ok(())
    }

    fn gone(&mut self, resource: Resource, name: &Name) {
        match resource {
            Resource::PODS => self.projection.pod_gone(name),
            Resource::SECRETS => self.projection.shared_gone(SharedKind::Secret, name),
            Resource::CONFIG_MAPS => self.projection.shared_gone(SharedKind::ConfigMap, name),
            Resource::SERVICES => self.projection.service_gone(name),
            Resource::ENDPOINT_SLICES => self.projection.slice_gone(name),
            Resource::NODES => {
                self.projection.node_gone(&name.name);
                // With the Node ends its session.
                self.subscribers.remove(&name.name);
            }
            _ => {}
        }
    }
}
