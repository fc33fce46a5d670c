//! Reaching a Deployment through its service: by name, by ClusterIP, by NodePort from outside, by the load
//! balancer's address; with and without session affinity; without endpoints.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use gantry_tests::{Cluster, Namespace, eventually, get, manifests};

const REPLICAS: usize = 3;
/// Enough that missing one of three by chance (1 in 10^17) is not the reason for a failure.
const REQUESTS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(3);

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn every_way_to_a_service_reaches_every_replica() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "ways")?;
    ns.apply(&manifests::web("web", 3, "2.1.0"))?;
    ns.apply(&manifests::client("client"))?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    ns.ok("wait pod/client --for=condition=Ready --timeout=60s")?;
    let cluster_ip = ns.ok("get service web -o jsonpath={.spec.clusterIP}")?;

    for target in ["web", "web.ways", "web.ways.svc.cluster.local", &cluster_ip] {
        let seen = from_pod(&ns, &format!("http://{target}/hostname"))?;
        ensure!(seen.len() == REPLICAS, "{target} from a pod reached only {seen:?}");
    }
    let headless = ns.ok("exec client -- nslookup web.ways.svc.cluster.local")?;
    ensure!(headless.contains(&cluster_ip), "{headless}");

    // A Service of type LoadBalancer has all three kinds of address.
    ns.ok("patch service web -p {\"spec\":{\"type\":\"LoadBalancer\"}}")?;
    let address = eventually("an address from the pool", || {
        let ip = ns.ok("get service web -o jsonpath={.status.loadBalancer.ingress[0].ip}")?;
        Ok(if ip.is_empty() { Err("none yet".to_owned()) } else { Ok(ip) })
    })?;
    let node_port = ns.ok("get service web -o jsonpath={.spec.ports[0].nodePort}")?;
    let nodes =
        ns.ok("get nodes -o jsonpath={.items[*].status.addresses[?(@.type==\"InternalIP\")].address}")?;
    let mut outside = vec![format!("{address}:80")];
    outside.extend(nodes.split_whitespace().map(|node| format!("{node}:{node_port}")));
    for target in outside {
        let seen = from_outside(&target)?;
        ensure!(seen.len() == REPLICAS, "{target} from outside reached only {seen:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn session_affinity_keeps_a_client_at_one_replica() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "affinity")?;
    ns.apply(&manifests::web("web", 3, "2.1.0"))?;
    ns.apply(&manifests::client("client"))?;
    ns.ok("patch service web -p {\"spec\":{\"type\":\"NodePort\",\"sessionAffinity\":\"ClientIP\"}}")?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    ns.ok("wait pod/client --for=condition=Ready --timeout=60s")?;
    let seen = from_pod(&ns, "http://web/hostname")?;
    ensure!(seen.len() == 1, "with ClientIP affinity a pod reached {seen:?}");
    let node_port = ns.ok("get service web -o jsonpath={.spec.ports[0].nodePort}")?;
    let node = ns.ok("get node node-1 -o jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}")?;
    let seen = from_outside(&format!("{node}:{node_port}"))?;
    ensure!(seen.len() == 1, "with ClientIP affinity a client outside reached {seen:?}");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn a_service_without_endpoints_refuses() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "nobody")?;
    ns.apply(&manifests::web("web", 0, "2.1.0"))?;
    ns.apply(&manifests::client("client"))?;
    ns.ok("wait pod/client --for=condition=Ready --timeout=60s")?;
    eventually("connection refused", || {
        let words = ["-n", "nobody", "exec", "client", "--", "gantry-workload", "get", "http://web/"];
        let output = kubectl.run_args(&words, None)?;
        Ok(if output.stderr.contains("refused") { Ok(()) } else { Err(output.stderr) })
    })?;
    // The first endpoint opens it, the last one gone closes it.
    ns.ok("scale deployment web --replicas=1")?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    eventually("an answer", || Ok(from_pod_once(&ns, "http://web/hostname").map_err(|e| e.to_string())))?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn udp_is_balanced_too() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "datagrams")?;
    ns.apply(&manifests::web("web", 2, "2.1.0"))?;
    ns.apply(&manifests::client("client"))?;
    ns.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {selector: {app: web}, ports: [{port: 7, \
         targetPort: 8081, protocol: UDP}]}}",
    )?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    ns.ok("wait pod/client --for=condition=Ready --timeout=60s")?;
    let seen = eventually("answers of both", || {
        let text = ns.ok("exec client -- gantry-workload udp echo:7 hello 30")?;
        let seen: BTreeSet<String> =
            text.lines().filter_map(|l| l.split(' ').next()).map(str::to_owned).collect();
        Ok(if seen.len() == 2 { Ok(seen) } else { Err(text) })
    })?;
    ensure!(seen.iter().all(|name| name.starts_with("web-")), "{seen:?}");
    Ok(())
}

/// The replicas that answer `REQUESTS` requests made in the pod `client`, one connection each.
fn from_pod(ns: &Namespace<'_>, url: &str) -> Result<BTreeSet<String>> {
    let text = ns.ok(&format!("exec client -- gantry-workload get {url} {REQUESTS}"))?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines.len() == REQUESTS, "{} of {REQUESTS} answers from {url}", lines.len());
    Ok(lines.into_iter().map(str::to_owned).collect())
}

fn from_pod_once(ns: &Namespace<'_>, url: &str) -> Result<String> {
    ns.ok(&format!("exec client -- gantry-workload get {url}"))
}

fn from_outside(target: &str) -> Result<BTreeSet<String>> {
    let address: SocketAddr = target.parse().with_context(|| format!("{target} is not an address"))?;
    // The address may have been announced this moment.
    eventually("the first answer", || {
        Ok(get(address, "/hostname", PATIENCE).map(drop).map_err(|e| format!("{target}: {e:#}")))
    })?;
    (0..REQUESTS)
        .map(|i| {
            let answer =
                get(address, "/hostname", PATIENCE).with_context(|| format!("request {i} to {target}"))?;
            ensure!(answer.status == 200, "{target} answered {answer:?}");
            Ok(answer.body)
        })
        .collect()
}
