//! The decision: filter all nodes, score those that fit, pick the best. Pure.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    filter::{Filters, Rejection, Rejections},
    pod::PodView,
    score::scores,
    snapshot::{NodeView, Snapshot},
};

/// Why a pod could not be placed: each node with its reasons. Its text is upstream's sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unplaced {
    /// Reasons by node.
    pub nodes: Rejections,
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.nodes.len();
        if total == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let reasons = counted(self.nodes.values().flatten().map(ToString::to_string));
        write!(f, "0/{total} nodes are available: {reasons}. ")?;
        let preemption = counted(self.nodes.values().map(|rejections| {
            if rejections.iter().all(Rejection::preemption_could_help) {
                "No preemption victims found for incoming pod".to_owned()
            } else {
                "Preemption is not helpful for scheduling".to_owned()
            }
        }));
        write!(f, "preemption: 0/{total} nodes are available: {preemption}.")
    }
}

fn counted(reasons: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    texts.sort();
    texts.join(", ")
}

/// Decides where `pod` goes. Of equally good nodes, `turn` chooses: a number that grows with each decision, so
/// that equals take turns.
pub fn decide(snapshot: &Snapshot, pod: &PodView, turn: usize) -> Result<Arc<str>, Unplaced> {
    let filters = Filters::new(snapshot, pod);
    let mut rejected = Rejections::new();
    let mut fitting: Vec<&NodeView> = Vec::new();
    for node in snapshot.nodes() {
        let rejections = filters.rejections(node);
        if rejections.is_empty() {
            fitting.push(node);
        } else {
            rejected.insert(node.name.clone(), rejections);
        }
    }
    match fitting.as_slice() {
        [] => Err(Unplaced { nodes: rejected }),
        [only] => Ok(only.name.clone()),
        several => Ok(best(several, &scores(snapshot, pod, several), turn)),
    }
}

/// Scores closer than this are equal: sums of the same parts in another order may differ in the last digits.
const EQUAL: f64 = 1e-6;

fn best(nodes: &[&NodeView], scores: &[f64], turn: usize) -> Arc<str> {
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let equals: Vec<&&NodeView> =
        nodes.iter().zip(scores).filter(|(_, s)| top - **s < EQUAL).map(|(n, _)| n).collect();
    equals[turn % equals.len()].name.clone()
}
