//! Random packets: most of them right, some cut short, garbled, tagged or of another kind; and what must hold of the
//! outcome of each.

use std::collections::BTreeMap;

use agent_ebpf_common::abi::{TCP, UDP};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::{
    frames::{
        ETHERNET, End, Frame, address, check, checksum_at, ends, fold, ip_fault, l4_at, l4_checksum,
        l4_fault, set_ip_checksum, sum,
    },
    model::{Model, Outcome, PROGRAMS, SERVICES, Service, View},
    *,
};

/// Two seconds' worth: model and programs agree for as long as no flow is over, which takes ten seconds of silence.
const PACKETS: usize = 20_000;
/// How many outcomes there are.
const KINDS: usize = 10;
/// Set to the number that a failed run has told, to have the same packets again.
const SEED: &str = "GANTRY_TEST_SEED";

struct Generator {
    random: StdRng,
}

impl Generator {
    fn one_in(&mut self, times: u32) -> bool {
        self.random.random_ratio(1, times)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.random).unwrap()
    }

    /// Protocol and ends: mostly of what a service's client sends or its backend answers.
    fn ends(&mut self, program: &'static str, model: &Model) -> (u8, End, End) {
        let service = self.pick(&SERVICES);
        let at_node = program == "uplink_in" || self.one_in(3);
        let dst = if at_node { (NODE, service.node_port) } else { service.vip };
        // Few enough that packets of one flow follow each other.
        let mut src =
            (self.pick(&[CLIENT, [10, 244, 0, 7], [198, 51, 100, 1]]), self.random.random_range(4000..4004));
        if let (Some(backend), true) = (service.backend, self.one_in(8)) {
            src.0 = backend.0;
        }
        let mut known: Vec<_> = model.flows.keys().filter(|(at, ..)| *at == program).collect();
        // A hash map's order is another one each time, the packets should not be.
        known.sort();
        match self.random.random_range(0..10) {
            0..4 if !known.is_empty() => {
                let &(_, proto, (src, dst)) = self.pick(&known);
                (proto, src, dst)
            }
            4 => (service.proto, src, (dst.0, dst.1 + 1)),
            5 => (TCP + UDP - service.proto, src, dst),
            6 => (service.proto, dst, src),
            _ => (service.proto, src, dst),
        }
    }

    /// The frames of one segment or datagram.
    fn frames(&mut self, program: &'static str, model: &Model) -> Vec<Vec<u8>> {
        let (proto, src, dst) = self.ends(program, model);
        let options: Vec<u8> =
            (0..self.random.random_range(1..=10) * 4).map(|_| self.random.random()).collect();
        let payload: Vec<u8> = (0..self.random.random_range(0..70)).map(|_| self.random.random()).collect();
        let frame = Frame {
            tcp_flags: self.pick(&[0x02, 0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14]),
            options: if self.one_in(4) { &options } else { &[] },
            payload: &payload,
            checksum: proto == TCP || !self.one_in(4),
            id: self.random.random_range(0..64),
            ..Frame::new(proto, src, dst)
        };
        let mut frames = if self.one_in(6) {
            let size = self.pick(&[8, 16, 24, 32]);
            frame.fragments(size)
        } else {
            vec![frame.bytes()]
        };
        if self.one_in(4) {
            frames.reverse();
        }
        for frame in &mut frames {
            if self.one_in(3) {
                self.spoil(frame);
            }
        }
        frames
    }

    /// Makes a packet wrong, or another kind of packet.
    fn spoil(&mut self, frame: &mut Vec<u8>) {
        let any = |this: &mut Self, length: usize| this.random.random_range(12..length.min(ETHERNET + 64));
        match self.random.random_range(0..9) {
            // Cut short. The kernel runs no test on less than an IP header of its version.
            0 | 1 => frame.truncate(self.random.random_range(34..=frame.len())),
            // More on the wire than in the packet.
            2 => frame.extend([0xee; 9]),
            // Wrong lengths, once with a checksum that agrees.
            3 => frame[16..18].fill(self.random.random()),
            4 => {
                frame[16..18].fill(self.random.random());
                set_ip_checksum(frame);
            }
            // One byte, to an extreme or to anything.
            5 | 6 => {
                let (at, other) = (any(self, frame.len()), self.random.random());
                frame[at] = self.pick(&[0, 1, 0x7f, 0xff, other]);
            }
            // A VLAN's tag, in front of a packet that is right.
            7 => drop(frame.splice(12..12, [0x81, 0, 0, 7])),
            // IPv6, GRE, SCTP, ICMP by their numbers, all else as in a packet for a service.
            _ => match self.pick(&[0, 47, 132, 1]) {
                0 => {
                    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
                    frame.resize(frame.len().max(ETHERNET + 40), 0);
                }
                proto => {
                    frame[23] = proto;
                    set_ip_checksum(frame);
                }
            },
        }
    }
}

/// Fails unless `out` is `frame` with these ends, as wrong or right as it was.
fn check_rewrite(frame: &[u8], out: &[u8], view: &View, (src, dst): (End, End)) {
    let l4 = l4_at(frame);
    let mut blind = [frame.to_vec(), out.to_vec()];
    blind[0][26..30].copy_from_slice(&src.0);
    blind[0][30..34].copy_from_slice(&dst.0);
    if !view.headless {
        blind[0][l4..l4 + 2].copy_from_slice(&src.1.to_be_bytes());
        blind[0][l4 + 2..l4 + 4].copy_from_slice(&dst.1.to_be_bytes());
        let at = l4 + checksum_at(view.proto);
        blind.iter_mut().for_each(|frame| frame[at..at + 2].fill(0));
    }
    blind.iter_mut().for_each(|frame| frame[24..26].fill(0));
    assert_eq!(blind[0], blind[1], "another byte than of the ends and the checksums");
    // Ones' complement has two zeros.
    let same = |a: u16, b: u16| a % 0xffff == b % 0xffff;
    assert!(same(ip_fault(frame), ip_fault(out)), "the IP checksum");
    if view.headless {
        return;
    }
    if view.proto == UDP && l4_checksum(frame) == [0, 0] {
        assert_eq!(l4_checksum(out), [0, 0], "a checksum where there was none");
    } else {
        assert!(same(l4_fault(frame), l4_fault(out)), "the checksum");
        assert!(view.proto == TCP || l4_checksum(out) != [0, 0], "no checksum any more");
    }
}

/// Fails unless `out` tells the sender of `frame` that nobody is there.
fn check_refusal(frame: &[u8], out: &[u8], view: &View) {
    check(out);
    assert_eq!((&out[..6], &out[6..12]), (&frame[6..12], &frame[..6]), "to the sender");
    assert_eq!((&out[26..30], &out[30..34]), (&frame[30..34], &frame[26..30]), "to the sender");
    if view.proto == TCP {
        assert_eq!((out.len(), out[23], ends(out)), (54, TCP, (view.ends.1, view.ends.0)));
        assert_ne!(out[47] & 4, 0, "a reset");
    } else {
        assert_eq!((out.len(), out[23], &out[34..36]), (70, 1, &[3, 3][..]), "port unreachable");
        assert_eq!(fold(sum(&out[34..])), 0, "the ICMP checksum");
        assert_eq!(out[42..], frame[14..42], "quotes what was refused");
    }
}

/// Runs one packet and fails unless all is as it should be. Returns what became of it.
fn try_one(bench: &Bench, model: &mut Model, program: &'static str, frame: &[u8]) -> Outcome {
    let expected = model.expect(program, frame);
    let before = bench.all_drops();
    let (verdict, out) = bench.run(program, frame);
    let after = bench.all_drops();
    let counted: Vec<&str> =
        before.iter().zip(&after).flat_map(|(a, b)| vec![a.0; (b.1 - a.1) as usize]).collect();
    let reasons: &[&str] = match &expected {
        Outcome::Refused => &["no_endpoint"],
        Outcome::Dropped(reason) => &[*reason],
        _ => &[],
    };
    assert_eq!(counted, reasons, "what the counters say");
    let verdict_for = match expected {
        Outcome::Untouched | Outcome::Rewritten(_) | Outcome::Disguised => PASS,
        Outcome::Back(_) | Outcome::Refused => REDIRECT,
        Outcome::Dropped(_) => DROP,
    };
    assert_eq!(verdict, verdict_for, "the verdict");
    if expected != Outcome::Refused {
        assert_eq!(out.len(), frame.len(), "the length");
    }
    // What is judged by its sender is not looked at any further.
    let view = if expected == Outcome::Dropped("spoofed") { None } else { model.view(program, frame) };
    let Some(view) = view else {
        assert_eq!(out, frame, "touched");
        return expected;
    };
    match expected {
        Outcome::Untouched => assert_eq!(out, frame, "touched"),
        Outcome::Rewritten(to) => check_rewrite(frame, &out, &view, to),
        Outcome::Back(to) => {
            let swapped = [&frame[6..12], &frame[..6], &frame[12..]].concat();
            check_rewrite(&swapped, &out, &view, to);
        }
        Outcome::Disguised if view.headless => {}
        Outcome::Disguised => {
            check_rewrite(frame, &out, &view, ends(&out));
            model.learn(&view, ends(&out));
        }
        Outcome::Refused => check_refusal(frame, &out, &view),
        Outcome::Dropped(_) => {}
    }
    expected
}

/// What to say of a packet when its test fails.
struct Case<'a> {
    seed: u64,
    number: usize,
    program: &'static str,
    frame: &'a [u8],
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        let Self { seed, number, program, frame } = self;
        if std::thread::panicking() {
            eprintln!("{SEED}={seed}, packet {number}, {program}: {frame:02x?}");
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn every_packet_has_the_outcome_it_should_have() {
    let seed = std::env::var(SEED).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    let services: Vec<_> = SERVICES.iter().map(Service::spec).collect();
    let (bench, mut model) = (Bench::new(&services), Model::default());
    let mut generator = Generator { random: StdRng::seed_from_u64(seed) };
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut number = 0;
    while number < PACKETS {
        let program = generator.pick(&PROGRAMS);
        for frame in generator.frames(program, &model) {
            // Mostly it is the pod's own; what is left over is another's.
            if program == "from_pod" && !generator.one_in(8) {
                model.pod = address(&frame, 26);
            }
            bench.be(model.pod);
            let case = Case { seed, number, program, frame: &frame };
            let outcome = try_one(&bench, &mut model, program, &frame);
            drop(case);
            *outcomes.entry(outcome.kind()).or_default() += 1;
            number += 1;
        }
    }
    // Each outcome there is was seen, often enough to mean something.
    assert_eq!(outcomes.len(), KINDS, "{SEED}={seed}: {outcomes:?}");
    assert!(outcomes.values().all(|&count| count >= 5), "{SEED}={seed}: {outcomes:?}");
}
