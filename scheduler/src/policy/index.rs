//! Finding the selectors that may match some labels, and the labelled things that a selector may match, without asking
//! all of them. What is found is a superset: who asks still matches.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use super::facts::Labels;
use crate::model::{LabelSelector, Requirement};

type Pair = (String, String);

/// The label that a selector wants for sure.
fn wanted(selector: &LabelSelector) -> Option<Pair> {
    selector.requirements.iter().find_map(|requirement| match requirement {
        Requirement::Equals(key, value) => Some((key.clone(), value.clone())),
        Requirement::In(key, values) => match values.as_slice() {
            [value] => Some((key.clone(), value.clone())),
            _ => None,
        },
        _ => None,
    })
}

fn take<T: Ord>(sets: &mut HashMap<Pair, BTreeSet<T>>, pair: &Pair, item: &T) {
    if let Some(set) = sets.get_mut(pair) {
        set.remove(item);
        if set.is_empty() {
            sets.remove(pair);
        }
    }
}

/// Selectors by a label that they want.
#[derive(Debug)]
pub(super) struct Selectors<T> {
    wanting: HashMap<Pair, BTreeSet<T>>,
    others: BTreeSet<T>,
}

impl<T> Default for Selectors<T> {
    fn default() -> Self {
        Self { wanting: HashMap::new(), others: BTreeSet::new() }
    }
}

impl<T: Copy + Ord + Hash> Selectors<T> {
    pub(super) fn insert(&mut self, selector: &LabelSelector, item: T) {
        match wanted(selector) {
            Some(pair) => self.wanting.entry(pair).or_default().insert(item),
            None => self.others.insert(item),
        };
    }

    pub(super) fn remove(&mut self, selector: &LabelSelector, item: T) {
        match wanted(selector) {
            Some(pair) => take(&mut self.wanting, &pair, &item),
            None => drop(self.others.remove(&item)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wanting.is_empty() && self.others.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = T> {
        self.others.iter().chain(self.wanting.values().flatten()).copied()
    }

    /// Those that may match `labels`.
    pub(super) fn candidates(&self, labels: &Labels) -> Vec<T> {
        let mut out: Vec<T> = self.others.iter().copied().collect();
        if !self.wanting.is_empty() {
            for (key, value) in labels {
                out.extend(self.wanting.get(&(key.clone(), value.clone())).into_iter().flatten());
            }
        }
        out
    }
}

/// Labelled things by their labels.
#[derive(Debug, Default)]
pub(super) struct Labelled {
    having: HashMap<Pair, BTreeSet<u32>>,
    all: BTreeSet<u32>,
}

impl Labelled {
    pub(super) fn insert(&mut self, labels: &Labels, item: u32) {
        self.all.insert(item);
        for (key, value) in labels {
            self.having.entry((key.clone(), value.clone())).or_default().insert(item);
        }
    }

    pub(super) fn remove(&mut self, labels: &Labels, item: u32) {
        self.all.remove(&item);
        for (key, value) in labels {
            take(&mut self.having, &(key.clone(), value.clone()), &item);
        }
    }

    pub(super) fn all(&self) -> &BTreeSet<u32> {
        &self.all
    }

    /// Those that `selector` may match.
    pub(super) fn candidates(&self, selector: &LabelSelector) -> Vec<u32> {
        match wanted(selector) {
            Some(pair) => self.having.get(&pair).into_iter().flatten().copied().collect(),
            None => self.all.iter().copied().collect(),
        }
    }
}
