//! Services at connect.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use gantry_agent::model::Protocol;

use crate::support::{Node, PATIENCE, Server, ask, read_name, service, table};

const BACKENDS: [&str; 4] = ["10.99.0.1:8080", "10.99.0.2:8080", "10.99.0.3:8080", "10.99.0.4:8080"];

fn start_backends() -> Vec<Server> {
    BACKENDS.into_iter().map(Server::start).collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn every_backend_answers_and_the_peer_is_the_service() {
    let node = Node::new();
    let _servers = start_backends();
    let dataplane = node.open();
    node.publish(&dataplane, &table([("web", service("10.96.0.10", 80, Protocol::Tcp, &BACKENDS))]));
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect("10.96.0.10:80").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), "10.96.0.10:80".parse().unwrap());
        seen.insert(read_name(&mut stream).unwrap());
    }
    assert_eq!(seen, BACKENDS.map(String::from).into());
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_ipv6_socket_reaches_an_ipv4_service() {
    let node = Node::new();
    let _servers = start_backends();
    let dataplane = node.open();
    node.publish(&dataplane, &table([("web", service("10.96.0.10", 80, Protocol::Tcp, &BACKENDS))]));
    let mapped: SocketAddr = "[::ffff:10.96.0.10]:80".parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&mapped, PATIENCE).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), mapped);
    assert!(BACKENDS.contains(&read_name(&mut stream).unwrap().as_str()));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn without_an_endpoint_the_connect_is_refused() {
    let node = Node::new();
    let dataplane = node.open();
    node.publish(&dataplane, &table([("web", service("10.96.0.10", 80, Protocol::Tcp, &[]))]));
    assert_eq!(ask("10.96.0.10:80").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let drops = dataplane.snapshot().drops;
    assert!(drops.contains(&("no_endpoint", 1)), "{drops:?}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn affinity_binds_a_client_until_its_timeout() {
    let node = Node::new();
    let _servers = start_backends();
    let dataplane = node.open();
    let mut web = service("10.96.0.10", 80, Protocol::Tcp, &BACKENDS);
    web.affinity = Some(Duration::from_secs(2));
    node.publish(&dataplane, &table([("web", web)]));
    let first = ask("10.96.0.10:80").unwrap();
    for _ in 0..100 {
        assert_eq!(ask("10.96.0.10:80").unwrap(), first);
    }
    // The binding must end: over many expiries a random choice shows more than one backend.
    let mut seen = BTreeSet::from([first]);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(2100));
        seen.insert(ask("10.96.0.10:80").unwrap());
        if seen.len() > 1 {
            return;
        }
    }
    panic!("still bound to {seen:?} after eight timeouts");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_node_port_answers_on_the_node_and_on_loopback() {
    let node = Node::new();
    let _servers = start_backends();
    let dataplane = node.open();
    let mut web = service("10.96.0.10", 80, Protocol::Tcp, &BACKENDS);
    web.ports[0].node_port = Some(30080);
    node.publish(&dataplane, &table([("web", web)]));
    for address in ["127.0.0.1:30080", "192.0.2.10:30080", "10.96.0.10:80"] {
        assert!(BACKENDS.contains(&ask(address).unwrap().as_str()), "{address}");
    }
}
