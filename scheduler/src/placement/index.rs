//! What placement keeps beside the nodes, change by change, so that no decision reads all pods: how many pods that a
//! constraint seeks each node has, how many pods that hold a term over others, which value of a label each node has,
//! and which nodes changed. A constraint is counted from the moment that a decision first asks for it.
//!
//! In: pods coming to nodes and leaving them. Out: counts by node. Never: reads a pod twice for one constraint.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use super::pod::{Labels, PodTerm, Shape};
use crate::model::{LabelSelector, Requirement};

/// Labels by namespace.
pub(super) type Namespaces = HashMap<Arc<str>, Labels>;

/// No value of a topology.
pub(super) const NOWHERE: u32 = u32::MAX;
/// Constraints that are counted at once; when there are more, those that were not asked for lately are forgotten.
const CONSTRAINTS: usize = 1024;
/// Changes that are remembered, at least. Who missed one that is not looks at every node.
const CHANGES: usize = 16_384;

/// Which pods a constraint counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sought {
    /// Those that all terms select.
    Terms(Vec<Arc<PodTerm>>),
    /// Those of a namespace that a selector selects and that are not leaving.
    Staying(Arc<str>, LabelSelector),
    /// Those of a namespace with this controller.
    Owned(Arc<str>, Arc<str>),
    /// Those of a namespace that all selectors select.
    Served(Arc<str>, Vec<LabelSelector>),
}

impl Sought {
    fn finds(&self, pod: &Shape, leaving: bool, namespaces: &Namespaces) -> bool {
        match self {
            Self::Terms(terms) => {
                let labels = namespaces.get(&pod.namespace);
                terms.iter().all(|term| term.selects(pod, labels))
            }
            Self::Staying(namespace, selector) => {
                !leaving && *namespace == pod.namespace && selector.matches(&pod.labels)
            }
            Self::Owned(namespace, controller) => {
                *namespace == pod.namespace && pod.controller.as_ref() == Some(controller)
            }
            Self::Served(namespace, selectors) => {
                *namespace == pod.namespace && selectors.iter().all(|s| s.matches(&pod.labels))
            }
        }
    }

    /// The namespace that it is about, when it is about one.
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Terms(terms) => {
                let first = terms.first().filter(|t| t.namespace_selector.is_none())?;
                first.namespaces.first().filter(|_| first.namespaces.len() == 1).map(String::as_str)
            }
            Self::Staying(namespace, _) | Self::Owned(namespace, _) | Self::Served(namespace, _) => {
                Some(namespace)
            }
        }
    }

    /// A trait that every pod it counts has.
    fn handle(&self) -> Option<Handle<'_>> {
        match self {
            Self::Terms(terms) => handle(terms.first()?.selector.as_ref()?),
            Self::Staying(_, selector) => handle(selector),
            Self::Owned(_, controller) => Some(Handle::Controller(controller)),
            Self::Served(_, selectors) => handle(selectors.first()?),
        }
    }
}

#[derive(PartialEq, Eq, Hash)]
enum Handle<'a> {
    Controller(&'a str),
    Label(&'a str, &'a str),
}

fn handle(selector: &LabelSelector) -> Option<Handle<'_>> {
    selector.requirements.iter().find_map(|requirement| match requirement {
        Requirement::Equals(key, value) => Some(Handle::Label(key, value)),
        Requirement::In(key, values) if values.len() == 1 => Some(Handle::Label(key, &values[0])),
        _ => None,
    })
}

/// Counts by node; a node with none is not there.
pub(super) type ByNode = HashMap<u32, u32>;

fn count(counts: &mut ByNode, node: u32, up: bool) {
    if up {
        *counts.entry(node).or_default() += 1;
    } else if let Some(n) = counts.get_mut(&node) {
        *n -= 1;
        if *n == 0 {
            counts.remove(&node);
        }
    }
}

#[derive(Clone, Debug)]
struct Tally {
    sought: Sought,
    by_node: ByNode,
    used: u64,
}

/// In which role a pod holds a term over others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    /// It wants none of them near.
    Anti,
    /// It wants one of them near.
    Affinity,
    /// It likes them near so much.
    Preferred(i64),
}

/// A term that pods on nodes hold.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) role: Role,
    pub(super) term: Arc<PodTerm>,
    /// How many pods of each node hold it.
    pub(super) by_node: ByNode,
}

/// The values of one label, each with a number, and the number of each node.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub(super) key: String,
    values: HashMap<String, u32>,
    of: Vec<u32>,
}

impl Topology {
    /// The number of the node's value, or [`NOWHERE`].
    pub(super) fn of(&self, node: usize) -> u32 {
        self.of.get(node).copied().unwrap_or(NOWHERE)
    }

    /// How many values have been seen.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    fn set(&mut self, node: usize, labels: &Labels) {
        if node >= self.of.len() {
            self.of.resize(node + 1, NOWHERE);
        }
        self.of[node] = match labels.get(&self.key) {
            None => NOWHERE,
            Some(value) => match self.values.get(value) {
                Some(number) => *number,
                None => {
                    let number = u32::try_from(self.values.len()).unwrap_or(NOWHERE);
                    self.values.insert(value.clone(), number);
                    number
                }
            },
        };
    }
}

/// The indexes.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    tallies: Vec<Tally>,
    by_sought: HashMap<Sought, usize>,
    /// By the hash of a handle; those that share it are asked.
    by_handle: HashMap<u64, Vec<usize>>,
    unhandled: Vec<usize>,
    hasher: RandomState,
    held: Vec<Held>,
    by_term: HashMap<(Role, Arc<PodTerm>), usize>,
    topologies: Vec<Topology>,
    /// Nodes in the order in which they changed.
    changed: VecDeque<u32>,
    /// How many changes came before the first of `changed`.
    before: u64,
    /// What was remembered of numbers here before it grew is void.
    epoch: u64,
    asked: u64,
    /// Whether a term ever asked for labels of namespaces.
    selective: bool,
}

impl Index {
    /// A pod of this shape came to the node, or (`up` is false) left it.
    pub(super) fn count(
        &mut self,
        node: usize,
        shape: &Shape,
        leaving: bool,
        up: bool,
        namespaces: &Namespaces,
    ) {
        let number = node as u32;
        let labels = shape.labels.iter().map(|(k, v)| Handle::Label(k, v));
        let handles = labels.chain(shape.controller.as_deref().map(Handle::Controller));
        for handle in handles {
            for at in self.by_handle.get(&self.hasher.hash_one(&handle)).into_iter().flatten() {
                let tally = &mut self.tallies[*at];
                if tally.sought.handle().as_ref() == Some(&handle)
                    && tally.sought.finds(shape, leaving, namespaces)
                {
                    count(&mut tally.by_node, number, up);
                }
            }
        }
        for at in &self.unhandled {
            let tally = &mut self.tallies[*at];
            if tally.sought.finds(shape, leaving, namespaces) {
                count(&mut tally.by_node, number, up);
            }
        }
        for term in &shape.anti_affinity {
            self.hold(Role::Anti, term, number, up);
        }
        for term in &shape.affinity {
            self.hold(Role::Affinity, term, number, up);
        }
        for (weight, term) in &shape.preferred {
            self.hold(Role::Preferred(*weight), term, number, up);
        }
        self.touch(node);
    }

    fn hold(&mut self, role: Role, term: &Arc<PodTerm>, node: u32, up: bool) {
        self.selective |= term.namespace_selector.is_some();
        let key = (role, term.clone());
        let at = match self.by_term.get(&key) {
            Some(at) => *at,
            None => {
                self.held.push(Held { role, term: term.clone(), by_node: ByNode::new() });
                self.by_term.insert(key, self.held.len() - 1);
                self.held.len() - 1
            }
        };
        count(&mut self.held[at].by_node, node, up);
    }

    /// The node is another than it was.
    pub(super) fn touch(&mut self, node: usize) {
        self.changed.push_back(node as u32);
        let bound = CHANGES.max(2 * self.topologies.first().map_or(0, |t| t.of.len()));
        if self.changed.len() > 2 * bound {
            self.changed.drain(..bound);
            self.before += bound as u64;
        }
    }

    /// The labels of a node are these now; those of one that is gone are none.
    pub(super) fn place(&mut self, node: usize, labels: &Labels) {
        for topology in &mut self.topologies {
            topology.set(node, labels);
        }
        self.touch(node);
    }

    /// Values of labels, and terms, that nobody has any more are forgotten when they are the most.
    pub(super) fn tidy(&mut self, nodes: usize) {
        let stale = |t: &Topology| t.len() > 2 * nodes + CHANGES;
        let empty = self.held.len() > CONSTRAINTS
            && self.held.iter().filter(|h| h.by_node.is_empty()).count() > self.held.len() / 2;
        if !empty && !self.topologies.iter().any(stale) {
            return;
        }
        self.epoch += 1;
        self.topologies.clear();
        self.held.retain(|held| !held.by_node.is_empty());
        let keys = self.held.iter().enumerate().map(|(at, held)| ((held.role, held.term.clone()), at));
        self.by_term = keys.collect();
    }

    /// Labels of namespaces changed: terms may select others.
    pub(super) fn namespaces_changed(&mut self) {
        if self.selective {
            self.forget_tallies(|_| false);
        }
    }

    /// Forgets the constraints that were not asked for lately, when there are many. Not while a decision is made: it
    /// gives the others new numbers.
    pub(super) fn forget_old(&mut self) {
        if self.tallies.len() > CONSTRAINTS {
            let mut ages: Vec<u64> = self.tallies.iter().map(|t| t.used).collect();
            ages.sort_unstable();
            let middle = ages[ages.len() / 2];
            self.forget_tallies(|tally| tally.used > middle);
        }
    }

    fn forget_tallies(&mut self, keep: impl Fn(&Tally) -> bool) {
        self.epoch += 1;
        let kept: Vec<Tally> = std::mem::take(&mut self.tallies).into_iter().filter(keep).collect();
        self.by_sought.clear();
        self.by_handle.clear();
        self.unhandled.clear();
        for tally in kept {
            self.enter(tally);
        }
    }

    fn enter(&mut self, tally: Tally) -> usize {
        let at = self.tallies.len();
        match tally.sought.handle() {
            Some(handle) => self.by_handle.entry(self.hasher.hash_one(&handle)).or_default().push(at),
            None => self.unhandled.push(at),
        }
        self.by_sought.insert(tally.sought.clone(), at);
        self.tallies.push(tally);
        at
    }

    /// The number of the tally of these pods. Made from `pods` (the node of each pod, its shape and whether it is
    /// leaving, of the namespace that is named or of all) when nobody asked for it before.
    pub(super) fn tally<'a, I>(
        &mut self,
        sought: Sought,
        namespaces: &Namespaces,
        pods: impl FnOnce(Option<&str>) -> I,
    ) -> usize
    where
        I: Iterator<Item = (u32, &'a Shape, bool)>,
    {
        self.asked += 1;
        if let Some(at) = self.by_sought.get(&sought) {
            self.tallies[*at].used = self.asked;
            return *at;
        }
        if let Sought::Terms(terms) = &sought {
            self.selective |= terms.iter().any(|t| t.namespace_selector.is_some());
        }
        let mut by_node = ByNode::new();
        for (node, shape, leaving) in pods(sought.namespace()) {
            if sought.finds(shape, leaving, namespaces) {
                count(&mut by_node, node, true);
            }
        }
        self.enter(Tally { sought, by_node, used: self.asked })
    }

    pub(super) fn tallied(&self, at: usize) -> &ByNode {
        &self.tallies[at].by_node
    }

    pub(super) fn held(&self) -> &[Held] {
        &self.held
    }

    /// The number of a topology; made from the labels of `nodes` when nobody asked for it before.
    pub(super) fn topology<'a>(
        &mut self,
        key: &str,
        nodes: impl Iterator<Item = (usize, &'a Labels)>,
    ) -> usize {
        if let Some(at) = self.topologies.iter().position(|t| t.key == key) {
            return at;
        }
        let mut topology = Topology { key: key.to_owned(), values: HashMap::new(), of: Vec::new() };
        for (node, labels) in nodes {
            topology.set(node, labels);
        }
        self.topologies.push(topology);
        self.topologies.len() - 1
    }

    pub(super) fn topologies(&self) -> &[Topology] {
        &self.topologies
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many changes there have been.
    pub(super) fn now(&self) -> u64 {
        self.before + self.changed.len() as u64
    }

    /// The nodes that changed since; `None` when that is not known any more.
    pub(super) fn since(&self, then: u64) -> Option<impl Iterator<Item = usize>> {
        let from = usize::try_from(then.checked_sub(self.before)?).ok()?;
        Some(self.changed.range(from.min(self.changed.len())..).map(|node| *node as usize))
    }
}
