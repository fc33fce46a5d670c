//! A host of one's own for each test: fresh network and mount namespaces that end with the test's thread.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failure here is the test's failure")]

use std::{
    fs,
    future::Future,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    thread,
    time::Duration,
};

use gantry_agent::{
    model::{ClusterNetwork, Layout, NodeView, PeerNode, Resolver},
    net::{KernelNetwork, NetError, NetSettings, Network, NodeNetwork, NodeWants, Part, PodNetwork},
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// Runs `test` in namespaces of its own, on a single-threaded runtime: everything it starts inherits them.
pub(crate) fn on_own_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let done = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root is needed");
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command line in the calling thread's namespaces.
pub(crate) fn run(line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap()
}

/// The standard output of a command that must succeed.
pub(crate) fn sh(line: &str) -> String {
    let output = run(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Another machine on the uplink's wire: a process that does nothing in a network namespace of its own.
pub(crate) struct Neighbour {
    process: Child,
}

impl Neighbour {
    /// 192.0.2.1 on the node's `up0`, 192.0.2.2 on the neighbour's `eth0`.
    pub(crate) fn connect() -> Self {
        let process = Command::new("unshare").args(["--net", "sleep", "300"]).spawn().unwrap();
        let neighbour = Self { process };
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        wait(|| fs::read_link(neighbour.netns()).is_ok_and(|theirs| theirs != own));
        let pid = neighbour.process.id();
        sh("ip link set lo up");
        sh(&format!("ip link add up0 mtu 1400 type veth peer name eth0 netns {pid}"));
        sh("ip addr add 192.0.2.1/24 dev up0");
        sh("ip link set up0 up");
        neighbour.sh("ip addr add 192.0.2.2/24 dev eth0");
        neighbour.sh("ip link set eth0 up");
        neighbour.sh("ip link set lo up");
        neighbour
    }

    pub(crate) fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.process.id()).into()
    }

    pub(crate) fn sh(&self, line: &str) -> String {
        sh(&format!("nsenter --net={} {line}", self.netns().display()))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Waits for a state, bounded.
pub(crate) fn wait(mut reached: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !reached() {
        assert!(std::time::Instant::now() < end, "not reached in time");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `work` on a thread in the namespace.
pub(crate) fn within<T: Send + 'static>(netns: &Path, work: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.to_owned();
    thread::spawn(move || {
        setns(fs::File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// A server in `server` that tells every client its own address; what a client in `client` is told.
pub(crate) fn seen_from(server: &Path, address: Ipv4Addr, client: Option<&Path>) -> IpAddr {
    let listener = within(server, || TcpListener::bind("0.0.0.0:0").unwrap());
    let to = SocketAddr::new(address.into(), listener.local_addr().unwrap().port());
    let answer = thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(from.ip().to_string().as_bytes()).unwrap();
    });
    let ask = move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        told.parse().unwrap()
    };
    let told = match client {
        Some(client) => within(client, ask),
        None => ask(),
    };
    answer.join().unwrap();
    told
}

/// The cluster of the tests.
pub(crate) fn cluster() -> ClusterNetwork {
    ClusterNetwork {
        domain: "cluster.local".into(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        pod_cidr: "10.244.0.0/16".parse().unwrap(),
        node_pod_cidrs: vec!["10.244.3.0/24".parse().unwrap()],
        dns_ip: "10.96.0.10".parse().unwrap(),
        node_ports: (30000, 32767),
    }
}

/// An adapter with its state below `root`.
pub(crate) fn network(root: &Path) -> KernelNetwork {
    KernelNetwork::open(net_settings(root)).unwrap()
}

/// As the configuration makes them, below `root`.
pub(crate) fn net_settings(root: &Path) -> NetSettings {
    NetSettings {
        namespaces_dir: root.join("run/namespaces"),
        addresses_file: root.join("state/addresses.json"),
        uplink: None,
        mtu: None,
        hold_back: Duration::from_secs(30),
        masquerade: true,
        reserved_file: root.join("run/reserved-ports"),
    }
}

/// Brings the node's network to this, rules and all.
pub(crate) async fn settle(
    network: &KernelNetwork,
    wants: &NodeWants,
) -> Result<NodeNetwork, (Part, NetError)> {
    let mut found = network.settle(wants, true).await.unwrap();
    match found.failures.pop() {
        Some(failure) => Err(failure),
        None => Ok(found),
    }
}

/// The ranges and nothing else.
pub(crate) fn ranges(cluster: ClusterNetwork) -> NodeWants {
    NodeWants { cluster: Some(cluster), ..NodeWants::default() }
}

/// Takes the cluster's ranges.
pub(crate) async fn configure(network: &KernelNetwork, cluster: ClusterNetwork) {
    settle(network, &ranges(cluster)).await.unwrap();
}

/// Another node.
pub(crate) fn peer(address: &str, range: &str) -> PeerNode {
    PeerNode { addresses: vec![address.parse().unwrap()], pod_cidrs: vec![range.parse().unwrap()] }
}

/// A node of which nothing is known yet.
pub(crate) fn view(root: &Path) -> NodeView {
    let dir = |name| root.join(name);
    NodeView {
        name: "node-1".into(),
        addresses: Vec::new(),
        cluster: None,
        layout: Layout { state_dir: dir("state"), run_dir: dir("run"), log_dir: dir("log") },
        resolver: Resolver::default(),
        cpu_milli: 1000,
        memory_bytes: 1 << 30,
        memory_capacity: 1 << 30,
        ephemeral_bytes: 1 << 30,
        enforced: true,
        max_pods: 110,
        allowed_sysctls: Vec::new(),
        oom_floor: -1000,
        pids_max: None,
        apparmor: false,
        hosts: String::new(),
    }
}

/// A pod named after its number.
pub(crate) fn pod(number: u32) -> PodNetwork {
    PodNetwork {
        uid: format!("0b5c9d0e-4d2c-4c0b-9d5f-{number:012}").as_str().into(),
        name: gantry_agent::model::PodName {
            namespace: "default".into(),
            name: format!("pod-{number}").into(),
        },
        hostname: format!("pod-{number}"),
        host_network: false,
    }
}
