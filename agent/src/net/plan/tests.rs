//! The plan on a kernel of lists: what is wanted comes to be, a second look finds nothing to do, and what is of others
//! stays as it was, whatever there is.

use std::sync::Arc;

use proptest::{collection::vec, option, prelude::*, sample::subsequence};

use super::*;
use crate::model::PeerNode;

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.into(), mtu: 1500, up: true, loopback: name == "lo", mac: Some([2; 6]) }
}

fn address(index: u32, last: u8, label: Option<&str>) -> Address {
    let (address, label) = (Ipv4Addr::new(192, 0, 2, last), label.map(str::to_owned));
    Address { index, address, prefix_len: 24, global: label.is_none(), label }
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn foreign(to: &str, gateway: Option<Ipv4Addr>, link: u32, metric: u32) -> Route {
    Route { to: net(to), gateway, link: Some(link), ours: false, metric, unreachable: false }
}

fn cluster() -> ClusterNetwork {
    ClusterNetwork {
        domain: "cluster.local".into(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        pod_cidr: "10.244.0.0/16".parse().unwrap(),
        node_pod_cidrs: vec!["10.244.3.0/24".parse().unwrap()],
        dns_ip: "10.96.0.10".parse().unwrap(),
        node_ports: (30000, 32767),
    }
}

fn peer(last: u8, range: &str) -> PeerNode {
    PeerNode { addresses: vec![[192, 0, 2, last].into()], pod_cidrs: vec![range.parse().unwrap()] }
}

const POD: &str = "gnt0123456789";
const POD_END: PodEnd = PodEnd { address: Ipv4Addr::new(10, 244, 3, 2), mac: [6; 6] };

/// A host with an uplink, another interface and one pod's wire.
fn host() -> Seen {
    Seen {
        links: vec![link(1, "lo"), link(2, "up0"), link(3, "other0"), link(4, POD)],
        addresses: vec![address(2, 1, None)],
        routes: vec![foreign("0.0.0.0/0", Some(Ipv4Addr::new(192, 0, 2, 254)), 2, 0)],
    }
}

fn known() -> Known {
    let hops = (1..=20).map(|last| (Ipv4Addr::new(192, 0, 2, last), Some(Reach::OnLink(2))));
    Known { uplink: Some(2), hops: hops.collect(), pods: Some([(POD.to_owned(), POD_END)].into()) }
}

fn wants() -> NodeWants {
    NodeWants {
        cluster: Some(cluster()),
        peers: Some(Arc::new([("two".into(), peer(2, "10.244.4.0/24"))].into())),
        announced: Some(["192.0.2.100".parse().unwrap()].into()),
    }
}

/// As the kernel does it: a route replaces whatever has its place.
fn make(seen: &mut Seen, change: &Change) {
    let add = |seen: &mut Seen, index, address, label: &String| {
        let label = Some(label.clone());
        seen.addresses.push(Address { index, address, prefix_len: 32, global: false, label });
    };
    match change {
        Change::Up(index) => seen.links.iter_mut().filter(|l| l.index == *index).for_each(|l| l.up = true),
        Change::Own { index, address, label } | Change::Announce { index, address, label, .. } => {
            add(seen, *index, *address, label);
        }
        Change::RemoveAddress(gone) => seen.addresses.retain(|there| there != gone),
        Change::Neighbour { .. } => {}
        Change::SetRoute(route) => {
            seen.routes.retain(|there| there.to != route.to || there.metric != 0);
            seen.routes.push(route.clone());
        }
        Change::RemoveRoute(gone) => seen.routes.retain(|there| there != gone),
    }
}

fn settled(wants: &NodeWants, seen: &Seen, known: &Known) -> Seen {
    let mut seen = seen.clone();
    for (_, change) in plan(wants, &seen.clone(), known).changes {
        make(&mut seen, &change);
    }
    seen
}

#[test]
fn all_of_it_comes_to_be_and_then_there_is_nothing_to_do() {
    let after = settled(&wants(), &host(), &known());
    let ours: Vec<String> = after.routes.iter().filter(|r| r.ours).map(|r| r.to.to_string()).collect();
    assert_eq!(ours, ["10.96.0.0/16", "10.244.3.0/24", "10.244.3.2/32", "10.244.4.0/24"]);
    let labels: Vec<_> = after.addresses.iter().filter_map(|a| a.label.as_deref()).collect();
    assert_eq!(labels, ["lo:gnt", "up0:gnt"]);
    let again = plan(&wants(), &after, &known());
    assert!(again.changes.is_empty() && again.failures.is_empty(), "{again:?}");
}

#[test]
fn a_pods_route_that_is_gone_is_set_and_nothing_else_is_touched() {
    let mut seen = settled(&wants(), &host(), &known());
    seen.routes.retain(|route| route.to != Ipv4Net::from(POD_END.address));
    let PodEnd { address, mac } = POD_END;
    let expected = [
        (Part::Pods, Change::Neighbour { index: 4, address, mac }),
        (Part::Pods, Change::SetRoute(pod::route_to_pod(4, address))),
    ];
    assert_eq!(plan(&wants(), &seen, &known()).changes, expected);
    // One whose wire is being made, and all while left-overs are not dealt with.
    seen.links[3].up = false;
    assert!(plan(&wants(), &seen, &known()).changes.is_empty());
    seen.links[3].up = true;
    assert!(plan(&wants(), &seen, &Known { pods: None, ..known() }).changes.is_empty());
}

#[test]
fn what_is_not_known_is_left_as_it_is() {
    let seen = settled(&wants(), &host(), &known());
    let unknown = Known { pods: None, ..known() };
    let nothing = plan(&NodeWants::default(), &seen, &unknown);
    assert!(nothing.changes.is_empty() && nothing.failures.is_empty());
    let empty = NodeWants { peers: Some(Arc::default()), announced: Some(BTreeSet::new()), ..wants() };
    let after = settled(&empty, &seen, &known());
    assert!(after.routes.iter().all(|route| route.gateway.is_none() || !route.ours), "that there is none");
    assert!(after.addresses.iter().all(|address| address.label.as_deref() != Some("up0:gnt")));
}

#[test]
fn a_foreign_route_in_the_way_stays_and_is_told_and_one_that_says_the_same_will_do() {
    let mut seen = host();
    seen.routes.push(foreign("10.244.4.0/24", Some(Ipv4Addr::new(192, 0, 2, 9)), 2, 0));
    let plan_of = |seen: &Seen| plan(&wants(), seen, &known());
    let to_peer = |plan: &Plan| plan.changes.iter().any(|(part, _)| *part == Part::Peers);
    let told = plan_of(&seen);
    assert!(!to_peer(&told));
    assert_eq!(told.failures.len(), 1);
    assert!(told.failures[0].1.to_string().contains("10.244.4.0/24 that is not this agent's"));
    seen.routes.pop();
    seen.routes.push(foreign("10.244.4.0/24", Some(Ipv4Addr::new(192, 0, 2, 2)), 2, 0));
    assert!(!to_peer(&plan_of(&seen)) && plan_of(&seen).failures.is_empty());
    // With another metric it is beside ours.
    seen.routes.pop();
    seen.routes.push(foreign("10.244.4.0/24", Some(Ipv4Addr::new(192, 0, 2, 9)), 2, 100));
    assert!(to_peer(&plan_of(&seen)) && plan_of(&seen).failures.is_empty());
}

#[test]
fn a_peer_with_this_nodes_range_does_not_take_it() {
    let peers = Arc::new([("thief".into(), peer(2, "10.244.3.0/24"))].into());
    let wants = NodeWants { peers: Some(peers), ..wants() };
    let after = settled(&wants, &host(), &known());
    let route = after.routes.iter().find(|route| route.to == net("10.244.3.0/24")).unwrap();
    assert!(route.unreachable);
    assert_eq!(plan(&wants, &after, &known()).failures.len(), 1);
    assert!(plan(&wants, &after, &known()).changes.is_empty(), "no two routes in turn");
}

#[test]
fn an_address_moves_with_the_uplink_and_waits_for_one() {
    let seen = settled(&wants(), &host(), &known());
    let moved = settled(&wants(), &seen, &Known { uplink: Some(3), ..known() });
    let announced = |seen: &Seen| -> Vec<u32> {
        seen.addresses.iter().filter(|a| a.address.octets()[3] == 100).map(|a| a.index).collect()
    };
    assert_eq!((announced(&seen), announced(&moved)), (vec![2], vec![3]));
    let none = plan(&wants(), &seen, &Known { uplink: None, ..known() });
    assert!(none.changes.iter().all(|(part, _)| *part != Part::Announced), "{none:?}");
    assert!(matches!(none.failures[..], [(Part::Announced, NetError::NoUplink)]));
}

#[test]
fn the_uplink_is_where_the_default_route_is_and_stays_while_it_is_set_up_anew() {
    let mut seen = host();
    let name = |seen: &Seen, before| uplink(None, before, seen).map(|link| link.name.clone());
    assert_eq!(name(&seen, None).as_deref(), Some("up0"));
    seen.routes.push(foreign("0.0.0.0/0", None, 3, 10));
    assert_eq!(name(&seen, Some("other0")).as_deref(), Some("up0"), "the best one counts");
    // No route and no address for a moment, and another interface has one.
    seen.routes.clear();
    seen.addresses = vec![address(3, 9, None)];
    assert_eq!(name(&seen, Some("up0")).as_deref(), Some("up0"));
    assert_eq!(name(&seen, None).as_deref(), Some("other0"));
    seen.links.remove(1);
    assert_eq!(name(&seen, Some("up0")).as_deref(), Some("other0"), "it has gone");
    assert_eq!(uplink(Some("up0"), None, &seen), None, "what is configured is waited for");
}

#[test]
fn what_the_way_to_peers_depends_on_is_not_what_pods_come_and_go_by() {
    let before = surroundings(&host());
    let mut seen = settled(&wants(), &host(), &known());
    seen.addresses.retain(|address| address.label.is_none());
    seen.links.push(link(9, "gnt9876543210"));
    assert_eq!(surroundings(&seen), before);
    seen.routes.push(foreign("192.0.2.0/24", None, 2, 0));
    assert_ne!(surroundings(&seen), before);
}

fn any_routes() -> impl Strategy<Value = Vec<Route>> {
    let to = prop::sample::select(vec![
        "0.0.0.0/0",
        "10.96.0.0/16",
        "10.244.3.0/24",
        "10.244.3.2/32",
        "10.244.4.0/24",
        "10.244.5.0/24",
        "10.50.0.0/16",
    ]);
    let kind = prop_oneof![Just((true, None)), (0u8..4).prop_map(|last| (false, Some(last)))];
    let route = (to, kind, option::of(1u32..6), any::<bool>(), prop_oneof![Just(0), Just(100)]);
    let route = route.prop_map(|(to, (unreachable, last), link, ours, metric)| Route {
        to: net(to),
        gateway: last.map(|last| Ipv4Addr::new(192, 0, 2, last)),
        link,
        ours,
        // Ours have none.
        metric: if ours { 0 } else { metric },
        unreachable,
    });
    // The kernel has one route for each destination and metric.
    vec(route, 0..12).prop_map(|routes| {
        let by: BTreeMap<_, _> = routes.into_iter().map(|route| ((route.to, route.metric), route)).collect();
        by.into_values().collect()
    })
}

fn any_addresses() -> impl Strategy<Value = Vec<Address>> {
    let label = prop_oneof![Just(None), Just(Some("up0:gnt")), Just(Some("lo:gnt")), Just(Some("up0:1"))];
    let any = (1u32..5, prop_oneof![Just(1u8), Just(100), Just(101)], label);
    vec(any, 0..8).prop_map(|all| {
        let by: BTreeMap<_, _> = all
            .into_iter()
            .map(|(index, last, label)| ((index, last), address(index, last, label)))
            .collect();
        by.into_values().collect()
    })
}

fn any_wants() -> impl Strategy<Value = NodeWants> {
    let peers = vec![
        (NodeName::from("two"), peer(2, "10.244.4.0/24")),
        (NodeName::from("three"), peer(3, "10.244.5.0/24")),
        (NodeName::from("thief"), peer(3, "10.244.3.0/24")),
        (NodeName::from("far"), peer(200, "10.244.6.0/24")),
    ];
    let peers = subsequence(peers, 0..=4).prop_map(|peers| Arc::new(peers.into_iter().collect()));
    let announced = subsequence(vec![IpAddr::from([192, 0, 2, 100]), [192, 0, 2, 101].into()], 0..=2);
    let announced = announced.prop_map(|addresses| addresses.into_iter().collect());
    (option::of(Just(cluster())), option::of(peers), option::of(announced))
        .prop_map(|(cluster, peers, announced)| NodeWants { cluster, peers, announced })
}

proptest! {
    #[test]
    fn whatever_there_is_foreign_stays_and_a_second_look_finds_nothing(
        wants in any_wants(), routes in any_routes(), addresses in any_addresses(),
        up in vec![any::<bool>(); 4], uplink in option::of(1u32..5), swept in any::<bool>(),
    ) {
        let mut seen = Seen { addresses, routes, ..host() };
        seen.links.iter_mut().zip(up).for_each(|(link, up)| link.up = up);
        let uplink = uplink.filter(|index| *index != 1);
        let known = Known { uplink, pods: known().pods.filter(|_| swept), ..known() };
        let after = settled(&wants, &seen, &known);
        let others = |seen: &Seen| {
            let routes: Vec<_> = seen.routes.iter().filter(|r| !r.ours).cloned().collect();
            let addresses: Vec<_> = seen.addresses.iter().filter(|a| !is_ours(a)).cloned().collect();
            (routes, addresses)
        };
        prop_assert_eq!(others(&seen), others(&after));
        let again = plan(&wants, &after, &known);
        prop_assert!(again.changes.is_empty(), "{:?}", again.changes);
        // What nobody knows yet is as it was.
        let gateways = |seen: &Seen| seen.routes.iter().filter(|r| r.ours && r.gateway.is_some()).count();
        if wants.peers.is_none() && wants.cluster.is_none() && !swept {
            prop_assert_eq!(gateways(&seen), gateways(&after));
        }
        if wants.announced.is_none() {
            let announced = |seen: &Seen| seen.addresses.iter().filter(|a| is_ours(a) && a.index != 1).count();
            prop_assert_eq!(announced(&seen), announced(&after));
        }
    }
}
