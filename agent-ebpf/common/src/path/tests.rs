//! Packets of both families through the hooks, there and back, judged as their receivers would.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::{
    abi::{TCP, UDP},
    testing::{
        Book,
        frames::{Between, ETHERNET, Frame, SYN, check, ends, error, fold, framed, icmp, read, sum},
        in_both_families,
        memory::{Bytes, Memory},
    },
    words::EMPTY_DROP,
};

in_both_families! {
    a_pods_packets_go_there_and_back,
    no_checksum_stays_none,
    fragments_follow_their_first,
    a_pod_reaches_itself,
    a_client_outside_is_served_by_a_backend_here,
    a_backend_elsewhere_answers_to_this_node,
    without_its_own_address_the_node_forwards_nothing,
    a_refused_segment_comes_back_as_a_reset,
    a_refused_datagram_comes_back_as_unreachable,
    what_cannot_be_refused_is_dropped,
    errors_reach_who_sent_the_packet,
    errors_about_a_masqueraded_flow_pass_this_node_both_ways,
    what_is_not_for_a_service_is_not_touched,
    random_packets_go_there_and_back,
    flows_that_are_not_translated_have_room,
    no_bytes_are_too_strange,
}

const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;

fn at<A: Book>(number: u16, port: u16) -> SocketAddr {
    SocketAddr::new(A::example(number), port)
}

fn node<A: Book>() -> SocketAddr {
    at::<A>(1, NODE_PORT)
}
fn vip<A: Book>() -> SocketAddr {
    at::<A>(10, PORT)
}
fn client<A: Book>() -> SocketAddr {
    at::<A>(2, 4000)
}
fn backend<A: Book>() -> SocketAddr {
    at::<A>(3, 8080)
}
fn outsider<A: Book>() -> SocketAddr {
    at::<A>(99, 4000)
}

/// One service for both protocols, by its address and node port.
fn maps<A: Book>(backends: &[SocketAddr], flags: u16, backend_flags: u8) -> Memory<A> {
    let mut maps = Memory::new(node::<A>().ip());
    maps.pods.insert(0, A::of(client::<A>().ip()));
    let index = maps.put_set(flags, backends, backend_flags);
    for proto in [TCP, UDP] {
        maps.serve(Some(vip::<A>().ip()), PORT, proto, INSIDE, index);
        maps.serve(None, NODE_PORT, proto, INSIDE, index);
        maps.serve(None, NODE_PORT, proto, OUTSIDE, index);
    }
    maps
}

type Hook<A> = fn(&Bytes, &Memory<A>) -> Verdict;

/// The packet after a hook.
fn run<A: Book>(hook: Hook<A>, maps: &Memory<A>, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let wire = Bytes::new(frame);
    let verdict = hook(&wire, maps);
    (verdict, wire.0.into_inner())
}

fn passes<A: Book>(hook: Hook<A>, maps: &Memory<A>, frame: &[u8]) -> Vec<u8> {
    let (verdict, out) = run(hook, maps, frame);
    assert_eq!(verdict, Verdict::Pass, "{frame:02x?}");
    out
}

/// What may stand in front of the upper layer.
fn betweens() -> Vec<Between> {
    let chains: [&[(u8, u8)]; 4] = [
        &[(0, 0)],
        &[(60, 2), (43, 1)],
        &[(0, 0), (60, 1), (43, 2), (51, 3), (60, 0)],
        &[(135, 0), (139, 4), (140, 1)],
    ];
    let with = |(options, chain): (usize, &[(u8, u8)])| Between { options, chain: chain.to_vec() };
    [(0, &[][..]), (4, chains[0]), (8, chains[1]), (20, chains[2]), (40, chains[3])].map(with).into()
}

fn a_pods_packets_go_there_and_back<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], 0, LOCAL);
    for between in betweens() {
        for payload in [&b""[..], b"odd", b"even"] {
            for proto in [TCP, UDP] {
                let (there, back) = (
                    Frame::new(proto, client::<A>(), vip::<A>()),
                    Frame::new(proto, backend::<A>(), client::<A>()),
                );
                let as_seen = [
                    (from_pod as Hook<A>, there, (client::<A>(), backend::<A>())),
                    (to_pod, back, (vip::<A>(), client::<A>())),
                ];
                for (hook, frame, (src, dst)) in as_seen {
                    let frame = Frame {
                        between: between.clone(),
                        payload: payload.to_vec(),
                        tcp_flags: SYN,
                        ..frame
                    };
                    let out = passes(hook, &maps, &frame.bytes());
                    check(&out);
                    // The same frame made for these ends is right in every byte.
                    assert_eq!(out, Frame { src, dst, ..frame }.bytes());
                }
            }
        }
    }
    assert_eq!(maps.drops.borrow().len(), 0);
}

fn no_checksum_stays_none<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], 0, LOCAL);
    let frame = Frame { checksum: false, ..Frame::new(UDP, client::<A>(), vip::<A>()) };
    let out = passes(from_pod, &maps, &frame.bytes());
    assert_eq!(out, Frame { dst: backend::<A>(), ..frame }.bytes());
}

fn fragments_follow_their_first<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], 0, LOCAL);
    for between in betweens() {
        for (proto, checksum) in [(TCP, true), (UDP, true), (UDP, false)] {
            let frame = Frame {
                between: between.clone(),
                payload: vec![7; 61],
                checksum,
                ..Frame::new(proto, client::<A>(), vip::<A>())
            };
            let fragments = frame.fragments(24);
            assert!(fragments.len() > 2, "a first, a last and one between");
            let out: Vec<Vec<u8>> = fragments.iter().map(|part| passes(from_pod, &maps, part)).collect();
            assert_eq!(out, Frame { dst: backend::<A>(), ..frame.clone() }.fragments(24));
            // Of another packet whose first did not come, and at another hook, nobody knows the ports.
            let stray = Frame { id: 0x4321, ..frame }.fragments(24).swap_remove(1);
            assert_eq!(passes(from_pod, &maps, &stray), stray);
            assert_eq!(passes(uplink_in, &maps, &fragments[1]), fragments[1]);
        }
    }
}

fn a_pod_reaches_itself<A: Book>() {
    let itself = SocketAddr::new(client::<A>().ip(), 8080);
    let maps = maps::<A>(&[itself], 0, LOCAL);
    let (verdict, request) = run(from_pod, &maps, &Frame::new(TCP, client::<A>(), vip::<A>()).bytes());
    assert_eq!(verdict, Verdict::Back);
    check(&request);
    let (src, dst) = ends(&request, ETHERNET);
    assert_eq!(
        (A::of(src.ip()), src.port(), dst),
        (A::HAIRPIN, 4000, itself),
        "the pod drops what comes from itself"
    );
    assert_eq!(request[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], "back into the pod");
    let (verdict, reply) = run(from_pod, &maps, &Frame::new(TCP, itself, src).bytes());
    assert_eq!(verdict, Verdict::Back);
    check(&reply);
    assert_eq!(ends(&reply, ETHERNET), (vip::<A>(), client::<A>()));
}

fn a_client_outside_is_served_by_a_backend_here<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], MASQUERADE, LOCAL);
    for proto in [TCP, UDP] {
        let inside = passes(uplink_in, &maps, &Frame::new(proto, outsider::<A>(), node::<A>()).bytes());
        assert_eq!(inside, Frame::new(proto, outsider::<A>(), backend::<A>()).bytes(), "the source is kept");
        let answer = passes(uplink_out, &maps, &Frame::new(proto, backend::<A>(), outsider::<A>()).bytes());
        assert_eq!(answer, Frame::new(proto, node::<A>(), outsider::<A>()).bytes());
    }
    // The node port is the node's: elsewhere nobody answers on it.
    let elsewhere = Frame::new(TCP, outsider::<A>(), at::<A>(77, NODE_PORT)).bytes();
    assert_eq!(passes(uplink_in, &maps, &elsewhere), elsewhere);
}

fn a_backend_elsewhere_answers_to_this_node<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], MASQUERADE, 0);
    for proto in [TCP, UDP] {
        let entered = passes(uplink_in, &maps, &Frame::new(proto, outsider::<A>(), node::<A>()).bytes());
        let left = passes(uplink_out, &maps, &entered);
        check(&left);
        let (src, dst) = ends(&left, ETHERNET);
        assert_eq!((src.ip(), dst), (node::<A>().ip(), backend::<A>()));
        let inside = passes(uplink_in, &maps, &Frame::new(proto, backend::<A>(), src).bytes());
        assert_ne!(
            read(&inside, ETHERNET).src,
            node::<A>().ip(),
            "the stack drops what comes from its own address"
        );
        let answer = passes(uplink_out, &maps, &inside);
        assert_eq!(answer, Frame::new(proto, node::<A>(), outsider::<A>()).bytes());
    }
}

fn without_its_own_address_the_node_forwards_nothing<A: Book>() {
    let mut maps = maps::<A>(&[backend::<A>()], MASQUERADE, 0);
    maps.node = A::NONE;
    let frame = Frame::new(TCP, outsider::<A>(), node::<A>()).bytes();
    assert_eq!(run(uplink_in, &maps, &frame).0, Verdict::Drop);
    assert_eq!(*maps.drops.borrow(), [Reason::NoNodeAddress]);
    assert!(maps.flows.borrow().is_empty());
}

fn a_refused_segment_comes_back_as_a_reset<A: Book>() {
    let maps = maps::<A>(&[], 0, LOCAL);
    for between in betweens() {
        let asked = Frame {
            tcp_flags: SYN,
            between,
            payload: b"data".to_vec(),
            ..Frame::new(TCP, client::<A>(), vip::<A>())
        };
        let (verdict, reset) = run(from_pod, &maps, &asked.bytes());
        assert_eq!(verdict, Verdict::Back);
        check(&reset);
        assert_eq!(ends(&reset, ETHERNET), (vip::<A>(), client::<A>()));
        assert_eq!(reset[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], "back to the sender");
        let tcp = &reset[read(&reset, ETHERNET).l4..];
        assert_eq!(
            (tcp.len(), tcp[13], &tcp[8..12]),
            (20, 0x14, &14_u32.to_be_bytes()[..]),
            "SYN and 4 bytes"
        );
        // To an acknowledgement, the sequence number that it asks for.
        let (_, reset) = run(from_pod, &maps, &Frame { tcp_flags: 0x10, ..asked.clone() }.bytes());
        check(&reset);
        assert_eq!(reset[read(&reset, ETHERNET).l4 + 13], 0x04);
        // A reset is never answered.
        assert_eq!(run(from_pod, &maps, &Frame { tcp_flags: 0x04, ..asked }.bytes()).0, Verdict::Drop);
    }
}

fn a_refused_datagram_comes_back_as_unreachable<A: Book>() {
    let maps = maps::<A>(&[], 0, LOCAL);
    let asked = Frame {
        payload: b"a question of some length".to_vec(),
        ..Frame::new(UDP, client::<A>(), vip::<A>())
    }
    .bytes();
    let (verdict, answer) = run(from_pod, &maps, &asked);
    assert_eq!(verdict, Verdict::Back);
    check(&answer);
    let seen = read(&answer, ETHERNET);
    assert_eq!((seen.src, seen.dst), (vip::<A>().ip(), client::<A>().ip()));
    let told = if seen.src.is_ipv6() { (58, [1, 4]) } else { (1, [3, 3]) };
    assert_eq!((seen.proto, &answer[seen.l4..seen.l4 + 2]), (told.0, &told.1[..]), "port unreachable");
    let quoted = read(&asked, ETHERNET).l4 + 8;
    assert_eq!(answer[seen.l4 + 8..], asked[ETHERNET..quoted], "quotes the refused packet");
}

fn what_cannot_be_refused_is_dropped<A: Book>() {
    let maps = maps::<A>(&[], 0, LOCAL);
    let with = Between { options: 8, chain: vec![(60, 0)] };
    let frame = Frame { between: with, payload: vec![1; 40], ..Frame::new(UDP, client::<A>(), vip::<A>()) };
    let first = &frame.fragments(16);
    for refused in [&frame.bytes(), &first[0], &first[1]] {
        assert_eq!(run(from_pod, &maps, refused).0, Verdict::Drop, "{refused:02x?}");
    }
    assert_eq!(*maps.drops.borrow(), [Reason::NoEndpoint; 3]);
    let elsewhere = self::maps::<A>(&[], EMPTY_DROP, LOCAL);
    let asked = Frame::new(TCP, outsider::<A>(), node::<A>()).bytes();
    assert_eq!(run(uplink_in, &elsewhere, &asked).0, Verdict::Drop);
    assert_eq!(*elsewhere.drops.borrow(), [Reason::NoLocalEndpoint]);
}

/// Passes the error and returns its sender, its receiver and the ends of what it is then about; all checksums right.
fn told<A: Book>(
    hook: Hook<A>,
    maps: &Memory<A>,
    error: &[u8],
) -> (IpAddr, IpAddr, (SocketAddr, SocketAddr)) {
    check(error);
    let out = passes(hook, maps, error);
    assert_eq!(out.len(), error.len());
    check(&out);
    let seen = read(&out, ETHERNET);
    let quoted = seen.l4 + 8;
    if seen.src.is_ipv4() {
        let header = &out[quoted..read(&out, quoted).l4];
        assert_eq!(fold(sum(header)), 0, "the checksum of the quoted header");
    }
    (seen.src, seen.dst, ends(&out, quoted))
}

fn errors_reach_who_sent_the_packet<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], 0, LOCAL);
    let router = A::example(500);
    for (proto, between) in
        [TCP, UDP].into_iter().flat_map(|proto| betweens().into_iter().map(move |between| (proto, between)))
    {
        let frame = |src, dst| Frame { between: between.clone(), ..Frame::new(proto, src, dst) };
        passes(from_pod, &maps, &frame(client::<A>(), vip::<A>()).bytes());
        for (by, seen) in [(backend::<A>().ip(), vip::<A>().ip()), (router, router)] {
            let about = error(by, client::<A>().ip(), &frame(client::<A>(), backend::<A>()));
            let expected = (seen, client::<A>().ip(), (client::<A>(), vip::<A>()));
            assert_eq!(told(to_pod, &maps, &about), expected);
        }
        let about = error(client::<A>().ip(), vip::<A>().ip(), &frame(vip::<A>(), client::<A>()));
        let expected = (client::<A>().ip(), backend::<A>().ip(), (backend::<A>(), client::<A>()));
        assert_eq!(told(from_pod, &maps, &about), expected);
        // Another flow's is left alone.
        let other = error(backend::<A>().ip(), client::<A>().ip(), &frame(at::<A>(2, 4001), backend::<A>()));
        assert_eq!(passes(to_pod, &maps, &other), other);
    }
}

fn errors_about_a_masqueraded_flow_pass_this_node_both_ways<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], MASQUERADE, 0);
    let router = A::example(500);
    for proto in [TCP, UDP] {
        let entered = passes(uplink_in, &maps, &Frame::new(proto, outsider::<A>(), node::<A>()).bytes());
        let disguise = ends(&passes(uplink_out, &maps, &entered), ETHERNET).0;
        let twice = |first: &[u8]| told(uplink_out, &maps, &passes(uplink_in, &maps, first));
        let to_client =
            error(backend::<A>().ip(), node::<A>().ip(), &Frame::new(proto, disguise, backend::<A>()));
        let expected = (node::<A>().ip(), outsider::<A>().ip(), (outsider::<A>(), node::<A>()));
        assert_eq!(twice(&to_client), expected);
        let to_backend = error(router, node::<A>().ip(), &Frame::new(proto, node::<A>(), outsider::<A>()));
        assert_eq!(twice(&to_backend), (router, backend::<A>().ip(), (backend::<A>(), disguise)));
    }
}

fn what_is_not_for_a_service_is_not_touched<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], 0, LOCAL);
    let (src, dst) = (client::<A>().ip(), vip::<A>().ip());
    let mut frames: Vec<Vec<u8>> = vec![
        Frame::new(TCP, client::<A>(), backend::<A>()).bytes(),
        Frame::new(TCP, client::<A>(), at::<A>(10, PORT + 1)).bytes(),
    ];
    // Whatever else there is, with the bytes of the service's ports where TCP would have them.
    for proto in (0..=255).filter(|proto| ![TCP, UDP].contains(proto)) {
        let mut upper = vec![0; 64];
        upper[..4].copy_from_slice(&[0x0f, 0xa0, 0, 80]);
        frames.push(framed(src, dst, proto, &Between::default(), None, &upper));
    }
    for kind in 0..=255 {
        frames.push(icmp(src, dst, kind, &[0; 44]));
    }
    for frame in frames {
        for hook in [from_pod::<A, _, _> as Hook<A>, to_pod, uplink_in, uplink_out] {
            assert_eq!(passes(hook, &maps, &frame), frame);
        }
    }
    assert!(maps.flows.borrow().is_empty());
}

/// Ends of a packet that no two flows share.
fn any_frame<A: Book>() -> impl Strategy<Value = Frame> {
    let between = (0..11_usize, proptest::collection::vec((0..7_usize, 0..4_u8), 0..5));
    (
        any::<bool>(),
        100..200_u16,
        any::<u16>(),
        proptest::collection::vec(any::<u8>(), 0..80),
        between,
        any::<u8>(),
    )
        .prop_map(|(udp, number, port, payload, (options, chain), flags)| {
            let kinds = [0, 43, 60, 135, 139, 140, 51];
            let chain = chain.into_iter().map(|(kind, more)| (kinds[kind], more)).collect();
            let proto = if udp { UDP } else { TCP };
            Frame {
                payload,
                tcp_flags: flags & 0x3f,
                between: Between { options: options * 4, chain },
                ..Frame::new(proto, at::<A>(number, port), vip::<A>())
            }
        })
}

fn random_packets_go_there_and_back<A: Book>() {
    let backends: Vec<SocketAddr> = (300..340).map(|number| at::<A>(number, number)).collect();
    proptest!(|(frame in any_frame::<A>())| {
        let mut maps = maps::<A>(&backends, 0, LOCAL);
        maps.pods.insert(0, A::of(frame.src.ip()));
        let out = passes(from_pod, &maps, &frame.bytes());
        check(&out);
        let (src, dst) = ends(&out, ETHERNET);
        prop_assert_eq!(src, frame.src);
        prop_assert!(backends.contains(&dst));
        let reply = Frame { src: dst, dst: src, ..frame.clone() };
        let back = passes(to_pod, &maps, &reply.bytes());
        check(&back);
        prop_assert_eq!(ends(&back, ETHERNET), (vip::<A>(), src));
        let about = error(dst.ip(), src.ip(), &Frame { dst, ..frame });
        prop_assert_eq!(told(to_pod, &maps, &about), (vip::<A>().ip(), src.ip(), (src, vip::<A>())));
    });
}

/// Of every protocol, in the tables that translated flows are in: what policy will remember.
fn flows_that_are_not_translated_have_room<A: Book>() {
    let maps = maps::<A>(&[backend::<A>()], 0, LOCAL);
    let echo = if client::<A>().is_ipv6() { [128, 129] } else { [8, 0] };
    let ping = |src: SocketAddr, dst: SocketAddr, kind| icmp(src.ip(), dst.ip(), kind, &[0xab, 0xcd, 0, 1]);
    let (a, b) = (client::<A>(), backend::<A>());
    let frame = |proto, src, dst| Frame::new(proto, src, dst).bytes();
    let seen = |bytes: &[u8], leg| {
        let wire = Bytes::new(bytes);
        parse(&wire, &maps, &A::ip(&wire, ETHERNET as u32).unwrap(), leg).unwrap()
    };
    for (there, back) in [
        (frame(TCP, a, b), frame(TCP, b, a)),
        (frame(UDP, a, b), frame(UDP, b, a)),
        (frame(132, a, b), frame(132, b, a)),
        (frame(47, a, b), frame(47, b, a)),
        (ping(a, b, echo[0]), ping(b, a, echo[1])),
    ] {
        let (there, back) = (seen(&there, LEG_FROM_POD), seen(&back, LEG_TO_POD));
        assert!(follow(&maps, &there, LEG_FROM_POD).is_none());
        let (first, second) = nat::untranslated(there.tuple, LEG_FROM_POD, maps.now.get(), 7);
        for entry in [first, second] {
            maps.put_flow(&std::cell::Cell::new(entry)).unwrap();
        }
        assert_eq!(follow(&maps, &there, LEG_FROM_POD).unwrap().revision(), 7);
        assert_eq!(follow(&maps, &back, LEG_TO_POD).unwrap().revision(), 7);
        // Its hooks leave it alone, and remember that it is alive.
        assert_eq!(there.tuple.rewritten(&follow(&maps, &there, LEG_FROM_POD).unwrap()), there.tuple);
    }
    // The same two ends by way of the service would be one connection with it on the wire.
    let (verdict, _) = run(from_pod, &maps, &frame(TCP, a, vip::<A>()));
    assert_eq!((verdict, &maps.drops.borrow()[..]), (Verdict::Drop, &[Reason::FlowCollision][..]));
    let direct = frame(TCP, a, b);
    assert_eq!(passes(from_pod, &maps, &direct), direct);
}

/// Cut short, garbled or nothing at all: no hook fails in a way of its own, and none writes out of turn.
fn no_bytes_are_too_strange<A: Book>() {
    let strange = (
        any_frame::<A>(),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<u8>(),
        any::<bool>(),
    );
    proptest!(ProptestConfig::with_cases(2000), |((frame, cut, at, byte, fragment) in strange)| {
        let mut bytes = if fragment { frame.fragments(8).swap_remove(0) } else { frame.bytes() };
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(cut.index(bytes.len() + 1));
        for backends in [&[backend::<A>()][..], &[]] {
            for hook in [from_pod::<A, _, _> as Hook<A>, to_pod, uplink_in, uplink_out] {
                let mut maps = maps::<A>(backends, 0, LOCAL);
                maps.pods.insert(0, A::of(frame.src.ip()));
                let (verdict, out) = run(hook, &maps, &bytes);
                if verdict == Verdict::Pass {
                    prop_assert_eq!(out.len(), bytes.len());
                    prop_assert_eq!(out == bytes, maps.connections.get() == 0);
                }
            }
        }
    });
}
