//! What a new agent makes of a changed configuration: other table sizes, another uplink.

use std::{fs, net::SocketAddr, os::unix::fs::MetadataExt as _};

use gantry_agent::{
    dataplane::{Dataplane as _, EbpfDataplane},
    model::{Protocol, ServiceTable},
};

use crate::support::{Node, Server, ask, names, run, service, table};

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
    let layouts = || {
        let names = names(&node.config.pins).into_iter().filter(|name| name.starts_with('v'));
        names.collect::<Vec<String>>()
    };
    let ours = layouts().remove(0);
    let (digest, sizes) = ours.split_once('-').unwrap();
    assert_ne!(digest, "v00000000");
    let earlier = format!("v00000000-{sizes}");
    fs::rename(node.config.pins.join(&ours), node.config.pins.join(&earlier)).unwrap();
    let dataplane = node.open();
    let mut both = layouts();
    both.sort();
    assert_eq!(both, [earlier, ours.clone()]);
    assert_eq!(ask("10.96.0.10:80").unwrap(), BACKEND, "by the programs from before");
    node.publish(&dataplane, &web());
    assert_eq!(layouts(), [ours]);
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
