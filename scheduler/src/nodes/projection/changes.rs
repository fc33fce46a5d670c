//! What has changed and nodes are yet to be told: the one clock of generations, the items since the last flush, and the
//! removals that concern more than one node. Never decides who needs what.

use super::{
    item::{Audience, Body, Item, ItemKey},
    view::Tombstones,
};

/// See the module.
#[derive(Default)]
pub(super) struct Changes {
    generation: u64,
    /// Removed services, slices and peers.
    removed: Tombstones,
    out: Vec<(Audience, Item)>,
}

impl Changes {
    /// The latest generation.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Something changed: it is of the next generation.
    pub(super) fn advance(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// Tells a state of the latest generation.
    pub(super) fn emit(&mut self, audience: Audience, key: ItemKey, body: Body) {
        self.emit_of(self.generation, audience, key, body);
    }

    /// Tells a state of the generation of its latest part.
    pub(super) fn emit_of(&mut self, generation: u64, audience: Audience, key: ItemKey, body: Body) {
        self.out.push((audience, Item { generation, key, body }));
    }

    /// Tells more than one node, at the latest generation, that it is gone, and remembers it for sessions that resume.
    pub(super) fn emit_removed(&mut self, audience: Audience, key: ItemKey) {
        self.removed.push(self.generation, key.clone());
        self.emit(audience, key, Body::Removed);
    }

    /// Of all nodes.
    pub(super) fn removed(&self) -> &Tombstones {
        &self.removed
    }

    /// Everything since the last call, in order of generations.
    pub(super) fn take(&mut self) -> Vec<(Audience, Item)> {
        let mut out = std::mem::take(&mut self.out);
        // A whole service is of the generation of its latest part, and made after all of them.
        out.sort_by_key(|(_, item)| item.generation);
        out
    }
}
