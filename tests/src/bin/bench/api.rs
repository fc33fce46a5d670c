//! Two API servers asked the same things in turns: ours and upstream's with its etcd. One connection each, one request
//! at a time; a round asks both, and who is first changes with every round. Then a watch of many changes, and memory
//! with many pods there. Nothing else runs beside them: no controllers, no nodes.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use futures::{StreamExt, TryStreamExt, pin_mut, stream};
use hdrhistogram::Histogram;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use crate::{footprint, peers::Peers, report::Row};

const NAMESPACE: &str = "bench-api";
/// Pod writes at a time while the servers are filled.
const PARALLEL: usize = 16;
/// Lists are slow with many pods there: fewer of them tell as much.
const LISTS: u32 = 15;
/// Changes that one watch is timed over.
const WATCHED: usize = 100;
/// Every so many pods carry the label that is listed by.
const LABELLED: u32 = 100;
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// What and how much.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    peers: Peers,
    /// Rounds of each request.
    #[arg(long, default_value_t = 300)]
    count: u32,
    /// Pods that are there while lists and memory are measured.
    #[arg(long, default_value_t = 12_000)]
    pods: u32,
}

/// One server.
struct Side {
    client: Client,
    pods: Api<Pod>,
    maps: Api<ConfigMap>,
    pids: Vec<u32>,
}

/// Times of one request, both sides, in microseconds.
struct Pair {
    ours: Histogram<u64>,
    theirs: Histogram<u64>,
}

/// Requests that are timed one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Create,
    Get,
    Patch,
    Delete,
    List,
    ListByLabel,
}

impl Request {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create a pod",
            Self::Get => "get a pod",
            Self::Patch => "patch a pod's label",
            Self::Delete => "delete a config map",
            Self::List => "list all pods",
            Self::ListByLabel => "list pods by label",
        }
    }
}

/// Runs it.
pub(crate) async fn run(options: &Options) -> Result<Vec<Row>> {
    let ours = Side::connect(&options.peers.ours, &options.peers.ours_pid).await.context("ours")?;
    let theirs =
        Side::connect(&options.peers.theirs, &options.peers.theirs_pid).await.context("upstream's")?;
    let mut rows = Vec::new();
    for request in [Request::Create, Request::Get, Request::Patch, Request::Delete] {
        compare(&ours, &theirs, request, options.count).await?.report(request.name(), &mut rows);
    }
    watch(&ours, &theirs).await?.report("see 100 changes by a watch", &mut rows);
    for side in [&ours, &theirs] {
        side.fill(options.pods).await?;
    }
    for request in [Request::List, Request::ListByLabel] {
        let pair = compare(&ours, &theirs, request, LISTS).await?;
        pair.report(&format!("{}, {} there", request.name(), options.pods), &mut rows);
    }
    for (name, side) in [("ours", &ours), ("upstream's with etcd", &theirs)] {
        let memory: f64 = side.pids.iter().map(|pid| footprint::resident_mb(*pid)).sum::<Result<f64>>()?;
        let what = format!("memory with {} pods there, {name}", options.pods);
        rows.push(Row::value(&what, memory, "MB", "less than upstream's"));
    }
    Ok(rows)
}

async fn compare(ours: &Side, theirs: &Side, request: Request, count: u32) -> Result<Pair> {
    let mut pair = Pair::new()?;
    for round in 0..count {
        // Who is first finds colder caches: it changes with every round.
        for first in [round % 2 == 0, round % 2 != 0] {
            let (side, times) = if first { (ours, &mut pair.ours) } else { (theirs, &mut pair.theirs) };
            side.prepare(request, round).await?;
            let since = Instant::now();
            side.ask(request, round).await.with_context(|| request.name())?;
            times.record(micros(since.elapsed())?)?;
        }
    }
    Ok(pair)
}

/// Times from the first of many writes until a watch has seen the last.
async fn watch(ours: &Side, theirs: &Side) -> Result<Pair> {
    let mut pair = Pair::new()?;
    for round in 0..LISTS {
        for first in [round % 2 == 0, round % 2 != 0] {
            let (side, times) = if first { (ours, &mut pair.ours) } else { (theirs, &mut pair.theirs) };
            let time =
                tokio::time::timeout(SEEN_WITHIN, side.watch(round)).await.context("no event came")??;
            times.record(micros(time)?)?;
        }
    }
    Ok(pair)
}

impl Side {
    async fn connect(kubeconfig: &Path, pids: &[u32]) -> Result<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
        // Pods need it; upstream's controllers, which would make it, do not run here.
        let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        match accounts.create(&PostParams::default(), &serde_json::from_value(account)?).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made?),
        }
        Ok(Self {
            pods: Api::namespaced(client.clone(), NAMESPACE),
            maps: Api::namespaced(client.clone(), NAMESPACE),
            client,
            pids: pids.to_vec(),
        })
    }

    /// What must be there before the request is timed.
    async fn prepare(&self, request: Request, round: u32) -> Result<()> {
        if request == Request::Delete {
            let map = serde_json::from_value(json!({"metadata": {"name": format!("gone-{round}")}}))?;
            self.maps.create(&PostParams::default(), &map).await?;
        }
        Ok(())
    }

    async fn ask(&self, request: Request, round: u32) -> Result<()> {
        let name = format!("timed-{round}");
        match request {
            Request::Create => drop(self.pods.create(&PostParams::default(), &pod(&name, round)?).await?),
            Request::Get => self.read(self.raw().get(&name, &GetParams::default())?).await?,
            Request::Patch => {
                let patch = json!({"metadata": {"labels": {"round": round.to_string()}}});
                self.pods.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
            }
            Request::Delete => {
                drop(self.maps.delete(&format!("gone-{round}"), &DeleteParams::default()).await?);
            }
            Request::List => self.read(self.raw().list(&ListParams::default())?).await?,
            Request::ListByLabel => {
                self.read(self.raw().list(&ListParams::default().labels("chosen=yes"))?).await?;
            }
        }
        Ok(())
    }

    fn raw(&self) -> kube::core::Request {
        kube::core::Request::new(self.pods.resource_url())
    }

    /// Takes the answer's bytes and does not decode them: that would time this client.
    async fn read(&self, request: http::Request<Vec<u8>>) -> Result<()> {
        let text = self.client.request_text(request).await?;
        ensure!(text.contains("\"kind\":"), "the answer is no object: {text:.80}");
        Ok(())
    }

    async fn fill(&self, pods: u32) -> Result<()> {
        stream::iter(0..pods)
            .map(|i| async move {
                let pod = pod(&format!("filled-{i}"), i)?;
                self.pods.create(&PostParams::default(), &pod).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn watch(&self, round: u32) -> Result<Duration> {
        let from = self.maps.list(&ListParams::default().limit(1)).await?;
        let version = from.metadata.resource_version.context("the list has no version")?;
        let events = self.maps.watch(&WatchParams::default(), &version).await?;
        pin_mut!(events);
        let since = Instant::now();
        let write = async {
            for i in 0..WATCHED {
                let name = format!("watched-{round}-{i}");
                let map = serde_json::from_value(json!({"metadata": {"name": name}}))?;
                self.maps.create(&PostParams::default(), &map).await?;
            }
            anyhow::Ok(())
        };
        let see = async {
            let mut seen = 0;
            while seen < WATCHED {
                if let WatchEvent::Added(_) = events.try_next().await?.context("the watch ended")? {
                    seen += 1;
                }
            }
            anyhow::Ok(())
        };
        tokio::try_join!(write, see)?;
        Ok(since.elapsed())
    }
}

impl Pair {
    fn new() -> Result<Self> {
        let histogram =
            || Histogram::new_with_bounds(1, 600_000_000, 3).map_err(|e| anyhow!("histogram: {e}"));
        Ok(Self { ours: histogram()?, theirs: histogram()? })
    }

    fn report(&self, what: &str, rows: &mut Vec<Row>) {
        rows.push(Row::times(&format!("{what}, ours"), &self.ours, ""));
        rows.push(Row::times(&format!("{what}, upstream's"), &self.theirs, ""));
        let ratio = self.theirs.value_at_quantile(0.5) as f64 / self.ours.value_at_quantile(0.5) as f64;
        rows.push(Row::value(&format!("{what}: ours is quicker"), ratio, "times", "1 or more"));
    }
}

fn pod(name: &str, number: u32) -> Result<Pod> {
    let chosen = if number.is_multiple_of(LABELLED) { "yes" } else { "no" };
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "bench", "chosen": chosen}},
        // Nobody's to place: ours would write of each that no node takes it, and upstream's scheduler does not run.
        "spec": {"schedulerName": "nobody", "containers": [{
            "name": "main",
            "image": "registry.example/bench:1",
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}},
        }]},
    }))?)
}

fn micros(time: Duration) -> Result<u64> {
    Ok(u64::try_from(time.as_micros())?.max(1))
}
