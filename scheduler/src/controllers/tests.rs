//! The loops over the real object machine, in memory: what a user would see.

mod balancers;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::{
    Dependencies, Settings,
    runner::{RunnerMetrics, Runtime},
    start,
};
use crate::{
    admission::Promises,
    cache::{Cache, MetaExt, Pod},
    events::Recorder,
    kinds::Subresource,
    model::Resource,
    objects::{DeleteOptions, Objects, Patch, Propagation, Selection, WriteOptions},
    tasks::Tasks,
};

pub(super) struct Cluster {
    pub(super) objects: Objects,
    pub(super) cache: Cache,
}

/// A cluster with every loop running.
pub(super) async fn cluster() -> Cluster {
    cluster_over(Objects::in_memory(Vec::new()).await.unwrap())
}

/// The same over what is there already.
pub(super) fn cluster_over(objects: Objects) -> Cluster {
    let settings = Settings {
        pod_range: "10.244.0.0/16".parse().unwrap(),
        node_prefix: 24,
        ca_pem: "-----BEGIN CERTIFICATE-----".into(),
        load_balancer_pool: vec!["192.0.2.8/30".parse().unwrap()],
        lease: Duration::from_secs(1),
    };
    cluster_with(objects, settings)
}

/// The same as it is configured.
pub(super) fn cluster_with(objects: Objects, settings: Settings) -> Cluster {
    let (cache, tasks) = (Cache::default(), Tasks::default());
    let runtime = Runtime {
        cache: cache.clone(),
        tasks: tasks.clone(),
        metrics: RunnerMetrics::new(&mut Registry::default()),
    };
    let recorder = Recorder::start(&objects, &tasks);
    let dependencies = Dependencies {
        objects: objects.clone(),
        cache: cache.clone(),
        recorder,
        promises: Promises::default(),
        runtime,
        settings,
    };
    start(dependencies);
    cache.start(&objects, &tasks);
    Cluster { objects, cache }
}

pub(super) fn options() -> WriteOptions {
    WriteOptions::controller("test")
}

/// Waits until `look` finds something; fails with `what` when it does not.
pub(super) async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"))
}

impl Cluster {
    pub(super) async fn create(&self, resource: Resource, namespace: Option<&str>, body: Value) -> Value {
        let written = self.objects.create(resource, namespace, body, &options()).await.unwrap();
        written.object.decode().unwrap()
    }

    pub(super) async fn patch(&self, resource: Resource, name: &str, sub: Option<Subresource>, patch: Value) {
        let namespace = (resource != Resource::NODES).then_some("default");
        let patch = Patch::Strategic(patch);
        self.objects.patch(resource, namespace, name, sub, patch, &options()).await.unwrap();
    }

    pub(super) async fn delete(&self, resource: Resource, namespace: Option<&str>, name: &str) {
        self.objects.delete(resource, namespace, name, &DeleteOptions::default(), &options()).await.unwrap();
    }

    pub(super) async fn get(&self, resource: Resource, namespace: Option<&str>, name: &str) -> Option<Value> {
        Some(self.objects.get(resource, namespace, name).await.ok()?.decode().unwrap())
    }

    pub(super) async fn count(&self, resource: Resource, namespace: &str) -> usize {
        let selection = Selection { namespace: Some(namespace.into()), ..Selection::default() };
        self.objects.list(resource, &selection).await.unwrap().items.len()
    }

    pub(super) fn active(&self) -> Vec<Arc<Pod>> {
        let pods = self.cache.pods.in_namespace("default");
        pods.into_iter().filter(|p| super::pods::is_active(p)).collect()
    }

    /// Plays the nodes: every pod that is there runs and is ready.
    pub(super) async fn run_pods(&self) {
        for (n, pod) in self.active().iter().enumerate() {
            if super::pods::is_ready(pod) {
                continue;
            }
            let now = Timestamp::now().to_string();
            let status = json!({"status": {"phase": "Running", "podIP": format!("10.244.0.{}", n + 2),
                "podIPs": [{"ip": format!("10.244.0.{}", n + 2)}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now},
                    {"type": "ContainersReady", "status": "True", "lastTransitionTime": now}]}});
            let name = pod.metadata.name_str();
            // The pod may be gone meanwhile: a rollout goes on while we look.
            let patch = Patch::Strategic(status);
            let sub = Some(Subresource::Status);
            let _ = self.objects.patch(Resource::PODS, Some("default"), name, sub, patch, &options()).await;
        }
    }
}

pub(super) fn deployment(replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1",
                    "ports": [{"name": "http", "containerPort": 8080}]}]}}},
    })
}

fn is_complete(deployment: &Value, image: &str, replicas: i64) -> bool {
    let status = &deployment["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image
        && status["observedGeneration"] == deployment["metadata"]["generation"]
        && [count("replicas"), count("updatedReplicas"), count("availableReplicas")] == [replicas; 3]
}

impl Cluster {
    pub(super) async fn rolled_out(&self, image: &str, replicas: i64) -> Value {
        until(&format!("{image} rolled out"), async || {
            self.run_pods().await;
            let found = self.get(Resource::DEPLOYMENTS, Some("default"), "web").await?;
            is_complete(&found, image, replicas).then_some(found)
        })
        .await
    }
}

#[tokio::test]
async fn a_deployment_rolls_out_is_updated_scaled_and_undone() {
    let cluster = cluster().await;
    cluster.create(Resource::DEPLOYMENTS, Some("default"), deployment(4)).await;
    let first = cluster.rolled_out("web:1", 4).await;
    assert_eq!(first["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let container = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}});
    cluster.patch(Resource::DEPLOYMENTS, "web", None, container("web:2")).await;
    let second = cluster.rolled_out("web:2", 4).await;
    assert_eq!(second["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    assert_eq!(cluster.count(Resource::REPLICA_SETS, "default").await, 2);
    cluster.patch(Resource::DEPLOYMENTS, "web", None, json!({"spec": {"replicas": 7}})).await;
    cluster.rolled_out("web:2", 7).await;
    cluster.patch(Resource::DEPLOYMENTS, "web", None, container("web:1")).await;
    let third = cluster.rolled_out("web:1", 7).await;
    assert_eq!(third["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(cluster.count(Resource::REPLICA_SETS, "default").await, 2, "the old set came back");
    assert_eq!(cluster.active().len(), 7, "no pod too many");
}

#[tokio::test]
async fn ready_pods_become_endpoints_of_their_service() {
    let cluster = cluster().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    cluster.create(Resource::SERVICES, Some("default"), service).await;
    cluster.create(Resource::DEPLOYMENTS, Some("default"), deployment(3)).await;
    cluster.rolled_out("web:1", 3).await;
    let ready = |cluster: &Cluster| {
        let slices = cluster.cache.slices.in_namespace("default");
        let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
        endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true))).count()
    };
    until("three ready endpoints", async || (ready(&cluster) == 3).then_some(())).await;
    until("three addresses in Endpoints", async || {
        let endpoints = cluster.get(Resource::ENDPOINTS, Some("default"), "web").await?;
        (endpoints["subsets"][0]["addresses"].as_array()?.len() == 3).then_some(())
    })
    .await;
    cluster.delete(Resource::SERVICES, Some("default"), "web").await;
    until("no slices", async || cluster.cache.slices.is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_namespace_is_furnished_and_takes_its_content_with_it() {
    let cluster = cluster().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    cluster.create(Resource::NAMESPACES, None, namespace).await;
    until("account", async || cluster.get(Resource::SERVICE_ACCOUNTS, Some("shop"), "default").await).await;
    let ca = until("authority", async || {
        cluster.get(Resource::CONFIG_MAPS, Some("shop"), "kube-root-ca.crt").await
    })
    .await;
    assert_eq!(ca["data"]["ca.crt"], "-----BEGIN CERTIFICATE-----");
    cluster.create(Resource::DEPLOYMENTS, Some("shop"), deployment(2)).await;
    until("pods", async || (cluster.count(Resource::PODS, "shop").await == 2).then_some(())).await;
    cluster.delete(Resource::NAMESPACES, None, "shop").await;
    until("namespace gone", async || {
        cluster.get(Resource::NAMESPACES, None, "shop").await.is_none().then_some(())
    })
    .await;
    for resource in [Resource::PODS, Resource::DEPLOYMENTS, Resource::REPLICA_SETS, Resource::EVENTS] {
        assert_eq!(cluster.count(resource, "shop").await, 0, "{resource}");
    }
}

#[tokio::test]
async fn every_node_gets_a_range_of_its_own() {
    let cluster = cluster().await;
    for n in 0..20 {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{n}")}});
        cluster.create(Resource::NODES, None, node).await;
    }
    let range = |node: &Node| node.spec.as_ref()?.pod_cidr.clone();
    let ranges = until("ranges", async || {
        let ranges: std::collections::BTreeSet<_> =
            cluster.cache.nodes.all().iter().filter_map(|n| range(n)).collect();
        (ranges.len() == 20).then_some(ranges)
    })
    .await;
    assert!(ranges.contains("10.244.19.0/24"), "{ranges:?}");
}

#[tokio::test]
async fn a_node_that_comes_costs_no_look_at_the_others() {
    const NODES: usize = 60;
    let cluster = cluster().await;
    for n in 0..NODES {
        let name = format!("n{n}");
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        cluster.create(Resource::NODES, None, node).await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        cluster.patch(Resource::NODES, &name, Some(Subresource::Status), ready).await;
        until("a range", async || {
            let node = cluster.get(Resource::NODES, None, &name).await?;
            node["spec"].get("podCIDR").cloned()
        })
        .await;
    }
    // Each loop asks for all of them once, when it begins.
    assert!(cluster.cache.nodes.given() <= 4 * NODES, "{} nodes read", cluster.cache.nodes.given());
}

impl Cluster {
    async fn delete_with(&self, propagation: Propagation) {
        let delete = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        let deployments = Resource::DEPLOYMENTS;
        self.objects.delete(deployments, Some("default"), "web", &delete, &options()).await.unwrap();
    }

    async fn with_two_pods() -> Self {
        let cluster = cluster().await;
        cluster.create(Resource::DEPLOYMENTS, Some("default"), deployment(2)).await;
        cluster.rolled_out("web:1", 2).await;
        cluster
    }
}

#[tokio::test]
async fn a_deleted_deployment_takes_its_sets_and_pods_with_it() {
    let cluster = Cluster::with_two_pods().await;
    cluster.delete_with(Propagation::Background).await;
    until("all gone", async || {
        let left = cluster.count(Resource::PODS, "default").await
            + cluster.count(Resource::REPLICA_SETS, "default").await;
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn foreground_deletion_ends_with_the_owner() {
    let cluster = Cluster::with_two_pods().await;
    // A pod that is held holds its set, and that the deployment.
    let pod = cluster.active()[0].metadata.name_str().to_owned();
    let hold = |list: Value| json!({"metadata": {"finalizers": list}});
    cluster.patch(Resource::PODS, &pod, None, hold(json!(["example.org/hold"]))).await;
    cluster.delete_with(Propagation::Foreground).await;
    until("one pod left", async || (cluster.count(Resource::PODS, "default").await == 1).then_some(())).await;
    for resource in [Resource::DEPLOYMENTS, Resource::REPLICA_SETS] {
        assert_eq!(cluster.count(resource, "default").await, 1, "{resource} waits");
    }
    let release = Patch::Merge(hold(Value::Null));
    cluster.objects.patch(Resource::PODS, Some("default"), &pod, None, release, &options()).await.unwrap();
    until("deployment gone", async || {
        (cluster.count(Resource::DEPLOYMENTS, "default").await == 0).then_some(())
    })
    .await;
    assert_eq!(cluster.count(Resource::REPLICA_SETS, "default").await, 0);
}

#[tokio::test]
async fn orphans_stay() {
    let cluster = Cluster::with_two_pods().await;
    cluster.delete_with(Propagation::Orphan).await;
    until("deployment gone", async || {
        (cluster.count(Resource::DEPLOYMENTS, "default").await == 0).then_some(())
    })
    .await;
    assert_eq!(cluster.active().len(), 2);
    // The cache follows what the store has.
    until("the set has no owner", async || {
        let sets = cluster.cache.replica_sets.in_namespace("default");
        sets[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
}

impl Cluster {
    async fn has_event(&self, reason: &str, message: &str) -> Option<()> {
        let list = self.objects.list(Resource::EVENTS, &Selection::default()).await.unwrap();
        let told =
            |e: Value| e["reason"] == reason && e["message"].as_str().is_some_and(|m| m.contains(message));
        list.items.iter().any(|e| told(e.decode().unwrap())).then_some(())
    }
}

fn bare_pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "c:1"}]}})
}

#[tokio::test]
async fn a_circle_of_owners_does_not_hold_its_own_deletion() {
    let cluster = cluster().await;
    let mut uids = Vec::new();
    for name in ["a", "b", "c"] {
        let made = cluster.create(Resource::PODS, Some("default"), bare_pod(name)).await;
        uids.push(made["metadata"]["uid"].clone());
    }
    for (name, (owner, uid)) in
        ["a", "b", "c"].iter().zip([("c", &uids[2]), ("a", &uids[0]), ("b", &uids[1])])
    {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": owner, "uid": uid, "controller": true,
            "blockOwnerDeletion": true});
        let owners = json!({"metadata": {"ownerReferences": [owner]}});
        cluster.patch(Resource::PODS, name, None, owners).await;
    }
    let delete = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    cluster.objects.delete(Resource::PODS, Some("default"), "a", &delete, &options()).await.unwrap();
    until("all three gone", async || (cluster.count(Resource::PODS, "default").await == 0).then_some(()))
        .await;
}

#[tokio::test]
async fn an_owner_in_another_namespace_is_none_and_that_is_told() {
    let cluster = cluster().await;
    cluster.create(Resource::NAMESPACES, None, json!({"metadata": {"name": "shop"}})).await;
    let owner = cluster.create(Resource::PODS, Some("default"), bare_pod("owner")).await;
    let uid = owner["metadata"]["uid"].as_str().unwrap();
    let map = json!({"metadata": {"name": "owned", "ownerReferences": [
        {"apiVersion": "v1", "kind": "Pod", "name": "owner", "uid": uid}]}});
    cluster.create(Resource::CONFIG_MAPS, Some("shop"), map).await;
    let said = format!(
        "ownerRef [v1/Pod, namespace: shop, name: owner, uid: {uid}] does not exist in namespace \"shop\""
    );
    until("told", async || cluster.has_event("OwnerRefInvalidNamespace", &said).await).await;
    until("gone", async || {
        cluster.get(Resource::CONFIG_MAPS, Some("shop"), "owned").await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_pods_of_a_namespace_end_before_what_they_use() {
    let cluster = cluster().await;
    cluster.create(Resource::NAMESPACES, None, json!({"metadata": {"name": "shop"}})).await;
    let mut pod = bare_pod("held");
    pod["metadata"]["finalizers"] = json!(["example.org/hold"]);
    cluster.create(Resource::PODS, Some("shop"), pod).await;
    cluster.create(Resource::CONFIG_MAPS, Some("shop"), json!({"metadata": {"name": "used"}})).await;
    cluster.delete(Resource::NAMESPACES, None, "shop").await;
    let conditions = until("conditions", async || {
        let found = cluster.get(Resource::NAMESPACES, None, "shop").await?;
        found["status"]["conditions"].as_array().filter(|list| !list.is_empty()).cloned()
    })
    .await;
    let types: Vec<_> = conditions.iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "NamespaceDeletionDiscoveryFailure",
            "NamespaceDeletionGroupVersionParsingFailure",
            "NamespaceDeletionContentFailure",
            "NamespaceContentRemaining",
            "NamespaceFinalizersRemaining"
        ]
    );
    assert!(cluster.get(Resource::CONFIG_MAPS, Some("shop"), "used").await.is_some());
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.objects.patch(Resource::PODS, Some("shop"), "held", None, release, &options()).await.unwrap();
    until("namespace gone", async || {
        cluster.get(Resource::NAMESPACES, None, "shop").await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_replication_controller_keeps_its_pods_and_leaves_them_when_it_goes() {
    let cluster = cluster().await;
    let controller = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "template": {
        "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}}});
    let kind = Resource::REPLICATION_CONTROLLERS;
    cluster.create(kind, Some("default"), controller).await;
    let ready = async |wanted: i64| {
        until("ready", async || {
            cluster.run_pods().await;
            let found = cluster.get(kind, Some("default"), "web").await?;
            let status = &found["status"];
            (status["readyReplicas"] == wanted && status["replicas"] == wanted).then_some(())
        })
        .await;
    };
    ready(2).await;
    let owner = cluster.active()[0].metadata.owner_references.clone().unwrap();
    assert_eq!((owner[0].kind.as_str(), owner[0].api_version.as_str()), ("ReplicationController", "v1"));
    cluster.patch(kind, "web", None, json!({"spec": {"replicas": 3}})).await;
    ready(3).await;
    // As upstream, for the sake of old clients: without a word about it the pods stay.
    cluster.delete(kind, Some("default"), "web").await;
    until("controller gone", async || {
        cluster.get(kind, Some("default"), "web").await.is_none().then_some(())
    })
    .await;
    let pods = cluster.active();
    assert_eq!(pods.len(), 3);
    assert!(pods.iter().all(|p| p.metadata.owner_references.as_ref().is_none_or(Vec::is_empty)));
}
