//! Equal values kept once, and words that stand for what they were made of.

use std::{
    borrow::Borrow,
    collections::{HashSet, hash_map::RandomState},
    hash::{BuildHasher as _, Hash},
    sync::Arc,
};

/// So many may be known before those that nobody uses are looked for.
pub const FEW: usize = 256;

/// The values in use, each once.
#[derive(Clone, Debug)]
pub struct Shared<T: ?Sized> {
    known: HashSet<Arc<T>>,
    /// So many may be known before those that nobody uses are looked for again.
    bound: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { known: HashSet::new(), bound: FEW }
    }
}

impl<T: Eq + Hash + ?Sized> Shared<T> {
    /// The one value that is equal to this.
    pub fn one(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        if let Some(known) = self.known.get(value.borrow()) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.bound {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.bound = FEW.max(self.known.len() * 2);
        }
        let value = value.into();
        self.known.insert(Arc::clone(&value));
        value
    }
}

/// 128 bits for a value, under two keys of this process: nobody can make two values that get the same.
#[derive(Debug, Default)]
pub struct Fingerprints([RandomState; 2]);

/// What stands for a value.
pub type Fingerprint = [u64; 2];

impl Fingerprints {
    /// Of a value.
    pub fn of(&self, value: &(impl Hash + ?Sized)) -> Fingerprint {
        self.0.each_ref().map(|key| key.hash_one(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_unused_ones_are_forgotten() {
        let mut shared = Shared::<String>::default();
        let (one, two, other) =
            (shared.one("a".to_owned()), shared.one(Arc::new("a".to_owned())), shared.one("b".to_owned()));
        assert!(Arc::ptr_eq(&one, &two) && !Arc::ptr_eq(&one, &other));
        for n in 0..10 * FEW {
            shared.one(n.to_string());
        }
        assert!(shared.known.len() <= FEW && shared.known.contains(&one), "{}", shared.known.len());
    }

    #[test]
    fn a_fingerprint_is_of_the_value_and_of_the_process() {
        let (here, there) = (Fingerprints::default(), Fingerprints::default());
        assert_eq!(here.of("a"), here.of("a"));
        assert!(here.of("a") != here.of("b") && here.of("a") != there.of("a"));
    }
}
