//! Packets through the entries of a flow, there and back.

use proptest::prelude::*;

use super::*;
use crate::{
    abi::Backend,
    family::{V4, V6},
    words::{Handle, LOCAL},
};

fn chosen<A: Family>(addr_be: A, port_be: u16) -> Chosen<A> {
    Chosen {
        handle: Handle::new(3, 9),
        backend: Backend::new(0, port_be, 9, LOCAL, 5),
        addr_be,
        service: 5,
        flags: 0,
    }
}

/// What a hook does: the entry for the packet as it is, if there is one.
fn pass<A: Family>(entries: &[Entry<A>], packet: Tuple<A>, leg: u8) -> Tuple<A> {
    entries
        .iter()
        .find(|entry| entry.key == packet.key(leg))
        .map_or(packet, |entry| packet.rewritten(&entry.flow))
}

macro_rules! in_both_families {
    ($($module:ident: $family:ty),*) => { $(
        mod $module {
            use super::*;

            type Address = $family;

            prop_compose! {
                fn tuple()(
                    src_be: Address,
                    dst_be: Address,
                    sport_be: u16,
                    dport_be: u16,
                    udp: bool,
                ) -> Tuple<Address> {
                    let proto = if udp { crate::abi::UDP } else { TCP };
                    Tuple { src_be, dst_be, sport_be, dport_be, proto }
                }
            }

            proptest! {
            #[test]
            fn a_pod_sees_answers_from_the_service(packet in tuple(), addr: Address, port: u16) {
                prop_assume!(addr != packet.src_be && addr != packet.dst_be);
                let (there, back) = pod(packet, &chosen(addr, port), 7);
                let entries = [there, back];
                let request = pass(&entries, packet, LEG_FROM_POD);
                prop_assert_eq!((request.dst_be, request.dport_be, request.src_be), (addr, port, packet.src_be));
                prop_assert_eq!(pass(&entries, request.reversed(), LEG_TO_POD), packet.reversed());
            }

            #[test]
            fn a_pod_reaches_itself(packet in tuple(), port: u16) {
                prop_assume!(packet.src_be != packet.dst_be && packet.src_be != Address::HAIRPIN);
                let (there, back) = pod(packet, &chosen(packet.src_be, port), 7);
                prop_assert!(there.flow.flags & FLOW_HAIRPIN != 0 && back.flow.flags & FLOW_HAIRPIN != 0);
                let entries = [there, back];
                let request = pass(&entries, packet, LEG_FROM_POD);
                prop_assert_ne!(request.src_be, request.dst_be, "the pod would drop a packet from itself");
                prop_assert_eq!(pass(&entries, request.reversed(), LEG_FROM_POD), packet.reversed());
            }

            #[test]
            fn an_outside_client_sees_answers_from_the_service(packet in tuple(), addr: Address, port: u16) {
                prop_assume!(addr != packet.dst_be);
                let (there, back) = outside(packet, &chosen(addr, port), 7);
                let entries = [there, back];
                let request = pass(&entries, pass(&entries, packet, LEG_UPLINK_IN), LEG_UPLINK_OUT);
                prop_assert_eq!((request.dst_be, request.src_be), (addr, packet.src_be), "the source is kept");
                let reply = pass(&entries, request.reversed(), LEG_UPLINK_OUT);
                prop_assert_eq!(reply, packet.reversed());
            }

            #[test]
            fn a_masqueraded_flow_comes_back(packet in tuple(), addr: Address, port: u16, node: Address, snat: u16) {
                prop_assume!(addr != packet.dst_be && node != packet.src_be && addr != node && addr != packet.src_be);
                let picked = chosen(addr, port);
                let (a, b) = outside(packet, &picked, 7);
                let (c, d) = masqueraded(packet, &picked, 7, node, snat);
                let entries = [a, b, c, d];
                let request = pass(&entries, pass(&entries, packet, LEG_UPLINK_IN), LEG_UPLINK_OUT);
                prop_assert_eq!((request.src_be, request.sport_be, request.dst_be), (node, snat, addr));
                let inside = pass(&entries, request.reversed(), LEG_UPLINK_IN);
                prop_assert_ne!(inside.src_be, node, "the stack drops packets from its own address");
                prop_assert_eq!(pass(&entries, inside, LEG_UPLINK_OUT), packet.reversed());
            }

            #[test]
            fn ports_for_masquerading_are_in_their_range(packet in tuple(), attempt in 0..64_u32) {
                let port = u16::from_be(snat_port(packet, attempt));
                prop_assert!((SNAT_PORTS.0..=SNAT_PORTS.1).contains(&port));
            }

            #[test]
                fn the_tag_tells_neighbours_apart(packet in tuple(), change in 1..u16::MAX, other: Address) {
                    prop_assume!(other != packet.src_be && other != packet.dst_be);
                    let (sport_be, dport_be) = (packet.sport_be ^ change, packet.dport_be ^ change);
                    let tags = [
                        packet,
                        Tuple { src_be: other, ..packet },
                        Tuple { dst_be: other, ..packet },
                        Tuple { sport_be, ..packet },
                        Tuple { dport_be, ..packet },
                        Tuple { sport_be, dport_be, ..packet },
                        Tuple { proto: packet.proto ^ 1, ..packet },
                    ]
                    .map(|tuple| tag(&tuple.key(0)));
                    let distinct: std::collections::BTreeSet<u32> = tags.into();
                    prop_assert_eq!(distinct.len(), tags.len());
                }

                #[test]
                fn an_untranslated_flow_is_left_as_it_is(packet in tuple(), leg in 0..4_u8, revision: u16) {
                    let (there, back) = untranslated(packet, leg, 7, revision);
                    prop_assert_eq!(packet.rewritten(&there.flow), packet);
                    prop_assert_eq!(back.key, packet.reversed().key(leg ^ 1));
                    prop_assert_eq!(packet.reversed().rewritten(&back.flow), packet.reversed());
                    prop_assert_eq!(other_way(packet, &there.flow, leg), back.key);
                    prop_assert_eq!(other_way(packet.reversed(), &back.flow, leg ^ 1), there.key);
                    for flow in [there.flow, back.flow] {
                        // What packets note in the flags leaves the revision alone.
                        let used = Flow { flags: flow.flags | FLOW_USED | FLOW_CLOSING, ..flow };
                        prop_assert_eq!((flow.revision(), used.revision()), (revision, revision));
                        prop_assert!(flow.flags & FLOW_UNTRANSLATED != 0);
                        prop_assert!(flow.flags & (FLOW_CHOICE | FLOW_HAIRPIN | FLOW_CLOSING | FLOW_USED) == 0);
                    }
                }

                #[test]
            fn the_tag_tells_directions_apart(packet in tuple()) {
                prop_assume!(packet != packet.reversed());
                prop_assert_ne!(tag(&packet.key(0)), tag(&packet.reversed().key(0)));
                prop_assert_ne!(tag(&packet.key(0)), tag(&packet.key(1)));
            }
            }
        }
    )* };
}

in_both_families!(v4: V4, v6: V6);

#[test]
fn attempts_spread() {
    let packet = Tuple { src_be: 1_u32, dst_be: 2, sport_be: 3, dport_be: 4, proto: TCP };
    let ports: std::collections::BTreeSet<u16> = (0..16).map(|attempt| snat_port(packet, attempt)).collect();
    assert!(ports.len() > 14, "{ports:?}");
}

#[test]
fn when_a_choice_stands() {
    let (entry, _) =
        pod(Tuple { src_be: 1_u32, dst_be: 2, sport_be: 3, dport_be: 4, proto: TCP }, &chosen(9, 9), 1000);
    let flow = entry.flow;
    let closing = Flow { flags: flow.flags | FLOW_CLOSING, ..flow };
    let udp = crate::abi::UDP;
    for (flow, proto, flags, now, alive, expected, why) in [
        (flow, TCP, SYN, 1001, true, true, "a retransmitted SYN"),
        (flow, TCP, SYN, 1001, false, false, "a SYN for a dead backend"),
        (closing, TCP, SYN, 1001, true, false, "a new connection from the same port"),
        (flow, TCP, SYN, 1000 + TCP_IDLE, true, false, "a SYN long after"),
        (flow, TCP, ACK, 1000 + TCP_IDLE, false, true, "an established connection drains"),
        (closing, TCP, ACK, 1001, true, true, "the last acknowledgements"),
        (flow, udp, 0, 1001, true, true, "a datagram"),
        (flow, udp, 0, 1001, false, false, "a datagram for a dead backend"),
        (flow, udp, 0, 1000 + UDP_IDLE, true, false, "a datagram long after"),
        (flow, udp, 0, 999, true, true, "another processor was a tick ahead"),
        (flow, TCP, SYN, 999, true, true, "the same for a SYN"),
    ] {
        assert_eq!(stands(&flow, proto, flags, now, alive), expected, "{why}");
    }
}

#[test]
fn when_a_flow_is_over() {
    let packet = Tuple { src_be: 1_u32, dst_be: 2, sport_be: 3, dport_be: 4, proto: TCP };
    let (_, back) = outside(packet, &chosen(9, 9), 1000);
    let with = |flags| Flow { flags: back.flow.flags | flags, ..back.flow };
    let udp = crate::abi::UDP;
    for (flow, proto, seconds, expected, why) in [
        (with(0), TCP, 59, false, "a SYN that waits for its answer"),
        (with(0), TCP, 60, true, "a SYN that nobody answered"),
        (with(FLOW_USED), TCP, 6 * 3600 - 1, false, "an established connection that is quiet"),
        (with(FLOW_USED), TCP, 6 * 3600, true, "one that is quiet for too long"),
        (with(FLOW_USED | FLOW_CLOSING), TCP, 9, false, "the last packets of a connection"),
        (with(FLOW_USED | FLOW_CLOSING), TCP, 10, true, "a connection that has ended"),
        (with(FLOW_USED), udp, 119, false, "a stream of datagrams"),
        (with(FLOW_USED), udp, 120, true, "a stream that has ended"),
    ] {
        assert_eq!(over(&flow, proto, 1000 + ticks(seconds)), expected, "{why}");
    }
    assert!(!over(&with(FLOW_USED), TCP, 999), "another processor was a tick ahead");
}

#[test]
fn each_way_knows_the_other() {
    let packet = Tuple { src_be: 1_u32, dst_be: 2, sport_be: 3, dport_be: 4, proto: TCP };
    let picked = chosen(9, 9);
    let pairs = [
        (packet, pod(packet, &picked, 0)),
        (Tuple { src_be: 9, ..packet }, pod(Tuple { src_be: 9, ..packet }, &picked, 0)),
        (packet, outside(packet, &picked, 0)),
    ];
    for (packet, (there, back)) in pairs {
        assert_eq!(other_way(packet, &there.flow, there.key.leg), back.key);
        let reply = packet.rewritten(&there.flow).reversed();
        assert_eq!(other_way(reply, &back.flow, back.key.leg), there.key);
    }
    let (exit, reply) = masqueraded(packet, &picked, 0, 7, 8);
    let inside = Tuple { dst_be: 9, dport_be: 9, ..packet };
    assert_eq!(other_way(inside, &exit.flow, exit.key.leg), reply.key);
}
