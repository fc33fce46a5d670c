//! Nothing is lost while things change: endpoints flap, the agent ends and comes back.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use gantry_agent::{
    dataplane::{Dataplane as _, EbpfDataplane, Programmed, TcAttachment},
    model::{Protocol, ServiceTable},
};

use crate::{
    pods::{Pod, make_router},
    support::{NODE_ADDRESS, Node, Server, ask, in_both_ways, service, table},
};

const VIP: &str = "10.96.0.10:80";
const BACKENDS: [&str; 4] = ["10.99.0.1:8080", "10.99.0.2:8080", "10.99.0.3:8080", "10.99.0.4:8080"];

fn web(endpoints: &[&str]) -> ServiceTable {
    table([("web", service("10.96.0.10", 80, Protocol::Tcp, endpoints))])
}

/// Connects from `clients` threads for as long as `work` runs; the number of connects, each of which succeeded.
fn under_load(clients: usize, work: impl FnOnce()) -> u64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Acquire) {
                        ask(VIP).expect("every connect is answered");
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        work();
        stop.store(true, Ordering::Release);
        for thread in threads {
            thread.join().expect("no client failed");
        }
    });
    count.into_inner()
}

fn stale_slots(dataplane: &EbpfDataplane) -> u64 {
    dataplane.snapshot().drops.into_iter().find(|(reason, _)| *reason == "stale_slot").unwrap().1
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn flapping_endpoints_fail_no_connect() {
    let node = Node::new();
    let _servers = BACKENDS.map(Server::start);
    let dataplane = node.open();
    node.publish(&dataplane, &web(&BACKENDS));
    let connects = under_load(4, || {
        let end = Instant::now() + Duration::from_secs(5);
        let mut turn = 0;
        while Instant::now() < end {
            turn += 1;
            // All of them alive throughout: what flaps is the table, 100 times a second.
            let set = if turn % 2 == 0 { &BACKENDS[..2] } else { &BACKENDS[2..] };
            node.publish(&dataplane, &web(set));
            thread::sleep(Duration::from_millis(10));
        }
    });
    assert!(connects > 1000, "{connects} connects are no load");
    assert_eq!(stale_slots(&dataplane), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_agent_may_end_and_come_back() {
    let node = Node::new();
    let _servers = BACKENDS.map(Server::start);
    let dataplane = node.open();
    node.publish(&dataplane, &web(&BACKENDS));
    let mut dataplane = Some(dataplane);
    let connects = under_load(2, || {
        for _ in 0..10 {
            dataplane = None;
            thread::sleep(Duration::from_millis(50));
            let again = node.open();
            let programmed = again.publish(&web(&BACKENDS), &node.name, &[NODE_ADDRESS]).unwrap();
            assert_eq!(programmed, Programmed { changed: 0, removed: 0, kept: 1 }, "nothing is republished");
            dataplane = Some(again);
        }
    });
    assert!(connects > 100, "{connects}");
    // What the last agent knew only by reading back, it can change.
    let dataplane = dataplane.unwrap();
    node.publish(&dataplane, &web(&BACKENDS[..1]));
    assert!((0..50).all(|_| ask(VIP).unwrap() == BACKENDS[0]));
    node.publish(&dataplane, &ServiceTable::new());
    assert_eq!(dataplane.snapshot().fill[0].used, 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ten_thousand_services_and_one_that_answers() {
    let node = Node::new();
    let _servers = BACKENDS.map(Server::start);
    let dataplane = node.open();
    let mut services = web(&BACKENDS);
    for number in 0..10_000_u32 {
        let address = std::net::Ipv4Addr::from(0x0a61_0000 + number).to_string();
        let id = gantry_agent::model::ServiceId {
            namespace: "crowd".into(),
            name: format!("service-{number}").into(),
        };
        services.insert(id, std::sync::Arc::new(service(&address, 80, Protocol::Tcp, &BACKENDS)));
    }
    node.publish(&dataplane, &services);
    let seen: std::collections::BTreeSet<String> = (0..100).map(|_| ask(VIP).unwrap()).collect();
    assert_eq!(seen.len(), BACKENDS.len());
    assert_eq!(ask("10.97.39.15:80").map(|name| BACKENDS.contains(&name.as_str())).ok(), Some(true));
    drop(dataplane);
    let dataplane = node.open();
    let programmed = dataplane.publish(&services, &node.name, &[NODE_ADDRESS]).unwrap();
    assert_eq!(programmed, Programmed { changed: 0, removed: 0, kept: 10_001 });
}

in_both_ways! {
    pods_come_and_go_while_agents_do,
}

fn pods_come_and_go_while_agents_do(tc: TcAttachment) {
    let node = Node::attaching_by(tc);
    make_router();
    for _ in 0..3 {
        // Each agent meets pods that the last one attached, and one that it never saw with an old address.
        let (stays, goes) = (Pod::new("10.244.0.2"), Pod::new("10.244.0.3"));
        for _ in 0..2 {
            let dataplane = node.open();
            node.publish(&dataplane, &web(&BACKENDS));
            for pod in [&stays, &goes, &stays] {
                pod.attach(&dataplane);
            }
            assert_eq!(dataplane.snapshot().pods, 2);
            dataplane.detach_pod(&goes.uid).unwrap();
            dataplane.detach_pod(&goes.uid).unwrap();
            assert_eq!(dataplane.snapshot().pods, 1);
        }
        // `stays` goes too, unseen.
        drop((stays, goes));
    }
}
