//! Nodes that fall silent and come back, over the real object machine and with every loop running. Time is paused:
//! it moves when nothing else does.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    cache::Pod,
    controllers::{
        pods,
        tests::{Cluster, cluster, until},
    },
    kinds::Subresource,
    model::Resource,
    objects::{Patch, WriteOptions},
};

/// As the harness has it.
const LEASE: Duration = Duration::from_secs(1);
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

impl Cluster {
    async fn says(&self, node: &str, ready: &str) {
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
        self.patch(Resource::NODES, node, Some(Subresource::Status), status).await;
    }

    /// A node that is ready, and silent from then on.
    async fn node(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        self.create(Resource::NODES, None, node).await;
        self.says(name, "True").await;
    }

    async fn lease(&self, name: &str) {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-node-lease"}});
        if self.get(Resource::NAMESPACES, None, "kube-node-lease").await.is_none() {
            self.create(Resource::NAMESPACES, None, namespace).await;
        }
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "renewTime": "2026-01-01T00:00:00.000000Z"}});
        self.create(Resource::LEASES, Some("kube-node-lease"), lease).await;
    }

    async fn renew(&self, name: &str) {
        let patch = Patch::Merge(json!({"spec": {"renewTime": format!("{:.6}", Timestamp::now())}}));
        let (leases, options) = (Resource::LEASES, WriteOptions::controller("test"));
        self.objects.patch(leases, Some("kube-node-lease"), name, None, patch, &options).await.unwrap();
    }

    /// A node that is heard of for as long as the test runs.
    async fn living(&self, name: &'static str) {
        self.node(name).await;
        self.lease(name).await;
        let cluster = Self { objects: self.objects.clone(), cache: self.cache.clone() };
        tokio::spawn(async move {
            loop {
                cluster.renew(name).await;
                tokio::time::sleep(LEASE / 4).await;
            }
        });
    }

    async fn pod(&self, name: &str, node: &str, seconds: i64) {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}],
                "tolerations": [{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": seconds}]}});
        self.create(Resource::PODS, Some("default"), pod).await;
    }

    async fn taints(&self, node: &str) -> Vec<Value> {
        let node = self.get(Resource::NODES, None, node).await.unwrap();
        node["spec"]["taints"].as_array().cloned().unwrap_or_default()
    }

    async fn is_tainted(&self, node: &str) -> bool {
        self.taints(node).await.iter().any(|t| t["key"] == UNREACHABLE)
    }

    async fn stored_pod(&self, name: &str) -> Option<Pod> {
        serde_json::from_value(self.get(Resource::PODS, Some("default"), name).await?).ok()
    }

    async fn is_leaving(&self, name: &str) -> bool {
        self.stored_pod(name).await.is_none_or(|p| p.metadata.deletion_timestamp.is_some())
    }

    fn ready_endpoints(&self) -> usize {
        let slices = self.cache.slices.in_namespace("default");
        let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
        endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count()
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_loses_traffic_at_once_gets_it_back_and_loses_pods_that_do_not_tolerate_it() {
    let cluster = cluster().await;
    cluster.living("n2").await;
    cluster.node("n1").await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.create(Resource::SERVICES, Some("default"), service).await;
    cluster.pod("patient", "n1", 300).await;
    cluster.pod("hasty", "n1", 0).await;
    until("both pods known", async || (cluster.active().len() == 2).then_some(())).await;
    cluster.run_pods().await;
    until("both serve", async || (cluster.ready_endpoints() == 2).then_some(())).await;
    until("tainted", async || cluster.is_tainted("n1").await.then_some(())).await;
    until("hasty evicted, patient unready", async || {
        let patient = cluster.stored_pod("patient").await?;
        let unready = pods::condition(&patient, "Ready")?.reason.as_deref() == Some("NodeNotReady");
        let gone = cluster.is_leaving("hasty").await && cluster.ready_endpoints() == 0;
        (gone && unready && patient.metadata.deletion_timestamp.is_none()).then_some(())
    })
    .await;
    // It comes back: a heartbeat renews the lease, and the node says that it is ready. Of its pods it says
    // nothing, because for it nothing changed.
    cluster.lease("n1").await;
    cluster.says("n1", "True").await;
    until("untainted", async || (!cluster.is_tainted("n1").await).then_some(())).await;
    until("patient serves again", async || {
        let patient = cluster.stored_pod("patient").await?;
        (pods::is_ready(&patient) && cluster.ready_endpoints() == 1).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_not_ready_for_a_moment_does_not_keep_its_pods_from_serving() {
    let cluster = cluster().await;
    cluster.living("n1").await;
    cluster.pod("web", "n1", 300).await;
    until("known", async || (cluster.active().len() == 1).then_some(())).await;
    cluster.run_pods().await;
    let ready = async || Some(pods::is_ready(&cluster.stored_pod("web").await?));
    for _ in 0..2 {
        cluster.says("n1", "False").await;
        until("unready", async || (!ready().await?).then_some(())).await;
        cluster.says("n1", "True").await;
        until("ready", async || ready().await?.then_some(())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_evicted_while_everything_is_lost() {
    let cluster = cluster().await;
    cluster.node("n1").await;
    cluster.pod("hasty", "n1", 0).await;
    until("tainted", async || cluster.is_tainted("n1").await.then_some(())).await;
    tokio::time::sleep(10 * LEASE).await;
    assert!(!cluster.is_leaving("hasty").await, "the only node is lost: it may be us");
    cluster.living("n2").await;
    let seen = Instant::now();
    until("evicted", async || cluster.is_leaving("hasty").await.then_some(())).await;
    assert!(seen.elapsed() >= LEASE * 9 / 10, "the agent had a lease to come back, not {:?}", seen.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_is_lost_one_lease_after_its_last_renewal() {
    let cluster = cluster().await;
    cluster.node("n1").await;
    cluster.lease("n1").await;
    tokio::time::sleep(LEASE * 9 / 10).await;
    cluster.renew("n1").await;
    let renewed = Instant::now();
    until("lost", async || cluster.is_tainted("n1").await.then_some(())).await;
    assert!(renewed.elapsed() >= LEASE && renewed.elapsed() < LEASE * 11 / 10, "{:?}", renewed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_taint_as_kubectl_makes_it_evicts_in_the_end() {
    let cluster = cluster().await;
    cluster.living("n1").await;
    let taints = json!({"spec": {"taints": [{"key": "drain", "effect": "NoExecute"}]}});
    cluster.patch(Resource::NODES, "n1", None, taints).await;
    until("dated", async || {
        let taints = cluster.taints("n1").await;
        taints.iter().any(|t| t["key"] == "drain" && t["timeAdded"].is_string()).then_some(())
    })
    .await;
}
