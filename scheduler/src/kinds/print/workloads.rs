//! Deployments, ReplicaSets, ReplicationControllers, PodTemplates.

use serde_json::{Value, json};

use super::{AGE, NAME, age, column, integer, name, or_none, selector, wide};
use crate::kinds::{
    Column,
    json::{items, members, text},
};

const CONTAINERS: Column = wide("Containers", "string", "Names of each container in the template.");
const IMAGES: Column = wide("Images", "string", "Images referenced by each container in the template.");
const SELECTOR: Column = wide("Selector", "string", "=apps.v1.DeploymentSpec.selector");

pub(in crate::kinds) const DEPLOYMENT_COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", "Number of the pod with ready state"),
    column("Up-to-date", "string", "=apps.v1.DeploymentStatus.updatedReplicas"),
    column("Available", "string", "=apps.v1.DeploymentStatus.availableReplicas"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(in crate::kinds) fn deployment(deployment: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let mut cells = vec![
        name(deployment),
        json!(format!("{}/{}", integer(&status["readyReplicas"]), integer(&spec["replicas"]))),
        json!(integer(&status["updatedReplicas"])),
        json!(integer(&status["availableReplicas"])),
        age(deployment, now),
    ];
    cells.extend(template_cells(spec));
    cells
}

pub(in crate::kinds) const REPLICA_SET_COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", "=apps.v1.ReplicaSetSpec.replicas"),
    column("Current", "integer", "=apps.v1.ReplicaSetStatus.replicas"),
    column("Ready", "integer", "=apps.v1.ReplicaSetStatus.readyReplicas"),
    AGE,
    CONTAINERS,
    IMAGES,
    Column { description: "=apps.v1.ReplicaSetSpec.selector", ..SELECTOR },
];

pub(in crate::kinds) fn replica_set(set: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let mut cells = vec![
        name(set),
        json!(integer(&spec["replicas"])),
        json!(integer(&status["replicas"])),
        json!(integer(&status["readyReplicas"])),
        age(set, now),
    ];
    cells.extend(template_cells(spec));
    cells
}

fn template_cells(spec: &Value) -> [Value; 3] {
    let [names, images] = container_cells(&spec["template"]);
    [names, images, json!(selector(&spec["selector"]))]
}

/// Names and images of a template's containers.
fn container_cells(template: &Value) -> [Value; 2] {
    let containers = items(&template["spec"]["containers"]);
    let joined = |field: &str| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    [json!(joined("name")), json!(joined("image"))]
}

/// A map as `a=b,c=d`.
fn label_text(labels: &Value) -> Value {
    let pairs = members(labels).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    json!(or_none(&pairs.collect::<Vec<_>>().join(",")))
}

pub(in crate::kinds) const REPLICATION_CONTROLLER_COLUMNS: &[Column] = &[
    NAME,
    column(
        "Desired",
        "integer",
        "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and \
         unspecified. Defaults to 1. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    column(
        "Current",
        "integer",
        "Replicas is the most recently observed number of replicas. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    column("Ready", "integer", "The number of ready replicas for this replication controller."),
    AGE,
    CONTAINERS,
    IMAGES,
    wide(
        "Selector",
        "string",
        "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is \
         defaulted to the labels present on the Pod template. Label keys and values that must match in order to be \
         controlled by this replication controller, if empty defaulted to labels on Pod template. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

pub(in crate::kinds) fn replication_controller(controller: &Value, now: i64) -> Vec<Value> {
    let mut cells = replica_set(controller, now);
    cells.pop();
    cells.push(label_text(&controller["spec"]["selector"]));
    cells
}

pub(in crate::kinds) const POD_TEMPLATE_COLUMNS: &[Column] = &[
    NAME,
    column("Containers", "string", "Names of each container in the template."),
    column("Images", "string", "Images referenced by each container in the template."),
    column("Pod Labels", "string", "The labels for the pod template."),
];

pub(in crate::kinds) fn pod_template(object: &Value, _now: i64) -> Vec<Value> {
    let template = &object["template"];
    let [names, images] = container_cells(template);
    vec![name(object), names, images, label_text(&template["metadata"]["labels"])]
}
