//! Changes without end: deployments that roll out, scale and lose pods, and config maps that are written, on a cluster
//! with some hundred pods; what the daemons' memory is all the while. At the end everything must be there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use gantry_tests::Cluster;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{footprint, report::Row};

const NAMESPACE: &str = "bench-churn";
const IMAGE: &str = "registry.company.com/web-app:2.1.0";
/// Pods of one deployment.
const REPLICAS: u32 = 10;
/// A step follows the one before it after so long.
const STEP: Duration = Duration::from_millis(2500);
/// Config maps that each step writes.
const MAPS: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_secs(60);
const THERE_WITHIN: Duration = Duration::from_secs(180);

/// What and how much.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// For how long.
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    /// How many pods.
    #[arg(long, default_value_t = 100)]
    pods: u32,
    /// How many nodes there are.
    #[arg(long)]
    nodes: u32,
}

/// Runs it.
pub(crate) async fn run(options: &Options) -> Result<Vec<Row>> {
    let mut watched = Watched::of(&Cluster::from_env()?, options.nodes)?;
    let client = Client::try_default().await.context("no client from KUBECONFIG")?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let load = Load::start(&client, options.pods.div_ceil(REPLICAS)).await?;
    watched.look("at the start")?;
    let (since, mut looked) = (Instant::now(), Instant::now());
    let end = since + Duration::from_secs(60) * options.minutes;
    let mut step = 0;
    while Instant::now() < end {
        let next = Instant::now() + STEP;
        load.step(step).await.with_context(|| format!("step {step}"))?;
        step += 1;
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            watched.look(&format!("after {} min and {step} steps", since.elapsed().as_secs() / 60))?;
        }
        tokio::time::sleep_until(next.into()).await;
    }
    load.wait_there().await?;
    watched.look("at the end")?;
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    Ok(watched.rows(options))
}

/// Processes and what they took.
struct Watched(Vec<Process>);

struct Process {
    name: String,
    pid: u32,
    most: f64,
    last: f64,
}

impl Watched {
    fn of(cluster: &Cluster, nodes: u32) -> Result<Self> {
        let names = (1..=nodes).map(|n| format!("node-{n}-agent"));
        let processes = std::iter::once("scheduler".to_owned()).chain(names).map(|name| {
            let pid = cluster.pid(&name)?;
            anyhow::Ok(Process { name, pid, most: 0.0, last: 0.0 })
        });
        processes.collect::<Result<_>>().map(Self)
    }

    fn look(&mut self, when: &str) -> Result<()> {
        for process in &mut self.0 {
            process.last = footprint::resident_mb(process.pid)?;
            process.most = process.most.max(process.last);
        }
        let figures: Vec<String> = self.0.iter().map(|p| format!("{} {:.1} MB", p.name, p.last)).collect();
        eprintln!("{when}: {}", figures.join(", "));
        Ok(())
    }

    fn rows(&self, options: &Options) -> Vec<Row> {
        let rows = self.0.iter().flat_map(|process| {
            let what = format!("{} RSS, {} pods, {} min", process.name, options.pods, options.minutes);
            let target = if process.name == "scheduler" { "60 or less" } else { "" };
            [
                Row::value(&format!("{what}, at the end"), process.last, "MB", target),
                Row::value(&format!("{what}, the most of each minute"), process.most, "MB", target),
            ]
        });
        rows.collect()
    }
}

/// What changes.
struct Load {
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    maps: Api<ConfigMap>,
    count: u32,
}

impl Load {
    async fn start(client: &Client, count: u32) -> Result<Self> {
        let load = Self {
            deployments: Api::namespaced(client.clone(), NAMESPACE),
            pods: Api::namespaced(client.clone(), NAMESPACE),
            maps: Api::namespaced(client.clone(), NAMESPACE),
            count,
        };
        for number in 0..count {
            let deployment = serde_json::from_value(deployment(number))?;
            load.deployments.create(&PostParams::default(), &deployment).await?;
        }
        for number in 0..MAPS {
            let map = json!({"metadata": {"name": format!("map-{number}")}, "data": {"step": ""}});
            load.maps.create(&PostParams::default(), &serde_json::from_value(map)?).await?;
        }
        load.wait_there().await?;
        Ok(load)
    }

    async fn step(&self, step: u32) -> Result<()> {
        let name = name(step / 4 % self.count);
        match step % 4 {
            0 => {
                let annotations = json!({"bench.example/step": step.to_string()});
                let template = json!({"metadata": {"annotations": annotations}});
                self.change(&name, &json!({"spec": {"template": template}})).await?;
            }
            1 => self.change(&name, &json!({"spec": {"replicas": REPLICAS - 2}})).await?,
            2 => self.change(&name, &json!({"spec": {"replicas": REPLICAS}})).await?,
            _ => {
                let of = ListParams::default().labels(&format!("app={name}")).limit(1);
                for pod in self.pods.list_metadata(&of).await?.items {
                    let name = pod.metadata.name.context("a pod without a name")?;
                    match self.pods.delete(&name, &DeleteParams::default()).await {
                        Err(kube::Error::Api(status)) if status.code == 404 => {}
                        deleted => drop(deleted?),
                    }
                }
            }
        }
        for number in 0..MAPS {
            let patch = json!({"data": {"step": format!("{step}: {}", "x".repeat(1000))}});
            self.maps.patch(&format!("map-{number}"), &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
        Ok(())
    }

    async fn change(&self, name: &str, patch: &serde_json::Value) -> Result<()> {
        self.deployments.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Waits until every deployment has all its pods, of its newest template.
    async fn wait_there(&self) -> Result<()> {
        let end = Instant::now() + THERE_WITHIN;
        loop {
            let list = self.deployments.list(&ListParams::default()).await?;
            let missing: Vec<String> = list.items.iter().filter(|d| !is_there(d)).map(name_of).collect();
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "not all pods of {} are there", missing.join(", "));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

fn name_of(deployment: &Deployment) -> String {
    deployment.metadata.name.clone().unwrap_or_default()
}

fn is_there(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas;
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == wanted
            && status.available_replicas == wanted
            && status.replicas == wanted
    })
}

fn name(number: u32) -> String {
    format!("churn-{number}")
}

fn deployment(number: u32) -> serde_json::Value {
    let labels = json!({"app": name(number)});
    json!({
        "metadata": {"name": name(number)},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "86400"]}],
            }},
        },
    })
}
