//! Services per packet for pods and the node: each test with programs attached in either way.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use gantry_agent::{dataplane::TcAttachment, model::Protocol};

use crate::{
    pods::{Echo, Pod, World, datagram_socket, exchange, make_router},
    support::{Node, PATIENCE, Server, ask, in_both_ways, output, service, table},
};

const VIP: &str = "10.96.0.10:80";

in_both_ways! {
    programs_are_attached_as_asked_for,
    datagrams_of_a_pod_reach_every_backend_and_leave_a_dead_one,
    tcp_of_a_pod_without_the_socket_path,
    a_pod_reaches_itself_through_its_service,
    without_an_endpoint_a_packet_is_refused,
    fragments_follow_their_first,
    socket_and_packet_path_bind_a_client_to_the_same_backend,
    a_backend_that_refuses_is_heard,
    a_pod_sends_in_its_own_name_alone,
}

fn programs_are_attached_as_asked_for(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    node.config.uplink = Some("up0".to_owned());
    make_router();
    let _world = World::new();
    let pod = Pod::new("10.244.0.2");
    let dataplane = node.open();
    node.publish(&dataplane, &table([]));
    pod.attach(&dataplane);
    let pins = crate::support::names(&node.config.pins.join("links"));
    let pinned = pins.iter().filter(|name| !name.starts_with("socket-")).count();
    let filters = [pod.interface().as_str(), "up0"].map(|interface| {
        let shown = |side| output(&format!("tc filter show dev {interface} {side}"));
        [shown("ingress"), shown("egress")].iter().filter(|filters| filters.contains("direct-action")).count()
    });
    match (tc, pinned) {
        // On kernels before 6.6 the newest way is the other one.
        (TcAttachment::Newest, 4) => assert_eq!(filters, [0, 0], "{pins:?}"),
        (_, pinned) => assert_eq!((pinned, filters), (0, [2, 2]), "{pins:?}"),
    }
}

/// Who answered: the first word of an echo.
pub(crate) fn answerer(answer: &str) -> String {
    answer.split(' ').next().unwrap().to_owned()
}

fn datagrams_of_a_pod_reach_every_backend_and_leave_a_dead_one(tc: TcAttachment) {
    let node = Node::attaching_by(tc);
    make_router();
    let (client, a, b) = (Pod::new("10.244.0.2"), Pod::new("10.244.0.3"), Pod::new("10.244.0.4"));
    let _servers = [a.echo(53), b.echo(53)];
    let dataplane = node.open();
    let both = [a.endpoint(53), b.endpoint(53)];
    let publish = |endpoints: &[String]| {
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        node.publish(&dataplane, &table([("dns", service("10.96.0.10", 80, Protocol::Udp, &endpoints))]));
    };
    publish(&both);
    for pod in [&client, &a, &b] {
        pod.attach(&dataplane);
    }
    let seen: BTreeSet<String> = client.within(|| {
        (0..40)
            .map(|_| {
                let socket = datagram_socket();
                socket.connect(VIP).unwrap();
                // A connected socket takes answers from the service's address only.
                answerer(&exchange(&socket, "hello").unwrap())
            })
            .collect()
    });
    assert_eq!(seen, both.iter().cloned().collect());

    let socket = client.within(datagram_socket);
    socket.connect(VIP).unwrap();
    let first = answerer(&exchange(&socket, "one").unwrap());
    let rest: Vec<String> = both.iter().filter(|address| **address != first).cloned().collect();
    publish(&rest);
    // The backend is dead to datagrams from the end of a grace period on.
    let moved = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        answerer(&exchange(&socket, "two").unwrap()) == rest[0]
    });
    assert!(moved, "the connected socket still talks to {first}");
}

fn tcp_of_a_pod_without_the_socket_path(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    node.config.pod_sockets = false;
    make_router();
    let (client, a, b) = (Pod::new("10.244.0.2"), Pod::new("10.244.0.3"), Pod::new("10.244.0.4"));
    let _servers = [a.serve(8080), b.serve(8080)];
    let dataplane = node.open();
    let both = [a.endpoint(8080), b.endpoint(8080)];
    node.publish(
        &dataplane,
        &table([("web", service("10.96.0.10", 80, Protocol::Tcp, &[&both[0], &both[1]]))]),
    );
    for pod in [&client, &a, &b] {
        pod.attach(&dataplane);
    }
    let seen: BTreeSet<String> = client.within(|| (0..40).map(|_| ask(VIP).unwrap()).collect());
    assert_eq!(seen, both.into());
    let connections: u64 = dataplane.snapshot().connections.iter().map(|(_, count)| count).sum();
    assert_eq!(connections, 40, "each connection chose once");
}

fn a_pod_reaches_itself_through_its_service(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    node.config.pod_sockets = false;
    make_router();
    let pod = Pod::new("10.244.0.2");
    let _tcp = pod.serve(8080);
    let _udp = pod.echo(53);
    let dataplane = node.open();
    node.publish(
        &dataplane,
        &table([
            ("web", service("10.96.0.10", 80, Protocol::Tcp, &[&pod.endpoint(8080)])),
            ("dns", service("10.96.0.11", 53, Protocol::Udp, &[&pod.endpoint(53)])),
        ]),
    );
    pod.attach(&dataplane);
    for _ in 0..10 {
        assert_eq!(pod.within(|| ask(VIP)).unwrap(), pod.endpoint(8080));
    }
    let answer = pod.within(|| {
        let socket = datagram_socket();
        socket.connect("10.96.0.11:53").unwrap();
        exchange(&socket, "me").unwrap()
    });
    assert_eq!(answerer(&answer), pod.endpoint(53));
}

fn without_an_endpoint_a_packet_is_refused(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    node.config.pod_sockets = false;
    make_router();
    let pod = Pod::new("10.244.0.2");
    let dataplane = node.open();
    node.publish(
        &dataplane,
        &table([
            ("web", service("10.96.0.10", 80, Protocol::Tcp, &[])),
            ("dns", service("10.96.0.11", 53, Protocol::Udp, &[])),
        ]),
    );
    pod.attach(&dataplane);
    let (tcp, udp) = pod.within(|| {
        let socket = datagram_socket();
        socket.connect("10.96.0.11:53").unwrap();
        (ask(VIP).unwrap_err(), exchange(&socket, "x").unwrap_err())
    });
    assert_eq!(tcp.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(udp.kind(), io::ErrorKind::ConnectionRefused);
}

fn fragments_follow_their_first(tc: TcAttachment) {
    let node = Node::attaching_by(tc);
    make_router();
    let (client, server) = (Pod::new("10.244.0.2"), Pod::new("10.244.0.3"));
    let _echo = server.echo(53);
    let dataplane = node.open();
    node.publish(
        &dataplane,
        &table([("dns", service("10.96.0.10", 80, Protocol::Udp, &[&server.endpoint(53)]))]),
    );
    client.attach(&dataplane);
    server.attach(&dataplane);
    let data = "0123456789".repeat(800);
    let answer = client.within(|| {
        let socket = datagram_socket();
        socket.connect(VIP).unwrap();
        exchange(&socket, &data).unwrap()
    });
    assert!(answer.starts_with(&server.endpoint(53)) && answer.ends_with(&data));
}

fn socket_and_packet_path_bind_a_client_to_the_same_backend(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    make_router();
    let client = Pod::new("10.244.0.2");
    let backends: Vec<Pod> = (10..18).map(|last| Pod::new(&format!("10.244.0.{last}"))).collect();
    let _servers: Vec<Server> = backends.iter().map(|pod| pod.serve(8080)).collect();
    let endpoints: Vec<String> = backends.iter().map(|pod| pod.endpoint(8080)).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let mut web = service("10.96.0.10", 80, Protocol::Tcp, &endpoints);
    web.affinity = Some(Duration::from_secs(600));
    let services = table([("web", web)]);
    let mut answers = BTreeSet::new();
    for pod_sockets in [true, false] {
        node.config.pod_sockets = pod_sockets;
        let dataplane = node.open();
        node.publish(&dataplane, &services);
        for pod in backends.iter().chain([&client]) {
            pod.attach(&dataplane);
        }
        answers.extend(client.within(|| (0..20).map(|_| ask(VIP).unwrap()).collect::<Vec<_>>()));
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn datagrams_of_the_node() {
    let node = Node::new();
    let addresses: [SocketAddr; 2] = ["10.99.0.1:53".parse().unwrap(), "10.99.0.2:53".parse().unwrap()];
    for address in addresses {
        crate::support::run(&format!("ip addr add {}/32 dev lo", address.ip()));
    }
    let _servers = addresses.map(Echo::bind);
    let dataplane = node.open();
    node.publish(
        &dataplane,
        &table([("dns", service("10.96.0.10", 53, Protocol::Udp, &["10.99.0.1:53", "10.99.0.2:53"]))]),
    );
    let vip: SocketAddr = "10.96.0.10:53".parse().unwrap();
    let mut seen = BTreeSet::new();
    let unconnected = datagram_socket();
    for _ in 0..40 {
        unconnected.send_to(b"x", vip).unwrap();
        let mut buffer = [0; 100];
        let (length, from) = unconnected.recv_from(&mut buffer).unwrap();
        assert_eq!(from, vip, "a resolver drops answers from elsewhere");
        seen.insert(answerer(&String::from_utf8_lossy(&buffer[..length])));
    }
    assert_eq!(seen.len(), 2);
    let connected = datagram_socket();
    connected.connect(vip).unwrap();
    assert_eq!(connected.peer_addr().unwrap(), vip);
    exchange(&connected, "x").unwrap();
}

fn a_backend_that_refuses_is_heard(tc: TcAttachment) {
    let node = Node::attaching_by(tc);
    make_router();
    let (client, server) = (Pod::new("10.244.0.2"), Pod::new("10.244.0.3"));
    let dataplane = node.open();
    // Nobody listens there: the backend's own kernel answers with a port unreachable.
    node.publish(
        &dataplane,
        &table([("dns", service("10.96.0.10", 80, Protocol::Udp, &[&server.endpoint(53)]))]),
    );
    client.attach(&dataplane);
    server.attach(&dataplane);
    let error = client.within(|| {
        let socket = datagram_socket();
        socket.connect(VIP).unwrap();
        exchange(&socket, "x").unwrap_err()
    });
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

fn a_pod_sends_in_its_own_name_alone(tc: TcAttachment) {
    const CLAIMED: &str = "10.244.0.66";
    let node = Node::attaching_by(tc);
    make_router();
    let (client, server) = (Pod::new("10.244.0.2"), Pod::new("10.244.0.3"));
    let _echo = server.echo(53);
    client.claim(CLAIMED);
    let dataplane = node.open();
    node.publish(&dataplane, &table([]));
    for pod in [&client, &server] {
        pod.attach(&dataplane);
    }
    let send = |from: &str| {
        let socket = client.within(|| UdpSocket::bind((from, 0))).unwrap();
        socket.connect(server.endpoint(53)).unwrap();
        socket.send(b"hello").unwrap();
        socket
    };
    let (claimed, own) = (send(CLAIMED), send("10.244.0.2"));
    own.set_read_timeout(Some(PATIENCE)).unwrap();
    own.recv(&mut [0; 64]).unwrap();
    // The server takes one after the other.
    claimed.set_nonblocking(true).unwrap();
    assert_eq!(claimed.recv(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let drops = dataplane.snapshot().drops;
    assert!(drops.contains(&("spoofed", 1)), "{drops:?}");
}
