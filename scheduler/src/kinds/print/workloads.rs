//! Deployments and ReplicaSets.

use serde_json::{Value, json};

use super::{AGE, NAME, age, column, integer, name, selector, wide};
use crate::kinds::{
    Column,
    json::{items, text},
};

const CONTAINERS: Column = wide("Containers", "string", "Names of each container in the template.");
const IMAGES: Column = wide("Images", "string", "Images referenced by each container in the template.");
const SELECTOR: Column = wide("Selector", "string", "Label selector for pods.");

pub(in crate::kinds) const DEPLOYMENT_COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", "Number of the pod with ready state"),
    column(
        "Up-to-date",
        "string",
        "Total number of non-terminated pods that have the desired template spec.",
    ),
    column("Available", "string", "Total number of available pods targeted by this deployment."),
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
    column("Desired", "integer", "Replicas is the number of desired pods."),
    column("Current", "integer", "Replicas is the most recently observed number of non-terminating pods."),
    column("Ready", "integer", "The number of pods targeted by this ReplicaSet with a Ready condition."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
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
    let containers = items(&spec["template"]["spec"]["containers"]);
    let joined = |field: &str| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    [json!(joined("name")), json!(joined("image")), json!(selector(&spec["selector"]))]
}
