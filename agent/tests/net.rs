//! Pod networking against the running kernel, in namespaces of the test's own.

#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::ExitStatusExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use gantry_agent::{
    model::{ClusterNetwork, NetworkStatus, NodeName, PeerNode, PodUid},
    net::{NetError, Network},
};
use support::{Neighbour, cluster, network, on_own_host, pod, run, seen_from, sh, wait, within};

/// Set in the environment of the process that [`killed_at_any_moment_it_goes_on`] kills.
const ROOT_OF_KILLED: &str = "GANTRY_TEST_ROOT_OF_KILLED";

fn mounts_below(root: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(root.to_str().unwrap())).count()
}

fn pod_links() -> usize {
    sh("ip -o link").lines().filter(|line| line.contains(": gnt")).count()
}

fn peer(address: &str, range: &str) -> PeerNode {
    PeerNode { addresses: vec![address.parse().unwrap()], pod_cidrs: vec![range.parse().unwrap()] }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_reach_each_other_the_node_and_the_outside() {
    on_own_host(|| async {
        let outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        network.configure(&cluster()).await.unwrap();
        let one = network.ensure_pod(&pod(1)).await.unwrap();
        let two = network.ensure_pod(&pod(2)).await.unwrap();
        let (a, b) = (one.addresses.clone().unwrap().v4, two.addresses.clone().unwrap().v4);
        assert_eq!(a, Ipv4Addr::new(10, 244, 3, 2));
        assert_eq!(b, Ipv4Addr::new(10, 244, 3, 3));

        assert_eq!(seen_from(&one.netns, a, Some(&two.netns)), IpAddr::V4(b));
        assert_eq!(seen_from(&one.netns, a, None), "192.0.2.1".parse::<IpAddr>().unwrap());
        let node = Path::new("/proc/thread-self/ns/net");
        assert_eq!(seen_from(node, "192.0.2.1".parse().unwrap(), Some(&one.netns)), IpAddr::V4(a));
        let as_seen = seen_from(&outside.netns(), "192.0.2.2".parse().unwrap(), Some(&one.netns));
        assert_eq!(as_seen, "192.0.2.1".parse::<IpAddr>().unwrap(), "masqueraded");
        assert_eq!(network.node_addresses().await.unwrap(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_has_what_the_cri_gives_it() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        network.configure(&cluster()).await.unwrap();
        let made = network.ensure_pod(&pod(1)).await.unwrap();
        let inside = |line: &str| {
            let enter = format!(
                "nsenter --net={} --uts={} --ipc={}",
                made.netns.display(),
                made.utsns.display(),
                made.ipcns.display()
            );
            sh(&format!("{enter} {line}"))
        };
        assert_eq!(inside("hostname").trim(), "pod-1");
        assert_eq!(inside("cat /proc/sys/net/ipv4/ip_unprivileged_port_start").trim(), "0");
        let ping = inside("cat /proc/sys/net/ipv4/ping_group_range");
        assert_eq!(ping.split_whitespace().collect::<Vec<_>>(), ["0", "2147483647"]);
        assert!(inside("ip -o link show lo").contains("LOWER_UP"));
        assert!(inside("ip -o link show eth0").contains("mtu 1400"), "the uplink's");
        assert!(inside("ip -o -4 addr show eth0").contains("10.244.3.2/32"));
        assert!(inside("ip route").starts_with("default via 169.254.1.1 dev eth0"));
        let mode = fs::metadata(made.netns.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn everything_outlives_the_agent_and_calls_can_be_repeated() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        let host_pod = {
            let mut pod = pod(2);
            pod.host_network = true;
            pod
        };
        let before = {
            let network = network(root.path());
            network.configure(&cluster()).await.unwrap();
            network.ensure_pod(&pod(1)).await.unwrap();
            network.ensure_pod(&host_pod).await.unwrap();
            network.list().await.unwrap()
        };
        assert_eq!(before[&host_pod.uid].addresses, None);
        assert_eq!(before[&host_pod.uid].netns, Path::new("/proc/self/ns/net"));

        let network = network(root.path());
        network.configure(&cluster()).await.unwrap();
        assert_eq!(network.list().await.unwrap(), before);
        for pod in [pod(1), host_pod] {
            assert_eq!(network.ensure_pod(&pod).await.unwrap(), before[&pod.uid]);
            network.remove_pod(&pod.uid).await.unwrap();
            network.remove_pod(&pod.uid).await.unwrap();
        }
        assert!(network.list().await.unwrap().is_empty());
        assert_eq!((pod_links(), mounts_below(root.path())), (0, 0));
        let next = network.ensure_pod(&pod(3)).await.unwrap().addresses.unwrap();
        assert_eq!(next.v4, Ipv4Addr::new(10, 244, 3, 3), "the first address rests");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_lost_wire_is_replaced_without_ending_the_namespace() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        network.configure(&cluster()).await.unwrap();
        let before = network.ensure_pod(&pod(1)).await.unwrap();
        let inode = fs::metadata(&before.netns).unwrap().ino();
        let links = sh("ip -o link");
        let name = links.split([' ', '@']).find(|word| word.starts_with("gnt")).unwrap();
        sh(&format!("ip link del {name}"));
        assert_eq!(network.list().await.unwrap()[&pod(1).uid].addresses, None);

        let after = network.ensure_pod(&pod(1)).await.unwrap();
        assert_eq!(fs::metadata(&after.netns).unwrap().ino(), inode);
        let address = after.addresses.unwrap().v4;
        assert_eq!(address, before.addresses.unwrap().v4);
        seen_from(&after.netns, address, None);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_of_a_lost_address_file_keep_their_addresses() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        {
            let network = network(root.path());
            network.configure(&cluster()).await.unwrap();
            network.ensure_pod(&pod(1)).await.unwrap();
        }
        fs::remove_file(root.path().join("state/addresses.json")).unwrap();
        let network = network(root.path());
        network.configure(&cluster()).await.unwrap();
        let second = network.ensure_pod(&pod(2)).await.unwrap().addresses.unwrap();
        assert_eq!(second.v4, Ipv4Addr::new(10, 244, 3, 3));
    });
}

/// A range that this much coming and going does not use up while addresses rest.
fn large_cluster() -> ClusterNetwork {
    ClusterNetwork { node_pod_cidrs: vec!["10.244.16.0/20".parse().unwrap()], ..cluster() }
}

/// What the process does that is killed: makes and removes pods, for longer than it is let live.
fn make_pods_until_killed(root: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let network = network(root);
        network.configure(&large_cluster()).await.unwrap();
        for round in 0..1000 {
            network.ensure_pod(&pod(round % 7)).await.unwrap();
            network.remove_pod(&pod((round + 4) % 7).uid).await.unwrap();
        }
    });
}

/// Starts this test program again, as the process to kill. It inherits the calling thread's namespaces.
fn start_making_pods(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "killed_at_any_moment_it_goes_on"])
        .env(ROOT_OF_KILLED, root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What processes in all of a pod's namespaces are told.
fn hostname(pod: &NetworkStatus) -> String {
    let (net, uts, ipc) = (pod.netns.display(), pod.utsns.display(), pod.ipcns.display());
    sh(&format!("nsenter --net={net} --uts={uts} --ipc={ipc} hostname")).trim().to_owned()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn killed_at_any_moment_it_goes_on() {
    if let Some(root) = std::env::var_os(ROOT_OF_KILLED) {
        return make_pods_until_killed(Path::new(&root));
    }
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        let mut found = 0;
        for round in 0..30 {
            let mut process = start_making_pods(root.path());
            // The moment of the kill is what varies; nothing is waited for.
            std::thread::sleep(Duration::from_millis(10 + round * 7));
            process.kill().unwrap();
            let end = process.wait().unwrap();
            assert_eq!(end.signal(), Some(libc::SIGKILL), "it was still making pods: {end}");

            let network = network(root.path());
            network.configure(&large_cluster()).await.unwrap();
            let mut listed = network.list().await.unwrap();
            // One whose removal had begun is still listed, without its wire.
            listed.retain(|_, status| status.addresses.is_some());
            found += listed.len();
            wait(|| pod_links() == listed.len());
            let mut taken: Vec<Ipv4Addr> = Vec::new();
            for number in 0..7 {
                let status = network.ensure_pod(&pod(number)).await.unwrap();
                taken.push(status.addresses.clone().unwrap().v4);
                if let Some(known) = listed.get(&pod(number).uid) {
                    assert_eq!(known, &status);
                }
                seen_from(&status.netns, taken[number as usize], None);
                assert_eq!(hostname(&status), format!("pod-{number}"), "no pin is missing");
            }
            taken.sort();
            taken.dedup();
            assert_eq!(taken.len(), 7);
            for number in 0..7 {
                network.remove_pod(&pod(number).uid).await.unwrap();
            }
            assert_eq!((pod_links(), mounts_below(root.path())), (0, 0));
        }
        assert!(found > 0, "no kill came after a pod was made");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn routes_to_peers_follow_and_foreign_routes_stay() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        sh("ip route add 10.50.0.0/16 via 192.0.2.2 dev up0");
        sh("ip route add 198.51.100.0/24 via 192.0.2.254 dev up0");
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        network.configure(&cluster()).await.unwrap();
        let mut peers = BTreeMap::from([
            (NodeName::from("two"), peer("192.0.2.2", "10.244.4.0/24")),
            (NodeName::from("three"), peer("192.0.2.3", "10.244.5.0/24")),
            (NodeName::from("self"), peer("192.0.2.1", "10.244.3.0/24")),
        ]);
        network.set_peers(&peers).await.unwrap();
        network.set_peers(&peers).await.unwrap();
        let routes = sh("ip route");
        assert!(routes.contains("10.244.4.0/24 via 192.0.2.2 dev up0"), "{routes}");
        assert!(routes.contains("10.244.5.0/24 via 192.0.2.3 dev up0"), "{routes}");
        assert!(!routes.contains("10.244.3.0/24 via"), "{routes}");

        peers.remove(&NodeName::from("two"));
        peers.insert("three".into(), peer("192.0.2.4", "10.244.5.0/24"));
        peers.insert("far".into(), peer("198.51.100.7", "10.244.6.0/24"));
        let refused = network.set_peers(&peers).await.unwrap_err();
        assert!(matches!(refused, NetError::NotOnLink { .. }), "{refused}");
        let routes = sh("ip route");
        assert!(routes.contains("10.244.5.0/24 via 192.0.2.4 dev up0"), "{routes}");
        assert!(!routes.contains("10.244.4.0/24") && !routes.contains("10.244.6.0/24"), "{routes}");
        assert!(routes.contains("10.50.0.0/16 via 192.0.2.2"), "{routes}");
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
        network.configure(&cluster()).await.unwrap();
        network.set_announced(&["192.0.2.100".parse().unwrap()]).await.unwrap();
        wait(|| outside.sh("ip neigh").contains("192.0.2.100"));
        assert!(!network.node_addresses().await.unwrap().contains(&"192.0.2.100".parse().unwrap()));
        seen_from(
            Path::new("/proc/thread-self/ns/net"),
            "192.0.2.100".parse().unwrap(),
            Some(&outside.netns()),
        );

        network.set_announced(&[]).await.unwrap();
        let addresses = sh("ip -o -4 addr show up0");
        assert!(!addresses.contains("192.0.2.100"), "{addresses}");
        assert!(addresses.contains("192.0.2.77/32") && addresses.contains("192.0.2.1/24"), "{addresses}");
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_before_the_ranges_are_known_is_refused_without_traces() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        let refused = network.ensure_pod(&pod(1)).await.unwrap_err();
        assert!(matches!(refused, NetError::NotConfigured), "{refused}");
        assert_eq!((pod_links(), mounts_below(root.path())), (0, 0));
        assert!(run("nft list table ip gantry").stdout.is_empty());
        assert_eq!(network.list().await.unwrap().get(&PodUid::from("x")), None);
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
        let peers = BTreeMap::from([(NodeName::from("two"), peer("192.0.2.2", "10.244.4.0/24"))]);
        let announced = ["192.0.2.100".parse().unwrap()];
        let state = || {
            let rules = sh("nft --stateless list ruleset");
            (sh("ip route"), sh("ip -o -4 addr"), rules, sh("cat /proc/sys/net/ipv4/ip_forward"))
        };
        network.configure(&cluster()).await.unwrap();
        let pod = network.ensure_pod(&pod(1)).await.unwrap();
        network.set_peers(&peers).await.unwrap();
        network.set_announced(&announced).await.unwrap();
        let before = state();

        sh("nft flush ruleset");
        sh("ip route flush proto 71 via 192.0.2.2");
        sh("ip route flush proto 71 type unreachable");
        sh("ip addr del 10.96.0.10/32 dev lo");
        sh("ip addr del 192.0.2.100/32 dev up0");
        sh("sysctl -qw net.ipv4.ip_forward=0");
        let without = state();
        assert!(!without.0.contains("10.96.0.0/16") && !without.0.contains("10.244.4.0/24"), "{without:?}");
        network.configure(&cluster()).await.unwrap();
        network.set_peers(&peers).await.unwrap();
        network.set_announced(&announced).await.unwrap();
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
        network.configure(&cluster()).await.unwrap();
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
        network.configure(&moved).await.unwrap();
        let routes = sh("ip route");
        assert!(routes.contains("unreachable 10.97.0.0/16") && !routes.contains("10.96.0.0/16"), "{routes}");
        drop(outside);
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_cannot_speak_for_another() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        network.configure(&cluster()).await.unwrap();
        let one = network.ensure_pod(&pod(1)).await.unwrap();
        let two = network.ensure_pod(&pod(2)).await.unwrap();
        let (a, b) = (one.addresses.clone().unwrap().v4, two.addresses.clone().unwrap().v4);
        let heard = within(&one.netns, move || {
            let socket = UdpSocket::bind((a, 9999)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket
        });
        // As root in a container could, with NET_ADMIN.
        sh(&format!("nsenter --net={} ip addr add 10.244.3.77/32 dev eth0", two.netns.display()));
        let send = |source: Ipv4Addr| {
            within(&two.netns, move || {
                UdpSocket::bind((source, 0)).unwrap().send_to(b"x", (a, 9999)).unwrap();
            });
            heard.recv_from(&mut [0; 8]).ok().map(|(_, from)| from.ip())
        };
        assert_eq!(send(b), Some(IpAddr::V4(b)));
        assert_eq!(send(Ipv4Addr::new(10, 244, 3, 77)), None);
        assert_eq!(send(b), Some(IpAddr::V4(b)));
    });
}
