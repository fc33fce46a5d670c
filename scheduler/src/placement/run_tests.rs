//! The loop over the real object machine, in memory.

use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::{Dependencies, Metrics, start};
use crate::{
    cache::{Cache, Id, Pod},
    events::Recorder,
    kinds::Subresource,
    model::Resource,
    objects::{Objects, Selection, WriteOptions},
    tasks::Tasks,
};

struct Cluster {
    objects: Objects,
    cache: Cache,
}

async fn cluster() -> Cluster {
    let objects = Objects::in_memory(Vec::new()).await.unwrap();
    let (cache, tasks) = (Cache::default(), Tasks::default());
    start(Dependencies {
        objects: objects.clone(),
        cache: cache.clone(),
        recorder: Recorder::start(&objects, &tasks),
        metrics: Metrics::new(&mut Registry::default()),
        tasks: tasks.clone(),
    });
    cache.start(&objects, &tasks);
    Cluster { objects, cache }
}

impl Cluster {
    async fn node(&self, name: &str) {
        let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let options = WriteOptions::controller("test");
        let node = self.objects.create(Resource::NODES, None, body, &options).await.unwrap();
        let mut node: Value = node.object.decode().unwrap();
        node["status"]["allocatable"] = json!({"cpu": "2", "memory": "4Gi", "pods": "10"});
        let status = Some(Subresource::Status);
        self.objects.update(Resource::NODES, None, name, status, node, &options).await.unwrap();
    }

    async fn pod(&self, name: &str, spec: Value) {
        let mut body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        body["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
        let options = WriteOptions::controller("test");
        self.objects.create(Resource::PODS, Some("default"), body, &options).await.unwrap();
    }

    /// Waits until the pod is as wanted.
    async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Pod) -> bool) -> std::sync::Arc<Pod> {
        let id = Id::new("default", name);
        let wait = async {
            loop {
                if let Some(pod) = self.cache.pods.get(&id).filter(|p| wanted(p)) {
                    return pod;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| {
            panic!("pod {name} is not {what}: {:?}", self.cache.pods.get(&id));
        })
    }

    async fn events(&self) -> Vec<String> {
        let list = self.objects.list(Resource::EVENTS, &Selection::default()).await.unwrap();
        let text = |event: Value| format!("{}: {}", event["reason"], event["message"]).replace('"', "");
        list.items.iter().map(|e| text(e.decode().unwrap())).collect()
    }
}

fn scheduled(pod: &Pod) -> Option<(String, String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|c| c.type_ == "PodScheduled")?;
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    Some((found.status.clone(), text(&found.reason), text(&found.message)))
}

fn bound(pod: &Pod) -> bool {
    pod.node().is_some()
}

#[tokio::test]
async fn a_pod_is_bound_and_said_to_be() {
    let cluster = cluster().await;
    cluster.node("n1").await;
    cluster.pod("web", json!({})).await;
    let pod = cluster.until("web", "bound", bound).await;
    assert_eq!(scheduled(&pod).unwrap().0, "True");
    let wanted = "Scheduled: Successfully assigned default/web to n1".to_owned();
    while !cluster.events().await.contains(&wanted) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_pending_pod_tells_why_and_goes_when_a_node_gets_the_label() {
    let cluster = cluster().await;
    cluster.node("n1").await;
    cluster.pod("web", json!({"nodeSelector": {"disk": "ssd"}})).await;
    let pod = cluster.until("web", "refused", |p| scheduled(p).is_some_and(|s| s.0 == "False")).await;
    let (_, reason, message) = scheduled(&pod).unwrap();
    let conditions = pod.status.as_ref().unwrap().conditions.as_ref().unwrap();
    assert_eq!(conditions[0].observed_generation, Some(1));
    assert_eq!(reason, "Unschedulable");
    assert!(message.starts_with("0/1 nodes are available: 1 node(s) didn't match Pod's node"), "{message}");
    let label = crate::objects::Patch::Merge(json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let options = WriteOptions::controller("test");
    cluster.objects.patch(Resource::NODES, None, "n1", None, label, &options).await.unwrap();
    let pod = cluster.until("web", "bound", bound).await;
    assert_eq!(scheduled(&pod).unwrap().0, "True");
}

#[tokio::test]
async fn a_gated_pod_waits_for_its_gate() {
    let cluster = cluster().await;
    cluster.node("n1").await;
    cluster.pod("web", json!({"schedulingGates": [{"name": "example.org/hold"}]})).await;
    let gated = |p: &Pod| scheduled(p).is_some_and(|s| s.1 == "SchedulingGated");
    let pod = cluster.until("web", "gated", gated).await;
    assert!(!bound(&pod));
    let open = crate::objects::Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    let (pods, options) = (Resource::PODS, WriteOptions::controller("test"));
    cluster.objects.patch(pods, Some("default"), "web", None, open, &options).await.unwrap();
    cluster.until("web", "bound", bound).await;
}

#[tokio::test]
async fn pods_that_one_pod_kept_out_come_in_when_it_goes() {
    let cluster = cluster().await;
    let options = WriteOptions::controller("test");
    for name in ["n1", "n2"] {
        cluster.node(name).await;
        let label = crate::objects::Patch::Merge(json!({"metadata": {"labels": {"everywhere": "yes"}}}));
        cluster.objects.patch(Resource::NODES, None, name, None, label, &options).await.unwrap();
    }
    let create = async |name: &str, spec: Value| {
        let body = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "web"}}, "spec": spec});
        cluster.objects.create(Resource::PODS, Some("default"), body, &options).await.unwrap();
    };
    let containers = json!([{"name": "c", "image": "i"}]);
    let alone = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "everywhere", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    create("alone", json!({"nodeName": "n1", "affinity": alone, "containers": containers})).await;
    let names: Vec<String> = (0..15).map(|n| format!("web-{n}")).collect();
    for name in &names {
        create(name, json!({"containers": containers})).await;
    }
    for name in &names {
        let pod = cluster.until(name, "refused", |p| scheduled(p).is_some_and(|s| s.0 == "False")).await;
        let (_, reason, message) = scheduled(&pod).unwrap();
        assert_eq!(reason, "Unschedulable");
        let expected = "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.";
        assert_eq!(message, expected);
    }
    let now = crate::objects::DeleteOptions { grace_seconds: Some(0), ..Default::default() };
    cluster.objects.delete(Resource::PODS, Some("default"), "alone", &now, &options).await.unwrap();
    for name in &names {
        cluster.until(name, "bound", bound).await;
    }
}
