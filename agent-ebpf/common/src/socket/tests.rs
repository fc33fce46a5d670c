//! Where a socket is sent, in both families.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
};

use super::*;
use crate::{
    abi::{OUTSIDE, TCP, UDP},
    testing::{Book, in_both_families, memory::Memory},
    words::{AFFINITY, EMPTY_DROP},
};

in_both_families! {
    a_service_by_its_address_and_a_node_port_by_the_nodes,
    loopback_is_the_nodes_own,
    refusals_say_why,
    a_client_is_bound_by_its_pods_address,
}

const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;

fn at<A: Book>(number: u16, port: u16) -> SocketAddr {
    SocketAddr::new(A::example(number), port)
}

fn loopback<A: Book>() -> IpAddr {
    if A::example(0).is_ipv6() { "::1".parse().unwrap() } else { "127.0.0.1".parse().unwrap() }
}

fn maps<A: Book>(flags: u16, backends: &[SocketAddr]) -> Memory<A> {
    let mut maps = Memory::new(A::example(1));
    let index = maps.put_set(flags, backends, 0);
    maps.serve(Some(A::example(10)), PORT, TCP, INSIDE, index);
    maps.serve(None, NODE_PORT, TCP, INSIDE, index);
    maps.serve(Some(A::example(11)), PORT, TCP, OUTSIDE, index);
    maps
}

fn ask<A: Book>(maps: &Memory<A>, to: IpAddr, port: u16, proto: u8, asker: Asker) -> Destination<A> {
    destination(maps, A::of(to), port.to_be(), proto, asker, |_| A::of(A::example(2)))
}

/// Where it is sent, when that is to a service.
fn sent<A: Book>(maps: &Memory<A>, to: IpAddr, port: u16, asker: Asker) -> Option<(A, u16)> {
    match ask(maps, to, port, TCP, asker) {
        Destination::Own => None,
        Destination::Service(found, service) => {
            assert_eq!((found.vip_be, u16::from_be(found.vip_port_be), service), (A::of(to), port, 0));
            Some((found.backend_be, u16::from_be(found.backend_port_be)))
        }
        Destination::Refused(reason) => panic!("{reason:?}"),
    }
}

fn a_service_by_its_address_and_a_node_port_by_the_nodes<A: Book>() {
    let maps = maps::<A>(0, &[at::<A>(3, 8080)]);
    let served = Some((A::of(A::example(3)), 8080));
    for asker in [Asker::Host, Asker::Pod(7)] {
        assert_eq!(sent(&maps, A::example(10), PORT, asker), served);
        assert_eq!(sent(&maps, A::example(1), NODE_PORT, asker), served);
        // Another port, a node port elsewhere, an address that only the outside is served by.
        for (to, port) in [(10, PORT + 1), (12, NODE_PORT), (11, PORT)] {
            assert_eq!(sent(&maps, A::example(to), port, asker), None, "{to} {port}");
        }
        assert_eq!(ask(&maps, A::example(10), PORT, UDP, asker), Destination::Own);
    }
}

fn loopback_is_the_nodes_own<A: Book>() {
    let maps = maps::<A>(0, &[at::<A>(3, 8080)]);
    assert_eq!(sent(&maps, loopback::<A>(), NODE_PORT, Asker::Host), Some((A::of(A::example(3)), 8080)));
    assert_eq!(sent(&maps, loopback::<A>(), PORT, Asker::Host), None);
    assert_eq!(sent(&maps, loopback::<A>(), NODE_PORT, Asker::Pod(7)), None, "a pod's loopback is its own");
}

fn refusals_say_why<A: Book>() {
    for (flags, reason) in [(0, Reason::NoEndpoint), (EMPTY_DROP, Reason::NoLocalEndpoint)] {
        let maps = maps::<A>(flags, &[]);
        assert_eq!(ask(&maps, A::example(10), PORT, TCP, Asker::Pod(7)), Destination::Refused(reason));
    }
}

fn a_client_is_bound_by_its_pods_address<A: Book>() {
    let backends: Vec<SocketAddr> = (100..164).map(|number| at::<A>(number, 8080)).collect();
    let maps = maps::<A>(AFFINITY, &backends);
    let asked = Cell::new(0);
    let from = |netns: u64| {
        let client = |cookie: u64| {
            asked.set(asked.get() + 1);
            A::of(A::example(cookie as u16))
        };
        match destination(&maps, A::of(A::example(10)), PORT.to_be(), TCP, Asker::Pod(netns), client) {
            Destination::Service(found, _) => found.backend_be,
            other => panic!("{other:?}"),
        }
    };
    let first = from(200);
    assert!((0..50).all(|_| from(200) == first));
    let others: Vec<A> = (201..230).map(from).collect();
    assert!(others.iter().any(|other| *other != first));
    assert_eq!(asked.get(), 80, "each connect asks");
    // Where nothing depends on the client, nobody asks who it is.
    let plain = self::maps::<A>(0, &backends);
    let refused = |_| panic!("asked");
    let to = destination(&plain, A::of(A::example(10)), PORT.to_be(), TCP, Asker::Pod(7), refused);
    assert!(matches!(to, Destination::Service(..)));
}
