//! The process of one variant: a server, the variant's rules, and connects on request.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use gantry_agent::dataplane::{Dataplane as _, DataplaneConfig, EbpfDataplane, TableSizes, TcAttachment};
use nix::sched::{CloneFlags, unshare};

use crate::rules;

/// What carries a connect to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Variant {
    /// Nothing: the client knows the backend.
    Direct,
    /// This project's socket path.
    Gantry,
    /// kube-proxy's nftables rules.
    Nftables,
    /// kube-proxy's iptables rules.
    Iptables,
}

/// Addresses of the server; each service has all of them as endpoints.
pub(crate) const BACKENDS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 99, 0, 1),
    Ipv4Addr::new(10, 99, 0, 2),
    Ipv4Addr::new(10, 99, 0, 3),
    Ipv4Addr::new(10, 99, 0, 4),
];
pub(crate) const BACKEND_PORT: u16 = 8080;
const NODE: &str = "192.0.2.10";

/// The address of a service by its number.
pub(crate) fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0001 + number)
}

/// A variant's process, seen from the run.
pub(crate) struct Worker {
    pub(crate) variant: Variant,
    pub(crate) services: u32,
    pub(crate) load: Duration,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    pub(crate) fn start(variant: Variant, services: u32) -> Self {
        let name = variant.to_possible_value().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--worker", name.get_name(), "--count", &services.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut worker = Self { variant, services, load: Duration::ZERO, child, requests, answers };
        worker.load = worker.answer();
        worker
    }

    /// The median of `connects` connects.
    pub(crate) fn round(&mut self, connects: usize) -> Duration {
        writeln!(self.requests.as_mut().unwrap(), "{connects}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> Duration {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        Duration::from_nanos(line.trim().parse().expect("the worker failed, see above"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input ends the worker, which cleans up.
        self.requests = None;
        let _ = self.child.wait();
    }
}

/// Runs as a worker: says how long its rules took to load, then answers requests until its input ends.
pub(crate) fn serve(variant: Variant, services: u32) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    prepare_namespace();
    start_server();
    let datapath = Datapath::new(variant, services);
    println!("{}", datapath.load.as_nanos());
    let target = if variant == Variant::Direct {
        SocketAddr::from((BACKENDS[0], BACKEND_PORT))
    } else {
        // The middle of the table: what a rule list costs depends on the place in it.
        SocketAddr::from((vip(services / 2), 80))
    };
    for line in std::io::stdin().lines() {
        let connects = line.unwrap().parse().unwrap();
        println!("{}", measure(target, connects).as_nanos());
    }
}

fn measure(target: SocketAddr, connects: usize) -> Duration {
    // The first pay for caches that the other variants' turns have emptied.
    for _ in 0..connects / 10 {
        connect(target);
    }
    let mut times: Vec<Duration> = (0..connects).map(|_| connect(target)).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Only the system call is timed; the connection is then used up, so that the server never lags.
fn connect(target: SocketAddr) -> Duration {
    let started = Instant::now();
    let mut stream = TcpStream::connect(target).unwrap();
    let elapsed = started.elapsed();
    let mut end = [0];
    assert_eq!(stream.read(&mut end).unwrap(), 1, "the server answers");
    elapsed
}

fn prepare_namespace() {
    let run = |line: &str| {
        let mut words = line.split(' ');
        assert!(Command::new(words.next().unwrap()).args(words).status().unwrap().success(), "{line}");
    };
    run("ip link set lo up");
    run(&format!("ip addr add {NODE}/32 dev lo"));
    for address in BACKENDS {
        run(&format!("ip addr add {address}/32 dev lo"));
    }
    // Rules translate after routing, which must find a way.
    run(&format!("ip route add 10.96.0.0/12 dev lo src {NODE}"));
    // Every connect leaves a port in TIME_WAIT.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").unwrap();
    fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").unwrap();
}

fn start_server() {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, BACKEND_PORT)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"x"));
        }
    });
}

/// What a variant has loaded; removed when dropped.
struct Datapath {
    load: Duration,
    gantry: Option<Gantry>,
}

struct Gantry {
    _dataplane: EbpfDataplane,
    node: BenchNode,
}

/// A cgroup and pins for this process.
pub(crate) struct BenchNode {
    pub(crate) config: DataplaneConfig,
    home: PathBuf,
    _scratch: tempfile::TempDir,
}

impl BenchNode {
    pub(crate) fn new() -> Self {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().map(PathBuf::from);
        let root = root.into_iter().find(|root| root.join("cgroup.procs").exists()).unwrap();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = root.join(own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap());
        let cgroup = root.join(format!("gantry-bench-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let config = DataplaneConfig {
            pins: scratch.path().join("bpf"),
            cgroup,
            uplink: None,
            pod_sockets: true,
            tc: TcAttachment::default(),
            sizes: TableSizes::default(),
        };
        Self { config, home, _scratch: scratch }
    }
}

impl Drop for BenchNode {
    fn drop(&mut self) {
        EbpfDataplane::uninstall(&self.config).unwrap();
        fs::write(self.home.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        fs::remove_dir(&self.config.cgroup).unwrap();
    }
}

impl Datapath {
    fn new(variant: Variant, services: u32) -> Self {
        let started = Instant::now();
        let gantry = match variant {
            Variant::Direct => None,
            Variant::Gantry => {
                let node = BenchNode::new();
                let dataplane = EbpfDataplane::open(node.config.clone()).unwrap();
                let table = rules::service_table(services);
                dataplane.publish(&table, &"node".into(), &[NODE.parse().unwrap()]).unwrap();
                Some(Gantry { _dataplane: dataplane, node })
            }
            Variant::Nftables => {
                rules::load(&["nft", "-f", "-"], &rules::nftables(services));
                None
            }
            Variant::Iptables => {
                rules::load(&["iptables-legacy-restore"], &rules::iptables(services));
                None
            }
        };
        Self { load: started.elapsed(), gantry }
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        // Rules go with the namespace.
        if let Some(Gantry { node, .. }) = self.gantry.take() {
            drop(node);
        }
    }
}
