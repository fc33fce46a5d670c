//! Random packets, policies and waits, against a reference that keeps flows in its own way: one value for both
//! directions, no maps, no entries.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

in_both_families! {
    every_packet_passes_or_not_as_the_reference_says,
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A packet: way, peer, protocol, port of the pod and of the peer, flags of TCP.
    Packet(Way, u16, u8, u16, u16, u8),
    /// Rules of both sets, which directions are isolated, which only audit.
    Policy(Vec<(bool, u16, u8, u16)>, [bool; 2], [bool; 2]),
    /// Seconds.
    Wait(u32),
}

/// Peers that have a class of their own, by their number; others are the world's.
const CLASSED: [u16; 2] = [3, 4];
const PEERS: [u16; 3] = [3, 4, 5];
const PORTS: [u16; 3] = [80, 81, 4000];
const QUERY: u8 = 0;

fn step() -> impl Strategy<Value = Step> {
    let way = prop_oneof![Just(Way::Out), Just(Way::In)];
    let proto = || prop::sample::select(vec![TCP, TCP, UDP, SCTP, GRE, QUERY]);
    let port = || prop::sample::select(PORTS.to_vec());
    let flags = prop::sample::select(vec![OPENS, OPENS, 0x12, 0x10, 0x10, 0x11, 0x04]);
    let rule = (
        any::<bool>(),
        prop::sample::select(vec![0, 3, 4]),
        proto(),
        prop::sample::select(vec![0, 80, 81, 4000]),
    );
    let wait = prop::sample::select(vec![1, 5, 12, 70, 130, 7 * 3600]);
    prop_oneof![
        12 => (way, prop::sample::select(PEERS.to_vec()), proto(), port(), port(), flags)
            .prop_map(|(way, peer, proto, own, theirs, flags)| Step::Packet(way, peer, proto, own, theirs, flags)),
        2 => (prop::collection::vec(rule, 0..6), any::<[bool; 2]>(), prop::array::uniform2(prop::bool::weighted(0.2)))
            .prop_map(|(rules, isolated, audit)| Step::Policy(rules, isolated, audit)),
        2 => wait.prop_map(Step::Wait),
    ]
}

/// A flow as the reference has it.
#[derive(Clone, Debug)]
struct Known {
    begun: Way,
    ends: (u16, u8, u16, u16),
    /// By direction, the flow's own first: when it was last used, and whether since it was begun.
    last: [u32; 2],
    used: [bool; 2],
    ended: bool,
    /// The policies that each direction was last asked about.
    asked: [u16; 2],
}

#[derive(Default)]
struct Reference {
    now: u32,
    revision: u16,
    isolated: [bool; 2],
    audit: [bool; 2],
    rules: Vec<(bool, u16, u8, u16)>,
    flows: Vec<Known>,
}

impl Reference {
    fn is_alive(&self, flow: &Known) -> bool {
        (0..2).any(|direction| {
            let seconds = match (flow.ended, flow.used[direction], flow.ends.1) {
                (true, ..) => 10,
                (_, false, _) => 60,
                (_, _, TCP) => 6 * 3600,
                _ => 120,
            };
            self.now - flow.last[direction] < ticks(seconds)
        })
    }

    fn allows(&self, begun: Way, (peer, proto, own, theirs): (u16, u8, u16, u16)) -> bool {
        let (ingress, port) = match begun {
            Way::In => (true, own),
            Way::Out => (false, theirs),
        };
        let direction = usize::from(ingress);
        if !self.isolated[direction] || self.audit[direction] {
            return true;
        }
        let has_ports = [TCP, UDP, SCTP].contains(&proto);
        self.rules.iter().any(|&(of_ingress, of_peer, of_proto, of_port)| {
            of_ingress == ingress
                && (of_peer == 0 || of_peer == peer)
                && (of_proto == QUERY || of_proto == proto && (of_port == 0 || has_ports && of_port == port))
        })
    }

    fn packet(&mut self, way: Way, ends: (u16, u8, u16, u16), flags: u8) -> bool {
        if self.isolated == [false; 2] {
            // Nobody looks, but what is known is noted.
            if let Some(index) = self.find(ends) {
                self.note(index, way, flags);
            }
            return true;
        }
        let opens = ends.1 == TCP && flags == OPENS;
        if let Some(index) = self.find(ends) {
            let flow = &self.flows[index];
            let direction = usize::from(flow.begun != way);
            if !(opens && (direction == 1 || flow.ended)) && self.is_alive(flow) {
                if flow.asked[direction] != self.revision && !self.allows(flow.begun, ends) {
                    return false;
                }
                self.flows[index].asked[direction] = self.revision;
                self.note(index, way, flags);
                return true;
            }
        }
        if !self.allows(way, ends) {
            return false;
        }
        self.flows.retain(|flow| flow.ends != ends);
        let (last, asked) = ([self.now; 2], [self.revision; 2]);
        self.flows.push(Known { begun: way, ends, last, used: [false; 2], ended: false, asked });
        true
    }

    fn find(&self, ends: (u16, u8, u16, u16)) -> Option<usize> {
        self.flows.iter().position(|flow| flow.ends == ends)
    }

    fn note(&mut self, index: usize, way: Way, flags: u8) {
        let (now, flow) = (self.now, &mut self.flows[index]);
        let direction = usize::from(flow.begun != way);
        flow.last[direction] = now;
        flow.used[direction] = true;
        flow.ended |= flow.ends.1 == TCP && flags & 0x05 != 0;
    }
}

/// The same on the maps.
struct Real<A> {
    maps: Memory<A>,
    word: PolicyWord,
}

impl<A: Book> Real<A> {
    fn policy(&mut self, rules: &[(bool, u16, u8, u16)], isolated: [bool; 2], audit: [bool; 2]) {
        let revision = self.word.revision + 1;
        self.maps.sets.clear();
        self.maps.rules.clear();
        let mut set = |direction: usize| {
            let set = u32::from(revision) * 2 + direction as u32;
            let bits = 0xff | if audit[direction] { AUDIT } else { 0 };
            self.maps.sets.insert(set, SetHead::new(set, bits, 0));
            for &(ingress, peer, proto, port) in rules {
                if usize::from(ingress) != direction {
                    continue;
                }
                let port = if proto == QUERY { 0 } else { port };
                let class = if peer == 0 { ANY_CLASS } else { u32::from(peer) + 10 };
                self.maps.rules.insert(rule(set, class, proto, port));
            }
            if isolated[direction] { set } else { NO_SET }
        };
        self.word = PolicyWord { egress: set(0), ingress: set(1), revision };
    }

    fn packet(&self, way: Way, (peer, proto, own, theirs): (u16, u8, u16, u16), flags: u8) -> bool {
        let (here, there) = (pod::<A>(own), at::<A>(peer, theirs));
        let (src, dst) = if way == Way::Out { (here, there) } else { (there, here) };
        let frame = if proto == QUERY {
            let question = if src.is_ipv6() { 128 } else { 8 };
            icmp(src.ip(), dst.ip(), question, &[0, 80, 0, 1])
        } else {
            Frame { tcp_flags: flags, ..Frame::new(proto, src, dst) }.bytes()
        };
        judge(&self.maps, self.word, way, Origin::Other, &frame).is_ok()
    }
}

fn every_packet_passes_or_not_as_the_reference_says<A: Book>() {
    let (passed, dropped) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig::with_cases(1500);
    proptest!(config, |(steps in prop::collection::vec(step(), 1..60))| {
        let mut real = Real { maps: maps::<A>(), word: PolicyWord::OPEN };
        real.maps.classes = CLASSED.map(|peer| (A::of(A::example(peer)), u32::from(peer) + 10)).into();
        let mut reference = Reference { now: real.maps.now.get(), ..Reference::default() };
        for step in steps {
            match step.clone() {
                Step::Wait(seconds) => {
                    wait(&real.maps, seconds);
                    reference.now = real.maps.now.get();
                }
                Step::Policy(rules, isolated, audit) => {
                    real.policy(&rules, isolated, audit);
                    reference.revision += 1;
                    (reference.rules, reference.isolated, reference.audit) = (rules, isolated, audit);
                }
                Step::Packet(way, peer, proto, own, theirs, flags) => {
                    // What has no ports has one flow with each peer.
                    let (own, theirs) = if proto == GRE || proto == QUERY { (0, 0) } else { (own, theirs) };
                    let ends = (peer, proto, own, theirs);
                    let expected = reference.packet(way, ends, flags);
                    prop_assert_eq!(real.packet(way, ends, flags), expected, "{:?}", step);
                    let counter = if expected { &passed } else { &dropped };
                    counter.set(counter.get() + 1);
                }
            }
        }
    });
    let seen = (passed.get(), dropped.get());
    assert!(seen.0 > 1000 && seen.1 > 1000, "{seen:?}: each must be seen often");
}
