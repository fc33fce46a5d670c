//! What a new agent makes of a changed configuration: other table sizes, another uplink.

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt as _};

use gantry_agent::{
    dataplane::{Dataplane as _, EbpfDataplane, TcAttachment},
    model::{Protocol, ServiceTable},
};

use crate::{
    pods::{Pod, datagram_socket_at, exchange, make_router},
    support::{Node, Server, ask, in_both_ways, names, run, service, table},
};

const BACKEND: &str = "10.99.0.1:8080";

fn web() -> ServiceTable {
    table([("web", service("10.96.0.10", 80, Protocol::Tcp, &[BACKEND]))])
}

fn capacity(dataplane: &EbpfDataplane) -> u32 {
    dataplane.snapshot().fill.iter().find(|fill| fill.map == "FRONTENDS").unwrap().capacity
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn raised_sizes_take_effect_at_the_next_start() {
    let mut node = Node::new();
    let _server = Server::start(BACKEND);
    let dataplane = node.open();
    node.publish(&dataplane, &web());
    let before = capacity(&dataplane);
    drop(dataplane);
    node.config.sizes.frontends *= 2;
    let dataplane = node.open();
    assert_eq!(
        ask("10.96.0.10:80").unwrap(),
        BACKEND,
        "the programs from before serve on until the first publish"
    );
    node.publish(&dataplane, &web());
    assert_eq!(capacity(&dataplane), before * 2);
    assert_eq!(ask("10.96.0.10:80").unwrap(), BACKEND);
    let tables = names(&node.config.pins).into_iter().filter(|name| name.starts_with('v')).count();
    assert_eq!(tables, 1, "the smaller tables are gone");
}

/// In order.
fn layouts(node: &Node) -> Vec<String> {
    names(&node.config.pins).into_iter().filter(|name| name.starts_with('v')).collect()
}

/// Gives the node's maps the name that another layout would have; both names.
fn make_earlier(node: &Node) -> (String, String) {
    let ours = layouts(node).remove(0);
    let (digest, sizes) = ours.split_once('-').unwrap();
    assert_ne!(digest, "v00000000");
    let earlier = format!("v00000000-{sizes}");
    fs::rename(node.config.pins.join(&ours), node.config.pins.join(&earlier)).unwrap();
    (earlier, ours)
}

in_both_ways! {
    no_pod_is_cut_off_by_programs_that_do_not_know_it_yet,
}

/// Maps of a new layout know no pod: until each is attached again, the earlier programs carry what it sends.
fn no_pod_is_cut_off_by_programs_that_do_not_know_it_yet(tc: TcAttachment) {
    let node = Node::attaching_by(tc);
    make_router();
    let (client, server) = (Pod::new("10.244.0.2"), Pod::new("10.244.0.3"));
    let _echo = server.echo(53);
    let dns = table([("dns", service("10.96.0.10", 53, Protocol::Udp, &[&server.endpoint(53)]))]);
    let ask = |from: u16| {
        let socket = client.within(|| datagram_socket_at(from));
        socket.connect("10.96.0.10:53").unwrap();
        exchange(&socket, "hello").unwrap()
    };
    let counted = |dataplane: &EbpfDataplane| {
        dataplane.snapshot().connections.iter().map(|(_, count)| count).sum::<u64>()
    };
    let dataplane = node.open();
    node.publish(&dataplane, &dns);
    for pod in [&client, &server] {
        pod.attach(&dataplane);
    }
    ask(4000);
    drop(dataplane);
    make_earlier(&node);
    let dataplane = node.open();
    ask(4001);
    node.publish(&dataplane, &dns);
    ask(4002);
    assert_eq!(counted(&dataplane), 0, "by the programs from before");
    // An agent that is killed here leaves maps that are there and know no pod.
    drop(dataplane);
    let dataplane = node.open();
    ask(4003);
    for pod in [&client, &server] {
        pod.attach(&dataplane);
    }
    ask(4004);
    // Whose counters are whose a publish says.
    node.publish(&dataplane, &dns);
    assert_eq!(counted(&dataplane), 1, "by its own");
    let drops = dataplane.snapshot().drops;
    assert!(drops.contains(&("spoofed", 0)), "{drops:?}");
}

/// The maps of an earlier version, under the name of its layout: its programs serve on from them until the new ones have
/// maps of their own.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn maps_of_another_layout_serve_until_they_are_replaced() {
    let node = Node::new();
    let _server = Server::start(BACKEND);
    let dataplane = node.open();
    node.publish(&dataplane, &web());
    drop(dataplane);
    let (earlier, ours) = make_earlier(&node);
    let dataplane = node.open();
    assert_eq!(layouts(&node), [earlier, ours.clone()]);
    assert_eq!(ask("10.96.0.10:80").unwrap(), BACKEND, "by the programs from before");
    node.publish(&dataplane, &web());
    assert_eq!(layouts(&node), [ours]);
    assert_eq!(ask("10.96.0.10:80").unwrap(), BACKEND);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_uplink_may_come_late_change_and_go() {
    let node = Node::new();
    for line in ["ip link add up0 type veth peer name far0", "ip link add up1 type veth peer name far1"] {
        run(line);
    }
    let links = node.config.pins.join("links");
    let at = || names(&links).into_iter().filter(|name| name.starts_with("uplink-")).collect::<Vec<_>>();
    let dataplane = node.open();
    node.publish(&dataplane, &web());
    assert!(at().is_empty(), "there was none");
    dataplane.set_uplink(Some("up0")).unwrap();
    assert_eq!(at(), ["uplink-up0-in", "uplink-up0-out"]);
    drop(dataplane);
    // A new agent finds another one: nothing stays behind at the old.
    let dataplane = node.open();
    dataplane.set_uplink(Some("up1")).unwrap();
    assert_eq!(at(), ["uplink-up1-in", "uplink-up1-out"]);
    // One that was made again under its name has no programs: what was pinned is dead.
    let pin = || fs::metadata(links.join("uplink-up1-in")).unwrap().ino();
    let before = pin();
    dataplane.set_uplink(Some("up1")).unwrap();
    assert_eq!(pin(), before, "nothing to do");
    run("ip link del up1");
    run("ip link add up1 type veth peer name far1");
    dataplane.set_uplink(Some("up1")).unwrap();
    assert_eq!(at(), ["uplink-up1-in", "uplink-up1-out"]);
    assert_ne!(pin(), before, "attached to the new one");
    dataplane.set_uplink(None).unwrap();
    assert!(at().is_empty());
    assert!(dataplane.set_uplink(Some("none")).is_err());
    assert!(dataplane.set_uplink(Some("none")).is_err(), "it is tried again");
}

/// Sockets are translated below one cgroup: the configuration's.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn another_cgroup_takes_the_socket_path_along() {
    let mut node = Node::new();
    let _server = Server::start(BACKEND);
    let dataplane = node.open();
    node.publish(&dataplane, &web());
    assert_eq!(ask("10.96.0.10:80").unwrap(), BACKEND);
    drop(dataplane);
    // This process is not in the new one.
    let ours = node.config.cgroup.clone();
    let other = ours.with_extension("other");
    fs::create_dir(&other).unwrap();
    node.config.cgroup.clone_from(&other);
    let dataplane = node.open();
    node.publish(&dataplane, &web());
    let pins = names(&node.config.pins.join("links"));
    assert_eq!(pins.iter().filter(|name| name.starts_with("socket-")).count(), 8, "{pins:?}");
    let vip: SocketAddr = "10.96.0.10:80".parse().unwrap();
    assert!(std::net::TcpStream::connect(vip).is_err(), "still translated in the old cgroup");
    drop(dataplane);
    node.config.cgroup = ours;
    fs::remove_dir(&other).unwrap();
}
