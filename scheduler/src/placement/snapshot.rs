//! The cluster as placement sees it, kept current change by change: nodes with what is on them, and the indexes that
//! decisions read instead of the pods. Owned by one task; never waits for anything.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Node;

use super::{
    index::{Index, Namespaces, Sought},
    node::NodeView,
    pod::{Labels, PodView, Shape, Shapes},
};
use crate::{
    cache::{MetaExt, Pod},
    model::LabelSelector,
};

#[derive(Clone, Debug)]
struct Home {
    node: usize,
    pod: Arc<PodView>,
}

/// All nodes and the pods on them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// A node keeps its number as long as it or a pod on it is there.
    slots: Vec<Option<NodeView>>,
    free: Vec<usize>,
    numbers: HashMap<Arc<str>, usize>,
    homes: HashMap<Arc<str>, Home>,
    /// Pods by namespace: a constraint that is new is counted over the pods of the namespaces that it speaks of.
    by_namespace: HashMap<Arc<str>, HashSet<Arc<str>>>,
    pub(super) namespaces: Namespaces,
    services: HashMap<Arc<str>, HashMap<Arc<str>, LabelSelector>>,
    /// Rises with every change of a service.
    pub(super) services_version: u64,
    known: usize,
    image_spread: HashMap<String, usize>,
    order: Order,
    pub(super) index: Index,
    shapes: Shapes,
}

/// The order in which nodes are looked at: zones take turns, so that any stretch of it has nodes of each. It is made
/// anew only after a node came, went or changed its zone.
#[derive(Clone, Debug, Default)]
struct Order {
    stale: bool,
    nodes: Vec<usize>,
    /// Where in `nodes` each node is.
    positions: Vec<usize>,
}

impl Snapshot {
    /// A node is there or has changed.
    pub fn set_node(&mut self, node: &Node) {
        let number = self.number(node.metadata.name_str());
        let Some(view) = self.slots[number].as_mut() else { return };
        count_images(&mut self.image_spread, &view.images, false);
        let before = view.known.then(|| view.zone().to_owned());
        view.read(node);
        count_images(&mut self.image_spread, &view.images, true);
        if before.as_deref() != Some(view.zone()) {
            self.order.stale = true;
        }
        self.index.place(number, &view.labels);
        if before.is_none() {
            self.known += 1;
            self.index.tidy(self.slots.len());
        }
    }

    /// A node is gone. Its pods are remembered until they are deleted.
    pub fn remove_node(&mut self, name: &str) {
        let Some(number) = self.numbers.get(name).copied() else { return };
        let Some(view) = self.slots[number].as_mut().filter(|v| v.known) else { return };
        self.known -= 1;
        self.order.stale = true;
        count_images(&mut self.image_spread, &view.images, false);
        view.forget();
        self.index.place(number, &Labels::new());
        self.drop_if_empty(number);
    }

    fn number(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let name: Arc<str> = name.into();
        let view = NodeView { name: name.clone(), ..NodeView::default() };
        let number = self.free.pop().unwrap_or(self.slots.len());
        if number == self.slots.len() {
            self.slots.push(Some(view));
        } else {
            self.slots[number] = Some(view);
        }
        self.numbers.insert(name, number);
        number
    }

    fn drop_if_empty(&mut self, number: usize) {
        if let Some(view) = self.slots[number].take_if(|v| !v.known && v.pods.is_empty()) {
            self.numbers.remove(&view.name);
            self.free.push(number);
        }
    }

    /// A pod as placement sees it. Equal pods share what is equal.
    pub fn view(&mut self, pod: &Pod) -> Arc<PodView> {
        Arc::new(self.shapes.view(pod))
    }

    /// A pod is on a node, or will be: it counts there from now on.
    pub fn set_pod(&mut self, pod: &Arc<PodView>, node: &str) {
        self.remove_pod(&pod.uid);
        let number = self.number(node);
        let Some(view) = self.slots[number].as_mut() else { return };
        view.add(pod);
        self.homes.insert(pod.uid.clone(), Home { node: number, pod: pod.clone() });
        let namespace = pod.shape.namespace.clone();
        self.by_namespace.entry(namespace).or_default().insert(pod.uid.clone());
        self.index.count(number, &pod.shape, pod.leaving, true, &self.namespaces);
    }

    /// A pod takes up nothing any more. What it was, if it took up something.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodView>> {
        let Home { node, pod } = self.homes.remove(uid)?;
        if let Some(view) = self.slots[node].as_mut() {
            view.remove(uid);
        }
        if let Some(pods) = self.by_namespace.get_mut(&pod.shape.namespace) {
            pods.remove(uid);
            if pods.is_empty() {
                self.by_namespace.remove(&pod.shape.namespace);
            }
        }
        self.index.count(node, &pod.shape, pod.leaving, false, &self.namespaces);
        self.drop_if_empty(node);
        Some(pod)
    }

    /// A namespace is there or has changed; whether that can change whom terms select.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) -> bool {
        let changed = self.namespaces.get(name) != Some(&labels);
        if changed {
            self.namespaces.insert(name.into(), labels);
            self.index.namespaces_changed();
        }
        changed
    }

    /// A namespace is gone; whether it was there.
    pub fn remove_namespace(&mut self, name: &str) -> bool {
        let was = self.namespaces.remove(name).is_some();
        if was {
            self.index.namespaces_changed();
        }
        was
    }

    /// A service selects pods, or (`None`) does not any more.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Option<LabelSelector>) {
        let services = self.services.entry(namespace.into()).or_default();
        match selector {
            Some(selector) => drop(services.insert(name.into(), selector)),
            None => drop(services.remove(name)),
        }
        if services.is_empty() {
            self.services.remove(namespace);
        }
        self.services_version += 1;
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.known
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.numbered().map(|(_, node)| node)
    }

    /// The nodes with their numbers.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &NodeView)> {
        let nodes = self.slots.iter().enumerate();
        nodes.filter_map(|(number, slot)| Some((number, slot.as_ref().filter(|v| v.known)?)))
    }

    /// The node of this number, if there is one.
    pub(super) fn node(&self, number: usize) -> Option<&NodeView> {
        self.slots.get(number)?.as_ref().filter(|v| v.known)
    }

    /// Numbers of nodes are below this.
    pub(super) fn bound(&self) -> usize {
        self.slots.len()
    }

    /// Where a pod counts.
    pub fn home(&self, uid: &str) -> Option<&Arc<str>> {
        Some(&self.slots[self.homes.get(uid)?.node].as_ref()?.name)
    }

    /// The pod as it counts.
    pub(super) fn placed(&self, uid: &str) -> Option<&Arc<PodView>> {
        self.homes.get(uid).map(|home| &home.pod)
    }

    /// The services that select pods of this shape, in the order of their names.
    pub(super) fn services_of(&self, shape: &Shape) -> Vec<LabelSelector> {
        let services = self.services.get(&shape.namespace).into_iter().flatten();
        let matching: BTreeMap<_, _> = services.filter(|(_, s)| s.matches(&shape.labels)).collect();
        matching.into_values().cloned().collect()
    }

    /// On how many nodes an image is.
    pub(super) fn nodes_with(&self, image: &str) -> usize {
        self.image_spread.get(image).copied().unwrap_or(0)
    }

    /// The number of the tally of the pods that are sought.
    pub(super) fn tally(&mut self, sought: Sought) -> usize {
        let (homes, by_namespace) = (&self.homes, &self.by_namespace);
        self.index.tally(sought, &self.namespaces, |namespace| {
            let some = namespace.map(|name| by_namespace.get(name));
            let uids = match some {
                Some(pods) => uids(pods.into_iter()),
                None => uids(by_namespace.values()),
            };
            uids.filter_map(|uid| {
                let home = homes.get(uid)?;
                Some((home.node as u32, &*home.pod.shape, home.pod.leaving))
            })
        })
    }

    /// The number of a topology.
    pub(super) fn topology(&mut self, key: &str) -> usize {
        let nodes = self.slots.iter().enumerate();
        let known = nodes.filter_map(|(n, slot)| Some((n, &slot.as_ref().filter(|v| v.known)?.labels)));
        self.index.topology(key, known)
    }

    /// Makes the order anew if it has to be.
    pub(super) fn sort(&mut self) {
        if self.order.stale {
            let mut zones: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
            for (number, node) in self.slots.iter().enumerate() {
                if let Some(node) = node.as_ref().filter(|v| v.known) {
                    zones.entry(node.zone()).or_default().insert(&node.name, number);
                }
            }
            let mut zones: Vec<_> = zones.into_values().map(BTreeMap::into_values).collect();
            let mut nodes = Vec::with_capacity(self.known);
            while nodes.len() < self.known {
                nodes.extend(zones.iter_mut().filter_map(Iterator::next));
            }
            let mut positions = vec![usize::MAX; self.slots.len()];
            for (position, number) in nodes.iter().enumerate() {
                positions[*number] = position;
            }
            self.order = Order { stale: false, nodes, positions };
        }
    }

    /// The nodes in the order in which they are looked at. Only after [`Snapshot::sort`].
    pub(super) fn ordered(&self) -> &[usize] {
        &self.order.nodes
    }

    /// Where in the order a node is. Only after [`Snapshot::sort`].
    pub(super) fn position(&self, number: usize) -> usize {
        self.order.positions[number]
    }
}

type Uids<'a> = Box<dyn Iterator<Item = &'a Arc<str>> + 'a>;

fn uids<'a>(sets: impl Iterator<Item = &'a HashSet<Arc<str>>> + 'a) -> Uids<'a> {
    Box::new(sets.flatten())
}

fn count_images(spread: &mut HashMap<String, usize>, images: &HashMap<String, i64>, up: bool) {
    for name in images.keys() {
        if up {
            *spread.entry(name.clone()).or_default() += 1;
        } else if let Some(count) = spread.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                spread.remove(name);
            }
        }
    }
}
