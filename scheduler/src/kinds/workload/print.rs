//! Columns and cells about the template of a workload.

use serde_json::{Value, json};

use crate::kinds::{
    Column,
    json::{items, members, text},
    print::{or_none, selector, wide},
};

pub(in crate::kinds) const CONTAINERS: Column =
    wide("Containers", "string", "Names of each container in the template.");

pub(in crate::kinds) const IMAGES: Column =
    wide("Images", "string", "Images referenced by each container in the template.");

pub(in crate::kinds) const SELECTOR: Column = wide("Selector", "string", "=apps.v1.DeploymentSpec.selector");

pub(in crate::kinds) fn template_cells(spec: &Value) -> [Value; 3] {
    let [names, images] = container_cells(&spec["template"]);
    [names, images, json!(selector(&spec["selector"]))]
}

/// Names and images of a template's containers.
pub(in crate::kinds) fn container_cells(template: &Value) -> [Value; 2] {
    let containers = items(&template["spec"]["containers"]);
    let joined = |field: &str| containers.iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",");
    [json!(joined("name")), json!(joined("image"))]
}

/// A map as `a=b,c=d`.
pub(in crate::kinds) fn label_text(labels: &Value) -> Value {
    let pairs = members(labels).map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    json!(or_none(&pairs.collect::<Vec<_>>().join(",")))
}
