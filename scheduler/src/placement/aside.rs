//! Pods that no node would have, by what they are and why: what happens is held against each such group once, not
//! against each pod.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    filter::Rejection,
    hint::{Hint, Kind},
    index::Namespaces,
    pod::Shape,
};
use crate::cache::Id;

/// A pod that was set aside is tried again after so long whatever happens: it repairs a hint that was missed.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Why {
    shape: Arc<Shape>,
    reasons: BTreeSet<Rejection>,
}

#[derive(Debug)]
struct Group {
    why: Arc<Why>,
    ids: HashSet<Id>,
}

/// The groups.
#[derive(Debug, Default)]
pub(super) struct Aside {
    groups: BTreeMap<u64, Group>,
    by_why: HashMap<Arc<Why>, u64>,
    by_kind: HashMap<Kind, BTreeSet<u64>>,
    pods: HashMap<Id, (u64, Instant)>,
    oldest: BTreeSet<(Instant, Id)>,
    made: u64,
}

impl Aside {
    pub(super) fn len(&self) -> usize {
        self.pods.len()
    }

    pub(super) fn put(&mut self, id: Id, shape: Arc<Shape>, reasons: BTreeSet<Rejection>, now: Instant) {
        let why = Arc::new(Why { shape, reasons });
        let number = match self.by_why.get(&why) {
            Some(number) => *number,
            None => self.make(why),
        };
        if let Some(group) = self.groups.get_mut(&number) {
            group.ids.insert(id.clone());
        }
        self.oldest.insert((now, id.clone()));
        self.pods.insert(id, (number, now));
    }

    fn make(&mut self, why: Arc<Why>) -> u64 {
        self.made += 1;
        for kind in kinds(&why) {
            self.by_kind.entry(kind).or_default().insert(self.made);
        }
        self.by_why.insert(why.clone(), self.made);
        self.groups.insert(self.made, Group { why, ids: HashSet::new() });
        self.made
    }

    /// Takes one pod out; whether it was there.
    pub(super) fn take(&mut self, id: &Id) -> bool {
        let Some((number, since)) = self.pods.remove(id) else { return false };
        self.oldest.remove(&(since, id.clone()));
        if let Some(group) = self.groups.get_mut(&number) {
            group.ids.remove(id);
            if group.ids.is_empty() {
                self.drop_group(number);
            }
        }
        true
    }

    fn drop_group(&mut self, number: u64) -> Option<Group> {
        let group = self.groups.remove(&number)?;
        self.by_why.remove(&group.why);
        for kind in kinds(&group.why) {
            if let Some(numbers) = self.by_kind.get_mut(&kind) {
                numbers.remove(&number);
            }
        }
        Some(group)
    }

    /// Takes out the pods that what happened could help.
    pub(super) fn helped(&mut self, hint: &Hint, namespaces: &Namespaces) -> Vec<Id> {
        let numbers = hint.kinds().iter().filter_map(|kind| self.by_kind.get(kind)).flatten();
        let helped = |number: &&u64| {
            let group = self.groups.get(number);
            group.is_some_and(|g| hint.could_help(&g.why.shape, &g.why.reasons, namespaces))
        };
        let numbers: BTreeSet<u64> = numbers.filter(helped).copied().collect();
        let groups: Vec<Group> = numbers.into_iter().filter_map(|number| self.drop_group(number)).collect();
        let ids: Vec<Id> = groups.into_iter().flat_map(|group| group.ids).collect();
        for id in &ids {
            if let Some((_, since)) = self.pods.remove(id) {
                self.oldest.remove(&(since, id.clone()));
            }
        }
        ids
    }

    /// Takes out the pods that were set aside long ago.
    pub(super) fn forgotten(&mut self, now: Instant) -> Vec<Id> {
        let old = self.oldest.iter().take_while(|(since, _)| now - *since >= FORGOTTEN);
        let ids: Vec<Id> = old.map(|(_, id)| id.clone()).collect();
        for id in &ids {
            self.take(id);
        }
        ids
    }
}

fn kinds(why: &Why) -> BTreeSet<Kind> {
    if why.reasons.is_empty() {
        return [Kind::Nothing].into();
    }
    why.reasons.iter().map(Kind::of).collect()
}
