//! Services per packet for clients outside: each test with programs attached in either way.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use gantry_agent::{dataplane::TcAttachment, model::Protocol};

use crate::{
    packet::answerer,
    pods::{Echo, Pod, World, datagram_socket_at, exchange, make_router},
    support::{Node, Server, ask, endpoint, in_both_ways, run, service, table},
};

in_both_ways! {
    a_node_port_from_outside,
    one_port_of_a_client_to_two_addresses_of_a_service,
    tcp_from_outside_to_both_kinds_of_backend_and_to_none,
    a_load_balancer_address_takes_clients_from_its_ranges_only,
    filters_behind_ours_have_their_say,
}

fn a_node_port_from_outside(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    node.config.uplink = Some("up0".to_owned());
    make_router();
    let world = World::new();
    world.add("10.245.0.1");
    let local = Pod::new("10.244.0.2");
    let _here = local.echo(53);
    let remote: SocketAddr = "10.245.0.1:53".parse().unwrap();
    let _there = world.0.within(|| Echo::bind(remote));
    let dataplane = node.open();
    let mut dns = service("10.96.0.10", 53, Protocol::Udp, &[&local.endpoint(53), "10.245.0.1:53"]);
    dns.ports[0].node_port = Some(30053);
    dns.ports[0].endpoints[1].node = Some("there".into());
    dns.load_balancer_ips = vec![("192.0.2.77".parse().unwrap(), None)];
    node.publish(&dataplane, &table([("dns", dns.clone())]));
    local.attach(&dataplane);
    // No port twice: to the same local backend by another address it would be one flow with the first on the wire.
    let ports = std::cell::Cell::new(40_000_u16);
    let ask_port = |address: &'static str| {
        let port = ports.replace(ports.get() + 1);
        world.0.within(move || {
            let socket = datagram_socket_at(port);
            socket.connect(address).unwrap();
            exchange(&socket, "x").unwrap()
        })
    };
    run("ip addr add 192.0.2.77/32 dev lo");
    let mut seen = BTreeSet::new();
    for address in ["192.0.2.10:30053", "192.0.2.77:53"] {
        for _ in 0..30 {
            let answer = ask_port(address);
            let sender: SocketAddr = answer.split(' ').nth(1).unwrap().parse().unwrap();
            if answerer(&answer) == "10.245.0.1:53" {
                assert_eq!(sender.ip().to_string(), "192.0.2.10", "a remote backend answers to this node");
                assert!((20000..28000).contains(&sender.port()));
            } else {
                assert_eq!(sender.ip(), World::ADDRESS, "a local backend sees the client");
            }
            seen.insert((address, answerer(&answer)));
        }
    }
    assert_eq!(seen.len(), 4, "{seen:?}");

    dns.external_local = true;
    node.publish(&dataplane, &table([("dns", dns)]));
    for _ in 0..30 {
        assert_eq!(answerer(&ask_port("192.0.2.10:30053")), local.endpoint(53));
    }
}

fn tcp_from_outside_to_both_kinds_of_backend_and_to_none(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    // The world's clients are in the test's cgroup too, and must not be taken for pods.
    node.config.pod_sockets = false;
    node.config.uplink = Some("up0".to_owned());
    make_router();
    let world = World::new();
    world.add("10.245.0.1");
    let local = Pod::new("10.244.0.2");
    let _here = local.serve(8080);
    let _there = world.0.within(|| Server::listen("10.245.0.1:8080".parse().unwrap()));
    let dataplane = node.open();
    let mut web = service("10.96.0.10", 80, Protocol::Tcp, &[&local.endpoint(8080), "10.245.0.1:8080"]);
    web.ports[0].node_port = Some(30080);
    web.ports[0].endpoints[1].node = Some("there".into());
    let mut none = service("10.96.0.11", 80, Protocol::Tcp, &[]);
    none.ports[0].node_port = Some(30081);
    node.publish(&dataplane, &table([("web", web), ("none", none.clone())]));
    local.attach(&dataplane);
    let seen: BTreeSet<String> =
        world.0.within(|| (0..40).map(|_| ask("192.0.2.10:30080").unwrap()).collect());
    assert_eq!(seen.len(), 2, "{seen:?}");
    let refused = world.0.within(|| ask("192.0.2.10:30081")).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    // With endpoints elsewhere only, a Local policy drops instead: the load balancer tries another node.
    none.external_local = true;
    none.ports[0].endpoints = vec![endpoint("10.245.0.1:8080")];
    none.ports[0].endpoints[0].node = Some("there".into());
    node.publish(&dataplane, &table([("none", none)]));
    let silent = world.0.within(|| {
        TcpStream::connect_timeout(&"192.0.2.10:30081".parse().unwrap(), Duration::from_millis(300))
    });
    assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

fn a_load_balancer_address_takes_clients_from_its_ranges_only(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    node.config.uplink = Some("up0".to_owned());
    node.config.pod_sockets = false;
    make_router();
    let world = World::new();
    let pod = Pod::new("10.244.0.2");
    let _server = pod.serve(8080);
    let dataplane = node.open();
    let mut web = service("10.96.0.10", 80, Protocol::Tcp, &[&pod.endpoint(8080)]);
    web.load_balancer_ips = vec![("192.0.2.77".parse().unwrap(), None)];
    web.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    node.publish(&dataplane, &table([("web", web.clone())]));
    pod.attach(&dataplane);
    run("ip addr add 192.0.2.77/32 dev lo");
    let from_outside = || {
        let address = "192.0.2.77:80".parse().unwrap();
        world.0.within(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)))
    };
    assert_eq!(from_outside().unwrap_err().kind(), io::ErrorKind::TimedOut);
    web.source_ranges.push("192.0.2.0/28".parse().unwrap());
    node.publish(&dataplane, &table([("web", web)]));
    from_outside().unwrap();
}

fn one_port_of_a_client_to_two_addresses_of_a_service(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    node.config.uplink = Some("up0".to_owned());
    make_router();
    let world = World::new();
    let pod = Pod::new("10.244.0.2");
    let _servers: Vec<Echo> = (50..58).map(|port| pod.echo(port)).collect();
    let endpoints: Vec<String> = (50..58).map(|port| pod.endpoint(port)).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let dataplane = node.open();
    let mut dns = service("10.96.0.10", 53, Protocol::Udp, &endpoints);
    dns.ports[0].node_port = Some(30053);
    dns.load_balancer_ips = vec![("192.0.2.77".parse().unwrap(), None)];
    node.publish(&dataplane, &table([("dns", dns)]));
    pod.attach(&dataplane);
    run("ip addr add 192.0.2.77/32 dev lo");
    let unanswered = world.0.within(|| {
        let ports = (0..80).map(|number| {
            let socket = datagram_socket_at(40_000 + number);
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket
        });
        ports
            .filter(|socket| {
                let ask = |address: &str| {
                    socket.connect(address).unwrap();
                    exchange(socket, "x").is_ok()
                };
                assert!(ask("192.0.2.10:30053"), "the first flow of a port");
                !ask("192.0.2.77:53")
            })
            .count()
    });
    // One draw in eight is the backend that the port has a flow to: without another draw that would be ten of them, with
    // two more it is one in six of these tests that sees any.
    assert!(unanswered <= 3, "{unanswered} of 80 were given no backend");
}

fn filters_behind_ours_have_their_say(tc: TcAttachment) {
    let mut node = Node::attaching_by(tc);
    node.config.pod_sockets = false;
    node.config.uplink = Some("up0".to_owned());
    make_router();
    let world = World::new();
    let pod = Pod::new("10.244.0.2");
    let _server = pod.serve(8080);
    let dataplane = node.open();
    let mut web = service("10.96.0.10", 80, Protocol::Tcp, &[&pod.endpoint(8080)]);
    web.ports[0].node_port = Some(30080);
    node.publish(&dataplane, &table([("web", web)]));
    pod.attach(&dataplane);
    let interface = pod.interface();
    for (interface, side) in
        [("up0", "ingress"), ("up0", "egress"), (&*interface, "ingress"), (&*interface, "egress")]
    {
        let answered = || {
            let address = "192.0.2.10:30080".parse().unwrap();
            world.0.within(|| TcpStream::connect_timeout(&address, Duration::from_millis(300))).is_ok()
        };
        assert!(answered(), "before the filter at {interface} {side}");
        let tc = |line: &str, end: &[&str]| {
            let words = line.split(' ').chain(end.iter().copied());
            Command::new("tc").args(words).output().unwrap().status.success()
        };
        // Where ours is a link and no filter, there is no such queue yet.
        let _added = tc(&format!("qdisc add dev {interface} clsact"), &[]);
        let filter = format!("dev {interface} {side} pref 500 protocol ip");
        // One instruction of classic BPF: return `TC_ACT_SHOT`.
        assert!(tc(&format!("filter add {filter} bpf direct-action bytecode"), &["1,6 0 0 2"]));
        assert!(!answered(), "{interface} {side}");
        assert!(tc(&format!("filter del {filter}"), &[]));
    }
}
