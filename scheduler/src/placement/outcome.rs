//! What a search for a node is given, and why it may find none.

use std::{collections::BTreeMap, fmt};

use super::filter::Rejection;

/// One search for a node.
pub(super) struct Find {
    /// So many that fit are enough.
    pub(super) enough: usize,
    /// Of equals, the first from here on is taken.
    pub(super) turn: usize,
    /// Where the next look begins.
    pub(super) cursor: usize,
}

/// Why a pod could not be placed. Its text is upstream's sentence where nobody looks for pods to preempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unplaced {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many of them each reason holds for.
    pub reasons: BTreeMap<Rejection, usize>,
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut texts: Vec<String> =
            self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        write!(f, "0/{} nodes are available: {}.", self.nodes, texts.join(", "))
    }
}
