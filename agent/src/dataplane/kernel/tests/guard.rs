//! What may leave a pod by its interface.

use agent_ebpf_common::abi::UDP;

use super::*;

/// An ARP message whose sender claims an address.
pub(super) fn arp(claimed: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6];
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame.extend(claimed);
    frame.extend([0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    frame
}

/// A message about neighbours over IPv6, from a link-local address, with an option for routers in front or without.
fn neighbours(kind: u8, option: bool) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    frame.extend([0, if option { 32 } else { 24 }, if option { 0 } else { 58 }, 255]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    if option {
        frame.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    }
    frame.extend([kind; 24]);
    frame
}

/// Runs frames that all have this verdict, and that are as they were.
fn judged(bench: &Bench, frames: &[Vec<u8>], verdict: u32) {
    for frame in frames {
        assert_eq!(bench.run("from_pod", frame), (verdict, frame.clone()), "{frame:02x?}");
    }
}

/// From its own addresses and nobody else's, whatever there is at the other end.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_sends_in_its_own_name_alone() {
    let bench = Bench::new(&both(&["10.244.0.3:8080"]));
    let from = |address: [u8; 4]| {
        let datagram = Frame { payload: &[7; 61], ..Frame::new(UDP, (address, 4000), (BACKEND, 9)) };
        let mut cut = packet(TCP, (address, 4000), (BACKEND, 9), SYN, b"");
        cut.truncate(36);
        let mut frames = datagram.fragments(24);
        frames.extend([packet(TCP, (address, 4000), (BACKEND, 9), SYN, b""), arp(address), cut]);
        frames
    };
    judged(&bench, &from(CLIENT), PASS);
    assert_eq!(bench.drops("spoofed"), 0);
    let mut dropped = 0;
    for claimed in [BACKEND, NODE, VIP, HAIRPIN, [127, 0, 0, 1], [10, 244, 0, 66]] {
        let mut frames = from(claimed);
        frames.push(packet(TCP, (claimed, 4000), (VIP, 80), SYN, b""));
        judged(&bench, &frames, DROP);
        dropped += frames.len() as u64;
        assert_eq!(bench.drops("spoofed"), dropped, "{claimed:?}");
    }
    let connections = bench.dataplane.snapshot().connections;
    assert!(connections.iter().all(|(_, count)| *count == 0), "in another's name no service is reached");
}

/// Before its element is there and after, a pod sends nothing; in between, as itself.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_that_is_not_known_sends_nothing() {
    let bench = Bench::new(&both(&["10.244.0.3:8080"]));
    let sent = [
        packet(TCP, (CLIENT, 4000), (BACKEND, 9), SYN, b""),
        arp(CLIENT),
        neighbours(135, false),
        neighbours(143, true),
    ];
    judged(&bench, &sent, PASS);
    bench.dataplane.lock().ends.remove(7).unwrap();
    judged(&bench, &sent, DROP);
    assert_eq!(bench.drops("spoofed"), 4);
    // The same address behind another interface is not at this one.
    let elsewhere = PodEnd { netns: 7, interface: LOOPBACK + 1, v4: CLIENT.into() };
    bench.dataplane.lock().ends.add(elsewhere).unwrap();
    judged(&bench, &sent, DROP);
    bench.be(CLIENT);
    judged(&bench, &sent, PASS);
}

/// Of frames that nobody can say the sender of, none passes: what carries IPv4 below two VLAN tags would reach the stack.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn only_what_has_a_sender_leaves_a_pod() {
    let bench = Bench::new(&both(&["10.244.0.3:8080"]));
    let plain = packet(TCP, (CLIENT, 4000), (BACKEND, 9), SYN, b"");
    let mut tagged = plain.clone();
    drop(tagged.splice(12..12, [0x81, 0, 0, 0, 0x81, 0, 0, 0]));
    let mut other = plain;
    other[12..14].copy_from_slice(&[0x88, 0xcc]);
    let mut router = neighbours(134, false);
    let mut echo = neighbours(128, false);
    judged(&bench, &[tagged, other, router.clone(), echo.clone()], DROP);
    // Pods have no address of IPv6 yet.
    for frame in [&mut router, &mut echo] {
        frame[22..24].copy_from_slice(&[0x20, 1]);
    }
    judged(&bench, &[router, echo], DROP);
    assert_eq!(bench.drops("spoofed"), 6);
}
