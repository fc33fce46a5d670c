//! `cargo xtask bench`: measurements, never assertions. Each brings up what it needs, measures ours and the peer
//! interleaved in one run, prints a table and leaves the figures as JSON in target/bench-results.

use anyhow::Result;

use crate::{ebpf, layout, sh::cargo, up};

/// Pod start and footprint on a cluster of one node.
pub(crate) fn pods(count: u32, rate: f64) -> Result<()> {
    let cluster = up::start("bench", 1, layout::Build::Release)?;
    let node = cluster.layout.node(1);
    // `ctr run` asks for CPU weight, which fails where cgroup v2 has no such controller.
    let peer = std::fs::read_to_string(node.cgroup.join("cgroup.controllers"))?.contains("cpu");
    let results = layout::root()?.join("target/bench-results");
    std::fs::create_dir_all(&results)?;
    let measured = cargo()
        .dir(layout::root()?)
        .env("GANTRY_TEST_DIR", &cluster.layout.dir)
        .env("KUBECONFIG", cluster.layout.kubeconfig())
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "gantry-tests",
            "--bin",
            "gantry-bench",
            "--",
            "--json",
        ])
        .arg(results.join("pods.json"))
        .args(["pods", "--count", &count.to_string(), "--rate", &rate.to_string()])
        .args(["--peer-every", if peer { "5" } else { "0" }, "--containerd"])
        .arg(node.run.join("containerd.sock"))
        .args(["--", "nsenter", &format!("--net=/run/netns/{}", node.netns)])
        .arg(format!("--mount={}", node.mntns.display()))
        .shown();
    let stopped = cluster.stop();
    measured.and(stopped)
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
