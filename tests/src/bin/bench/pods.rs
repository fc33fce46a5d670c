//! Pod start: pods created at a fixed rate on one node with the image present, each timed from just before the
//! create call until a watch shows it Running. Between them, `ctr run` of the same image on the same containerd:
//! what the machine and containerd cost without us.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use futures::StreamExt;
use gantry_tests::Cluster;
use hdrhistogram::Histogram;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, WatchEvent, WatchParams},
};
use serde_json::json;

use crate::{footprint, report::Row, timings::Timings};

const NAMESPACE: &str = "bench-pods";
const IMAGE: &str = "registry.company.com/web-app:2.1.0";
const RUNNING_TIME: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(20);

/// What and how much.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many pods.
    #[arg(long, default_value_t = 100)]
    count: u32,
    /// How many a second.
    #[arg(long, default_value_t = 5.0)]
    rate: f64,
    /// One `ctr run` after so many pods; 0: none.
    #[arg(long, default_value_t = 5)]
    peer_every: u32,
    /// containerd's socket of the node.
    #[arg(long)]
    containerd: PathBuf,
    /// containerd's namespace that has the image.
    #[arg(long, default_value = "gantry")]
    namespace: String,
    /// `host:port` of the agent's metrics.
    #[arg(long)]
    metrics: SocketAddr,
    /// Words before `ctr`: how to enter the node (`nsenter ...`).
    #[arg(last = true)]
    enter: Vec<String>,
}

/// Runs it.
pub(crate) async fn run(options: &Options) -> Result<Vec<Row>> {
    let cluster = Cluster::from_env()?;
    let client = Client::try_default().await.context("no client from KUBECONFIG")?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?)
        .await?;
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let seen = Arc::new(Seen::default());
    let watch = tokio::spawn(watch(pods.clone(), Arc::clone(&seen)));
    // The first pod pulls the image and warms every cache; it does not count.
    start_one(&pods, "warm-up").await?;
    wait_running(&seen, "warm-up").await?;

    let before = Timings::read(options.metrics)?;
    let mut peer = new_histogram()?;
    let created = create_all(options, &pods, &mut peer).await?;
    let mut ours = new_histogram()?;
    for (name, since) in &created {
        let at = wait_running(&seen, name).await?;
        ours.record(u64::try_from(at.duration_since(*since).as_micros())?)?;
    }
    watch.abort();
    let timings = Timings::read(options.metrics)?.rows(&before)?;
    let agent = cluster.pid("node-1-agent")?;
    let scheduler = cluster.pid("scheduler")?;
    let mut rows = vec![Row::times("pod: create to Running seen by a watch", &ours, "p50 under 150 ms")];
    if !peer.is_empty() {
        rows.push(Row::times("ctr run of the same image (start to end of `true`)", &peer, "for comparison"));
        let over = (ours.value_at_quantile(0.5) as f64 - peer.value_at_quantile(0.5) as f64) / 1000.0;
        rows.push(Row::value("ours over ctr run, difference of the medians", over, "ms", "under 10"));
    }
    rows.extend(timings);
    rows.extend([
        Row::value(
            "agent CPU, idle with these pods",
            footprint::cpu_percent(agent, QUIET).await?,
            "% of a core",
            "under 1",
        ),
        Row::value("agent RSS with these pods", footprint::resident_mb(agent)?, "MB", "under 40"),
        Row::value(
            "scheduler RSS with these pods",
            footprint::resident_mb(scheduler)?,
            "MB",
            "under 60 when idle",
        ),
    ]);
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    Ok(rows)
}

fn new_histogram() -> Result<Histogram<u64>> {
    // Up to a minute in microseconds, three significant figures.
    Histogram::new_with_bounds(1, 60_000_000, 3).map_err(|e| anyhow!("histogram: {e}"))
}

/// Creates the pods at the asked rate; returns when each was asked for.
async fn create_all(
    options: &Options,
    pods: &Api<Pod>,
    peer: &mut Histogram<u64>,
) -> Result<Vec<(String, Instant)>> {
    ensure!(options.rate > 0.0, "--rate must be above 0");
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / options.rate));
    let mut created = Vec::new();
    for i in 0..options.count {
        ticks.tick().await;
        let name = format!("p{i}");
        let since = Instant::now();
        start_one(pods, &name).await?;
        created.push((name, since));
        if options.peer_every > 0 && i % options.peer_every == options.peer_every - 1 {
            let took = ctr_run(options, i).await?;
            peer.record(u64::try_from(took.as_micros())?)?;
        }
    }
    Ok(created)
}

async fn start_one(pods: &Api<Pod>, name: &str) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "nodeName": "node-1",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "3600"]}],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await.with_context(|| format!("create {name}"))?;
    Ok(())
}

async fn ctr_run(options: &Options, i: u32) -> Result<Duration> {
    let mut words = options.enter.clone();
    words.extend(["ctr".to_owned(), "-a".to_owned(), options.containerd.display().to_string()]);
    // Without CPU shares, which `ctr` asks for by default: they need a cgroup v2 controller that not every host has.
    words.extend(
        ["-n", &options.namespace, "run", "--rm", "--cpu-shares", "0", "--cgroup", ""].map(str::to_owned),
    );
    words.extend([local_image(options).await?, format!("bench-{i}"), "/bin/true".to_owned()]);
    let since = Instant::now();
    let output = tokio::process::Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run ctr")?;
    ensure!(output.status.success(), "ctr run: {}", String::from_utf8_lossy(&output.stderr));
    Ok(since.elapsed())
}

/// The image's name in containerd, as the agent stored it.
async fn local_image(options: &Options) -> Result<String> {
    let mut words = options.enter.clone();
    words.extend(["ctr".to_owned(), "-a".to_owned(), options.containerd.display().to_string()]);
    words.extend(["-n", &options.namespace, "images", "ls", "-q"].map(str::to_owned));
    let output = tokio::process::Command::new(&words[0]).args(&words[1..]).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find(|l| l.contains("web-app:2.1.0"))
        .map(str::to_owned)
        .with_context(|| format!("no image in {text}"))
}

/// When each pod was first seen Running.
#[derive(Default)]
struct Seen {
    at: Mutex<BTreeMap<String, Instant>>,
    changed: tokio::sync::Notify,
}

async fn watch(pods: Api<Pod>, seen: Arc<Seen>) -> Result<()> {
    let mut stream = pods.watch(&WatchParams::default(), "0").await?.boxed();
    while let Some(event) = stream.next().await {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event? else { continue };
        let running = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running");
        if let Some(name) = pod.metadata.name.filter(|_| running) {
            seen.at.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_insert_with(Instant::now);
            seen.changed.notify_waiters();
        }
    }
    Ok(())
}

async fn wait_running(seen: &Seen, name: &str) -> Result<Instant> {
    let wait = async {
        loop {
            let changed = seen.changed.notified();
            if let Some(at) = seen.at.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
                return *at;
            }
            changed.await;
        }
    };
    tokio::time::timeout(RUNNING_TIME, wait).await.with_context(|| format!("pod {name} is not Running"))
}
