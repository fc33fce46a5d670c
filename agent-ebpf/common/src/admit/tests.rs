//! Packets at a pod's interface under policies, in both families.

use std::net::{IpAddr, SocketAddr};

use super::*;
use crate::{
    abi::{INSIDE, UDP},
    errors::quote,
    flows::look,
    parse::parse,
    path,
    policy::{ANY_ALL, ANY_CLASS, AUDIT, CLASS_ALL, CLASS_PORT, NO_SET, RuleKey, SetHead},
    testing::{
        Book,
        frames::{Between, ETHERNET, Frame, SYN as OPENS, ends, error, framed, icmp},
        in_both_families,
        memory::{Bytes, Memory},
    },
    words::{LOCAL, ticks},
};

mod random;

in_both_families! {
    without_a_policy_nothing_is_asked_or_recorded,
    a_flow_is_allowed_by_the_set_of_who_began_it,
    what_comes_back_passes_while_the_flow_is_allowed,
    what_comes_back_too_late_is_new,
    a_connection_against_the_direction_is_new,
    a_port_that_is_used_again_is_a_new_flow,
    what_is_dropped_keeps_no_flow_alive,
    revision_zero_allows_nothing,
    a_set_that_is_not_there_denies_and_says_so,
    audit_counts_and_lets_pass,
    egress_is_asked_about_the_backend,
    the_node_the_pod_itself_and_the_link_are_exempt,
    errors_pass_with_their_flow,
    fragments_pass_with_their_first,
    only_rules_without_ports_allow_what_has_none,
    a_services_way_back_is_not_taken,
    a_full_table_lets_nothing_through,
}

const GRE: u8 = 47;
const SCTP: u8 = 132;
const PEER: u32 = 9;
const INGRESS: u32 = 3;
const EGRESS: u32 = 4;

fn at<A: Book>(number: u16, port: u16) -> SocketAddr {
    SocketAddr::new(A::example(number), port)
}
fn node<A: Book>() -> SocketAddr {
    at::<A>(1, 4000)
}
fn pod<A: Book>(port: u16) -> SocketAddr {
    at::<A>(2, port)
}
fn peer<A: Book>(port: u16) -> SocketAddr {
    at::<A>(3, port)
}
fn stranger<A: Book>(port: u16) -> SocketAddr {
    at::<A>(4, port)
}

/// Isolated in both directions.
fn word(revision: u16) -> PolicyWord {
    PolicyWord { ingress: INGRESS, egress: EGRESS, revision }
}

/// Maps in which the peer has a class and the sets have no rules.
fn maps<A: Book>() -> Memory<A> {
    let mut maps = Memory::new(node::<A>().ip());
    maps.classes.insert(A::of(peer::<A>(0).ip()), PEER);
    for set in [INGRESS, EGRESS] {
        maps.sets.insert(set, SetHead::new(set, CLASS_PORT | CLASS_ALL | ANY_ALL, 0));
    }
    maps
}

fn rule(set: u32, class: u32, proto: u8, port: u16) -> RuleKey {
    RuleKey { set, class, port_be: port.to_be(), proto, pad: 0 }
}

/// What becomes of a frame at the interface.
fn judge<A: Book>(
    maps: &Memory<A>,
    word: PolicyWord,
    way: Way,
    origin: Origin,
    frame: &[u8],
) -> Result<(), Reason> {
    let wire = Bytes::new(frame);
    let packet = parse(&wire, maps, &A::ip(&wire, ETHERNET as u32).unwrap(), way.leg()).unwrap();
    if packet.kind == Kind::Error {
        let passing = Passing { way, packet: &packet, outer: packet.tuple, origin, flow: None };
        return admit_error(maps, word, &passing, quote(&wire, &packet).map(|quote| quote.reply));
    }
    pass(maps, word, way, &packet, origin, look(maps, &packet, way.leg()))
}

/// From somebody else.
fn judged<A: Book>(maps: &Memory<A>, word: PolicyWord, way: Way, frame: &Frame) -> Result<(), Reason> {
    judge(maps, word, way, Origin::Other, &frame.bytes())
}

fn opening(proto: u8, src: SocketAddr, dst: SocketAddr) -> Frame {
    Frame { tcp_flags: OPENS, ..Frame::new(proto, src, dst) }
}

fn wait<A>(maps: &Memory<A>, seconds: u32) {
    maps.now.set(maps.now.get() + ticks(seconds));
}

const DENIED: Result<(), Reason> = Err(Reason::Policy);

fn without_a_policy_nothing_is_asked_or_recorded<A: Book>() {
    let maps = maps::<A>();
    for proto in [TCP, UDP, SCTP, GRE] {
        for (way, src, dst) in [(Way::Out, pod::<A>(1), peer::<A>(2)), (Way::In, peer::<A>(2), pod::<A>(1))] {
            assert_eq!(judged(&maps, PolicyWord::OPEN, way, &Frame::new(proto, src, dst)), Ok(()));
        }
    }
    assert!(maps.flows.borrow().is_empty());
}

fn a_flow_is_allowed_by_the_set_of_who_began_it<A: Book>() {
    let mut maps = maps::<A>();
    maps.rules.insert(rule(INGRESS, PEER, TCP, 80));
    maps.rules.insert(rule(EGRESS, PEER, TCP, 443));
    let one = |way, src, dst| judged(&maps, word(1), way, &opening(TCP, src, dst));
    assert_eq!(one(Way::In, peer::<A>(4000), pod::<A>(80)), Ok(()));
    assert_eq!(one(Way::Out, pod::<A>(4000), peer::<A>(443)), Ok(()));
    // Another port, another peer, the rule of the other direction.
    assert_eq!(one(Way::In, peer::<A>(4000), pod::<A>(81)), DENIED);
    assert_eq!(one(Way::In, stranger::<A>(4000), pod::<A>(80)), DENIED);
    assert_eq!(one(Way::In, peer::<A>(4000), pod::<A>(443)), DENIED);
    assert_eq!(one(Way::Out, pod::<A>(4000), peer::<A>(80)), DENIED);
    assert_eq!(judged(&maps, word(1), Way::In, &Frame::new(UDP, peer::<A>(4000), pod::<A>(80))), DENIED);
    // Each direction for itself: what is not isolated is open.
    let only_in = PolicyWord { egress: NO_SET, ..word(1) };
    assert_eq!(judged(&maps, only_in, Way::Out, &opening(TCP, pod::<A>(4001), stranger::<A>(1))), Ok(()));
    assert_eq!(judged(&maps, only_in, Way::In, &Frame::new(TCP, stranger::<A>(1), pod::<A>(4001))), Ok(()));
    assert_eq!(judged(&maps, only_in, Way::In, &Frame::new(TCP, stranger::<A>(1), pod::<A>(4002))), DENIED);
}

fn what_comes_back_passes_while_the_flow_is_allowed<A: Book>() {
    for proto in [TCP, UDP, SCTP] {
        for (way, set, src, dst) in [
            (Way::Out, EGRESS, pod::<A>(4000), peer::<A>(80)),
            (Way::In, INGRESS, peer::<A>(4000), pod::<A>(80)),
        ] {
            let mut maps = maps::<A>();
            maps.rules.insert(rule(set, PEER, proto, 80));
            let (there, back) = (Frame::new(proto, src, dst), Frame::new(proto, dst, src));
            assert_eq!(judged(&maps, word(1), way.other(), &back), DENIED, "before there is a flow");
            assert_eq!(judged(&maps, word(1), way, &there), Ok(()));
            assert_eq!(judged(&maps, word(1), way.other(), &back), Ok(()));
            // Allowed by the next word as well: asked once, by either side, and noted.
            assert_eq!(judged(&maps, word(2), way.other(), &back), Ok(()));
            maps.rules.clear();
            assert_eq!(
                judged(&maps, word(2), way.other(), &back),
                Ok(()),
                "by the same word nobody asks again"
            );
            assert_eq!(judged(&maps, word(2), way, &there), DENIED, "its own entry was not asked about yet");
            assert_eq!(judged(&maps, word(3), way.other(), &back), DENIED);
            assert_eq!(judged(&maps, word(3), way, &there), DENIED);
        }
    }
}

fn what_comes_back_too_late_is_new<A: Book>() {
    let mut maps = maps::<A>();
    maps.rules.insert(rule(EGRESS, PEER, UDP, 53));
    let (there, back) =
        (Frame::new(UDP, pod::<A>(4000), peer::<A>(53)), Frame::new(UDP, peer::<A>(53), pod::<A>(4000)));
    assert_eq!(judged(&maps, word(1), Way::Out, &there), Ok(()));
    wait(&maps, 50);
    assert_eq!(judged(&maps, word(1), Way::In, &back), Ok(()));
    // One that only sends is alive for what comes back.
    for _ in 0..5 {
        wait(&maps, 100);
        assert_eq!(judged(&maps, word(1), Way::Out, &there), Ok(()));
    }
    assert_eq!(judged(&maps, word(1), Way::In, &back), Ok(()));
    wait(&maps, 130);
    assert_eq!(judged(&maps, word(1), Way::In, &back), DENIED);
}

fn a_connection_against_the_direction_is_new<A: Book>() {
    let mut maps = maps::<A>();
    maps.rules.insert(rule(EGRESS, PEER, TCP, 80));
    assert_eq!(judged(&maps, word(1), Way::Out, &opening(TCP, pod::<A>(4000), peer::<A>(80))), Ok(()));
    let back = Frame::new(TCP, peer::<A>(80), pod::<A>(4000));
    for flags in [0x12, 0x10, 0x11, 0x14] {
        assert_eq!(judged(&maps, word(1), Way::In, &Frame { tcp_flags: flags, ..back.clone() }), Ok(()));
    }
    assert_eq!(judged(&maps, word(1), Way::In, &Frame { tcp_flags: OPENS, ..back.clone() }), DENIED);
    // Where it is allowed it turns the flow round: then the pod's answers are what comes back.
    maps.rules.insert(rule(INGRESS, PEER, TCP, 4000));
    assert_eq!(judged(&maps, word(1), Way::In, &Frame { tcp_flags: OPENS, ..back }), Ok(()));
    maps.rules.remove(&rule(EGRESS, PEER, TCP, 80));
    assert_eq!(judged(&maps, word(2), Way::Out, &Frame::new(TCP, pod::<A>(4000), peer::<A>(80))), Ok(()));
}

fn a_port_that_is_used_again_is_a_new_flow<A: Book>() {
    let mut maps = maps::<A>();
    maps.rules.insert(rule(EGRESS, PEER, TCP, 80));
    let there = Frame::new(TCP, pod::<A>(4000), peer::<A>(80));
    let back = Frame::new(TCP, peer::<A>(80), pod::<A>(4000));
    let out = |flags| judged(&maps, word(1), Way::Out, &Frame { tcp_flags: flags, ..there.clone() });
    assert_eq!([out(OPENS), out(0x10), out(0x11)], [Ok(()); 3]);
    assert_eq!(out(OPENS), Ok(()));
    assert_eq!(judged(&maps, word(1), Way::In, &back), Ok(()));
    // Ended connections are forgotten after some seconds, open ones are not.
    wait(&maps, 600);
    assert_eq!(judged(&maps, word(1), Way::In, &back), Ok(()));
    assert_eq!(out(0x11), Ok(()));
    wait(&maps, 11);
    assert_eq!(judged(&maps, word(1), Way::In, &back), DENIED);
}

fn what_is_dropped_keeps_no_flow_alive<A: Book>() {
    let mut maps = maps::<A>();
    maps.rules.insert(rule(EGRESS, PEER, UDP, 53));
    let back = Frame::new(UDP, peer::<A>(53), pod::<A>(4000));
    assert_eq!(judged(&maps, word(1), Way::Out, &Frame::new(UDP, pod::<A>(4000), peer::<A>(53))), Ok(()));
    wait(&maps, 200);
    for _ in 0..3 {
        assert_eq!(judged(&maps, word(1), Way::In, &back), DENIED);
    }
}

fn revision_zero_allows_nothing<A: Book>() {
    let mut maps = maps::<A>();
    let (there, back) =
        (Frame::new(UDP, pod::<A>(4000), peer::<A>(53)), Frame::new(UDP, peer::<A>(53), pod::<A>(4000)));
    // The flow of a service, which nobody asked about.
    let index = maps.put_set(0, &[peer::<A>(53)], LOCAL);
    maps.serve(Some(A::example(10)), 53, UDP, INSIDE, index);
    maps.pods.insert(0, A::of(pod::<A>(0).ip()));
    let asked = Frame::new(UDP, pod::<A>(4000), at::<A>(10, 53));
    assert_eq!(path::from_pod(&Bytes::new(&asked.bytes()), &maps), path::Verdict::Pass);
    for (way, frame) in [(Way::Out, &asked), (Way::In, &back), (Way::Out, &there)] {
        assert_eq!(judged(&maps, PolicyWord::UNKNOWN, way, frame), Err(Reason::PolicyNotKnown));
        assert_eq!(judged(&maps, word(0), way, frame), DENIED);
    }
}

fn a_set_that_is_not_there_denies_and_says_so<A: Book>() {
    let mut maps = maps::<A>();
    let frame = Frame::new(UDP, pod::<A>(4000), peer::<A>(53));
    maps.sets.insert(EGRESS, SetHead::new(EGRESS + 1, ANY_ALL, 0));
    assert_eq!(judged(&maps, word(1), Way::Out, &frame), Err(Reason::NoPolicySet));
    maps.sets.remove(&EGRESS);
    assert_eq!(judged(&maps, word(1), Way::Out, &frame), Err(Reason::NoPolicySet));
    assert!(maps.flows.borrow().is_empty());
}

fn audit_counts_and_lets_pass<A: Book>() {
    let mut maps = maps::<A>();
    maps.sets.insert(INGRESS, SetHead::new(INGRESS, CLASS_PORT | AUDIT, 0));
    maps.rules.insert(rule(INGRESS, PEER, TCP, 80));
    let one = |port| judged(&maps, word(1), Way::In, &opening(TCP, peer::<A>(4000), pod::<A>(port)));
    assert_eq!((one(80), maps.audited.get()), (Ok(()), 0));
    // The pod's answer is the flow's, though nothing may leave it by its own.
    assert_eq!((one(81), maps.audited.get()), (Ok(()), 1));
    assert_eq!(judged(&maps, word(1), Way::Out, &Frame::new(TCP, pod::<A>(81), peer::<A>(4000))), Ok(()));
    assert_eq!(judged(&maps, word(1), Way::Out, &opening(TCP, pod::<A>(4000), peer::<A>(81))), DENIED);
    assert_eq!((one(81), maps.audited.get()), (Ok(()), 1), "a flow once");
}

fn egress_is_asked_about_the_backend<A: Book>() {
    for (allowed, expected) in [((PEER, 8080), Ok(())), ((PEER, 80), DENIED)] {
        let mut maps = maps::<A>();
        maps.rules.insert(rule(EGRESS, allowed.0, TCP, allowed.1));
        maps.pods.insert(0, A::of(pod::<A>(0).ip()));
        let index = maps.put_set(0, &[peer::<A>(8080)], LOCAL);
        maps.serve(Some(A::example(10)), 80, TCP, INSIDE, index);
        let asked = opening(TCP, pod::<A>(4000), at::<A>(10, 80));
        assert_eq!(path::from_pod(&Bytes::new(&asked.bytes()), &maps), path::Verdict::Pass);
        let answer = Frame::new(TCP, peer::<A>(8080), pod::<A>(4000));
        for _ in 0..2 {
            assert_eq!(judged(&maps, word(1), Way::Out, &asked), expected);
            assert_eq!(judged(&maps, word(1), Way::In, &answer), expected);
        }
        let by = |revision: u16| maps.flows.borrow().values().all(|flow| flow.get().revision() == revision);
        assert!(by(if expected.is_ok() { 1 } else { 0 }), "no entry but the service's");
        maps.rules.clear();
        for (way, frame) in [(Way::Out, &asked), (Way::In, &answer)] {
            assert_eq!(judged(&maps, word(2), way, frame), DENIED, "asked again");
        }
    }
}

fn the_node_the_pod_itself_and_the_link_are_exempt<A: Book>() {
    let maps = maps::<A>();
    for proto in [TCP, UDP, GRE] {
        let from_node = Frame::new(proto, node::<A>(), pod::<A>(80)).bytes();
        assert_eq!(judge(&maps, word(1), Way::In, Origin::Node, &from_node), Ok(()));
        assert_eq!(judge(&maps, word(1), Way::In, Origin::Other, &from_node), DENIED, "only in its name");
        let through = Frame::new(proto, stranger::<A>(4000), pod::<A>(80)).bytes();
        assert_eq!(judge(&maps, word(1), Way::In, Origin::Node, &through), DENIED, "only in another's name");
        assert_eq!(judge(&maps, word(1), Way::In, Origin::Itself, &through), Ok(()));
        assert_eq!(judged(&maps, word(1), Way::Out, &Frame::new(proto, pod::<A>(80), node::<A>())), Ok(()));
        assert_eq!(
            judged(&maps, word(1), Way::Out, &Frame::new(proto, pod::<A>(80), stranger::<A>(1))),
            DENIED
        );
    }
    assert!(maps.flows.borrow().is_empty(), "what is exempt needs no flow");
    let v6 = node::<A>().is_ipv6();
    let kinds: &[u8] = if v6 { &[133, 134, 135, 136, 143] } else { &[5, 9, 10] };
    for &kind in kinds {
        for (way, src, dst) in [(Way::Out, pod::<A>(0), peer::<A>(0)), (Way::In, peer::<A>(0), pod::<A>(0))] {
            let frame = icmp(src.ip(), dst.ip(), kind, &[0; 20]);
            let expected = if v6 { Ok(()) } else { DENIED };
            assert_eq!(judge(&maps, word(1), way, Origin::Other, &frame), expected, "{kind}");
        }
    }
}

/// An error by a router about the packet in `about`.
fn about(by: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    let kind = if by.is_ipv6() { 1 } else { 3 };
    icmp(by, to, kind, &[&[0; 4], &about[ETHERNET..]].concat())
}

fn errors_pass_with_their_flow<A: Book>() {
    let router = A::example(500);
    for proto in [TCP, UDP, SCTP] {
        let mut maps = maps::<A>();
        maps.rules.insert(rule(EGRESS, PEER, proto, 80));
        maps.rules.insert(rule(INGRESS, PEER, proto, 80));
        let out = Frame::new(proto, pod::<A>(4000), peer::<A>(80));
        let told = |maps: &Memory<A>, revision, way, error: &[u8]| {
            judge(maps, word(revision), way, Origin::Other, error)
        };
        let too_big = error(router, pod::<A>(0).ip(), &out);
        assert_eq!(told(&maps, 1, Way::In, &too_big), DENIED, "about no flow");
        assert_eq!(judged(&maps, word(1), Way::Out, &out), Ok(()));
        assert_eq!(told(&maps, 1, Way::In, &too_big), Ok(()));
        assert_eq!(told(&maps, 2, Way::In, &too_big), Ok(()), "still allowed");
        // Of a flow that came in, about what goes back, and by the pod about what came.
        let enters = Frame::new(proto, peer::<A>(4000), pod::<A>(80));
        assert_eq!(judged(&maps, word(1), Way::In, &enters), Ok(()));
        let answer = Frame::new(proto, pod::<A>(80), peer::<A>(4000));
        assert_eq!(told(&maps, 1, Way::In, &error(router, pod::<A>(0).ip(), &answer)), Ok(()));
        assert_eq!(told(&maps, 1, Way::Out, &error(pod::<A>(0).ip(), peer::<A>(0).ip(), &enters)), Ok(()));
        let other = Frame::new(proto, pod::<A>(4001), peer::<A>(80));
        assert_eq!(told(&maps, 1, Way::In, &error(router, pod::<A>(0).ip(), &other)), DENIED);
        wait(&maps, 7 * 3600);
        assert_eq!(told(&maps, 2, Way::In, &too_big), DENIED, "the flow is over");
        assert_eq!(judged(&maps, word(2), Way::Out, &out), Ok(()));
        assert_eq!(told(&maps, 2, Way::In, &too_big), Ok(()));
        maps.rules.clear();
        assert_eq!(told(&maps, 3, Way::In, &too_big), DENIED, "the flow is not allowed any more");
        maps.rules.insert(rule(INGRESS, ANY_CLASS, 0, 0));
        assert_eq!(told(&maps, 3, Way::In, &too_big), Ok(()), "as any packet without ports");
    }
    let mut maps = maps::<A>();
    maps.rules.insert(rule(EGRESS, PEER, 0, 0));
    let question = if router.is_ipv6() { 128 } else { 8 };
    let ping = icmp(pod::<A>(0).ip(), peer::<A>(0).ip(), question, &[7, 7, 0, 1]);
    let unreachable = about(router, pod::<A>(0).ip(), &ping);
    assert_eq!(judge(&maps, word(1), Way::In, Origin::Other, &unreachable), DENIED);
    assert_eq!(judge(&maps, word(1), Way::Out, Origin::Other, &ping), Ok(()));
    assert_eq!(judge(&maps, word(1), Way::In, Origin::Other, &unreachable), Ok(()));
    // And the hook leaves it as it is.
    let wire = Bytes::new(&unreachable);
    assert_eq!((path::to_pod(&wire, &maps), wire.0.into_inner()), (path::Verdict::Pass, unreachable));
}

fn fragments_pass_with_their_first<A: Book>() {
    let mut maps = maps::<A>();
    maps.rules.insert(rule(EGRESS, PEER, UDP, 53));
    let long = |id| {
        Frame { id, payload: vec![7; 61], ..Frame::new(UDP, pod::<A>(4000), peer::<A>(53)) }.fragments(24)
    };
    for part in long(1) {
        assert_eq!(judge(&maps, word(1), Way::Out, Origin::Other, &part), Ok(()));
    }
    let stray = &long(2)[1];
    assert_eq!(judge(&maps, word(1), Way::Out, Origin::Other, stray), DENIED);
    let flows = maps.flows.borrow().len();
    maps.rules.insert(rule(EGRESS, PEER, 0, 0));
    assert_eq!(judge(&maps, word(1), Way::Out, Origin::Other, stray), Ok(()), "ports do not matter");
    assert_eq!(maps.flows.borrow().len(), flows, "of no flow");
}

fn only_rules_without_ports_allow_what_has_none<A: Book>() {
    let mut maps = maps::<A>();
    let question = if node::<A>().is_ipv6() { 128 } else { 8 };
    // The identifier is the number of an allowed port.
    let ping = icmp(pod::<A>(0).ip(), peer::<A>(0).ip(), question, &[0, 80, 0, 1]);
    let pong = icmp(
        peer::<A>(0).ip(),
        pod::<A>(0).ip(),
        question ^ if question == 8 { 8 } else { 1 },
        &[0, 80, 0, 1],
    );
    let gre = framed(pod::<A>(0).ip(), peer::<A>(0).ip(), GRE, &Between::default(), None, &[0, 80, 0, 80]);
    let out = |maps: &Memory<A>, frame: &[u8]| judge(maps, word(1), Way::Out, Origin::Other, frame);
    for proto in [TCP, UDP, A::ICMP, GRE] {
        maps.rules.insert(rule(EGRESS, PEER, proto, 80));
    }
    assert_eq!([out(&maps, &ping), out(&maps, &gre)], [DENIED; 2]);
    assert_eq!(judge(&maps, word(1), Way::In, Origin::Other, &pong), DENIED);
    maps.rules.insert(rule(EGRESS, PEER, 0, 0));
    assert_eq!([out(&maps, &ping), out(&maps, &gre)], [Ok(()); 2]);
    assert_eq!(
        judge(&maps, word(1), Way::In, Origin::Other, &pong),
        Ok(()),
        "the answer to an allowed question"
    );
}

/// The pod talks to the same backend through the service and beside it, from one port.
fn a_services_way_back_is_not_taken<A: Book>() {
    let mut maps = maps::<A>();
    maps.rules.insert(rule(EGRESS, PEER, UDP, 53));
    maps.pods.insert(0, A::of(pod::<A>(0).ip()));
    let index = maps.put_set(0, &[peer::<A>(53)], LOCAL);
    maps.serve(Some(A::example(10)), 53, UDP, INSIDE, index);
    let by_service = Frame::new(UDP, pod::<A>(4000), at::<A>(10, 53)).bytes();
    assert_eq!(path::from_pod(&Bytes::new(&by_service), &maps), path::Verdict::Pass);
    let before = maps.flows.borrow().len();
    let direct = Frame::new(UDP, pod::<A>(4000), peer::<A>(53));
    assert_eq!(judged(&maps, word(1), Way::Out, &direct), Ok(()));
    assert_eq!(maps.flows.borrow().len(), before);
    let answer = Frame::new(UDP, peer::<A>(53), pod::<A>(4000));
    let is_the_services = |maps: &Memory<A>| {
        let wire = Bytes::new(&answer.bytes());
        assert_eq!(path::to_pod(&wire, maps), path::Verdict::Pass);
        assert_eq!(ends(&wire.0.into_inner(), ETHERNET).0, at::<A>(10, 53));
    };
    is_the_services(&maps);
    // Too late for an answer, and allowed for itself: the entry is still the service's.
    wait(&maps, 200);
    maps.rules.insert(rule(INGRESS, PEER, UDP, 4000));
    assert_eq!(judged(&maps, word(1), Way::In, &answer), Ok(()));
    is_the_services(&maps);
}

fn a_full_table_lets_nothing_through<A: Book>() {
    let mut maps = maps::<A>();
    maps.rules.insert(rule(EGRESS, PEER, UDP, 53));
    maps.full = true;
    let frame = Frame::new(UDP, pod::<A>(4000), peer::<A>(53));
    assert_eq!(judged(&maps, word(1), Way::Out, &frame), Err(Reason::FlowTableFull));
}
