//! What Prometheus scrapes, checked by Prometheus' own tool: names, types, help texts, in the classic format; and that
//! nothing has a name that is neither ours nor one that dashboards know from elsewhere.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gantry_tests::{Cluster, get};

const PATIENCE: Duration = Duration::from_secs(5);
/// Ours, and those that are called as in the kubelet, cAdvisor, kube-state-metrics and upstream's control plane.
const PREFIXES: [&str; 9] = [
    "gantry_",
    "kubelet_",
    "container_",
    "pod_",
    "node_",
    "machine_",
    "kube_",
    "scrape_error",
    "resource_scrape_error",
];
const CONTROL_PLANE: [&str; 3] = ["apiserver_", "scheduler_", "workqueue_"];

fn check(source: &str, text: &str, prefixes: &[&str]) -> Result<()> {
    let program =
        std::env::var_os("GANTRY_PROMTOOL").context("GANTRY_PROMTOOL is not set: run cargo xtask test")?;
    let mut tool = Command::new(&program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    tool.stdin.take().context("no pipe")?.write_all(text.as_bytes())?;
    let said = tool.wait_with_output()?;
    let complaints = [said.stdout, said.stderr].concat();
    let complaints = String::from_utf8_lossy(&complaints);
    ensure!(said.status.success() && complaints.is_empty(), "{source}: {complaints}");
    let families: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split(' ').next())
        .collect();
    ensure!(families.len() > 3, "{source}: only {families:?}");
    let foreign: Vec<&&str> =
        families.iter().filter(|name| !prefixes.iter().any(|prefix| name.starts_with(prefix))).collect();
    ensure!(foreign.is_empty(), "{source}: {foreign:?} are nobody's names");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn what_is_scraped_is_clean() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let all: Vec<&str> = PREFIXES.into_iter().chain(CONTROL_PLANE).collect();
    check("the API's /metrics", &kubectl.ok("get --raw /metrics")?, &all)?;
    let path = "jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}";
    let addresses = kubectl.ok(&format!("get nodes -o {path}"))?;
    ensure!(addresses.split_whitespace().count() == 2, "{addresses}");
    for address in addresses.split_whitespace() {
        let agent: SocketAddr = format!("{address}:10250").parse()?;
        for path in ["/metrics", "/metrics/resource"] {
            let answer = get(agent, path, PATIENCE)?;
            ensure!(answer.status == 200, "{agent}{path} answered {}", answer.status);
            check(&format!("{agent}{path}"), &answer.body, &PREFIXES)?;
        }
    }
    Ok(())
}
