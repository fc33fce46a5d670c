//! A rolling update under constant load through the service, and the rollout commands around it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use gantry_tests::{Cluster, Namespace, eventually, get, manifests};

const PATIENCE: Duration = Duration::from_secs(5);
/// The acked drain of a later version brings this to none.
const ALLOWED_FAILURES_PER_10_000: u64 = 1;
const LOAD_THREADS: usize = 2;
/// At least so many requests, or the bound above says nothing.
const ENOUGH_REQUESTS: u64 = 10_000;

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn a_rolling_update_under_load_loses_next_to_nothing() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "rolling")?;
    ns.apply(&manifests::web("web", 4, "2.1.0"))?;
    ns.ok("patch service web -p {\"spec\":{\"type\":\"NodePort\"}}")?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    let node_port: u16 = ns.ok("get service web -o jsonpath={.spec.ports[0].nodePort}")?.parse()?;
    let node = ns.ok("get node node-1 -o jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}")?;
    let address: SocketAddr = format!("{node}:{node_port}").parse()?;
    eventually("the service to answer", || {
        Ok(get(address, "/", PATIENCE).map(drop).map_err(|e| format!("{e:#}")))
    })?;

    let load = Load::start(address);
    ns.ok("set image deployment/web server=registry.company.com/web-app:2.2.0")?;
    ns.ok("rollout status deployment/web --timeout=120s")?;
    load.wait_for(ENOUGH_REQUESTS)?;
    let (requests, failures, first) = load.stop()?;
    ensure!(
        failures * 10_000 <= requests * ALLOWED_FAILURES_PER_10_000,
        "{failures} of {requests} requests failed during the update; the first: {first:?}"
    );
    let body = get(address, "/", PATIENCE)?.body;
    ensure!(body.contains("version 2.2.0"), "{body}");

    let history = ns.ok("rollout history deployment/web")?;
    ensure!(history.lines().filter(|l| l.starts_with(['1', '2'])).count() == 2, "{history}");
    ns.ok("rollout undo deployment/web")?;
    ns.ok("rollout status deployment/web --timeout=120s")?;
    let image = ns.ok("get deployment web -o jsonpath={.spec.template.spec.containers[0].image}")?;
    ensure!(image.ends_with(":2.1.0"), "undo left {image}");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn a_bad_image_stops_the_rollout_and_serves_on() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let ns = Namespace::create(&kubectl, "badroll")?;
    ns.apply(&manifests::web("web", 3, "2.1.0"))?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    ns.ok("patch deployment web -p {\"spec\":{\"progressDeadlineSeconds\":5}}")?;
    ns.ok("set image deployment/web server=registry.company.com/web-app:9.9.9")?;
    let refusal = ns.fails("rollout status deployment/web --timeout=60s")?;
    ensure!(refusal.contains("exceeded its progress deadline"), "{refusal}");
    let line = ns.ok("get deployment web --no-headers")?;
    ensure!(line.contains("3/3"), "the old replicas should all serve on: {line}");
    ns.ok("rollout undo deployment/web")?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    Ok(())
}

/// Requests without pause from several threads, a new connection each.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<(u64, Option<String>)>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..LOAD_THREADS)
            .map(|_| {
                let (stop, requests) = (Arc::clone(&stop), Arc::clone(&requests));
                std::thread::spawn(move || run(address, &stop, &requests))
            })
            .collect();
        Self { stop, requests, threads }
    }

    fn wait_for(&self, enough: u64) -> Result<()> {
        eventually("enough requests", || {
            let done = self.requests.load(Ordering::Relaxed);
            Ok(if done >= enough { Ok(()) } else { Err(format!("{done} requests")) })
        })
    }

    /// Requests, failures, and what the first failure was.
    fn stop(self) -> Result<(u64, u64, Option<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = 0;
        let mut first = None;
        for thread in self.threads {
            let (failed, why) = thread.join().map_err(|_| anyhow!("a load thread panicked"))?;
            failures += failed;
            first = first.or(why);
        }
        Ok((self.requests.load(Ordering::Relaxed), failures, first))
    }
}

fn run(address: SocketAddr, stop: &AtomicBool, requests: &AtomicU64) -> (u64, Option<String>) {
    let (mut failures, mut first) = (0, None);
    while !stop.load(Ordering::Relaxed) {
        let outcome = get(address, "/", PATIENCE)
            .and_then(|a| if a.status == 200 { Ok(()) } else { Err(anyhow!("status {}", a.status)) })
            .context("request");
        requests.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = outcome {
            failures += 1;
            first.get_or_insert_with(|| format!("{error:#}"));
        }
    }
    (failures, first)
}
