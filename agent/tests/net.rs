//! Pod networking against the running kernel, in namespaces of the test's own.

#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

#[expect(dead_code, reason = "shared by several suites, each of which uses a part")]
mod support;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::ExitStatusExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use gantry_agent::{
    model::{ClusterNetwork, NetworkStatus, PodUid},
    net::{NetError, Network},
};
use support::{Neighbour, cluster, configure, network, on_own_host, pod, run, seen_from, sh, wait, within};

/// Set in the environment of the process that [`killed_at_any_moment_it_goes_on`] kills.
const ROOT_OF_KILLED: &str = "GANTRY_TEST_ROOT_OF_KILLED";

fn mounts_below(root: &Path) -> usize {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    mounts.lines().filter(|line| line.contains(root.to_str().unwrap())).count()
}

fn pod_links() -> usize {
    sh("ip -o link").lines().filter(|line| line.contains(": gnt")).count()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn pods_reach_each_other_the_node_and_the_outside() {
    on_own_host(|| async {
        let outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        configure(&network, cluster()).await;
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
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_has_what_the_cri_gives_it() {
    on_own_host(|| async {
        let _outside = Neighbour::connect();
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        configure(&network, cluster()).await;
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
            configure(&network, cluster()).await;
            network.ensure_pod(&pod(1)).await.unwrap();
            network.ensure_pod(&host_pod).await.unwrap();
            network.list().await.unwrap()
        };
        assert_eq!(before[&host_pod.uid].addresses, None);
        assert_eq!(before[&host_pod.uid].netns, Path::new("/proc/self/ns/net"));

        let network = network(root.path());
        configure(&network, cluster()).await;
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
        configure(&network, cluster()).await;
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
            configure(&network, cluster()).await;
            network.ensure_pod(&pod(1)).await.unwrap();
        }
        fs::remove_file(root.path().join("state/addresses.json")).unwrap();
        let network = network(root.path());
        configure(&network, cluster()).await;
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
        configure(&network, large_cluster()).await;
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
            configure(&network, large_cluster()).await;
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

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_cannot_speak_for_another() {
    on_own_host(|| async {
        let root = tempfile::tempdir().unwrap();
        let network = network(root.path());
        configure(&network, cluster()).await;
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
