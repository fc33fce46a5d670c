//! Selection on maps of plain memory.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
};

use proptest::prelude::*;

use super::*;
use crate::words::{MASQUERADE, ticks};

#[derive(Default)]
struct Memory {
    heads: Vec<Head>,
    slots: Vec<Handle>,
    backends: Vec<Backend>,
    affinity: RefCell<HashMap<AffinityKey, AffinityValue>>,
    random: Cell<u64>,
    now: Cell<u32>,
    allowed: Option<u32>,
}

impl Tables for Memory {
    fn frontend(&self, _key: &FrontendKey) -> Option<u32> {
        None
    }
    fn is_node_address(&self, _address: u32) -> bool {
        false
    }
    fn address(&self, _handle: Handle, backend: &Backend) -> Option<u32> {
        Some(backend.addr_be())
    }
    fn head(&self, index: u32) -> Option<Head> {
        self.heads.get(index as usize).copied()
    }
    fn handle(&self, row: u32, lane: u32) -> Option<Handle> {
        self.slots.get((row * ROW + lane) as usize).copied()
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        self.backends.get(index as usize).copied()
    }
    fn affinity(&self, key: AffinityKey) -> Option<AffinityValue> {
        self.affinity.borrow().get(&key).copied()
    }
    fn remember(&self, value: AffinityValue) {
        self.affinity.borrow_mut().insert(value.key, value);
    }
    fn touch(&self, key: AffinityKey, now: u32) {
        if let Some(value) = self.affinity.borrow_mut().get_mut(&key) {
            value.last = now;
        }
    }
    fn in_source_range(&self, _service: u32, client_be: u32) -> bool {
        self.allowed == Some(client_be)
    }
    fn random(&self) -> u32 {
        // SplitMix64: what matters is that it is uniform.
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
    }
    fn now(&self) -> u32 {
        self.now.get()
    }
}

const SERVICE: u32 = 6;

/// One set of `count` backends behind head 0, its rows starting at row 2.
fn memory(count: u16, flags: u16) -> Memory {
    let publish = Publish { row: 2, slots: count, flags, epoch: 0 };
    let handle = |index: u32| Handle::new(index, 3);
    let pad = vec![Handle(0); 2 * ROW as usize];
    Memory {
        heads: vec![Head { word: publish.pack(), aux: Head::aux(SERVICE, ticks(10)) }],
        slots: pad.into_iter().chain((0..u32::from(count)).map(handle)).collect(),
        backends: (0..u32::from(count)).map(|index| Backend::new(index, 80, 3, 0, SERVICE)).collect(),
        ..Memory::default()
    }
}

fn chosen(memory: &Memory, client: u32) -> Chosen {
    match select(memory, 0, || client) {
        Selection::Chosen(chosen) => chosen,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn scaling_stays_below(random: u32, slots in 1..u16::MAX) {
        prop_assert!(scale(random, slots) < u32::from(slots));
    }

    #[test]
    fn every_backend_gets_its_share(count in 1..70_u16, seed: u64) {
        let memory = memory(count, 0);
        memory.random.set(seed);
        let mut hits = BTreeMap::new();
        let draws = u32::from(count) * 400;
        for _ in 0..draws {
            *hits.entry(chosen(&memory, 1).handle.index()).or_insert(0_u32) += 1;
        }
        prop_assert_eq!(hits.len(), usize::from(count));
        // 400 expected, standard deviation 20: eight of them never happen.
        prop_assert!(hits.values().all(|&hits| (240..560).contains(&hits)) || count == 1, "{:?}", hits);
    }
}

#[test]
fn an_empty_set_refuses_or_drops() {
    assert_eq!(select(&memory(0, 0), 0, || 1), Selection::Refuse);
    assert_eq!(select(&memory(0, EMPTY_DROP), 0, || 1), Selection::Drop(Reason::NoLocalEndpoint));
    assert_eq!(select(&memory(1, 0), 9, || 1), Selection::Refuse, "an index without a head");
}

#[test]
fn flags_and_service_are_told() {
    let chosen = chosen(&memory(2, MASQUERADE), 1);
    assert_eq!((chosen.flags, chosen.service), (MASQUERADE, SERVICE));
}

#[test]
fn a_client_is_bound_and_others_are_not() {
    let memory = memory(8, AFFINITY);
    let first = chosen(&memory, 1).handle;
    assert!((0..100).all(|_| chosen(&memory, 1).handle == first));
    assert!((2..50).any(|client| chosen(&memory, client).handle != first));
}

#[test]
fn the_timeout_counts_from_the_last_connection() {
    let memory = memory(64, AFFINITY);
    let first = chosen(&memory, 1).handle;
    for _ in 0..20 {
        memory.now.set(memory.now.get() + ticks(10) - 1);
        assert_eq!(chosen(&memory, 1).handle, first);
    }
    let rebound = (0..20).any(|_| {
        memory.now.set(memory.now.get() + ticks(10));
        chosen(&memory, 1).handle != first
    });
    assert!(rebound);
}

#[test]
fn a_binding_ends_with_its_backend() {
    let mut memory = memory(2, AFFINITY);
    let first = chosen(&memory, 1).handle;
    let index = first.index() as usize;
    memory.backends[index] = memory.backends[index].dead();
    let other = chosen(&memory, 1).handle;
    assert_ne!(other, first, "dead");
    let again = chosen(&memory, 1).handle;
    assert_eq!(again, other, "bound anew");
}

/// The backends chosen over many draws, each with `remembered` as what the table has for `key`.
fn drawn(memory: &Memory, key: AffinityKey, remembered: AffinityValue) -> BTreeSet<u32> {
    (0..64)
        .map(|seed| {
            memory.random.set(seed);
            memory.affinity.borrow_mut().insert(key, remembered);
            chosen(memory, key.client_be).handle.index()
        })
        .collect()
}

/// An index was freed and given to another service, and its generation has come round.
#[test]
fn a_binding_to_another_services_backend_is_void() {
    let mut memory = memory(2, AFFINITY);
    memory.backends.push(Backend::new(9, 80, 3, 0, SERVICE + 1));
    let key = AffinityKey { client_be: 1, service: SERVICE };
    let foreign = AffinityValue { handle: Handle::new(2, 3).0, last: 0, key };
    assert_eq!(drawn(&memory, key, foreign), [0, 1].into());
    // The same binding counts as soon as the backend is the service's own: nothing else made it void.
    memory.backends[2] = Backend::new(9, 80, 3, 0, SERVICE);
    assert_eq!(drawn(&memory, key, foreign), [2].into());
}

#[test]
fn a_recycled_element_does_not_decide() {
    let memory = memory(2, AFFINITY);
    let key = AffinityKey { client_be: 1, service: SERVICE };
    let stolen =
        AffinityValue { handle: Handle::new(0, 3).0, last: 0, key: AffinityKey { client_be: 2, ..key } };
    assert_eq!(drawn(&memory, key, stolen), [0, 1].into());
    assert_eq!(drawn(&memory, key, AffinityValue { key, ..stolen }), [0].into(), "whose own binding is one");
}

#[test]
fn a_local_set_ignores_a_binding_to_a_remote_backend() {
    let mut memory = memory(2, AFFINITY | LOCAL_ONLY);
    memory.backends[1] = Backend::new(1, 80, 3, LOCAL, SERVICE);
    memory.slots.truncate(2 * ROW as usize);
    memory.slots.push(Handle::new(1, 3));
    memory.heads[0].word = Publish { slots: 1, ..Publish::unpack(memory.heads[0].word) }.pack();
    let key = AffinityKey { client_be: 1, service: SERVICE };
    memory.remember(AffinityValue { handle: Handle::new(0, 3).0, last: 0, key });
    assert_eq!(chosen(&memory, 1).handle.index(), 1);
}

#[test]
fn source_ranges_bind_everybody_but_the_node() {
    let memory = Memory { allowed: Some(7), ..memory(1, SOURCE_RANGES) };
    assert_eq!(select(&memory, 0, || 8), Selection::Drop(Reason::SourceRange));
    assert_eq!(chosen(&memory, 7).handle.index(), 0);
    assert_eq!(chosen(&memory, 0).handle.index(), 0);
}

#[test]
fn a_stale_slot_is_skipped_and_a_set_of_them_counted() {
    let mut memory = memory(2, 0);
    memory.backends[0] = memory.backends[0].dead();
    let mut stale = 0;
    for _ in 0..200 {
        match select(&memory, 0, || 1) {
            Selection::Chosen(chosen) => assert_eq!(chosen.handle.index(), 1),
            Selection::Drop(Reason::StaleSlot) => stale += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(stale < 60, "three tries miss a live half one time in eight: {stale} of 200");
}

/// A look-up that most connections do not need.
#[test]
fn only_a_set_that_cares_asks_who_the_client_is() {
    let asks = |flags| {
        let asked = Cell::new(0);
        let memory = Memory { allowed: Some(7), ..memory(2, flags) };
        let selection = select(&memory, 0, || {
            asked.set(asked.get() + 1);
            7
        });
        assert!(matches!(selection, Selection::Chosen(_)));
        asked.get()
    };
    assert_eq!([0, MASQUERADE, AFFINITY, SOURCE_RANGES, AFFINITY | SOURCE_RANGES].map(asks), [0, 0, 1, 1, 1]);
}
