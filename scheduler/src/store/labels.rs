//! The label sets of all objects, each once: most objects are one of many that bear the same.
//!
//! In: the labels of a new state. Out: the one set that is equal to them. Never: labels of one object alone.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// The sets in use.
#[derive(Debug, Default)]
pub(super) struct LabelSets {
    known: HashSet<Arc<BTreeMap<String, String>>>,
    /// So many may be known before those that nobody uses are looked for.
    bound: usize,
}

impl LabelSets {
    const FEW: usize = 256;

    /// Puts the one set that is equal in the place of these labels.
    pub(super) fn share(&mut self, labels: &mut Arc<BTreeMap<String, String>>) {
        if let Some(known) = self.known.get(labels) {
            *labels = Arc::clone(known);
            return;
        }
        if self.known.len() >= self.bound.max(Self::FEW) {
            self.known.retain(|set| Arc::strong_count(set) > 1);
            self.bound = self.known.len() * 2;
        }
        self.known.insert(Arc::clone(labels));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(app: &str) -> Arc<BTreeMap<String, String>> {
        Arc::new([("app".to_owned(), app.to_owned())].into())
    }

    #[test]
    fn equal_labels_are_one_set_and_unused_sets_are_forgotten() {
        let mut sets = LabelSets::default();
        let (mut one, mut two, mut other) = (labels("a"), labels("a"), labels("b"));
        for set in [&mut one, &mut two, &mut other] {
            sets.share(set);
        }
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        for n in 0..10 * LabelSets::FEW {
            sets.share(&mut labels(&n.to_string()));
        }
        assert!(sets.known.len() <= LabelSets::FEW && sets.known.contains(&one), "{}", sets.known.len());
    }
}
