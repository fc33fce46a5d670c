//! Metrics of the cluster's state, by what a scrape reads.

use std::sync::Arc;

use prometheus_client::{encoding::text::encode, registry::Registry};
use serde_json::{Value, json};

use super::*;
use crate::cache::Pod;

/// What a scrape of these families reads.
#[derive(Debug)]
struct Scrape(Vec<Family>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}

fn scraped(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(families)));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Vec<Arc<T>> {
    vec![Arc::new(serde_json::from_value(value).unwrap())]
}

fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|l| l == *line), "{line} is not in\n{text}");
    }
}

fn pods() -> Vec<Arc<Pod>> {
    read(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "r", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "web:1", "resources": {"requests": {
            "cpu": "250m", "memory": "64Mi", "ephemeral-storage": "1", "example.com/gpu": "2"}}}]},
        "status": {"phase": "Running", "podIP": "10.1.0.2", "hostIP": "192.0.2.1",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "image": "web:1", "imageID": "sha256:1", "restartCount": 3,
                "ready": false, "containerID": "x", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}]},
    }))
}

#[test]
fn a_pod_and_its_containers() {
    let text = scraped(pods::families(&pods()));
    let pod = r#"namespace="shop",pod="web",uid="u""#;
    let container = format!(r#"{pod},container="c""#);
    has(
        &text,
        &[
            &format!(r#"kube_pod_status_phase{{{pod},phase="Running"}} 1.0"#),
            &format!(r#"kube_pod_status_phase{{{pod},phase="Failed"}} 0.0"#),
            &format!(r#"kube_pod_status_ready{{{pod},condition="true"}} 1.0"#),
            &format!(
                r#"kube_pod_owner{{{pod},owner_kind="ReplicaSet",owner_name="web-1",owner_is_controller="true"}} 1.0"#
            ),
            "# TYPE kube_pod_container_status_restarts counter",
            &format!("kube_pod_container_status_restarts_total{{{container}}} 3.0"),
            &format!("kube_pod_container_status_ready{{{container}}} 0.0"),
            &format!("kube_pod_container_status_running{{{container}}} 0.0"),
            &format!("kube_pod_container_status_waiting{{{container}}} 1.0"),
            &format!("kube_pod_container_status_terminated{{{container}}} 0.0"),
            &format!(
                r#"kube_pod_container_status_waiting_reason{{{container},reason="CrashLoopBackOff"}} 1.0"#
            ),
            &format!(r#"kube_pod_container_status_last_terminated_reason{{{container},reason="Error"}} 1.0"#),
            &format!(
                r#"kube_pod_container_info{{{container},image_spec="web:1",image="web:1",image_id="sha256:1",container_id="x"}} 1.0"#
            ),
        ],
    );
}

#[test]
fn amounts_are_in_base_units() {
    let text = scraped(pods::resources(&pods()));
    let of = |resource: &str, unit: &str, value: &str| {
        format!(
            r#"kube_pod_container_resource_requests{{namespace="shop",pod="web",uid="u",container="c",node="n1",resource="{resource}",unit="{unit}"}} {value}"#
        )
    };
    has(
        &text,
        &[
            &of("cpu", "core", "0.25"),
            &of("memory", "byte", "67108864.0"),
            &of("ephemeral_storage", "byte", "1.0"),
            &of("example_com_gpu", "integer", "2.0"),
        ],
    );
}

#[test]
fn nodes_services_and_namespaces() {
    let node = json!({"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.1.0.0/24", "unschedulable": true},
        "status": {"capacity": {"pods": "110"}, "allocatable": {"cpu": "2", "memory": "1Ki"},
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "conditions": [{"type": "Ready", "status": "Unknown"}]}});
    has(
        &scraped(cluster::nodes(&read(node))),
        &[
            r#"kube_node_status_capacity{node="n1",resource="pods",unit="integer"} 110.0"#,
            r#"kube_node_status_allocatable{node="n1",resource="cpu",unit="core"} 2.0"#,
            r#"kube_node_status_allocatable{node="n1",resource="memory",unit="byte"} 1024.0"#,
            r#"kube_node_status_condition{node="n1",condition="Ready",status="unknown"} 1.0"#,
            r#"kube_node_spec_unschedulable{node="n1"} 1.0"#,
        ],
    );
    let service = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "s"},
        "spec": {"clusterIP": "10.96.0.9"}});
    let line = r#"kube_service_info{namespace="shop",service="web",uid="s",cluster_ip="10.96.0.9",external_name="",load_balancer_ip=""} 1.0"#;
    has(&scraped(cluster::services(&read(service))), &[line]);
    let namespace = json!({"metadata": {"name": "shop"}, "status": {"phase": "Terminating"}});
    let line = r#"kube_namespace_status_phase{namespace="shop",phase="Terminating"} 1.0"#;
    has(&scraped(cluster::namespaces(&read(namespace))), &[line]);
}

#[test]
fn deployments_and_their_sets() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}});
    let deployment = json!({"metadata": {"name": "web", "namespace": "shop", "generation": 3},
        "spec": {"replicas": 2, "selector": {}, "template": template},
        "status": {"observedGeneration": 2, "replicas": 3, "availableReplicas": 1, "unavailableReplicas": 2}});
    let own = r#"{namespace="shop",deployment="web"}"#;
    has(
        &scraped(workloads::deployments(&read(deployment))),
        &[
            &format!("kube_deployment_metadata_generation{own} 3.0"),
            &format!("kube_deployment_status_observed_generation{own} 2.0"),
            &format!("kube_deployment_spec_replicas{own} 2.0"),
            &format!("kube_deployment_status_replicas_available{own} 1.0"),
            &format!("kube_deployment_status_replicas_unavailable{own} 2.0"),
        ],
    );
    let set = json!({"metadata": {"name": "web-1", "namespace": "shop"},
        "spec": {"replicas": 2, "selector": {}}, "status": {"replicas": 2, "readyReplicas": 1}});
    has(
        &scraped(workloads::replica_sets(&read(set))),
        &[
            r#"kube_replicaset_spec_replicas{namespace="shop",replicaset="web-1"} 2.0"#,
            r#"kube_replicaset_status_ready_replicas{namespace="shop",replicaset="web-1"} 1.0"#,
            r#"kube_replicaset_owner{namespace="shop",replicaset="web-1",owner_kind="",owner_name="",owner_is_controller=""} 1.0"#,
        ],
    );
}
