//! What other pods mean to one shape: required and preferred constraints with their sums, kept current.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    counted::{Counted, Eligible, Source},
    filter::Rejection,
    index::{NOWHERE, Role, Sought, Topology},
    node::{HOST, ZONE},
    pod::{PodTerm, Shape, Spread},
    score::{OUTSIDE, weight},
    snapshot::Snapshot,
};
use crate::model::LabelSelector;

/// Why other pods keep one off a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    SpreadLabel,
    Spread,
    Affinity,
    AntiAffinity,
    ExistingAntiAffinity,
}

impl From<Obstacle> for Rejection {
    fn from(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::SpreadLabel => Self::SpreadLabel,
            Obstacle::Spread => Self::Spread,
            Obstacle::Affinity => Self::Affinity,
            Obstacle::AntiAffinity => Self::AntiAffinity,
            Obstacle::ExistingAntiAffinity => Self::ExistingAntiAffinity,
        }
    }
}

/// One spread constraint.
struct Spreading {
    constraint: Arc<Spread>,
    counted: Counted,
    /// 1 when the pod itself is one of those it counts.
    itself: i64,
    /// The least that any domain has, as of the last [`Rules::ready`].
    least: i64,
}

/// All constraints of one shape.
pub(super) struct Rules {
    required: Vec<Spreading>,
    soft: Vec<Spreading>,
    /// Pods that all affinity terms select, by each topology of them.
    wanted: Vec<Counted>,
    wants_itself: bool,
    /// As of the last [`Rules::ready`]: the first of a group that wants to be together may go anywhere.
    first_of_group: bool,
    avoided: Vec<Counted>,
    /// Pods that are there and avoid this one.
    barred: Vec<Counted>,
    /// Preferred affinity, both ways.
    pulls: Vec<Counted>,
    /// Pods of the same owner or services, by host and zone.
    alike: Vec<Counted>,
}

type Sources = BTreeMap<usize, Vec<(Source, i64)>>;

impl Rules {
    /// The rules for `shape`; `services` select it.
    pub(super) fn new(snapshot: &mut Snapshot, shape: &Shape, services: Vec<LabelSelector>) -> Self {
        let required = spreads(snapshot, shape, true);
        let soft = spreads(snapshot, shape, false);
        let alike = alike(snapshot, shape, services);
        let own = snapshot.namespaces.get(&shape.namespace);
        let wants_itself = shape.affinity.iter().all(|t| t.selects(shape, own));
        let mut wanted = Sources::new();
        if !shape.affinity.is_empty() {
            let tally = snapshot.tally(Sought::Terms(shape.affinity.clone()));
            for term in &shape.affinity {
                wanted.insert(snapshot.topology(&term.topology), vec![(Source::Tally(tally), 1)]);
            }
        }
        let mut avoided = Sources::new();
        for term in &shape.anti_affinity {
            add_tally(snapshot, &mut avoided, term, 1);
        }
        let mut pulls = Sources::new();
        for (weight, term) in &shape.preferred {
            add_tally(snapshot, &mut pulls, term, *weight);
        }
        let mut barred = Sources::new();
        for (at, role, topology) in held(snapshot, shape) {
            let topology = snapshot.topology(&topology);
            let (sources, weight) = match role {
                Role::Anti => (&mut barred, 1),
                Role::Preferred(weight) => (&mut pulls, weight),
                // A pod that requires company is glad of more of it.
                Role::Affinity => (&mut pulls, 1),
            };
            sources.entry(topology).or_default().push((Source::Held(at), weight));
        }
        let sums = |sources: Sources| -> Vec<Counted> {
            let each = sources.into_iter();
            each.map(|(topology, sources)| Counted::new(snapshot, shape, topology, sources, None)).collect()
        };
        Self {
            required,
            soft,
            wanted: sums(wanted),
            wants_itself,
            first_of_group: false,
            avoided: sums(avoided),
            barred: sums(barred),
            pulls: sums(pulls),
            alike,
        }
    }

    /// A node has changed, or pods on it.
    pub(super) fn refresh(&mut self, snapshot: &Snapshot, shape: &Shape, number: usize) {
        let spreads = self.required.iter_mut().chain(&mut self.soft).map(|s| &mut s.counted);
        let terms = self.wanted.iter_mut().chain(&mut self.avoided).chain(&mut self.barred);
        let scores = self.pulls.iter_mut().chain(&mut self.alike);
        for counted in spreads.chain(terms).chain(scores) {
            counted.refresh(snapshot, shape, number);
        }
    }

    /// Works out what is the same for all nodes of one decision.
    pub(super) fn ready(&mut self) {
        self.first_of_group = self.wants_itself && self.wanted.iter().all(Counted::is_empty);
        for spreading in &mut self.required {
            let few = (spreading.counted.domains as i64) < spreading.constraint.min_domains;
            spreading.least = if few { 0 } else { spreading.counted.least() };
        }
    }

    /// Whether any of them keeps pods off nodes.
    pub(super) fn bind(&self) -> bool {
        !(self.required.is_empty()
            && self.wanted.is_empty()
            && self.avoided.is_empty()
            && self.barred.is_empty())
    }

    /// Whether any of them makes nodes better or worse.
    pub(super) fn score(&self) -> bool {
        !(self.soft.is_empty() && self.pulls.is_empty() && self.alike.is_empty())
    }

    /// Why the pod cannot go to the node because of others. Only after [`Rules::ready`].
    pub(super) fn obstacle(&self, topologies: &[Topology], number: usize) -> Option<Obstacle> {
        let domain = |counted: &Counted| topologies[counted.topology].of(number);
        for Spreading { constraint, counted, itself, least } in &self.required {
            let domain = domain(counted);
            if domain == NOWHERE {
                return Some(Obstacle::SpreadLabel);
            }
            if counted.sum(domain) + itself - least > constraint.max_skew {
                return Some(Obstacle::Spread);
            }
        }
        let alone = |c: &Counted| {
            let domain = domain(c);
            domain == NOWHERE || (!self.first_of_group && c.sum(domain) == 0)
        };
        if self.wanted.iter().any(alone) {
            return Some(Obstacle::Affinity);
        }
        let near = |c: &Counted| c.sum(domain(c)) > 0;
        if self.avoided.iter().any(near) {
            return Some(Obstacle::AntiAffinity);
        }
        self.barred.iter().any(near).then_some(Obstacle::ExistingAntiAffinity)
    }

    /// How much other pods pull the pod to the node.
    pub(super) fn pull(&self, topologies: &[Topology], number: usize) -> f64 {
        self.pulls.iter().map(|c| c.sum(topologies[c.topology].of(number))).sum::<i64>() as f64
    }

    /// What the crowd on a node weighs, given the nodes that fit: fewer pods of the same kind are better, by the pod's
    /// own soft constraints, or, when it has none at all, over nodes and zones by its owner or its services.
    pub(super) fn crowds(&self, topologies: &[Topology], fitting: impl Iterator<Item = usize>) -> Crowds<'_> {
        let mut weights: Vec<f64> = self.soft.iter().map(|s| weight(s.counted.domains)).collect();
        if !self.alike.is_empty() {
            let mut seen: Vec<Vec<bool>> =
                self.alike.iter().map(|c| vec![false; topologies[c.topology].len()]).collect();
            let mut counts = vec![0; self.alike.len()];
            for number in fitting {
                for ((counted, seen), count) in self.alike.iter().zip(&mut seen).zip(&mut counts) {
                    let domain = topologies[counted.topology].of(number) as usize;
                    if let Some(seen) = seen.get_mut(domain) {
                        *count += usize::from(!std::mem::replace(seen, true));
                    }
                }
            }
            weights = counts.into_iter().map(weight).collect();
        }
        Crowds { rules: self, weights }
    }
}

/// How crowded nodes are.
pub(super) struct Crowds<'a> {
    rules: &'a Rules,
    weights: Vec<f64>,
}

impl Crowds<'_> {
    pub(super) fn of(&self, topologies: &[Topology], number: usize) -> f64 {
        let alike = self.rules.alike.iter().zip(&self.weights);
        let alike = alike.map(|(c, weight)| c.sum(topologies[c.topology].of(number)) as f64 * weight);
        let soft = self.rules.soft.iter().zip(&self.weights).map(|(s, weight)| {
            let domain = topologies[s.counted.topology].of(number);
            if domain == NOWHERE {
                return OUTSIDE;
            }
            s.counted.sum(domain) as f64 * weight + (s.constraint.max_skew - 1) as f64
        });
        soft.chain(alike).sum()
    }
}

fn add_tally(snapshot: &mut Snapshot, sources: &mut Sources, term: &Arc<PodTerm>, weight: i64) {
    let tally = snapshot.tally(Sought::Terms(vec![term.clone()]));
    let topology = snapshot.topology(&term.topology);
    sources.entry(topology).or_default().push((Source::Tally(tally), weight));
}

/// The held terms that select pods of this shape, with their roles and topologies.
fn held(snapshot: &Snapshot, shape: &Shape) -> Vec<(usize, Role, String)> {
    let own = snapshot.namespaces.get(&shape.namespace);
    let all = snapshot.index.held().iter().enumerate();
    let selecting = all.filter(|(_, held)| held.term.selects(shape, own));
    selecting.map(|(at, held)| (at, held.role, held.term.topology.clone())).collect()
}

fn spreads(snapshot: &mut Snapshot, shape: &Shape, required: bool) -> Vec<Spreading> {
    let constraints: Vec<_> = shape.spread.iter().filter(|s| s.required == required).collect();
    let topologies: Vec<usize> = constraints.iter().map(|s| snapshot.topology(&s.topology)).collect();
    let mut spreads = Vec::new();
    for (constraint, topology) in constraints.into_iter().zip(&topologies) {
        let sought = Sought::Staying(shape.namespace.clone(), constraint.selector.clone());
        let sources = vec![(Source::Tally(snapshot.tally(sought)), 1)];
        let eligible = Eligible::new(constraint, topologies.clone());
        spreads.push(Spreading {
            constraint: constraint.clone(),
            counted: Counted::new(snapshot, shape, *topology, sources, Some(eligible)),
            itself: i64::from(constraint.selector.matches(&shape.labels)),
            least: 0,
        });
    }
    spreads
}

fn alike(snapshot: &mut Snapshot, shape: &Shape, services: Vec<LabelSelector>) -> Vec<Counted> {
    if !shape.spread.is_empty() {
        return Vec::new();
    }
    let namespace = shape.namespace.clone();
    let sought = match &shape.controller {
        Some(controller) => Sought::Owned(namespace, controller.clone()),
        None if services.is_empty() => return Vec::new(),
        None => Sought::Served(namespace, services),
    };
    let tally = snapshot.tally(sought);
    let topologies = [HOST, ZONE].map(|key| snapshot.topology(key));
    let sums = |topology| Counted::new(snapshot, shape, topology, vec![(Source::Tally(tally), 1)], None);
    topologies.into_iter().map(sums).collect()
}
