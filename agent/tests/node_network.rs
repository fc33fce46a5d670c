//! The node's own network against the running kernel: passes, and the task that makes them when the kernel says that
//! something changed.

#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

mod support;

use std::{
    io::ErrorKind,
    net::{IpAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use gantry_agent::{
    dataplane::{Dataplane, DataplaneError, Programmed},
    lifecycle::Gates,
    model::{ClusterNetwork, NodeName, NodeView, PeerNode, PodAddresses, PodUid, ServiceTable},
    net::{KernelNetwork, NetError, NetSettings, Network, NodeWants, Part, Peers, give_back_ports},
    reconcile::{NodeNetworker, NodeNetworking, TableNetwork},
};
use support::{
    Neighbour, cluster, configure, net_settings, network, on_own_host, peer, pod, ranges, seen_from, settle,
    sh, view, wait, within,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What others undo is back in this time.
const SOON: Duration = Duration::from_secs(1);

fn wants(peers: &[(&str, PeerNode)], announced: &[&str]) -> NodeWants {
    let peers: Peers = peers.iter().map(|(name, peer)| (NodeName::from(*name), peer.clone())).collect();
    NodeWants {
        peers: Some(Arc::new(peers)),
        announced: Some(announced.iter().map(|address| address.parse().unwrap()).collect()),
        ..ranges(cluster())
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn routes_to_peers_follow_and_foreign_routes_stay() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        sh("ip route add 10.50.0.0/16 via 192.0.2.2 dev up0");
        sh("ip route add 10.244.7.0/24 via 192.0.2.2 dev up0");
        sh("ip route add 198.51.100.0/24 via 192.0.2.254 dev up0");
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        let first = [
            ("two", peer("192.0.2.2", "10.244.4.0/24")),
            ("three", peer("192.0.2.3", "10.244.5.0/24")),
            ("self", peer("192.0.2.1", "10.244.3.0/24")),
        ];
        assert!(settle(&network, &wants(&first, &[])).await.unwrap().changed > 0);
        assert_eq!(settle(&network, &wants(&first, &[])).await.unwrap().changed, 0, "nothing is left to do");
        let routes = sh("ip route");
        assert!(routes.contains("10.244.4.0/24 via 192.0.2.2 dev up0"), "{routes}");
        assert!(routes.contains("10.244.5.0/24 via 192.0.2.3 dev up0"), "{routes}");
        assert!(!routes.contains("10.244.3.0/24 via"), "{routes}");

        let next = [
            ("three", peer("192.0.2.4", "10.244.5.0/24")),
            ("far", peer("198.51.100.7", "10.244.6.0/24")),
            ("occupied", peer("192.0.2.9", "10.244.7.0/24")),
        ];
        let found = network.settle(&wants(&next, &[]), false).await.unwrap();
        assert!(matches!(
            found.failures[..],
            [(Part::Peers, NetError::NotOnLink { .. }), (Part::Peers, NetError::Occupied { .. })]
        ));
        let routes = sh("ip route");
        assert!(routes.contains("10.244.5.0/24 via 192.0.2.4 dev up0"), "{routes}");
        assert!(!routes.contains("10.244.4.0/24") && !routes.contains("10.244.6.0/24"), "{routes}");
        for foreign in ["10.50.0.0/16 via 192.0.2.2", "10.244.7.0/24 via 192.0.2.2"] {
            assert!(routes.contains(foreign), "{routes}");
        }
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn announced_addresses_are_told_to_the_neighbours_and_taken_back() {
    on_own_host(|| async {
        let outside = Neighbour::connect();
        sh("ip addr add 192.0.2.77/32 dev up0");
        outside.sh("sysctl -qw net.ipv4.conf.all.arp_accept=1 net.ipv4.conf.eth0.arp_accept=1");
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        settle(&network, &wants(&[], &["192.0.2.100"])).await.unwrap();
        wait(|| outside.sh("ip neigh").contains("192.0.2.100"));
        let addresses = settle(&network, &NodeWants::default()).await.unwrap().addresses;
        assert_eq!(addresses, ["192.0.2.1".parse::<IpAddr>().unwrap(), "192.0.2.77".parse().unwrap()]);
        let announced = "192.0.2.100".parse().unwrap();
        seen_from(Path::new("/proc/thread-self/ns/net"), announced, Some(&outside.netns()));

        settle(&network, &wants(&[], &[])).await.unwrap();
        let addresses = sh("ip -o -4 addr show up0");
        assert!(!addresses.contains("192.0.2.100"), "{addresses}");
        assert!(addresses.contains("192.0.2.77/32") && addresses.contains("192.0.2.1/24"), "{addresses}");
    });
}

/// As systemd-networkd and nftables do when they are restarted.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_others_removed_comes_back() {
    on_own_host(|| async {
        let outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        let wanted = wants(&[("two", peer("192.0.2.2", "10.244.4.0/24"))], &["192.0.2.100"]);
        let state = || {
            let rules = sh("nft --stateless list ruleset");
            (sh("ip route"), sh("ip -o -4 addr"), rules, sh("cat /proc/sys/net/ipv4/ip_forward"))
        };
        settle(&network, &wanted).await.unwrap();
        let pod = network.ensure_pod(&pod(1)).await.unwrap();
        let before = state();

        sh("nft flush ruleset");
        sh("ip route flush proto 71");
        sh("ip addr del 10.96.0.10/32 dev lo");
        sh("ip addr del 192.0.2.100/32 dev up0");
        sh("sysctl -qw net.ipv4.ip_forward=0");
        let without = state();
        assert!(!without.0.contains("10.96.0.0/16") && !without.0.contains("10.244"), "{without:?}");
        // What nobody knows is not set, and nothing of it is removed.
        settle(&network, &NodeWants { cluster: None, ..wanted.clone() }).await.unwrap();
        assert!(!sh("ip route").contains("10.96.0.0/16"));
        settle(&network, &wanted).await.unwrap();
        settle(&network, &NodeWants::default()).await.unwrap();
        assert_eq!(state(), before);
        let as_seen = seen_from(&outside.netns(), "192.0.2.2".parse().unwrap(), Some(&pod.netns));
        assert_eq!(as_seen, "192.0.2.1".parse::<IpAddr>().unwrap(), "masqueraded");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_address_that_nobody_has_is_unreachable_at_once() {
    on_own_host(|| async {
        let outside = Neighbour::connect();
        sh("ip route add default via 192.0.2.2");
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        configure(&network, cluster()).await;
        let pod = network.ensure_pod(&pod(1)).await.unwrap();
        let node = PathBuf::from("/proc/thread-self/ns/net");
        for from in [&pod.netns, &node] {
            for address in ["10.96.7.7:80", "10.244.3.200:80"] {
                let to = address.parse().unwrap();
                let refused = within(from, move || TcpStream::connect_timeout(&to, Duration::from_secs(5)));
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::HostUnreachable, "{address}");
            }
        }
        // Other ranges are the cluster's no more.
        let moved = ClusterNetwork { service_cidr: "10.97.0.0/16".parse().unwrap(), ..cluster() };
        configure(&network, moved).await;
        let routes = sh("ip route");
        assert!(routes.contains("unreachable 10.97.0.0/16") && !routes.contains("10.96.0.0/16"), "{routes}");
        drop(outside);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_without_its_route_is_whole_still_and_only_the_route_is_put_back() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        {
            let network = network(root.path());
            configure(&network, cluster()).await;
            network.ensure_pod(&pod(1)).await.unwrap();
        }
        for restarted in [false, true] {
            let network = network(root.path());
            configure(&network, cluster()).await;
            let before = network.list().await.unwrap();
            let links = sh("ip -o link");
            sh("ip route del 10.244.3.2/32");
            assert_eq!(network.list().await.unwrap(), before, "nothing that its status tells of has changed");
            // By whichever comes first, a look at the pod or at the node; also by an agent that was away.
            if restarted {
                let network = support::network(root.path());
                configure(&network, cluster()).await;
                assert_eq!(network.list().await.unwrap(), before);
            } else {
                assert_eq!(network.ensure_pod(&pod(1)).await.unwrap(), before[&pod(1).uid]);
            }
            assert!(sh("ip route").contains("10.244.3.2 dev gnt"));
            assert_eq!(sh("ip -o link"), links, "the wire is the same");
            seen_from(&before[&pod(1).uid].netns, "10.244.3.2".parse().unwrap(), None);
        }
    });
}

/// The datapath's source ports and the NodePorts are nobody's by chance, whatever an administrator does to the list, and
/// become free again with the datapath's end.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ports_of_the_datapath_are_reserved_beside_the_administrators() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        let settings = net_settings(root.path());
        let network = KernelNetwork::open(settings.clone()).unwrap();
        let list = || sh("cat /proc/sys/net/ipv4/ip_local_reserved_ports").trim().to_owned();
        settle(&network, &ranges(cluster())).await.unwrap();
        assert_eq!(list(), "20000-27999,30000-32767");
        give_back_ports(&settings).unwrap();
        assert_eq!(list(), "");

        sh("sysctl -qw net.ipv4.ip_local_reserved_ports=8080,27990-28010");
        settle(&network, &NodeWants::default()).await.unwrap();
        assert_eq!(list(), "8080,27990-28010", "no cluster is known");
        settle(&network, &ranges(cluster())).await.unwrap();
        assert_eq!(list(), "8080,20000-28010,30000-32767");

        // As `sysctl --system` does. A pass that is not thorough sees it too, and so does the next agent.
        sh("sysctl -qw net.ipv4.ip_local_reserved_ports=9090,32767");
        let network = KernelNetwork::open(settings.clone()).unwrap();
        network.settle(&ranges(cluster()), false).await.unwrap();
        assert_eq!(list(), "9090,20000-27999,30000-32767");

        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "27901 28100").unwrap();
        let bound: Vec<_> = (0..50).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for socket in &bound {
            assert!(socket.local_addr().unwrap().port() > 27999, "{socket:?}");
        }

        give_back_ports(&settings).unwrap();
        give_back_ports(&settings).unwrap();
        assert_eq!(list(), "9090,32767");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_configured_uplink_is_waited_for_and_no_pod_gets_a_guessed_mtu() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        let network = KernelNetwork::open(NetSettings {
            namespaces_dir: root.path().join("run/namespaces"),
            addresses_file: root.path().join("state/addresses.json"),
            uplink: Some("late0".to_owned()),
            mtu: None,
            hold_back: Duration::from_secs(30),
            masquerade: false,
            reserved_file: root.path().join("run/reserved-ports"),
        })
        .unwrap();
        let found = settle(&network, &ranges(cluster())).await.unwrap();
        assert_eq!((found.uplink, found.addresses), (None, Vec::new()), "up0 is not what was asked for");
        let refused = network.ensure_pod(&pod(1)).await.unwrap_err();
        assert!(matches!(refused, NetError::UplinkMissing(_)), "{refused}");
        assert!(!sh("ip -o link").contains(": gnt"));
        sh("ip link add late0 mtu 1300 type veth peer name other0");
        sh("ip addr add 198.51.100.1/24 dev late0");
        let found = settle(&network, &ranges(cluster())).await.unwrap();
        assert_eq!(found.uplink.as_deref(), Some("late0"));
        assert_eq!(found.addresses, ["198.51.100.1".parse::<IpAddr>().unwrap()]);
        network.ensure_pod(&pod(1)).await.unwrap();
        let links = sh("ip -o link");
        assert!(links.lines().any(|link| link.contains(": gnt") && link.contains("mtu 1300")), "{links}");
    });
}

/// A datapath that is told its uplink.
#[derive(Default)]
struct Uplinks(Mutex<Vec<Option<String>>>);

impl Dataplane for Uplinks {
    fn publish(&self, _: &ServiceTable, _: &NodeName, _: &[IpAddr]) -> Result<Programmed, DataplaneError> {
        Ok(Programmed::default())
    }

    fn set_uplink(&self, interface: Option<&str>) -> Result<(), DataplaneError> {
        self.0.lock().unwrap().push(interface.map(str::to_owned));
        Ok(())
    }

    fn attach_pod(&self, _: &PodUid, _: &Path, _: &PodAddresses) -> Result<(), DataplaneError> {
        Ok(())
    }

    fn detach_pod(&self, _: &PodUid) -> Result<(), DataplaneError> {
        Ok(())
    }
}

/// The task at work in the test's namespace.
struct Node {
    network: Arc<KernelNetwork>,
    dataplane: Arc<Uplinks>,
    table: TableNetwork,
    view: watch::Receiver<Arc<NodeView>>,
    _ranges: watch::Sender<Option<ClusterNetwork>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn start(root: &Path) -> Self {
        let (network, dataplane) = (Arc::new(network(root)), Arc::new(Uplinks::default()));
        let (ranges, followed) = watch::channel(Some(cluster()));
        let (view, seen) = watch::channel(Arc::new(view(root)));
        let table = TableNetwork::default();
        let networker = NodeNetworker::start(NodeNetworking {
            network: network.clone(),
            dataplane: dataplane.clone(),
            ranges: followed,
            table: table.clone(),
            view,
            fixed_addresses: false,
            configured: Gates::default().register("network"),
        })
        .await;
        let stop = CancellationToken::new();
        let task = tokio::spawn(networker.run(stop.clone()));
        Self { network, dataplane, table, view: seen, _ranges: ranges, stop, task }
    }

    async fn addresses(&self, wanted: &[&str]) {
        let wanted: Vec<IpAddr> = wanted.iter().map(|address| address.parse().unwrap()).collect();
        let mut view = self.view.clone();
        let came = tokio::time::timeout(SOON, view.wait_for(|view| view.addresses == wanted)).await;
        assert!(came.is_ok(), "{:?} instead of {wanted:?}", self.view.borrow().addresses);
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Waits for the kernel's state while the task works on this very thread; how long it took.
async fn soon(what: &str, mut reached: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < SOON, "not so within a second: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_removed_comes_back_within_a_second_and_foreign_routes_stay() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        sh("ip route add 10.50.0.0/16 via 192.0.2.2 dev up0");
        let root = tempfile::tempdir().unwrap();
        let node = Node::start(root.path()).await;
        node.network.ensure_pod(&pod(1)).await.unwrap();
        node.table.want_peers(&[("two".into(), peer("192.0.2.2", "10.244.4.0/24"))].into());
        node.table.want_announced(["192.0.2.100".parse().unwrap()].into());
        soon("the table", || sh("ip addr").contains("192.0.2.100")).await;
        let (links, before) = (sh("ip -o link"), node.network.list().await.unwrap());
        let state = || (sh("ip route"), sh("ip -o -4 addr"));
        let settled = state();
        for removal in [
            "ip route del 10.244.3.2/32",
            "ip route del 10.244.4.0/24",
            "ip route flush proto 71",
            "ip addr del 192.0.2.100/32 dev up0",
            "ip addr del 10.96.0.10/32 dev lo",
        ] {
            sh(removal);
            assert_ne!(state(), settled, "{removal}");
            assert_eq!(node.network.list().await.unwrap(), before, "{removal}: pods are as they were");
            let took = soon(removal, || state() == settled).await;
            eprintln!("{removal}: undone after {took:?}");
        }
        assert_eq!(sh("ip -o link"), links, "no wire was made anew");
        node.end().await;
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_late_address_and_a_changed_one_become_the_nodes() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        sh("ip addr flush dev up0");
        let root = tempfile::tempdir().unwrap();
        let node = Node::start(root.path()).await;
        assert!(node.view.borrow().addresses.is_empty(), "there is none yet");
        sh("ip addr add 192.0.2.1/24 dev up0");
        sh("ip route add default via 192.0.2.2 dev up0");
        node.addresses(&["192.0.2.1"]).await;
        assert_eq!(node.dataplane.0.lock().unwrap().last().unwrap().as_deref(), Some("up0"));
        // The lease ends, and another begins; in between the node has no other address than the old one.
        sh("ip addr flush dev up0");
        tokio::time::sleep(SOON / 2).await;
        node.addresses(&["192.0.2.1"]).await;
        sh("ip addr add 192.0.2.9/24 dev up0");
        node.addresses(&["192.0.2.9"]).await;
        // The interface itself is made anew, with another index.
        sh("ip link del up0");
        sh("ip link add up0 type veth peer name other0");
        sh("ip addr add 192.0.2.10/24 dev up0");
        sh("ip link set up0 up");
        node.addresses(&["192.0.2.10"]).await;
        node.end().await;
    });
}
