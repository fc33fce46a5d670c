//! Allocators for what the maps are indexed by. Plain data: no clock of their own, no map.

use std::collections::{BTreeMap, VecDeque};

/// Hands out indices below a capacity. A freed index goes to the back of a queue, so that it rests as long as
/// possible before it means something else; callers free only after a grace period.
#[derive(Debug)]
pub(super) struct Indices {
    next: u32,
    capacity: u32,
    free: VecDeque<u32>,
    /// Freed indices kept back while unused ones are left.
    rest: usize,
}

impl Indices {
    pub(super) fn new(capacity: u32, rest: usize) -> Self {
        Self { next: 0, capacity, free: VecDeque::new(), rest }
    }

    /// A free index.
    pub(super) fn allocate(&mut self) -> Option<u32> {
        if self.free.len() > self.rest || self.next == self.capacity {
            return self.free.pop_front();
        }
        self.next += 1;
        Some(self.next - 1)
    }

    /// Takes back an index.
    pub(super) fn release(&mut self, index: u32) {
        self.free.push_back(index);
    }

    /// Starts with `used` taken; what lies between is free.
    pub(super) fn restore(&mut self, mut used: Vec<u32>) {
        used.sort_unstable();
        used.dedup();
        self.free.clear();
        self.next = 0;
        for index in used {
            self.free.extend(self.next..index);
            self.next = index + 1;
        }
    }

    pub(super) fn in_use(&self) -> u32 {
        self.next - self.free.len() as u32
    }

    /// Every index that was ever handed out is below.
    pub(super) fn end(&self) -> u32 {
        self.next
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }
}

/// A run of rows in the slot table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// First row.
    pub(super) start: u32,
    /// Rows; 0 is the extent of an empty set.
    pub(super) rows: u32,
}

/// First-fit allocator of extents; neighbours coalesce. Most sets are one row, so the first hole fits.
#[derive(Debug)]
pub(super) struct Extents {
    /// Start to length of each hole.
    holes: BTreeMap<u32, u32>,
    free: u32,
    capacity: u32,
}

impl Extents {
    pub(super) fn new(capacity: u32) -> Self {
        Self { holes: BTreeMap::from([(0, capacity)]), free: capacity, capacity }
    }

    /// `rows` rows in one piece; none for an empty set.
    pub(super) fn allocate(&mut self, rows: u32) -> Option<Extent> {
        if rows == 0 {
            return Some(Extent::default());
        }
        let (&start, &length) = self.holes.iter().find(|&(_, &length)| length >= rows)?;
        self.holes.remove(&start);
        if length > rows {
            self.holes.insert(start + rows, length - rows);
        }
        self.free -= rows;
        Some(Extent { start, rows })
    }

    /// Takes `extent` out of the holes: it is in use since before this process.
    pub(super) fn reserve(&mut self, extent: Extent) -> bool {
        if extent.rows == 0 {
            return true;
        }
        let end = extent.start + extent.rows;
        let Some((&start, &length)) = self.holes.range(..=extent.start).next_back() else { return false };
        if start + length < end {
            return false;
        }
        self.holes.remove(&start);
        if start < extent.start {
            self.holes.insert(start, extent.start - start);
        }
        if end < start + length {
            self.holes.insert(end, start + length - end);
        }
        self.free -= extent.rows;
        true
    }

    /// Gives an extent back.
    pub(super) fn release(&mut self, extent: Extent) {
        if extent.rows == 0 {
            return;
        }
        self.free += extent.rows;
        let (mut start, mut rows) = (extent.start, extent.rows);
        if let Some(after) = self.holes.remove(&(start + rows)) {
            rows += after;
        }
        if let Some((&before, &length)) = self.holes.range(..start).next_back()
            && before + length == start
        {
            self.holes.remove(&before);
            start = before;
            rows += length;
        }
        self.holes.insert(start, rows);
    }

    pub(super) fn in_use(&self) -> u32 {
        self.capacity - self.free
    }

    /// Every row in use is below.
    pub(super) fn end(&self) -> u32 {
        match self.holes.last_key_value() {
            Some((&start, &length)) if start + length == self.capacity => start,
            _ => self.capacity,
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn extents_never_overlap_and_all_come_back(steps in proptest::collection::vec((any::<bool>(), 0..9_u32), 1..200)) {
            let mut extents = Extents::new(64);
            let mut held: Vec<Extent> = Vec::new();
            for (allocate, size) in steps {
                if allocate {
                    if let Some(extent) = extents.allocate(size) {
                        for other in held.iter().filter(|other| other.rows > 0 && extent.rows > 0) {
                            prop_assert!(extent.start + extent.rows <= other.start || other.start + other.rows <= extent.start);
                        }
                        prop_assert!(extent.start + extent.rows <= 64);
                        held.push(extent);
                    }
                } else if !held.is_empty() {
                    extents.release(held.swap_remove(size as usize % held.len()));
                }
                prop_assert_eq!(extents.in_use(), held.iter().map(|extent| extent.rows).sum::<u32>());
                let last = held.iter().map(|extent| extent.start + extent.rows).max();
                prop_assert_eq!(extents.end(), last.unwrap_or_default());
            }
            for extent in held {
                extents.release(extent);
            }
            prop_assert_eq!(extents.allocate(64), Some(Extent { start: 0, rows: 64 }));
        }

        #[test]
        fn restored_indices_are_not_handed_out(used in proptest::collection::vec(0..32_u32, 0..20)) {
            let mut indices = Indices::new(32, 0);
            indices.restore(used.clone());
            let mut rest: Vec<u32> = std::iter::from_fn(|| indices.allocate()).collect();
            rest.sort_unstable();
            prop_assert_eq!(Indices::end(&indices), 32);
            let expected: Vec<u32> = (0..32).filter(|index| !used.contains(index)).collect();
            prop_assert_eq!(rest, expected);
        }
    }

    #[test]
    fn a_reserved_extent_is_not_handed_out() {
        let mut extents = Extents::new(8);
        assert!(extents.reserve(Extent { start: 2, rows: 3 }));
        assert!(!extents.reserve(Extent { start: 4, rows: 1 }), "taken");
        assert_eq!(extents.allocate(3), Some(Extent { start: 5, rows: 3 }));
        assert_eq!(extents.allocate(2), Some(Extent { start: 0, rows: 2 }));
        assert_eq!(extents.allocate(1), None);
    }

    #[test]
    fn a_freed_index_rests() {
        let mut indices = Indices::new(4, 2);
        assert_eq!(indices.allocate(), Some(0));
        indices.release(0);
        assert_eq!(indices.allocate(), Some(1), "0 rests while others are unused");
        assert_eq!(indices.allocate(), Some(2));
        assert_eq!(indices.allocate(), Some(3));
        assert_eq!(indices.allocate(), Some(0), "nothing else is left");
        assert_eq!(indices.allocate(), None);
    }
}
