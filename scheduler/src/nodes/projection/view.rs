//! What one node has been given: its pods, the shared objects they refer to, and what was taken back lately.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::item::{ItemKey, Name, Reference};

/// Removals that are remembered for sessions that resume; a node that missed more is sent a snapshot.
pub(super) const TOMBSTONES: usize = 4096;

/// Removals with their generation, oldest first.
#[derive(Debug, Default)]
pub(super) struct Tombstones {
    entries: VecDeque<(u64, ItemKey)>,
    /// Generation of the newest removal that was forgotten.
    floor: u64,
}

impl Tombstones {
    pub(super) fn push(&mut self, generation: u64, key: ItemKey) {
        self.entries.push_back((generation, key));
        if self.entries.len() > TOMBSTONES
            && let Some((forgotten, _)) = self.entries.pop_front()
        {
            self.floor = forgotten;
        }
    }

    /// Removals after `generation`; `None` when some were forgotten.
    pub(super) fn after(&self, generation: u64) -> Option<impl Iterator<Item = &(u64, ItemKey)>> {
        (generation >= self.floor).then(|| self.entries.iter().filter(move |(g, _)| *g > generation))
    }
}

/// A Secret or ConfigMap that pods of the node refer to.
#[derive(Debug, Default)]
pub(super) struct SharedView {
    /// How many pods refer to it.
    pub(super) users: usize,
    /// Generation at which the node was given its present state; `None` while it does not exist.
    pub(super) generation: Option<u64>,
}

/// A pod on the node.
#[derive(Clone, Debug)]
pub(super) struct PodView {
    pub(super) uid: Arc<str>,
    pub(super) generation: u64,
}

/// One node.
#[derive(Debug, Default)]
pub(super) struct NodeView {
    pub(super) pods: BTreeMap<Name, PodView>,
    pub(super) shared: BTreeMap<Reference, SharedView>,
    pub(super) removed: Tombstones,
}
