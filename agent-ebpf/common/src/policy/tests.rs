//! The ladder on maps of plain memory, in both families.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    abi::{TCP, UDP},
    testing::{Book, in_both_families},
};

const SCTP: u8 = 132;
const SET: u32 = 7;
const PEERS: u32 = 40;

/// Prefixes of the world are kept as the addresses in them: what a trie finds is not what is tested here.
struct Memory<A> {
    peers: BTreeMap<PeerKey<A>, Tagged>,
    words: BTreeMap<u32, Tagged>,
    world: BTreeMap<A, u32>,
    sets: BTreeMap<u32, SetHead>,
    rules: BTreeMap<RuleKey, Tagged>,
    /// Set, class, protocol, first and last port.
    ranges: Vec<(u32, u32, u8, u16, u16, u32)>,
}

impl<A: Book> Memory<A> {
    fn with(bits: u32) -> Self {
        let mut memory = Self {
            peers: BTreeMap::new(),
            words: BTreeMap::new(),
            world: BTreeMap::new(),
            sets: BTreeMap::from([(SET, SetHead::new(SET, bits, 0))]),
            rules: BTreeMap::new(),
            ranges: Vec::new(),
        };
        memory.put_peer(A::of(A::example(1)), 3, PEERS);
        memory.world.insert(A::of(A::example(2)), PEERS + 1);
        memory
    }

    fn put_peer(&mut self, addr_be: A, index: u32, class: u32) {
        let key = PeerKey { addr_be };
        self.peers.insert(key, Tagged::new(&key, index));
        self.words.insert(index, Tagged::new(&key, class));
    }

    fn allow(&mut self, class: u32, proto: u8, port: u16, rule: u32) {
        let key = RuleKey { set: SET, class, port_be: port.to_be(), proto, pad: 0 };
        self.rules.insert(key, Tagged::new(&key, rule));
    }

    fn ask(&self, peer: u16, proto: u8, port: u16) -> Verdict {
        verdict(self, SET, A::of(A::example(peer)), Target { proto, port_be: port.to_be() })
    }
}

impl<A: Book> Policies<A> for Memory<A> {
    fn peer(&self, key: &PeerKey<A>) -> Option<u32> {
        self.peers.get(key)?.of(key)
    }
    fn peer_word(&self, index: u32) -> Option<Tagged> {
        self.words.get(&index).copied()
    }
    fn world(&self, addr_be: A) -> Option<u32> {
        self.world.get(&addr_be).copied()
    }
    fn set(&self, set: u32) -> Option<SetHead> {
        self.sets.get(&set).copied()
    }
    fn rule(&self, key: &RuleKey) -> Option<u32> {
        self.rules.get(key)?.of(key)
    }
    fn range(&self, key: &RangeKey) -> Option<u32> {
        let port = u16::from_be(key.port_be);
        let found = self.ranges.iter().find(|(set, class, proto, first, last, _)| {
            (*set, *class, *proto) == (key.set, key.class, key.proto) && (*first..=*last).contains(&port)
        });
        found.map(|range| range.5)
    }
}

const DENIED: Verdict = Verdict::Denied(Denial::NotAllowed);

fn an_address_has_its_own_class_or_its_prefixs_or_the_worlds<A: Book>() {
    let memory = Memory::<A>::with(0);
    let class = |number| class(&memory, A::of(A::example(number)));
    assert_eq!((class(1), class(2), class(3)), (PEERS, PEERS + 1, WORLD_CLASS));
}

fn an_exact_peer_goes_before_its_prefix<A: Book>() {
    let mut memory = Memory::<A>::with(0);
    memory.world.insert(A::of(A::example(1)), PEERS + 1);
    assert_eq!(class(&memory, A::of(A::example(1))), PEERS);
}

/// The index was given to another address under the reader: what it finds there is not its class.
fn a_word_of_another_address_is_not_taken<A: Book>() {
    let mut memory = Memory::<A>::with(0);
    let other = PeerKey { addr_be: A::of(A::example(9)) };
    memory.words.insert(3, Tagged::new(&other, PEERS + 2));
    assert_eq!(class(&memory, A::of(A::example(1))), WORLD_CLASS);
}

fn each_step_of_the_ladder_allows_what_it_says_and_no_more<A: Book>() {
    let mut memory = Memory::<A>::with(CLASS_PORT);
    memory.allow(PEERS, TCP, 80, 1);
    assert_eq!(memory.ask(1, TCP, 80), Verdict::Allowed(1));
    for other in
        [memory.ask(1, TCP, 81), memory.ask(1, SCTP, 80), memory.ask(2, TCP, 80), memory.ask(3, TCP, 80)]
    {
        assert_eq!(other, DENIED);
    }

    let mut memory = Memory::<A>::with(CLASS_PROTO);
    memory.allow(PEERS, UDP, 0, 2);
    assert_eq!(memory.ask(1, UDP, 53), Verdict::Allowed(2));
    // A later fragment whose first nobody saw, and a protocol that no rule names.
    assert_eq!((memory.ask(1, UDP, 0), memory.ask(1, A::ICMP, 0)), (Verdict::Allowed(2), DENIED));
    assert_eq!((memory.ask(1, TCP, 53), memory.ask(2, UDP, 53)), (DENIED, DENIED));

    let mut memory = Memory::<A>::with(CLASS_ALL);
    memory.allow(PEERS + 1, 0, 0, 3);
    assert_eq!(
        (memory.ask(2, A::ICMP, 0), memory.ask(2, TCP, 9)),
        (Verdict::Allowed(3), Verdict::Allowed(3))
    );
    assert_eq!(memory.ask(1, TCP, 9), DENIED);

    let mut memory = Memory::<A>::with(CLASS_RANGE);
    memory.ranges.push((SET, PEERS, TCP, 100, 200, 4));
    assert_eq!((memory.ask(1, TCP, 200), memory.ask(1, TCP, 201)), (Verdict::Allowed(4), DENIED));
    assert_eq!((memory.ask(1, UDP, 150), memory.ask(3, TCP, 150)), (DENIED, DENIED));

    let mut memory = Memory::<A>::with(ANY_PORT | ANY_RANGE);
    memory.allow(ANY_CLASS, SCTP, 5, 5);
    memory.ranges.push((SET, ANY_CLASS, TCP, 7, 7, 6));
    assert_eq!((memory.ask(3, SCTP, 5), memory.ask(1, SCTP, 5)), (Verdict::Allowed(5), Verdict::Allowed(5)));
    assert_eq!((memory.ask(3, TCP, 7), memory.ask(3, TCP, 5)), (Verdict::Allowed(6), DENIED));

    let mut memory = Memory::<A>::with(ANY_PROTO);
    memory.allow(ANY_CLASS, TCP, 0, 7);
    assert_eq!((memory.ask(3, TCP, 5), memory.ask(3, UDP, 5)), (Verdict::Allowed(7), DENIED));

    let mut memory = Memory::<A>::with(ANY_ALL);
    memory.allow(ANY_CLASS, 0, 0, 8);
    assert_eq!(
        (memory.ask(3, UDP, 5), memory.ask(1, A::ICMP, 0)),
        (Verdict::Allowed(8), Verdict::Allowed(8))
    );
}

/// A port that is not known is no wildcard, whatever rules there are for ports.
fn an_unknown_port_is_allowed_by_rules_without_ports_alone<A: Book>() {
    let mut memory = Memory::<A>::with(CLASS_PORT | CLASS_RANGE | ANY_PORT | ANY_RANGE);
    for class in [PEERS, ANY_CLASS] {
        memory.allow(class, TCP, 80, 1);
        // Not written by any compiler: the look-up must not be made.
        memory.allow(class, TCP, 0, 2);
        memory.ranges.push((SET, class, TCP, 0, 65535, 3));
    }
    assert_eq!(memory.ask(1, TCP, 0), DENIED);
}

fn what_is_missing_or_not_its_own_denies<A: Book>() {
    let mut memory = Memory::<A>::with(ANY_ALL);
    memory.allow(ANY_CLASS, 0, 0, 8);
    let ask = |memory: &Memory<A>, set| {
        verdict(memory, set, A::of(A::example(1)), Target { proto: TCP, port_be: 1 })
    };
    assert_eq!(ask(&memory, NO_SET), Verdict::Open);
    assert_eq!(ask(&memory, UNKNOWN_SET), Verdict::Denied(Denial::NotKnown));
    assert_eq!(ask(&memory, SET + 1), Verdict::Denied(Denial::NoSet));
    // Another set's head, and an element that was never written.
    for head in [SetHead::new(SET + 1, ANY_ALL, 0), SetHead::default()] {
        memory.sets.insert(SET, head);
        assert_eq!(ask(&memory, SET), Verdict::Denied(Denial::NoSet));
    }
}

fn audit_passes_what_no_rule_allows_and_says_so<A: Book>() {
    let mut memory = Memory::<A>::with(AUDIT | CLASS_PORT);
    memory.allow(PEERS, TCP, 80, 1);
    assert_eq!((memory.ask(1, TCP, 80), memory.ask(1, TCP, 81)), (Verdict::Allowed(1), Verdict::Audited));
    assert!(memory.ask(1, TCP, 81).passes() && memory.ask(1, TCP, 80).passes() && !DENIED.passes());
    // A set that is not there is no set in audit mode.
    memory.sets.clear();
    assert_eq!(memory.ask(1, TCP, 80), Verdict::Denied(Denial::NoSet));
}

in_both_families!(
    an_address_has_its_own_class_or_its_prefixs_or_the_worlds,
    an_exact_peer_goes_before_its_prefix,
    a_word_of_another_address_is_not_taken,
    each_step_of_the_ladder_allows_what_it_says_and_no_more,
    an_unknown_port_is_allowed_by_rules_without_ports_alone,
    what_is_missing_or_not_its_own_denies,
    audit_passes_what_no_rule_allows_and_says_so,
);

proptest! {
    #[test]
    fn a_pods_word_survives_packing(ingress in 0..=UNKNOWN_SET, egress in 0..=UNKNOWN_SET, revision: u16) {
        let word = PolicyWord { ingress, egress, revision };
        prop_assert_eq!(PolicyWord::unpack(word.pack()), word);
    }

    #[test]
    fn rules_that_differ_in_one_field_are_told_apart(set: u32, class: u32, port_be: u16, proto: u8, by: u32, rule: u32) {
        let key = RuleKey { set, class, port_be, proto, pad: 0 };
        let others = [
            RuleKey { set: set ^ by, ..key },
            RuleKey { class: class ^ by, ..key },
            RuleKey { port_be: port_be ^ by as u16, ..key },
            RuleKey { proto: proto ^ by as u8, ..key },
        ];
        for other in others {
            prop_assert_eq!(Tagged::new(&other, rule).of(&key).is_some(), other == key);
        }
    }
}

#[test]
fn the_words_of_open_and_unknown_pods_are_as_written_down() {
    assert_eq!(PolicyWord::OPEN.pack(), 0);
    assert_eq!(PolicyWord::UNKNOWN.pack(), 0xffff_ffff_ffff_0000);
    assert!(!PolicyWord::OPEN.isolates() && PolicyWord::UNKNOWN.isolates());
}
