//! Nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kinds::print::{AGE, NAME, NONE, UNKNOWN, age, column, name, wide};
use crate::kinds::{
    Column,
    json::{items, members, text},
};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Status", "string", "The status of the node"),
    column("Roles", "string", "The roles of the node"),
    AGE,
    column("Version", "string", "=core.v1.NodeSystemInfo.kubeletVersion"),
    wide("Internal-IP", "string", "=core.v1.NodeStatus.addresses"),
    wide("External-IP", "string", "=core.v1.NodeStatus.addresses"),
    wide("OS-Image", "string", "=core.v1.NodeSystemInfo.osImage"),
    wide("Kernel-Version", "string", "=core.v1.NodeSystemInfo.kernelVersion"),
    wide("Container-Runtime", "string", "=core.v1.NodeSystemInfo.containerRuntimeVersion"),
];

pub(super) fn cells(node: &Value, now: i64) -> Vec<Value> {
    let info = &node["status"]["nodeInfo"];
    let or_unknown = |field: &str| match text(info, field) {
        "" => UNKNOWN.to_owned(),
        text => text.to_owned(),
    };
    vec![
        name(node),
        json!(status(node)),
        json!(roles(node)),
        age(node, now),
        json!(text(info, "kubeletVersion")),
        json!(address(node, "InternalIP")),
        json!(address(node, "ExternalIP")),
        json!(or_unknown("osImage")),
        json!(or_unknown("kernelVersion")),
        json!(or_unknown("containerRuntimeVersion")),
    ]
}

fn status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"]).iter().find(|c| text(c, "type") == "Ready");
    let word = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if node["spec"]["unschedulable"] == true { format!("{word},SchedulingDisabled") } else { word.to_owned() }
}

fn roles(node: &Value) -> String {
    let roles: BTreeSet<&str> = members(&node["metadata"]["labels"])
        .filter_map(|(label, value)| match label.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if label == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    if roles.is_empty() { NONE.to_owned() } else { Vec::from_iter(roles).join(",") }
}

fn address(node: &Value, ty: &str) -> String {
    let found = items(&node["status"]["addresses"]).iter().find(|a| text(a, "type") == ty);
    found.map_or(NONE, |a| text(a, "address")).to_owned()
}
