//! The way of a service from the API's objects into the table of a node: scheduler, session, ledger and programming are the
//! real ones, and so is the table; only its maps are plain memory, which outlives the agent as a kernel does.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use gantry_agent::{
    apply::Wires,
    dns::SharedNames,
    lifecycle::{Drain, Gates},
    reconcile::{NodeNetworker, NodeNetworking, Programmer, TableNetwork, known, programming},
    testing::{FakeNode, view},
};
use gantry_scheduler::model::Resource;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    DAY, Scheduler, admin,
    fake::{Agent, eventually},
    home,
};

/// An agent whose services go into the table of `kernel`.
struct Node {
    agent: Agent,
    drain: Drain,
}

impl Node {
    async fn start(scheduler: &Scheduler, kernel: &FakeNode, dir: &Path) -> Result<Self> {
        let agent = scheduler.agent("n1", dir)?;
        let (gates, drain) = (Gates::default(), Drain::default());
        let mut node = view("/nowhere".as_ref());
        node.name = "n1".into();
        let (sender, node) = watch::channel(Arc::new(node));
        let (ports, table_network) = (kernel.ports(), TableNetwork::default());
        let networker = NodeNetworker::start(NodeNetworking {
            network: ports.network.clone(),
            dataplane: ports.dataplane.clone(),
            ranges: agent.control.network.clone(),
            table: table_network.clone(),
            view: sender,
            fixed_addresses: true,
            configured: gates.register("network"),
        })
        .await;
        let programmer = Programmer {
            dataplane: ports.dataplane,
            network: ports.network,
            table_network,
            upstream: agent.control.upstream.clone(),
            node,
            names: SharedNames::default(),
            wires: Wires::default(),
            programmed: gates.register("services"),
            metrics: Arc::default(),
        };
        let desired = known(agent.control.desired.clone(), gates.register("desired state"), &drain);
        drain.spawn(networker.run(drain.stop.clone()));
        drain.spawn(programming(programmer, desired, drain.stop.clone()));
        Ok(Self { agent, drain })
    }

    /// Its session and its tasks; the kernel stays.
    async fn stop(self) -> Result<()> {
        self.drain.stop.cancel();
        self.agent.stop().await
    }

    /// Waits for a desired state in which services have so many endpoints, and for the scheduler to hear that it is in
    /// force.
    async fn programs(&self, scheduler: &Scheduler, endpoints: &[usize]) -> Result<()> {
        let count = |desired: &Arc<gantry_agent::model::Desired>| {
            let services = desired.table.iter().flat_map(|table| table.services.values());
            services.map(|s| s.ports.iter().map(|port| port.endpoints.len()).sum()).collect::<Vec<usize>>()
        };
        let desired = self.agent.sees("the endpoints", |desired| count(desired) == endpoints).await?;
        let nodes = scheduler.running()?.nodes.clone();
        eventually("the ack", async || Ok(nodes.programmed(desired.generation).programmed == 1)).await
    }
}

fn slice(service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
}

async fn lead_to(scheduler: &Scheduler, service: &str, addresses: &[&str]) -> Result<()> {
    let (name, mut body) = (format!("{service}-1"), slice(service, addresses));
    let known = scheduler.get(Resource::ENDPOINT_SLICES, &name).await?;
    body["metadata"]["resourceVersion"] = known["metadata"]["resourceVersion"].clone();
    let options = admin();
    let update =
        scheduler.objects.update(Resource::ENDPOINT_SLICES, Some("default"), &name, None, body, &options);
    update.await.map(drop).context("the slice")
}

fn to(addresses: &[&str]) -> Option<BTreeSet<String>> {
    Some(addresses.iter().map(|address| format!("{address}:8080")).collect())
}

#[tokio::test]
async fn what_the_api_has_is_what_connections_meet_once_it_is_acknowledged() -> Result<()> {
    let mut scheduler = Scheduler::start(DAY).await?;
    let (_keep, dir): (_, PathBuf) = home()?;
    let kernel = FakeNode::new();
    let node = Node::start(&scheduler, &kernel, &dir).await?;
    scheduler.service("web").await?;
    scheduler.create(Resource::ENDPOINT_SLICES, slice("web", &["10.1.2.9"])).await?;
    node.programs(&scheduler, &[1]).await?;
    assert_eq!(kernel.answers("10.96.0.7:80"), to(&["10.1.2.9"]));
    lead_to(&scheduler, "web", &["10.1.2.10", "10.1.2.11"]).await?;
    node.programs(&scheduler, &[2]).await?;
    assert_eq!(kernel.answers("10.96.0.7:80"), to(&["10.1.2.10", "10.1.2.11"]));

    // The agent is away: what the kernel has goes on, and what changed meanwhile comes with the next agent.
    node.stop().await?;
    lead_to(&scheduler, "web", &["10.1.2.11"]).await?;
    assert_eq!(kernel.answers("10.96.0.7:80"), to(&["10.1.2.10", "10.1.2.11"]));
    let node = Node::start(&scheduler, &kernel, &dir).await?;
    node.programs(&scheduler, &[1]).await?;
    assert_eq!(kernel.answers("10.96.0.7:80"), to(&["10.1.2.11"]));

    // Both are away, and the service is another one when they come back: a new epoch, a whole snapshot.
    node.stop().await?;
    scheduler.pause().await?;
    let now = gantry_scheduler::objects::DeleteOptions { grace_seconds: Some(0), ..Default::default() };
    scheduler.objects.delete(Resource::SERVICES, Some("default"), "web", &now, &admin()).await?;
    let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "other"},
        "spec": {"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8"],
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}});
    scheduler.create(Resource::SERVICES, body).await?;
    scheduler.create(Resource::ENDPOINT_SLICES, slice("other", &["10.1.2.12"])).await?;
    let node = Node::start(&scheduler, &kernel, &dir).await?;
    assert_eq!(kernel.answers("10.96.0.7:80"), to(&["10.1.2.11"]), "from the ledger");
    scheduler.resume().await?;
    node.programs(&scheduler, &[1]).await?;
    eventually("the other service", async || Ok(kernel.answers("10.96.0.8:80") == to(&["10.1.2.12"])))
        .await?;
    assert_eq!(kernel.answers("10.96.0.7:80"), None);
    node.stop().await
}
