//! Placement beside upstream's kube-scheduler: the same nodes and pods at two API servers, interleaved, who is first
//! changing with every round. The nodes are objects alone; the pods tolerate that nobody is there.
//!
//! Two figures for each kind of pod. From a backlog: all pods wait, because one pod that is there keeps them from every
//! node; the clock runs from its deletion until a watch has seen the last of them bound. As they come: from the first
//! creation until the last is bound, which the creations take most of. Then memory, with nodes and pods there.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, PostParams, WatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Request,
};
use serde_json::{Value, json};

use crate::{footprint, peers::Peers, report::Row};

/// Writes at a time.
const PARALLEL: usize = 32;
const ZONES: u32 = 3;
/// Pods of one group keep apart or spread; there are at least as many nodes as pods in a group.
const GROUPS: u32 = 10;
/// The label that every node has with the same value: one pod that repels over it repels from all of them.
const EVERYWHERE: &str = "bench.example/everywhere";
const BLOCKER: &str = "blocker";
/// After a first failed attempt both schedulers let a pod wait for a second, whatever happens.
const BACKOFF: Duration = Duration::from_secs(3);
const WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What and how much.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    peers: Peers,
    /// Nodes; a list is worked off in order, nodes are added.
    #[arg(long, value_delimiter = ',', default_value = "1000,5000")]
    nodes: Vec<u32>,
    /// Pods of each measurement.
    #[arg(long, default_value_t = 2000)]
    pods: u32,
    /// Rounds of each measurement; the median counts.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
}

/// What pods ask of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Anti,
    Spread,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Plain, Self::Anti, Self::Spread];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Anti => "anti-affinity",
            Self::Spread => "spread",
        }
    }

    fn spec(self, spec: &mut Value, group: &str) {
        let selector = json!({"matchLabels": {"group": group}});
        match self {
            Self::Plain => {}
            Self::Anti => spec["affinity"] = repelled("kubernetes.io/hostname", &selector),
            Self::Spread => {
                spec["topologySpreadConstraints"] = json!([{
                    "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                    "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector,
                }]);
            }
        }
    }
}

/// How pods come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Backlog,
    Created,
}

fn repelled(topology: &str, selector: &Value) -> Value {
    json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": topology, "labelSelector": selector}]}})
}

struct Side {
    client: Client,
    pids: Vec<u32>,
}

/// Runs it.
pub(crate) async fn run(options: &Options) -> Result<Vec<Row>> {
    let ours = Side::connect(&options.peers.ours, &options.peers.ours_pid).await.context("ours")?;
    let theirs =
        Side::connect(&options.peers.theirs, &options.peers.theirs_pid).await.context("upstream's")?;
    let mut rows = Vec::new();
    let mut there = 0;
    for nodes in &options.nodes {
        for side in [&ours, &theirs] {
            side.add_nodes(there..*nodes).await?;
        }
        there = there.max(*nodes);
        for kind in Kind::ALL {
            for arrival in [Arrival::Backlog, Arrival::Created] {
                let what = match arrival {
                    Arrival::Backlog => format!("{there} nodes, {}, from a backlog", kind.name()),
                    Arrival::Created => format!("{there} nodes, {}, as they come", kind.name()),
                };
                let (mut us, mut them) = (Vec::new(), Vec::new());
                for round in 0..options.rounds {
                    for first in [round % 2 == 0, round % 2 != 0] {
                        let (side, rates) = if first { (&ours, &mut us) } else { (&theirs, &mut them) };
                        let name =
                            format!("bench-{there}-{}-{round}-{arrival:?}", kind.name()).to_lowercase();
                        let took = side.measure(&name, kind, arrival, options.pods).await;
                        let took = took.with_context(|| what.clone())?;
                        rates.push(f64::from(options.pods) / took.as_secs_f64());
                    }
                }
                let (us, them) = (median(us), median(them));
                eprintln!("{what}: {us:.0} and {them:.0} a second");
                rows.push(Row::value(&format!("{what}, ours"), us, "pods/s", ""));
                rows.push(Row::value(&format!("{what}, upstream's"), them, "pods/s", ""));
                rows.push(Row::value(&format!("{what}: ours is quicker"), us / them, "times", "10 or more"));
            }
        }
        let memory =
            |side: &Side| side.pids.iter().map(|pid| footprint::resident_mb(*pid)).sum::<Result<f64>>();
        let (us, them) = (memory(&ours)?, memory(&theirs)?);
        rows.push(Row::value(&format!("memory with {there} nodes, ours"), us, "MB", ""));
        let what = format!("memory with {there} nodes, upstream's API server and scheduler");
        rows.push(Row::value(&what, them, "MB", ""));
        let what = format!("memory with {there} nodes: ours is a share of theirs");
        rows.push(Row::value(&what, us / them * 100.0, "%", "25 or less"));
    }
    Ok(rows)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Side {
    async fn connect(kubeconfig: &Path, pids: &[u32]) -> Result<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        Ok(Self { client: Client::try_from(config)?, pids: pids.to_vec() })
    }

    async fn add_nodes(&self, numbers: std::ops::Range<u32>) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        stream::iter(numbers)
            .map(|number| {
                let nodes = nodes.clone();
                async move {
                    let name = format!("node-{number}");
                    let node: Node = serde_json::from_value(node(number, &name))?;
                    let mut made = nodes.create(&PostParams::default(), &node).await?;
                    made.status = node.status;
                    // A control loop may write the new node too.
                    let status = serde_json::to_value(&made.status)?;
                    let patch = kube::api::Patch::Merge(json!({ "status": status }));
                    nodes.patch_status(&name, &kube::api::PatchParams::default(), &patch).await?;
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// How long it takes until all of `count` pods are bound. They are gone afterwards.
    async fn measure(&self, namespace: &str, kind: Kind, arrival: Arrival, count: u32) -> Result<Duration> {
        self.add_namespace(namespace).await?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let took = match arrival {
            Arrival::Backlog => {
                let blocker: Pod = serde_json::from_value(blocker())?;
                pods.create(&PostParams::default(), &blocker).await?;
                self.create(&pods, kind, count).await?;
                wait_refused(&pods, count).await?;
                tokio::time::sleep(BACKOFF).await;
                self.until_bound(&pods, count, async {
                    pods.delete(BLOCKER, &DeleteParams::default().grace_period(0)).await?;
                    Ok(())
                })
                .await?
            }
            Arrival::Created => self.until_bound(&pods, count, self.create(&pods, kind, count)).await?,
        };
        pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await?;
        let end = Instant::now() + WITHIN;
        while !pods.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty() {
            ensure!(Instant::now() < end, "the pods of {namespace} are not gone");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(took)
    }

    async fn add_namespace(&self, name: &str) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
        // Pods need it; upstream's controllers, which would make it, do not run here.
        let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), name);
        match accounts.create(&PostParams::default(), &serde_json::from_value(account)?).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            made => drop(made?),
        }
        Ok(())
    }

    async fn create(&self, pods: &Api<Pod>, kind: Kind, count: u32) -> Result<()> {
        stream::iter(0..count)
            .map(|number| async move {
                let pod: Pod = serde_json::from_value(pod(number, kind))?;
                pods.create(&PostParams::default(), &pod).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Does `begin` and waits until a watch has seen `count` pods bound; the time of both.
    async fn until_bound(
        &self,
        pods: &Api<Pod>,
        count: u32,
        begin: impl Future<Output = Result<()>>,
    ) -> Result<Duration> {
        let from = pods.list_metadata(&ListParams::default().limit(1)).await?;
        let version = from.metadata.resource_version.context("the list has no version")?;
        // A pod comes into this selection when it is bound. Its text is not decoded: that would time this client.
        let bound = WatchParams::default().fields(&format!("spec.nodeName!=,metadata.name!={BLOCKER}"));
        let request = Request::new(pods.resource_url()).watch(&bound, &version)?;
        let mut lines = self.client.request_stream(request).await?.lines();
        let since = Instant::now();
        let seen = async {
            for _ in 0..count {
                let line = lines.try_next().await?.context("the watch ended")?;
                ensure!(line.starts_with("{\"type\":\"ADDED\""), "not a pod that was bound: {line:.200}");
            }
            Ok(())
        };
        let both = async { tokio::try_join!(begin, seen) };
        tokio::time::timeout(WITHIN, both).await.context("not all pods were bound in time")??;
        Ok(since.elapsed())
    }
}

/// Waits until every pod is known to have been refused.
async fn wait_refused(pods: &Api<Pod>, count: u32) -> Result<()> {
    let end = Instant::now() + WITHIN;
    loop {
        let list = pods.list(&ListParams::default()).await?;
        let refused = |pod: &&Pod| {
            let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            conditions.into_iter().any(|c| c.type_ == "PodScheduled" && c.status == "False")
        };
        if list.items.iter().filter(refused).count() >= count as usize {
            return Ok(());
        }
        ensure!(Instant::now() < end, "some pods were not tried in time");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn node(number: u32, name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", EVERYWHERE: "yes",
            "topology.kubernetes.io/zone": format!("zone-{}", number % ZONES),
        }},
        "status": {
            "allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"},
            "capacity": {"cpu": "16", "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": null, "lastTransitionTime": null}],
        },
    })
}

fn pod(number: u32, kind: Kind) -> Value {
    let group = format!("group-{}", number % GROUPS);
    let mut spec = json!({
        // No agent is there: the nodes are not ready to anybody.
        "tolerations": [{"operator": "Exists"}],
        "containers": [{
            "name": "main",
            "image": "registry.example/bench:1",
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
        }],
    });
    kind.spec(&mut spec, &group);
    json!({"metadata": {"name": format!("pod-{number}"), "labels": {"app": "bench", "group": group}}, "spec": spec})
}

/// Keeps the pods of its namespace from every node as long as it is there.
fn blocker() -> Value {
    json!({
        "metadata": {"name": BLOCKER},
        "spec": {
            "nodeName": "node-0",
            "affinity": repelled(EVERYWHERE, &json!({"matchLabels": {"app": "bench"}})),
            "containers": [{"name": "main", "image": "registry.example/bench:1"}],
        },
    })
}
