//! What may leave a pod, in both families, through the hook that judges it.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::{
    abi::{INSIDE, TCP, UDP},
    family::V6,
    path::{Verdict, arp_from_pod, from_pod, other_from_pod, plain_from_pod},
    testing::{
        Book,
        frames::{Between, Frame, framed, icmp},
        in_both_families,
        memory::{Bytes, Memory},
    },
    words::LOCAL,
};

in_both_families! {
    a_pod_sends_from_its_own_address_alone,
    in_anothers_name_no_service_is_reached,
    a_pod_that_is_not_known_sends_nothing,
    what_has_no_sender_that_can_be_read_is_dropped,
}

/// The interface of the pod.
const WIRE: u32 = 7;

fn at<A: Book>(number: u16, port: u16) -> SocketAddr {
    SocketAddr::new(A::example(number), port)
}

/// A pod with the second address behind the wire, and a service at the tenth.
fn maps<A: Book>() -> Memory<A> {
    let mut maps = Memory::new(A::example(1));
    let index = maps.put_set(0, &[at::<A>(3, 8080)], LOCAL);
    for proto in [TCP, UDP] {
        maps.serve(Some(A::example(10)), 80, proto, INSIDE, index);
    }
    maps.pods.insert(WIRE, A::of(A::example(2)));
    maps
}

/// Both ways that packets of a family leave a pod by.
fn verdicts<A: Book>(maps: &Memory<A>, frame: &[u8], interface: u32) -> [Verdict; 2] {
    let hooks: [fn(&Bytes, &Memory<A>) -> Verdict; 2] = [from_pod, plain_from_pod];
    hooks.map(|hook| {
        let wire = Bytes::at(frame, interface);
        let verdict = hook(&wire, maps);
        assert_eq!(wire.0.into_inner(), frame, "what is no service's is not touched");
        verdict
    })
}

/// One of each kind, from an address to what is no service.
fn kinds<A: Book>(src: SocketAddr) -> Vec<Vec<u8>> {
    let dst = at::<A>(3, 8080);
    let question = if src.is_ipv6() { 128 } else { 8 };
    let long = Frame { payload: vec![7; 61], ..Frame::new(UDP, src, dst) };
    let mut frames: Vec<_> =
        [TCP, UDP, 132, 47].map(|proto| Frame::new(proto, src, dst).bytes()).into_iter().collect();
    frames.extend(long.fragments(24));
    frames.push(icmp(src.ip(), dst.ip(), question, &[0; 8]));
    // Less of a segment than its ports: the stack on the way would carry it all the same.
    frames.push(framed(src.ip(), dst.ip(), TCP, &Between::default(), None, &[0; 2]));
    frames
}

fn a_pod_sends_from_its_own_address_alone<A: Book>() {
    let maps = maps::<A>();
    for frame in kinds::<A>(at::<A>(2, 4000)) {
        assert_eq!(verdicts(&maps, &frame, WIRE), [Verdict::Pass; 2], "{frame:02x?}");
    }
    assert!(maps.drops.borrow().is_empty());
    let others = kinds::<A>(at::<A>(4, 4000));
    for frame in &others {
        assert_eq!(verdicts(&maps, frame, WIRE), [Verdict::Drop; 2], "{frame:02x?}");
    }
    assert_eq!(*maps.drops.borrow(), vec![Reason::Spoofed; 2 * others.len()]);
}

fn in_anothers_name_no_service_is_reached<A: Book>() {
    let maps = maps::<A>();
    // Of another pod, of the node, of nobody, of the service itself.
    for claimed in [at::<A>(3, 8080), at::<A>(1, 4000), at::<A>(99, 4000), at::<A>(10, 80)] {
        for proto in [TCP, UDP] {
            let wire = Bytes::at(&Frame::new(proto, claimed, at::<A>(10, 80)).bytes(), WIRE);
            assert_eq!(from_pod(&wire, &maps), Verdict::Drop, "{claimed}");
        }
    }
    assert!(maps.flows.borrow().is_empty());
    assert_eq!((maps.connections.get(), maps.drops.borrow().len()), (0, 8));
    let own = Bytes::at(&Frame::new(UDP, at::<A>(2, 4000), at::<A>(10, 80)).bytes(), WIRE);
    assert_eq!((from_pod(&own, &maps), maps.connections.get()), (Verdict::Pass, 1));
}

fn a_pod_that_is_not_known_sends_nothing<A: Book>() {
    let mut maps = maps::<A>();
    let sent = kinds::<A>(at::<A>(2, 4000));
    for frame in &sent {
        assert_eq!(verdicts(&maps, frame, WIRE + 1), [Verdict::Drop; 2]);
    }
    // One without an address of this family does not own "no address".
    maps.pods.insert(WIRE, A::NONE);
    let nobody: IpAddr = if A::example(2).is_ipv6() { "::".parse() } else { "0.0.0.0".parse() }.unwrap();
    for frame in kinds::<A>(SocketAddr::new(nobody, 4000)).iter().chain(&sent) {
        assert_eq!(verdicts(&maps, frame, WIRE), [Verdict::Drop; 2]);
    }
}

fn what_has_no_sender_that_can_be_read_is_dropped<A: Book>() {
    let maps = maps::<A>();
    let frame = Frame::new(TCP, at::<A>(2, 4000), at::<A>(3, 8080)).bytes();
    let header = 14 + A::HEADER as usize;
    for length in 0..header {
        assert_eq!(verdicts(&maps, &frame[..length], WIRE), [Verdict::Drop; 2], "{length} bytes");
    }
    assert_eq!(maps.drops.borrow().len(), 2 * header);
    assert_eq!(other_from_pod(&maps), Verdict::Drop);
}

/// Finding neighbours works before there is an address; what only routers say, and other traffic, does not.
#[test]
fn the_links_own_passes_from_link_local_addresses() {
    let maps = maps::<V6>();
    let (all, own) = ("ff02::1".parse().unwrap(), V6::example(2));
    for (kind, passes) in
        [(133, true), (135, true), (136, true), (143, true), (134, false), (137, false), (128, false)]
    {
        for src in ["::", "fe80::1", "febf::1"] {
            let frame = icmp(src.parse().unwrap(), all, kind, &[0; 20]);
            let verdict = if passes { Verdict::Pass } else { Verdict::Drop };
            assert_eq!(verdicts(&maps, &frame, WIRE), [verdict; 2], "{kind} from {src}");
        }
        let frame = icmp(own, all, kind, &[0; 20]);
        assert_eq!(verdicts(&maps, &frame, WIRE), [Verdict::Pass; 2], "{kind} from the pod's own");
        for src in ["fec0::1", "fe7f::1", "2001:db8::1"] {
            let frame = icmp(src.parse().unwrap(), all, kind, &[0; 20]);
            assert_eq!(verdicts(&maps, &frame, WIRE), [Verdict::Drop; 2], "{kind} from {src}");
        }
    }
    let local = SocketAddr::new("fe80::1".parse().unwrap(), 4000);
    let datagram = Frame { payload: vec![135; 61], ..Frame::new(UDP, local, SocketAddr::new(all, 135)) };
    let solicitation = [&[135, 0, 0, 0][..], &[0; 20]].concat();
    let none = Between::default();
    let mut others = vec![datagram.bytes()];
    for place in [(1, 0, true), (1, 3, false)] {
        others.push(framed(local.ip(), all, 58, &none, Some(place), &solicitation));
    }
    for frame in others {
        assert_eq!(verdicts(&maps, &frame, WIRE), [Verdict::Drop; 2], "{frame:02x?}");
    }
    // Reports of listeners have an option for routers in front.
    let report =
        framed(local.ip(), all, 58, &Between { options: 0, chain: vec![(0, 0)] }, None, &[143, 0, 0, 0]);
    assert_eq!(verdicts(&maps, &report, WIRE), [Verdict::Pass; 2]);
    assert_eq!(verdicts(&maps, &report, WIRE + 1), [Verdict::Drop; 2], "of a pod that is not known");
}

/// An ARP message of Ethernet and IPv4 whose sender is `claimed`.
fn arp(claimed: IpAddr) -> Vec<u8> {
    let IpAddr::V4(claimed) = claimed else { panic!("{claimed}") };
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6];
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame.extend(claimed.octets());
    frame.extend([0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    frame
}

#[test]
fn arp_claims_the_pods_own_address_or_none() {
    let maps = maps::<V4>();
    let judged = |frame: &[u8], interface| arp_from_pod(&Bytes::at(frame, interface), &maps);
    let own = arp(V4::example(2));
    for passing in [&own, &arp("0.0.0.0".parse().unwrap())] {
        assert_eq!(judged(passing, WIRE), Verdict::Pass);
        assert_eq!(judged(passing, WIRE + 1), Verdict::Drop, "a pod that is not known");
    }
    for claimed in [V4::example(3), V4::example(1), "169.254.1.1".parse().unwrap()] {
        assert_eq!(judged(&arp(claimed), WIRE), Verdict::Drop, "{claimed}");
    }
    // Of other hardware or another protocol, where the sender's address would be elsewhere; and cut short.
    for at in 14..20 {
        let mut strange = own.clone();
        strange[at] ^= 1;
        assert_eq!(judged(&strange, WIRE), Verdict::Drop, "byte {at}");
    }
    assert!((0..32).all(|length| judged(&own[..length], WIRE) == Verdict::Drop));
}
