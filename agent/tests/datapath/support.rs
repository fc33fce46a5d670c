//! A node in a namespace of its own, with backends that say who they are.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use gantry_agent::{
    dataplane::{Dataplane as _, DataplaneConfig, EbpfDataplane, TableSizes, TcAttachment},
    model::{Endpoint, NodeName, Protocol, ServiceId, ServicePort, ServiceSpec, ServiceTable, ServiceType},
};
use nix::sched::{CloneFlags, unshare};

/// A connect that nobody answers must end the test, not hang it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
const CGROUP_ROOT: &str = "/sys/fs/cgroup/unified";
const CGROUP_ROOT_V2: &str = "/sys/fs/cgroup";

/// A process is in one cgroup, so the tests of this binary take turns.
static TURN: Mutex<()> = Mutex::new(());
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A node: network namespace of the calling thread, cgroup of the process, pins.
pub(crate) struct Node {
    pub(crate) config: DataplaneConfig,
    pub(crate) name: NodeName,
    cgroup: PathBuf,
    home_cgroup: PathBuf,
    _scratch: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::attaching_by(TcAttachment::default())
    }

    /// One whose packet path is attached in the given way.
    pub(crate) fn attaching_by(tc: TcAttachment) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        run("ip link set lo up");
        let root = if PathBuf::from(CGROUP_ROOT).exists() { CGROUP_ROOT } else { CGROUP_ROOT_V2 };
        let home_cgroup = own_cgroup(root);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let cgroup = PathBuf::from(root).join(format!("gantry-test-{}-{number}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        enter(&cgroup);
        let scratch = tempfile::tempdir().unwrap();
        let config = DataplaneConfig {
            pins: scratch.path().join("bpf"),
            cgroup: cgroup.clone(),
            uplink: None,
            pod_sockets: true,
            tc,
            sizes: TableSizes::default(),
        };
        Self { config, name: "here".into(), cgroup, home_cgroup, _scratch: scratch, _turn: turn }
    }

    pub(crate) fn open(&self) -> EbpfDataplane {
        EbpfDataplane::open(self.config.clone()).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub(crate) fn publish(&self, dataplane: &EbpfDataplane, services: &ServiceTable) {
        dataplane
            .publish(services, &self.name, &[NODE_ADDRESS])
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let uninstalled = EbpfDataplane::uninstall(&self.config);
        enter(&self.home_cgroup);
        let removed = fs::remove_dir(&self.cgroup);
        if !std::thread::panicking() {
            uninstalled.unwrap_or_else(|error| panic!("{}", chain(&error)));
            removed.unwrap();
            assert!(!self.config.pins.exists(), "uninstall leaves nothing");
        }
    }
}

/// The node's own address.
pub(crate) const NODE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

fn own_cgroup(root: &str) -> PathBuf {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    PathBuf::from(root).join(path)
}

fn enter(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

/// Runs a command line that must succeed.
pub(crate) fn run(line: &str) {
    let _ = output(line);
}

/// What a command line says that must succeed.
pub(crate) fn output(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The names in a directory.
pub(crate) fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Makes two tests of each function: with the packet path attached as this kernel can, and by filters as kernels before
/// 6.6 have it. A virtual machine with such a kernel is far slower than this, and sees far less.
macro_rules! in_both_ways {
    ($($test:ident),* $(,)?) => {
        mod newest { $(
            #[test]
            #[ignore = "needs root: run by cargo xtask test"]
            fn $test() {
                super::$test(gantry_agent::dataplane::TcAttachment::Newest);
            }
        )* }
        mod filters { $(
            #[test]
            #[ignore = "needs root: run by cargo xtask test"]
            fn $test() {
                super::$test(gantry_agent::dataplane::TcAttachment::Filters);
            }
        )* }
    };
}
pub(crate) use in_both_ways;

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A TCP server that answers every connection with its own address.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on `address`, adding it to loopback.
    pub(crate) fn start(address: &str) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        run(&format!("ip addr replace {}/32 dev lo", address.ip()));
        Self::listen(address)
    }

    /// Listens on an address that is there.
    pub(crate) fn listen(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                let Ok(mut stream) = stream else { continue };
                let _ = stream.write_all(address.to_string().as_bytes());
            }
        });
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the accept; also works from a thread whose socket calls are translated.
        let woken = TcpStream::connect_timeout(&self.address, PATIENCE);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Connects and returns who answered.
pub(crate) fn ask(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), PATIENCE)?;
    read_name(&mut stream)
}

pub(crate) fn read_name(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok(name)
}

/// A service with one port, for tests to change.
pub(crate) fn service(cluster_ip: &str, port: u16, protocol: Protocol, endpoints: &[&str]) -> ServiceSpec {
    let endpoints = endpoints.iter().map(|address| endpoint(address)).collect();
    ServiceSpec {
        generation: 1,
        kind: ServiceType::ClusterIp,
        cluster_ips: vec![cluster_ip.parse().unwrap()],
        headless: false,
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        publish_not_ready: false,
        health_port: None,
        source_ranges: Vec::new(),
        ports: vec![ServicePort { name: String::new(), protocol, port, node_port: None, endpoints }],
    }
}

pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        node: Some("here".into()),
        ready: true,
        serving: true,
        terminating: false,
        hostname: String::new(),
        pod: String::new(),
    }
}

/// A table of the given services.
pub(crate) fn table(services: impl IntoIterator<Item = (&'static str, ServiceSpec)>) -> ServiceTable {
    services
        .into_iter()
        .map(|(name, spec)| (ServiceId { namespace: "test".into(), name: name.into() }, Arc::new(spec)))
        .collect()
}
