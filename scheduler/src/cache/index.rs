//! What the objects of a table are found by besides their names.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{Cached, Id};

/// One thing to find objects by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum By {
    /// The uid in the controller reference.
    Controller(Arc<str>),
    /// The node that they are bound to.
    Node(Arc<str>),
    /// The namespace, of those that have no controller.
    Orphans(Arc<str>),
}

/// Who is found by what.
#[derive(Default)]
pub(super) struct Index(HashMap<By, HashSet<Id>>);

impl Index {
    /// An object changed from `old` to `new`, of which one at least is there.
    pub(super) fn change<T: Cached>(&mut self, id: &Id, old: Option<&T>, new: Option<&T>) {
        let (before, after) = (keys(id, old), keys(id, new));
        for gone in before.difference(&after) {
            if let Some(ids) = self.0.get_mut(gone) {
                ids.remove(id);
                if ids.is_empty() {
                    self.0.remove(gone);
                }
            }
        }
        for came in after.difference(&before) {
            self.0.entry(came.clone()).or_default().insert(id.clone());
        }
    }

    /// Those that are found by this.
    pub(super) fn find(&self, by: &By) -> impl Iterator<Item = &Id> {
        self.0.get(by).into_iter().flatten()
    }

    /// The nodes that anything is bound to.
    pub(super) fn nodes(&self) -> Vec<Arc<str>> {
        let nodes = self.0.keys().filter_map(|by| match by {
            By::Node(node) => Some(node.clone()),
            By::Controller(_) | By::Orphans(_) => None,
        });
        nodes.collect()
    }
}

fn keys<T: Cached>(id: &Id, object: Option<&T>) -> BTreeSet<By> {
    let Some(object) = object else { return BTreeSet::new() };
    let owners = object.metadata().owner_references.as_deref().unwrap_or_default();
    let controller = owners.iter().find(|owner| owner.controller == Some(true));
    let mut keys: BTreeSet<By> =
        controller.map(|owner| By::Controller(owner.uid.as_str().into())).into_iter().collect();
    if T::IS_BOUND {
        keys.extend(object.node().map(|node| By::Node(node.into())));
        keys.extend(controller.is_none().then(|| By::Orphans(id.namespace.clone())));
    }
    keys
}
