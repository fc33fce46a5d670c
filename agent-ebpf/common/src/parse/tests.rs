//! Every kind of packet, in both families.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::testing::{
    Book,
    frames::{Between, ETHERNET as AT, Frame, framed, icmp, read},
    in_both_families,
    memory::{Bytes, Memory},
};

in_both_families! {
    every_protocol_has_its_kind,
    every_icmp_type_has_its_kind,
    a_query_is_told_by_its_identifier,
    later_fragments_have_the_ports_of_their_first,
    any_order_of_what_stands_between_is_followed,
    a_packet_that_is_cut_short_is_none,
}

const LEG: u8 = 2;

fn ends<A: Book>() -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(A::example(1), 1234), SocketAddr::new(A::example(2), 80))
}

fn seen<A: Book>(maps: &Memory<A>, frame: &[u8]) -> Option<Packet<A>> {
    seen_at(maps, frame, LEG)
}

fn seen_at<A: Book>(maps: &Memory<A>, frame: &[u8], leg: u8) -> Option<Packet<A>> {
    let wire = Bytes::new(frame);
    parse(&wire, maps, &A::ip(&wire, AT as u32)?, leg)
}

fn every_protocol_has_its_kind<A: Book>() {
    let ((src, dst), maps) = (ends::<A>(), Memory::<A>::new(A::example(9)));
    for proto in 0..=255 {
        // Those of the other family's own are strangers; IPv6's headers in between are no protocols.
        if src.is_ipv6() && [0, 43, 44, 51, 60, 135, 139, 140].contains(&proto) {
            continue;
        }
        let packet = seen(&maps, &Frame::new(proto, src, dst).bytes()).unwrap();
        let kind = match proto {
            6 | 17 | 33 | 132 | 136 => Kind::Ports,
            // Where the type would be there is the high half of the port: 4.
            1 if src.is_ipv4() => Kind::Other,
            58 if src.is_ipv6() => Kind::Error,
            _ => Kind::Other,
        };
        assert_eq!((packet.kind, packet.tuple.proto, packet.is_headless()), (kind, proto, false));
        assert_eq!((packet.tuple.src_be, packet.tuple.dst_be), (A::of(src.ip()), A::of(dst.ip())));
        let ports = if kind == Kind::Ports { (1234, 80) } else { (0, 0) };
        assert_eq!((u16::from_be(packet.tuple.sport_be), u16::from_be(packet.tuple.dport_be)), ports);
        assert_eq!(packet.is_served(), [TCP, UDP].contains(&proto));
        assert_eq!(packet.tcp_flags, if proto == TCP { 0x10 } else { 0 });
    }
}

fn every_icmp_type_has_its_kind<A: Book>() {
    let ((src, dst), maps) = (ends::<A>(), Memory::<A>::new(A::example(9)));
    // By the registries of IANA.
    let (errors, queries, link): (&[u8], &[u8], &[u8]) = if src.is_ipv6() {
        (&[1, 2, 3, 4], &[128, 129], &[130, 131, 132, 133, 134, 135, 136, 137, 141, 142, 143, 148, 149])
    } else {
        (&[3, 11, 12], &[0, 8, 13, 14, 15, 16, 17, 18], &[5, 9, 10])
    };
    for kind in 0..=255 {
        let expected = match kind {
            kind if errors.contains(&kind) => Kind::Error,
            kind if queries.contains(&kind) => Kind::Query,
            kind if link.contains(&kind) => Kind::Link,
            _ => Kind::Other,
        };
        let packet = seen(&maps, &icmp(src.ip(), dst.ip(), kind, &[0; 8])).unwrap();
        assert_eq!(packet.kind, expected, "type {kind}");
        assert!(!packet.is_served());
    }
}

fn a_query_is_told_by_its_identifier<A: Book>() {
    let ((src, dst), maps) = (ends::<A>(), Memory::<A>::new(A::example(9)));
    let (ask, answer) = if src.is_ipv6() { (128, 129) } else { (8, 0) };
    let there = seen(&maps, &icmp(src.ip(), dst.ip(), ask, &[0xab, 0xcd, 0, 1])).unwrap();
    let back = seen(&maps, &icmp(dst.ip(), src.ip(), answer, &[0xab, 0xcd, 0, 1])).unwrap();
    assert_eq!(u16::from_be(there.tuple.sport_be), 0xabcd);
    assert_eq!(there.tuple.reversed(), back.tuple);
}

fn later_fragments_have_the_ports_of_their_first<A: Book>() {
    let ((src, dst), maps) = (ends::<A>(), Memory::<A>::new(A::example(9)));
    for proto in [6, 17, 132] {
        let frame = Frame { payload: vec![7; 60], ..Frame::new(proto, src, dst) };
        let parts = frame.fragments(24);
        let lost = seen(&maps, &parts[1]).unwrap();
        assert_eq!(
            (lost.kind, lost.tuple.sport_be, lost.is_served()),
            (Kind::Lost, 0, false),
            "its first is to come"
        );
        let first = seen(&maps, &parts[0]).unwrap();
        let later: Vec<_> = parts[1..].iter().map(|part| seen(&maps, part).unwrap()).collect();
        assert!(later.iter().all(|part| (part.kind, part.tuple) == (Kind::Later, first.tuple)));
        assert!(later.iter().all(|part| part.is_headless() && part.is_served() == (proto != 132)));
        let another = Frame { id: 1, ..frame }.fragments(24);
        assert_eq!(seen(&maps, &another[1]).unwrap().kind, Kind::Lost);
        assert_eq!(seen_at(&maps, &parts[1], LEG + 1).unwrap().kind, Kind::Lost, "another hook's view");
    }
    // What was big enough to be cut is a question like any other.
    let ask = if src.is_ipv6() { 128 } else { 8 };
    let whole = icmp(src.ip(), dst.ip(), ask, &[0xab; 40]);
    let upper = &whole[read(&whole, AT).l4..];
    let part =
        |place, bytes: &[u8]| framed(src.ip(), dst.ip(), A::ICMP, &Between::default(), Some(place), bytes);
    let first = seen(&maps, &part((5, 0, true), &upper[..24])).unwrap();
    let later = seen(&maps, &part((5, 3, false), &upper[24..])).unwrap();
    assert_eq!((first.kind, later.kind, later.tuple), (Kind::Query, Kind::Later, first.tuple));
}

fn any_order_of_what_stands_between_is_followed<A: Book>() {
    let kinds = [0_u8, 43, 44, 51, 60, 135, 139, 140];
    let chains = proptest::collection::vec((0..8_usize, 0..20_u8), 0..8);
    proptest!(|(options in 0..11_usize, chain in chains)| {
        let ((src, dst), maps) = (ends::<A>(), Memory::<A>::new(A::example(9)));
        let chain: Vec<(u8, u8)> = chain.into_iter().map(|(kind, more)| (kinds[kind], more)).collect();
        let headers = chain.len();
        let frame = Frame { between: Between { options: options * 4, chain }, ..Frame::new(UDP, src, dst) }.bytes();
        let packet = seen(&maps, &frame).unwrap();
        let reference = read(&frame, AT);
        if src.is_ipv4() || headers <= 6 {
            prop_assert_eq!((packet.kind, packet.l4 as usize), (Kind::Ports, reference.l4));
            prop_assert_eq!(u16::from_be(packet.tuple.dport_be), 80);
        } else {
            // Nobody's upper layer is that far away: not served, and not taken for something else.
            prop_assert_eq!((packet.kind, packet.tuple.dport_be), (Kind::Other, 0));
        }
    });
}

fn a_packet_that_is_cut_short_is_none<A: Book>() {
    let ((src, dst), maps) = (ends::<A>(), Memory::<A>::new(A::example(9)));
    let between = Between { options: 8, chain: vec![(0, 0), (60, 3)] };
    for (proto, needed) in [(6, 14), (17, 4), (132, 4), (A::ICMP, 6), (47, 0)] {
        let frame = Frame { between: between.clone(), ..Frame::new(proto, src, dst) }.bytes();
        let l4 = read(&frame, AT).l4;
        for length in 0..frame.len() {
            // The kernel's helper reads the chain's headers, not what they hold.
            let has_all = length >= l4 + needed;
            let packet = seen(&maps, &frame[..length]);
            assert!(packet.is_some() || !has_all, "protocol {proto}, {length} bytes");
            assert!(
                packet.is_none_or(|packet| has_all || packet.kind == Kind::Other),
                "protocol {proto}, {length} bytes"
            );
        }
    }
}

/// A header that says it is shorter than any.
#[test]
fn a_wrong_ipv4_header_is_none() {
    let (src, dst) = ends::<crate::family::V4>();
    let mut frame = Frame::new(TCP, src, dst).bytes();
    for words in 0..5 {
        frame[AT] = 0x40 | words;
        assert_eq!(seen(&Memory::<u32>::new(src.ip()), &frame), None);
    }
}
