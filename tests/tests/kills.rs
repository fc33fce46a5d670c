//! SIGKILL of the daemons in a loop, under load: containers stay, connections stay, acknowledged writes stay.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use gantry_tests::{Cluster, Kubectl, Namespace, eventually, get, manifests};

const KILLS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn killing_the_agent_restarts_no_container() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "agentkill")?;
    ns.apply(&manifests::web("web", 4, "2.1.0"))?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    // One connection through the service that stays open all the while.
    ns.apply(&manifests::holder("holder", "http://web/hostname"))?;
    eventually("the connection", || {
        let logs = ns.ok("logs holder")?;
        Ok(if logs.contains("connected") { Ok(()) } else { Err(logs) })
    })?;
    eventually("every pod to be ready", || all_ready(&ns))?;
    let before = containers(&ns)?;
    for round in 0..KILLS {
        let agent = if round % 2 == 0 { "node-1-agent" } else { "node-2-agent" };
        kill_and_wait(&cluster, agent)?;
        ensure!(ns.ok("get pods --no-headers")?.lines().count() == 5);
    }
    eventually("both nodes to be Ready", || both_ready(&kubectl))?;
    let after = containers(&ns)?;
    ensure!(before == after, "containers changed:\n{before:#?}\n{after:#?}");
    let phase = ns.ok("get pod holder -o jsonpath={.status.phase}")?;
    ensure!(phase == "Running", "the held connection broke: {}", ns.ok("logs holder")?);
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn killing_the_scheduler_loses_no_acknowledged_write() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "centrekill")?;
    ns.apply(&manifests::web("web", 2, "2.1.0"))?;
    ns.ok("patch service web -p {\"spec\":{\"type\":\"NodePort\"}}")?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    let node_port: u16 = ns.ok("get service web -o jsonpath={.spec.ports[0].nodePort}")?.parse()?;
    let node = ns.ok("get node node-1 -o jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}")?;
    let address: SocketAddr = format!("{node}:{node_port}").parse()?;
    let before = containers(&ns)?;
    let mut acknowledged = Vec::new();
    for round in 0..KILLS {
        let name = format!("written-{round}");
        if kubectl
            .run(&format!("-n centrekill create configmap {name} --from-literal=round={round}"))?
            .success
        {
            acknowledged.push((name, round));
        }
        cluster.kill("scheduler")?;
        ensure!(get(address, "/", PATIENCE)?.status == 200, "traffic stopped with the scheduler");
        eventually("the API to answer again", || {
            let output = kubectl.run("get --raw /readyz")?;
            Ok(if output.success { Ok(()) } else { Err(output.stderr) })
        })?;
    }
    ensure!(acknowledged.len() == KILLS, "only {} of {KILLS} writes were acknowledged", acknowledged.len());
    for (name, round) in acknowledged {
        let value = ns.ok(&format!("get configmap {name} -o jsonpath={{.data.round}}"))?;
        ensure!(value == round.to_string(), "{name} holds {value:?}");
    }
    eventually("both nodes to be Ready", || both_ready(&kubectl))?;
    let after = containers(&ns)?;
    ensure!(before == after, "containers changed:\n{before:#?}\n{after:#?}");
    Ok(())
}

/// Pod, container id and restart count of everything in the namespace.
fn containers(ns: &Namespace<'_>) -> Result<Vec<String>> {
    let template = "{range .items[*]}{.metadata.name}={.status.containerStatuses[0].containerID}/{.status.containerStatuses[0].restartCount}/{.status.containerStatuses[0].ready};{end}";
    let words = ["-n", &ns.name, "get", "pods", "-o", &format!("jsonpath={template}")];
    let text = Cluster::from_env()?.kubectl()?.run_args(&words, None)?.stdout;
    let mut all: Vec<String> = text.split_terminator(';').map(str::to_owned).collect();
    all.sort();
    ensure!(!all.is_empty(), "no pods");
    Ok(all)
}

fn all_ready(ns: &Namespace<'_>) -> Result<Result<(), String>> {
    let text = ns.ok("get pods --no-headers")?;
    let ready = |line: &str| line.contains("1/1") && line.contains("Running");
    Ok(if text.lines().all(ready) { Ok(()) } else { Err(text) })
}

fn kill_and_wait(cluster: &Cluster, process: &str) -> Result<()> {
    let old = cluster.pid(process)?;
    cluster.kill(process)?;
    eventually("a new process", || {
        let new = cluster.pid(process)?;
        Ok(if new == old { Err(format!("still {old}")) } else { Ok(()) })
    })
}

fn both_ready(kubectl: &Kubectl) -> Result<Result<(), String>> {
    let text = kubectl.ok("get nodes --no-headers")?;
    let ready = text.lines().filter(|l| l.split_whitespace().nth(1) == Some("Ready")).count();
    Ok(if ready == 2 { Ok(()) } else { Err(text) })
}
