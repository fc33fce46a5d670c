//! Pods of one shape: which nodes have room for one of them and how good each is, worked out once per node and corrected
//! where something changed since. A decision is one pass over as many nodes that fit as are enough.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    filter::{self, Rejection},
    outcome::{Find, Unplaced},
    pod::Shape,
    rules::Rules,
    score::{EQUAL, Merits, Scale},
    snapshot::Snapshot,
};
use crate::model::LabelSelector;

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seat {
    /// Nobody looked, or there is no such node.
    Unseen,
    /// It has no room for such a pod, or does not want one.
    Unfit,
    /// It could take such a pod, as far as the node itself tells, and is so good.
    Fits(Merits),
}

/// What is known about placing pods of one shape.
pub(super) struct Class {
    shape: Arc<Shape>,
    rules: Rules,
    seats: Vec<Seat>,
    /// Why no node would have it, if nothing changed since.
    refusal: Option<Arc<Unplaced>>,
    epoch: u64,
    /// Changes up to here are in.
    seen: u64,
    held: usize,
    services: Vec<LabelSelector>,
    services_version: u64,
    images: Vec<usize>,
    /// When it was last asked for.
    pub(super) used: u64,
    fitting: Vec<Fitting>,
}

/// A node that fits, in one decision.
#[derive(Clone, Copy, Debug)]
struct Fitting {
    node: usize,
    merits: Merits,
    pull: f64,
    crowd: f64,
}

impl Class {
    pub(super) fn new(snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Self {
        let services = relevant_services(snapshot, shape);
        let rules = Rules::new(snapshot, shape, services.clone());
        Self {
            rules,
            seats: Vec::new(),
            refusal: None,
            epoch: snapshot.index.epoch(),
            seen: snapshot.index.now(),
            held: snapshot.index.held().len(),
            services,
            services_version: snapshot.services_version,
            images: images(snapshot, shape),
            used: 0,
            fitting: Vec::new(),
            shape: shape.clone(),
        }
    }

    /// Takes in what changed; `false` when too much did, and the class has to be made anew.
    pub(super) fn update(&mut self, snapshot: &Snapshot) -> bool {
        let index = &snapshot.index;
        if self.epoch != index.epoch() || self.images != images(snapshot, &self.shape) {
            return false;
        }
        if self.services_version != snapshot.services_version {
            if self.services != relevant_services(snapshot, &self.shape) {
                return false;
            }
            self.services_version = snapshot.services_version;
        }
        let own = snapshot.namespaces.get(&self.shape.namespace);
        if index.held()[self.held..].iter().any(|held| held.term.selects(&self.shape, own)) {
            return false;
        }
        self.held = index.held().len();
        let now = index.now();
        if now - self.seen > snapshot.bound() as u64 {
            return false;
        }
        let Some(changed) = index.since(self.seen) else { return false };
        let mut last = None;
        for number in changed {
            if last.replace(number) != Some(number) {
                self.correct(snapshot, number);
            }
        }
        self.seen = now;
        true
    }

    fn correct(&mut self, snapshot: &Snapshot, number: usize) {
        self.refusal = None;
        self.rules.refresh(snapshot, &self.shape, number);
        if self.seats.get(number).is_some_and(|seat| *seat != Seat::Unseen) {
            self.look_at(snapshot, number);
        }
    }

    /// Works out one node.
    fn look_at(&mut self, snapshot: &Snapshot, number: usize) -> Seat {
        if number >= self.seats.len() {
            self.seats.resize(snapshot.bound().max(number + 1), Seat::Unseen);
        }
        self.seats[number] = match snapshot.node(number) {
            None => Seat::Unseen,
            Some(node) if filter::rejections(&self.shape, node).is_empty() => {
                Seat::Fits(Merits::of(snapshot, &self.shape, node))
            }
            Some(_) => Seat::Unfit,
        };
        self.seats[number]
    }

    /// Chooses a node for one pod, among the first that fit from the cursor on.
    pub(super) fn choose(&mut self, snapshot: &Snapshot, find: &mut Find) -> Result<usize, Arc<Unplaced>> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        self.rules.ready();
        let topologies = snapshot.index.topologies();
        let binding = self.rules.bind();
        let order = snapshot.ordered();
        let (before, after) = order.split_at(find.cursor % order.len());
        self.fitting.clear();
        for number in after.iter().chain(before) {
            if self.fitting.len() >= find.enough {
                break;
            }
            find.cursor += 1;
            let seat = match self.seats.get(*number) {
                None | Some(Seat::Unseen) => self.look_at(snapshot, *number),
                Some(seat) => *seat,
            };
            if let Seat::Fits(merits) = seat
                && !(binding && self.rules.obstacle(topologies, *number).is_some())
            {
                self.fitting.push(Fitting { node: *number, merits, pull: 0.0, crowd: 0.0 });
            }
        }
        find.cursor %= order.len();
        if self.fitting.is_empty() {
            let refusal = Arc::new(self.explain(snapshot));
            self.refusal = Some(refusal.clone());
            return Err(refusal);
        }
        Ok(self.best(snapshot, find.turn))
    }

    /// The best of those that fit. Of equals, the first from `turn` on in the order of nodes.
    fn best(&mut self, snapshot: &Snapshot, turn: usize) -> usize {
        let topologies = snapshot.index.topologies();
        if self.rules.score() {
            let crowds = self.rules.crowds(topologies, self.fitting.iter().map(|f| f.node));
            for fitting in &mut self.fitting {
                fitting.pull = self.rules.pull(topologies, fitting.node);
                fitting.crowd = crowds.of(topologies, fitting.node);
            }
        }
        let mut scale = Scale::new();
        for fitting in &self.fitting {
            scale.see(&fitting.merits, fitting.pull, fitting.crowd);
        }
        let score = |f: &Fitting| scale.score(&f.merits, f.pull, f.crowd);
        let mut top = f64::NEG_INFINITY;
        for fitting in &mut self.fitting {
            // What made the score is not needed any more.
            fitting.pull = score(fitting);
            top = top.max(fitting.pull);
        }
        let nodes = snapshot.ordered().len();
        let from = turn % nodes;
        let after = |node: usize| {
            let position = snapshot.position(node);
            if position >= from { position - from } else { position + nodes - from }
        };
        let equals = self.fitting.iter().filter(|f| top - f.pull < EQUAL).map(|f| f.node);
        equals.min_by_key(|node| after(*node)).unwrap_or_default()
    }

    /// Every node with what keeps the pod off it.
    fn explain(&self, snapshot: &Snapshot) -> Unplaced {
        let topologies = snapshot.index.topologies();
        let mut reasons = BTreeMap::new();
        for (number, node) in snapshot.numbered() {
            let mut found = filter::rejections(&self.shape, node);
            if found.is_empty() {
                found.extend(self.rules.obstacle(topologies, number).map(Rejection::from));
            }
            for reason in found {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        Unplaced { nodes: snapshot.node_count(), reasons }
    }
}

/// On how many nodes each image is, and how many nodes there are if any is on one: what the score of images takes from
/// other nodes.
fn images(snapshot: &Snapshot, shape: &Shape) -> Vec<usize> {
    let mut counts: Vec<usize> = shape.images.iter().map(|image| snapshot.nodes_with(image)).collect();
    let any = counts.iter().any(|count| *count > 0);
    counts.push(if any { snapshot.node_count() } else { 0 });
    counts
}

/// The services that matter for how such pods are spread.
fn relevant_services(snapshot: &Snapshot, shape: &Shape) -> Vec<LabelSelector> {
    let matter = shape.spread.is_empty() && shape.controller.is_none();
    if matter { snapshot.services_of(shape) } else { Vec::new() }
}
