//! How many may wait for something at one time: all together, and those of one address. A pod that asks without end
//! uses up its own share, not the node's memory, and nobody else's patience.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Limits {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// One place, for as long as it is held.
#[derive(Debug)]
pub(super) struct Place {
    limits: Arc<Limits>,
    of: IpAddr,
}

impl Limits {
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all, each, taken: Mutex::default() })
    }

    /// A place for this address; `None` when there is none.
    pub(super) fn enter(self: &Arc<Self>, of: IpAddr) -> Option<Place> {
        let mut taken = self.lock();
        let by = taken.by.get(&of).copied().unwrap_or(0);
        if taken.all >= self.all || by >= self.each {
            return None;
        }
        taken.all += 1;
        taken.by.insert(of, by + 1);
        Some(Place { limits: Arc::clone(self), of })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.limits.lock();
        taken.all -= 1;
        if let Some(by) = taken.by.get_mut(&self.of) {
            *by -= 1;
            if *by == 0 {
                taken.by.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_everybodys_places() {
        let (a, b): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let limits = Limits::new(3, 2);
        let mut held = vec![limits.enter(a).unwrap(), limits.enter(a).unwrap()];
        assert!(limits.enter(a).is_none(), "its share is used up");
        held.push(limits.enter(b).unwrap());
        assert!(limits.enter(b).is_none(), "all are used up");
        held.clear();
        assert!(limits.lock().by.is_empty() && limits.lock().all == 0, "nothing is remembered of who left");
        assert!(limits.enter(a).is_some());
    }
}
