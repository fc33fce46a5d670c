//! `cargo xtask bench`: measurements, never assertions. Each brings up what it needs, measures ours and the peer
//! interleaved in one run, prints a table and leaves the figures as JSON in target/bench-results.

use anyhow::Result;

use crate::{
    compile, ebpf, layout,
    layout::Node,
    packages,
    sh::{Sh, cargo},
    up,
    upstream::{
        Part, Upstream,
        peers::{self, Server},
    },
};

/// Port on which the measuring process listens on the node.
const ASK_PORT: u16 = 7070;

/// Pod start and footprint on a cluster of one node.
pub(crate) fn pods(count: u32, rate: f64) -> Result<()> {
    on_nodes("pods", 1, |bench, node| {
        bench
            .args(["--count", &count.to_string(), "--rate", &rate.to_string()])
            .args(["--metrics", &format!("{}:10250", node.address), "--containerd"])
            .arg(node.run.join("containerd.sock"))
            .arg("--")
            .args(enter(node))
    })
}

/// One endpoint change from the API to the datapath, on a cluster of one node.
pub(crate) fn change(count: u32, services: u32) -> Result<()> {
    on_nodes("change", 1, |bench, node| {
        // In the node's cgroup, where connects are translated.
        let join = format!("echo $$ > {}/daemons/cgroup.procs && exec \"$@\"", node.cgroup.display());
        bench
            .args(["--count", &count.to_string(), "--services", &services.to_string()])
            .args(["--listen", &format!("{}:{ASK_PORT}", node.address), "--"])
            .args(["sh", "-c", &join, "sh"])
            .args(enter(node))
    })
}

/// Changes for some minutes on a cluster of two nodes, and the daemons' memory.
pub(crate) fn churn(minutes: u32, pods: u32) -> Result<()> {
    on_nodes("churn", 2, |bench, _| {
        bench.args(["--nodes", "2", "--minutes", &minutes.to_string(), "--pods", &pods.to_string()])
    })
}

/// Words that run what follows them in the node's namespaces.
fn enter(node: &Node) -> [String; 3] {
    [
        "nsenter".to_owned(),
        format!("--net=/run/netns/{}", node.netns),
        format!("--mount={}", node.mntns.display()),
    ]
}

/// Runs a benchmark of `gantry-bench` against a cluster of its own, which is gone afterwards. `arguments` are told its
/// first node.
fn on_nodes(name: &str, nodes: u8, arguments: impl FnOnce(Sh, &Node) -> Sh) -> Result<()> {
    let cluster = up::start("bench", nodes, layout::Build::Release)?;
    let node = cluster.layout.node(1);
    let results = layout::root()?.join("target/bench-results");
    std::fs::create_dir_all(&results)?;
    let bench = cargo()
        .dir(layout::root()?)
        .env("GANTRY_TEST_DIR", &cluster.layout.dir)
        .env("KUBECONFIG", cluster.layout.kubeconfig())
        .args(["run", "--quiet", "--release", "--package", "gantry-tests", "--bin", "gantry-bench", "--"])
        .arg("--json")
        .arg(results.join(format!("{name}.json")))
        .arg(name);
    let measured = arguments(bench, &node).shown();
    let stopped = cluster.stop();
    measured.and(stopped)
}

/// Requests to our API server and to upstream's with its etcd, interleaved in one run; no nodes.
pub(crate) fn api(count: u32, pods: u32) -> Result<()> {
    let root = layout::root()?;
    let kubectl = packages::kubectl(&root.join("target/tools"), packages::KUBECTL)?;
    let upstream = Upstream::build(&root, &[Part::Server])?;
    compile::daemons(layout::Build::Release)?;
    let theirs = upstream.start(&kubectl)?;
    let ours = peers::start_ours(&root, &kubectl, layout::Build::Release, peers::LEASE)?;
    beside("api", &ours, &theirs, &["--count", &count.to_string(), "--pods", &pods.to_string()])
}

/// Pods placed by ours and by upstream's kube-scheduler with its API server, interleaved in one run.
pub(crate) fn placement(nodes: &str, pods: u32, rounds: u32) -> Result<()> {
    let root = layout::root()?;
    let kubectl = packages::kubectl(&root.join("target/tools"), packages::KUBECTL)?;
    let upstream = Upstream::build(&root, &[Part::Server, Part::Scheduler])?;
    compile::daemons(layout::Build::Release)?;
    let theirs = upstream.start_with_scheduler(&kubectl)?;
    let ours = peers::start_ours(&root, &kubectl, layout::Build::Release, peers::LONG_LEASE)?;
    let (pods, rounds) = (pods.to_string(), rounds.to_string());
    beside("placement", &ours, &theirs, &["--nodes", nodes, "--pods", &pods, "--rounds", &rounds])
}

/// Runs a benchmark of `gantry-bench` against ours and the peer.
fn beside(name: &str, ours: &Server, theirs: &Server, arguments: &[&str]) -> Result<()> {
    let root = layout::root()?;
    let results = root.join("target/bench-results");
    std::fs::create_dir_all(&results)?;
    let mut bench = cargo()
        .dir(&root)
        .args(["run", "--quiet", "--release", "--package", "gantry-tests", "--bin", "gantry-bench", "--"])
        .arg("--json")
        .arg(results.join(format!("{name}.json")))
        .arg(name)
        .args(arguments);
    for (side, server) in [("ours", ours), ("theirs", theirs)] {
        bench = bench.arg(format!("--{side}")).arg(&server.kubeconfig);
        for pid in &server.pids {
            bench = bench.args([format!("--{side}-pid"), pid.to_string()]);
        }
    }
    bench.shown()
}

/// Connect latency and programming time of the service datapath: the agent's own code, without a cluster.
pub(crate) fn connect(rounds: u32) -> Result<()> {
    let root = layout::root()?;
    ebpf::build(&root)?;
    let results = root.join("target/bench-results");
    std::fs::create_dir_all(&results)?;
    cargo()
        .dir(&root)
        .args(["bench", "--quiet", "--package", "gantry-agent", "--bench", "connect", "--"])
        .args(["--rounds", &rounds.to_string(), "--json"])
        .arg(results.join("connect.json"))
        .shown()
}
