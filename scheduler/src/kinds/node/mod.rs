//! Nodes.

mod print;

use std::{borrow::Cow, collections::BTreeSet};

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::{
    Kind, Rules, Subresource,
    base::keep_status,
    json::{ensure, items, members, text},
    kind::texts,
    quantity::Quantity,
    validate::{Path, Problems, addresses, meta, names, resources::comes_whole},
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["no"]),
        subresources: vec![Subresource::Status, Subresource::Proxy],
        fields: ["spec.unschedulable".into()].into(),
        columns: Cow::Borrowed(print::COLUMNS),
        ..Kind::published::<Node>(Nodes)
    }
}

struct Nodes;

impl Rules for Nodes {
    fn defaults(&self, node: &mut Value) {
        defaults(node);
    }

    fn prepare_create(&self, node: &mut Value) {
        prepare(node);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_status(new, old);
        prepare(new);
    }

    fn prepare_status(&self, new: &mut Value, _: &Value) {
        prepare(new);
    }

    fn validate(&self, node: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(node, old)
    }

    fn validate_sub(&self, _: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        validate_status(new, old)
    }

    fn warnings(&self, node: &Value) -> Vec<String> {
        warnings(node)
    }

    fn update_warnings(&self, new: &Value, _: &Value) -> Vec<String> {
        warnings(new)
    }

    fn cells(&self, node: &Value, now: i64) -> Vec<Value> {
        print::cells(node, now)
    }
}

/// What upstream fills in for a Node, and what it takes no longer.
fn defaults(node: &mut Value) {
    let Some(node) = node.as_object_mut() else { return };
    pod_ranges(ensure(node, "spec"));
    let status = ensure(node, "status");
    if let (None, Some(capacity)) = (status.get("allocatable"), status.get("capacity").cloned()) {
        status.insert("allocatable".to_owned(), capacity);
    }
}

/// One range and the list of them say the same; of two that differ, the one is meant.
fn pod_ranges(spec: &mut serde_json::Map<String, Value>) {
    let one = spec.get("podCIDR").and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = spec.get("podCIDRs").and_then(|list| list.get(0)).and_then(Value::as_str);
    match (one.as_str(), first) {
        ("", None) => {}
        ("", Some(first)) => {
            let first = first.to_owned();
            spec.insert("podCIDR".to_owned(), first.into());
        }
        (one, first) if first != Some(one) => drop(spec.insert("podCIDRs".to_owned(), json!([one]))),
        _ => {}
    }
}

/// Configuration from afar is no longer taken.
fn prepare(node: &mut Value) {
    for part in ["spec", "status"] {
        if let Some(part) = node.get_mut(part).and_then(Value::as_object_mut) {
            for field in ["configSource", "config", "podPreemptionPolicy"] {
                part.remove(field);
            }
        }
    }
}

/// A Node; `old` on update.
fn validate(node: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(node, names::dns_subdomain, &mut problems);
    taints(node, &mut problems);
    resources(node, &mut problems);
    features(node, &mut problems);
    ranges(node, &mut problems);
    if let Some(old) = old {
        node_update(node, old, &mut problems);
    }
    problems.into_causes()
}

/// What holds for every change of a Node, that of its status too.
fn validate_status(node: &Value, old: &Value) -> Vec<Cause> {
    let mut problems = Problems::default();
    node_update(node, old, &mut problems);
    problems.into_causes()
}

fn node_update(node: &Value, old: &Value, problems: &mut Problems) {
    meta::object_meta_update(node, old, problems);
    resources(node, problems);
    features(node, problems);
    let mut seen = BTreeSet::new();
    for (index, address) in items(&node["status"]["addresses"]).iter().enumerate() {
        let (kind, value) = (text(address, "type"), text(address, "address"));
        if !seen.insert((kind, value)) {
            let shown = format!("{{\"Type\":{kind:?},\"Address\":{value:?}}}");
            problems.duplicate_shown(&Path::new("status.addresses").index(index), &shown, "");
        }
    }
    let (spec, before, path) = (&node["spec"], &old["spec"], Path::new("spec"));
    let (new, was) = (items(&spec["podCIDRs"]), items(&before["podCIDRs"]));
    let changed =
        if new.len() == was.len() { was.iter().zip(new).filter(|(a, b)| a != b).count() } else { 1 };
    if !was.is_empty() {
        for _ in 0..changed {
            let why = "node updates may not change podCIDR except from \"\" to valid";
            problems.forbidden(&path.field("podCIDRs"), why);
        }
    }
    match (text(before, "providerID"), text(spec, "providerID")) {
        ("", _) => {}
        (_, "") => {
            let why = "field cannot be cleared once set";
            problems.invalid(&path.field("providerID"), Value::Null, why);
        }
        (was, is) if was != is => {
            let why = "field cannot be modified once set";
            problems.invalid(&path.field("providerID"), Value::Null, why);
        }
        _ => {}
    }
    taints(node, problems);
    if text(spec, "externalID") != text(before, "externalID") {
        problems.forbidden(&path.field("externalID"), "may not be updated");
    }
}

fn taints(node: &Value, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, taint) in items(&node["spec"]["taints"]).iter().enumerate() {
        // Upstream's own path.
        let path = Path::new("metadata.taints").index(index);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        problems.all(&path.field("key"), key, names::qualified_name(key));
        let complaints = names::label_value(value);
        if !complaints.is_empty() {
            problems.invalid(&path.field("value"), value, complaints.join(";"));
        }
        problems.one_of(&path.field("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key, effect)) {
            let added = &taint["timeAdded"];
            let shown = format!(
                "{{\"Key\":{key:?},\"Value\":{value:?},\"Effect\":{effect:?},\"TimeAdded\":{added}}}"
            );
            problems.duplicate_shown(&path, &shown, "taints must be unique by key and effect pair");
        }
    }
}

fn resources(node: &Value, problems: &mut Problems) {
    for list in ["capacity", "allocatable"] {
        for (name, value) in members(&node["status"][list]) {
            let path = Path::new("status").field(list).field(name);
            let given = value.as_str().unwrap_or_default();
            let Ok(quantity) = given.parse::<Quantity>() else { continue };
            if quantity.is_negative() {
                problems.invalid(&path, given, "must be greater than or equal to 0");
            }
            if comes_whole(name) && quantity.milli() % 1000 != 0 {
                problems.invalid(&path, given, "must be an integer");
            }
        }
    }
}

fn features(node: &Value, problems: &mut Problems) {
    let path = Path::new("status.declaredFeatures");
    let list: Vec<&str> =
        items(&node["status"]["declaredFeatures"]).iter().filter_map(Value::as_str).collect();
    for (index, feature) in list.iter().enumerate() {
        if let Some(why) = bad_feature(feature) {
            problems.invalid(
                &path.index(index),
                *feature,
                format!("invalid feature name {feature:?}: {why}"),
            );
        }
        match list.get(index + 1) {
            Some(next) if next == feature => problems.duplicate(&path.index(index + 1), *next),
            Some(next) if next < feature => {
                problems.invalid(&path.index(index + 1), *next, "list must be sorted alphabetically");
            }
            _ => {}
        }
    }
}

fn bad_feature(name: &str) -> Option<&'static str> {
    if name.len() > 253 {
        return Some("must be no more than 253 characters");
    }
    let word = |part: &str| part.chars().all(|c| c.is_ascii_alphanumeric());
    let mut parts = name.split('/');
    let first = parts.next().unwrap_or_default();
    let good = first.starts_with(|c: char| c.is_ascii_uppercase())
        && word(first)
        && parts.all(|part| part.starts_with(|c: char| c.is_ascii_alphabetic()) && word(part));
    (!good).then_some(
        "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or \
         MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
    )
}

fn ranges(node: &Value, problems: &mut Problems) {
    let (list, path) = (items(&node["spec"]["podCIDRs"]), Path::new("spec.podCIDRs"));
    for (index, range) in list.iter().filter_map(Value::as_str).enumerate() {
        addresses::legacy_range(range, &[], &path.index(index), problems);
    }
    if list.len() > 1 {
        let unreadable = addresses::first_unreadable(list);
        if let Some((index, wrong)) = unreadable {
            let why = format!(
                "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{index}]: <nil> (invalid CIDR \
                 address: {wrong})"
            );
            problems.internal(&path, &why);
        }
        let v6 = |range: &Value| range.as_str().is_some_and(|range| range.contains(':'));
        let both = list.iter().any(v6) && !list.iter().all(v6);
        if !both || unreadable.is_some() || list.len() > 2 {
            problems.invalid(&path, list.to_vec(), "may specify no more than one CIDR for each IP family");
        }
    }
}

/// Warnings about a Node.
fn warnings(node: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if !node["spec"]["configSource"].is_null() {
        out.push("spec.configSource: the feature is removed".to_owned());
    }
    if !text(&node["spec"], "externalID").is_empty() {
        out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    let path = Path::new("spec.podCIDRs");
    for (index, range) in items(&node["spec"]["podCIDRs"]).iter().filter_map(Value::as_str).enumerate() {
        out.extend(addresses::range_warnings(&path.index(index), range));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn node(spec: &Value, status: &Value) -> Value {
        let mut node = json!({"metadata": {"name": "n"}, "spec": spec, "status": status});
        defaults(&mut node);
        node
    }

    #[test]
    fn a_node_keeps_its_ranges_and_its_provider() {
        let old = node(&json!({"podCIDR": "10.1.0.0/24", "providerID": "a"}), &json!({}));
        assert_eq!(old["spec"]["podCIDRs"], json!(["10.1.0.0/24"]));
        let new = node(&json!({"podCIDR": "10.2.0.0/24"}), &json!({}));
        assert_eq!(
            said(validate(&new, Some(&old))),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Invalid value: null: field cannot be cleared once set",
            ]
        );
        assert!(validate(&old, Some(&old)).is_empty());
    }

    #[test]
    fn ranges_of_a_node_are_one_of_each_family() {
        let found = |ranges: Value| said(validate(&node(&json!({ "podCIDRs": ranges }), &json!({})), None));
        assert!(found(json!(["10.0.0.0/24", "fd00::/64"])).is_empty());
        let wrong = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        assert_eq!(
            found(json!(["fd00::/64", "a"])),
            [
                format!("spec.podCIDRs[1]: Invalid value: \"a\": {wrong}"),
                "spec.podCIDRs: Internal error: invalid PodCIDRs. failed to check with dual stack with error:invalid \
                 CIDR[1]: <nil> (invalid CIDR address: a)"
                    .to_owned(),
                "spec.podCIDRs: Invalid value: [\"fd00::/64\",\"a\"]: may specify no more than one CIDR for each IP \
                 family"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn taints_and_resources_of_a_node_are_checked() {
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        let found = said(validate(&node(&json!({"taints": [taint, taint]}), &json!({})), None));
        assert_eq!(
            found,
            [
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: \
              taints must be unique by key and effect pair"
            ]
        );
        let status = json!({"capacity": {"pods": "1500m", "cpu": "1500m", "memory": "-1"}});
        let made = node(&json!({}), &status);
        assert_eq!(made["status"]["allocatable"], made["status"]["capacity"]);
        let found = said(validate(&made, None));
        assert_eq!(
            found[..2],
            [
                "status.capacity.memory: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
            ]
        );
    }
}
