//! Two API servers asked the same things in turns: ours and upstream's with its etcd. One connection each, one request
//! at a time. They take turns with every few requests, so that both run as servers do that have something to do, and no
//! drift of the machine meets one of them alone; who is first changes with every turn. Then a watch of many changes, and memory
//! with many pods there. Nothing else runs beside them: no controllers, no nodes.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{footprint, peers::Peers, report::Row, wire::Wire};

const NAMESPACE: &str = "bench-api";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
/// Pod writes at a time while the servers are filled.
const PARALLEL: usize = 16;
/// Lists are slow with many pods there: fewer of them tell as much.
const LISTS: u32 = 15;
/// Changes that one watch is timed over.
const WATCHED: usize = 100;
/// Every so many pods carry the label that is listed by.
const LABELLED: u32 = 100;
/// Requests of one turn.
const TURN: u32 = 10;
/// Before each turn: what the other server still does after its answers is in nobody's figure.
const PAUSE: Duration = Duration::from_millis(20);
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
    config: Config,
    client: Client,
    wire: Wire,
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
    let mut ours = Side::connect(&options.peers.ours, &options.peers.ours_pid).await.context("ours")?;
    let mut theirs =
        Side::connect(&options.peers.theirs, &options.peers.theirs_pid).await.context("upstream's")?;
    let mut rows = Vec::new();
    for request in [Request::Create, Request::Get, Request::Patch, Request::Delete] {
        let pair = compare(&mut ours, &mut theirs, request, options.count).await?;
        pair.report(request.name(), &mut rows);
    }
    watch(&mut ours, &mut theirs).await?.report("see 100 changes by a watch", &mut rows);
    for side in [&ours, &theirs] {
        side.fill(options.pods).await?;
    }
    for request in [Request::List, Request::ListByLabel] {
        let pair = compare(&mut ours, &mut theirs, request, LISTS).await?;
        pair.report(&format!("{}, {} there", request.name(), options.pods), &mut rows);
    }
    for (name, side) in [("ours", &ours), ("upstream's with etcd", &theirs)] {
        let memory: f64 = side.pids.iter().map(|pid| footprint::resident_mb(*pid)).sum::<Result<f64>>()?;
        let what = format!("memory with {} pods there, {name}", options.pods);
        rows.push(Row::value(&what, memory, "MB", "less than upstream's"));
    }
    Ok(rows)
}

async fn compare(ours: &mut Side, theirs: &mut Side, request: Request, count: u32) -> Result<Pair> {
    let mut pair = Pair::new()?;
    for side in [&mut *ours, &mut *theirs] {
        // A connection that nothing was asked on for a while is closed.
        side.wire = Wire::connect(&side.config).await?;
    }
    for turn in 0..count.div_ceil(TURN) {
        for first in [turn % 2 == 0, turn % 2 != 0] {
            let (side, times) =
                if first { (&mut *ours, &mut pair.ours) } else { (&mut *theirs, &mut pair.theirs) };
            let rounds = turn * TURN..count.min((turn + 1) * TURN);
            if request == Request::Delete {
                for round in rounds.clone() {
                    side.create_map(&format!("gone-{round}")).await?;
                }
            }
            tokio::time::sleep(PAUSE).await;
            for round in rounds {
                let time = side.time(request, round).await.with_context(|| request.name())?;
                times.record(micros(time)?)?;
            }
        }
    }
    Ok(pair)
}

/// Times from the first of many writes until a watch has seen the last.
async fn watch(ours: &mut Side, theirs: &mut Side) -> Result<Pair> {
    let mut pair = Pair::new()?;
    for round in 0..LISTS {
        for first in [round % 2 == 0, round % 2 != 0] {
            let (side, times) =
                if first { (&mut *ours, &mut pair.ours) } else { (&mut *theirs, &mut pair.theirs) };
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
        let client = Client::try_from(config.clone())?;
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
        let wire = Wire::connect(&config).await?;
        Ok(Self { config, client, wire, pids: pids.to_vec() })
    }

    /// How long one request takes; what it needs is there.
    async fn time(&mut self, request: Request, round: u32) -> Result<Duration> {
        let (pods, name) = (path("pods"), format!("timed-{round}"));
        let nothing = || ("", Bytes::new());
        let (method, path, body) = match request {
            Request::Create => (Method::POST, pods, (JSON, serde_json::to_vec(&pod(&name, round)?)?.into())),
            Request::Get => (Method::GET, format!("{pods}/{name}"), nothing()),
            Request::Patch => {
                let patch = json!({"metadata": {"labels": {"round": round.to_string()}}});
                (Method::PATCH, format!("{pods}/{name}"), (MERGE, patch.to_string().into()))
            }
            Request::Delete => (Method::DELETE, format!("{}/gone-{round}", path("configmaps")), nothing()),
            Request::List => (Method::GET, pods, nothing()),
            Request::ListByLabel => (Method::GET, format!("{pods}?labelSelector=chosen%3Dyes"), nothing()),
        };
        let expected = if request == Request::Create { StatusCode::CREATED } else { StatusCode::OK };
        let since = Instant::now();
        self.wire.ask(method, &path, body, expected).await?;
        Ok(since.elapsed())
    }

    async fn create_map(&mut self, name: &str) -> Result<()> {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string();
        let made =
            self.wire.ask(Method::POST, &path("configmaps"), (JSON, map.into()), StatusCode::CREATED).await;
        made.map(drop)
    }

    async fn fill(&self, pods: u32) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let api = &api;
        stream::iter(0..pods)
            .map(|i| async move {
                let pod = pod(&format!("filled-{i}"), i)?;
                api.create(&PostParams::default(), &pod).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn watch(&mut self, round: u32) -> Result<Duration> {
        let maps = path("configmaps");
        let one = format!("{maps}?limit=1");
        let list = self.wire.ask(Method::GET, &one, ("", Bytes::new()), StatusCode::OK).await?;
        let list: Value = serde_json::from_slice(&list)?;
        let version = list["metadata"]["resourceVersion"].as_str().context("the list has no version")?;
        let watch = format!("{maps}?watch=true&resourceVersion={version}");
        let mut watcher = Wire::connect(&self.config).await?;
        let events = watcher.open(Method::GET, &watch, "", Bytes::new()).await?;
        ensure!(events.status() == StatusCode::OK, "the watch was refused: {}", events.status());
        let mut events = events.into_body();
        tokio::time::sleep(PAUSE).await;
        let since = Instant::now();
        let write = async {
            for i in 0..WATCHED {
                self.create_map(&format!("watched-{round}-{i}")).await?;
            }
            anyhow::Ok(())
        };
        let see = async {
            let mut seen = 0;
            while seen < WATCHED {
                let frame = events.frame().await.context("the watch ended")??;
                // An event is a line.
                seen += frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
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

fn path(resource: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{resource}")
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
