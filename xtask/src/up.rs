//! `cargo xtask up` and `down`: a cluster on this machine with the example application running on it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use console::style;
use serde_json::Value;

use crate::{
    cluster::{Cluster, supervisor},
    compile,
    layout::{Build, Layout},
    packages, ui,
};

/// How long the example application may take to be ready: image pulls, probes with their initial delays.
const READY_TIME: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// Installs, builds, starts, applies, waits, asks once, shows.
pub(crate) fn up(name: &str, nodes: u8, profile: Build) -> Result<()> {
    ui::heading("Preparing");
    let cluster = start(name, nodes, profile)?;
    ui::heading("Applying config/examples/shop");
    let shop = cluster.layout.root.join("config/examples/shop");
    ui::step("kubectl apply", |_| {
        // The nodes' labels and the namespace come before what needs them: files are applied in name order.
        let text = cluster.kubectl().args(["apply", "-f"]).arg(&shop).text()?;
        Ok(format!("{} objects", text.lines().count()))
    })?;
    ui::step("waiting until every pod is ready", |step| wait_ready(&cluster, step))?;
    show(&cluster)?;
    answer(&cluster)
}

/// A running cluster with nothing applied to it.
pub(crate) fn start(name: &str, nodes: u8, profile: Build) -> Result<Cluster> {
    require_root()?;
    packages::ensure(packages::CLUSTER)?;
    let layout = Layout::of(name, profile)?;
    let kubectl = packages::kubectl(&layout.root.join("target/tools"), packages::KUBECTL)?;
    compile::daemons(profile)?;
    Cluster::start(layout, kubectl, nodes)
}

/// Ends the cluster.
pub(crate) fn down(name: &str) -> Result<()> {
    require_root()?;
    let cluster = Cluster { layout: Layout::of(name, Build::Release)?, kubectl: PathBuf::new() };
    ui::step(format!("ending the cluster {name:?}"), |_| {
        let ran = supervisor::is_running(&cluster.plan_file());
        cluster.stop()?;
        Ok(if ran { "nothing is left" } else { "it was not running; nothing is left" }.to_owned())
    })
}

/// Privileges that the caller's work needs.
pub(crate) fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("run as root: namespaces, cgroups and eBPF need it");
    }
    Ok(())
}

fn wait_ready(cluster: &Cluster, step: &mut ui::Step) -> Result<String> {
    let end = Instant::now() + READY_TIME;
    loop {
        let pods = pods(cluster)?;
        let mut by_state: BTreeMap<String, usize> = BTreeMap::new();
        for pod in &pods {
            *by_state.entry(state(pod)).or_default() += 1;
        }
        let states: Vec<String> = by_state.iter().map(|(state, n)| format!("{n} {state}")).collect();
        if !pods.is_empty() && by_state.keys().all(|s| s == "ready") {
            return Ok(format!("{} pods", pods.len()));
        }
        step.detail(states.join(", "));
        if Instant::now() > end {
            let described = cluster.kubectl().args(["get", "events,pods", "-A", "-o", "wide"]).text()?;
            bail!(
                "not every pod is ready after {}: {}\n{described}",
                ui::seconds(READY_TIME),
                states.join(", ")
            );
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

pub(crate) fn pods(cluster: &Cluster) -> Result<Vec<Value>> {
    let text = cluster.kubectl().args(["get", "pods", "-A", "-o", "json"]).text()?;
    let list: Value = serde_json::from_str(&text).context("kubectl printed no JSON")?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// `ready`, or what keeps it from being so.
pub(crate) fn state(pod: &Value) -> String {
    let is_ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    if pod["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(is_ready)) {
        return "ready".to_owned();
    }
    let waiting = pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|c| c["state"]["waiting"]["reason"].as_str());
    waiting.or(pod["status"]["phase"].as_str()).unwrap_or("unknown").to_owned()
}

fn show(cluster: &Cluster) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["POD", "NODE", "ADDRESS", "STATE"]);
    for pod in pods(cluster)? {
        let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
        let name = format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        table.add_row([name, text(&pod["spec"]["nodeName"]), text(&pod["status"]["podIP"]), state(&pod)]);
    }
    println!("{table}");
    println!("{}", cluster.kubectl().args(["get", "services", "-A"]).text()?);
    Ok(())
}

/// One request through the load balancer's address.
fn answer(cluster: &Cluster) -> Result<()> {
    let address = cluster
        .kubectl()
        .args(["-n", "shop", "get", "service", "storefront"])
        .args(["-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"])
        .text()?;
    let body = get(&format!("{address}:80"), "/")?;
    println!("\n{} http://{address}/ {} {}", style("GET").bold(), style("→").dim(), body.trim());
    println!("\nThe cluster stays up. Try:");
    println!("  export KUBECONFIG={}", cluster.layout.kubeconfig().display());
    println!("  {} get pods -A -o wide", cluster.kubectl.display());
    println!("  cargo xtask down    {}", style("# ends it and leaves nothing behind").dim());
    Ok(())
}

fn get(address: &str, path: &str) -> Result<String> {
    let target: SocketAddr =
        address.parse().with_context(|| format!("no load balancer address yet: {address:?}"))?;
    let mut stream = TcpStream::connect_timeout(&target, REQUEST_TIME)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(REQUEST_TIME))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("no answer from {address}"))?;
    let (head, body) = text.split_once("\r\n\r\n").context("not an HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("http://{address}{path} answered {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
