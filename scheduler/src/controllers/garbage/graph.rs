//! Who depends on whom: uids of owners to the objects that name them. Fed by one watch per kind.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::{Key, Object, Resource};

#[derive(Clone)]
struct Known {
    uid: Arc<str>,
    owners: Vec<Arc<str>>,
}

#[derive(Default)]
struct State {
    known: HashMap<Key, Known>,
    dependents: HashMap<Arc<str>, HashSet<Key>>,
}

/// The graph.
#[derive(Default)]
pub(super) struct Graph {
    state: Mutex<State>,
}

impl Graph {
    /// An object is there or has changed. Returns what must be looked at.
    pub(super) fn observe(&self, object: &Object) -> Vec<Key> {
        let mut state = self.lock();
        let before = state.known.get(&object.key).cloned();
        let mut look = Vec::new();
        if let Some(before) = &before
            && before.uid != object.uid
        {
            // Deleted and made again between two looks: who depended on the old one must know.
            look.extend(state.dependents_of(&before.uid));
        }
        let changed = before.as_ref().is_none_or(|b| b.uid != object.uid || b.owners != object.owners);
        if changed {
            if let Some(before) = &before {
                state.unlink(&object.key, before);
            }
            for owner in &object.owners {
                state.dependents.entry(owner.clone()).or_default().insert(object.key.clone());
            }
            let known = Known { uid: object.uid.clone(), owners: object.owners.clone() };
            state.known.insert(object.key.clone(), known);
        }
        if object.deleting || (changed && !object.owners.is_empty()) {
            look.push(object.key.clone());
        }
        look
    }

    /// An object is gone. Returns its dependents, and its owners that may wait for it.
    pub(super) fn forget(&self, key: &Key, owner_key: impl Fn(&Arc<str>) -> Option<Key>) -> Vec<Key> {
        let mut state = self.lock();
        let Some(known) = state.known.remove(key) else { return Vec::new() };
        state.unlink(key, &known);
        let mut look = state.dependents_of(&known.uid);
        look.extend(known.owners.iter().filter_map(owner_key));
        look
    }

    /// After a fresh list: which objects of `resource` were not in it.
    pub(super) fn missing(&self, resource: Resource, listed: &HashSet<Key>) -> Vec<Key> {
        let state = self.lock();
        let of_kind = state.known.keys().filter(|k| k.resource == resource);
        of_kind.filter(|k| !listed.contains(*k)).cloned().collect()
    }

    /// The objects that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Key> {
        self.lock().dependents_of(uid)
    }

    /// Everything with an owner.
    pub(super) fn owned(&self) -> Vec<Key> {
        let state = self.lock();
        state.known.iter().filter(|(_, k)| !k.owners.is_empty()).map(|(key, _)| key.clone()).collect()
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn dependents_of(&self, uid: &str) -> Vec<Key> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    fn unlink(&mut self, key: &Key, known: &Known) {
        for owner in &known.owners {
            if let Some(keys) = self.dependents.get_mut(owner) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}
