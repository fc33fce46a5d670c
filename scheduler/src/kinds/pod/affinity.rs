//! Validation of affinity terms.

use serde_json::Value;

use super::spread;
use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems, names, selectors},
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `affinity` of a pod spec.
pub(super) fn check(affinity: &Value, path: &Path, problems: &mut Problems) {
    let (node, node_path) = (&affinity["nodeAffinity"], path.field("nodeAffinity"));
    if node[REQUIRED].is_object() {
        let path = node_path.field(REQUIRED).field("nodeSelectorTerms");
        let terms = items(&node[REQUIRED]["nodeSelectorTerms"]);
        if terms.is_empty() {
            problems.required(&path, "must have at least one node selector term");
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, true, &path.index(index), problems);
        }
    }
    for (index, term) in items(&node[PREFERRED]).iter().enumerate() {
        let path = node_path.field(PREFERRED).index(index);
        weight(term, &path, problems);
        // What is only preferred may name values that no node can have: upstream warns.
        node_term(&term["preference"], false, &path.field("preference"), problems);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let (pod, path) = (&affinity[field], path.field(field));
        for (index, term) in items(&pod[REQUIRED]).iter().enumerate() {
            pod_term(term, &path.field(REQUIRED).index(index), problems);
        }
        for (index, term) in items(&pod[PREFERRED]).iter().enumerate() {
            let path = path.field(PREFERRED).index(index);
            weight(term, &path, problems);
            pod_term(&term["podAffinityTerm"], &path.field("podAffinityTerm"), problems);
        }
    }
}

fn weight(term: &Value, path: &Path, problems: &mut Problems) {
    let weight = term["weight"].as_i64().unwrap_or_default();
    if !(1..=100).contains(&weight) {
        problems.invalid(&path.field("weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(term: &Value, required: bool, path: &Path, problems: &mut Problems) {
    for (index, requirement) in items(&term["matchExpressions"]).iter().enumerate() {
        let path = path.field("matchExpressions").index(index);
        let key = text(requirement, "key");
        node_operator(requirement, &path, problems);
        problems.all(&path.field("key"), key, names::qualified_name(key));
        if required {
            for (index, value) in texts(&requirement["values"]) {
                problems.all(&path.field("values").index(index), value, names::label_value(value));
            }
        }
    }
    for (index, requirement) in items(&term["matchFields"]).iter().enumerate() {
        let path = path.field("matchFields").index(index);
        let (key, operator) = (text(requirement, "key"), text(requirement, "operator"));
        if !matches!(operator, "In" | "NotIn") {
            problems.invalid(&path.field("operator"), operator, "not a valid selector operator");
        } else if items(&requirement["values"]).len() != 1 {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            problems.required(&path.field("values"), why);
        }
        if key == "metadata.name" {
            for (index, name) in texts(&requirement["values"]) {
                problems.all(&path.field("values").index(index), name, names::dns_subdomain(name));
            }
        } else {
            problems.invalid(&path.field("key"), key, "not a valid field selector key");
        }
    }
}

fn node_operator(requirement: &Value, path: &Path, problems: &mut Problems) {
    let values = items(&requirement["values"]);
    selectors::operator_has_its_values(requirement, path, problems);
    match text(requirement, "operator") {
        "Gt" | "Lt" if values.len() != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            problems.required(&path.field("values"), why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => problems.invalid(&path.field("operator"), other, "not a valid selector operator"),
    }
}

fn pod_term(term: &Value, path: &Path, problems: &mut Problems) {
    selectors::label_selector(&term["labelSelector"], &path.field("labelSelector"), problems);
    selectors::label_selector(&term["namespaceSelector"], &path.field("namespaceSelector"), problems);
    for (_, namespace) in texts(&term["namespaces"]) {
        // Upstream names the place so.
        problems.all(&path.field("namespace"), namespace, names::dns_label(namespace));
    }
    spread::label_keys(term, path, problems);
    let (key, path) = (text(term, "topologyKey"), path.field("topologyKey"));
    if key.is_empty() {
        problems.required(&path, "can not be empty");
    }
    problems.all(&path, key, names::qualified_name(key));
}

/// The texts of a list with their places.
fn texts(list: &Value) -> impl Iterator<Item = (usize, &str)> {
    items(list).iter().filter_map(Value::as_str).enumerate()
}
