//! Topology spread constraints, and the keys of labels whose values a pod's own labels give (`matchLabelKeys`,
//! `mismatchLabelKeys`): merged into selectors when a pod is made, checked with them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::kinds::{
    json::{ensure, items, items_mut, member_mut, members, text},
    validate::{Path, Problems, names, selectors},
};

/// `topologySpreadConstraints` of a pod spec.
pub(super) fn check(constraints: &Value, path: &Path, problems: &mut Problems) {
    let all = items(constraints);
    for (index, constraint) in all.iter().enumerate() {
        let path = path.index(index);
        positive(&path.field("maxSkew"), constraint["maxSkew"].as_i64().unwrap_or_default(), problems);
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            problems.required(&path.field("topologyKey"), "can not be empty");
        }
        choice(constraint, "whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"], &path, problems);
        let same =
            |other: &Value| text(other, "topologyKey") == key && text(other, "whenUnsatisfiable") == action;
        if all[index + 1..].iter().any(same) {
            let path = path.field("{topologyKey, whenUnsatisfiable}");
            problems.duplicate(&path, format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = constraint["minDomains"].as_i64() {
            let path = path.field("minDomains");
            positive(&path, domains, problems);
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                problems.invalid(&path, domains, why);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if !constraint[field].is_null() {
                choice(constraint, field, &["Honor", "Ignore"], &path, problems);
            }
        }
        label_keys(constraint, &path, problems);
        selectors::label_selector(&constraint["labelSelector"], &path.field("labelSelector"), problems);
    }
}

fn positive(path: &Path, number: i64, problems: &mut Problems) {
    if number <= 0 {
        problems.invalid(path, number, "must be greater than zero");
    }
}

/// One of `known`; nothing at all is none of them.
fn choice(constraint: &Value, field: &str, known: &[&str], path: &Path, problems: &mut Problems) {
    let chosen = text(constraint, field);
    if !known.contains(&chosen) {
        problems.unsupported(&path.field(field), chosen, known);
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys` beside the `labelSelector` of `holder`.
pub(super) fn label_keys(holder: &Value, path: &Path, problems: &mut Problems) {
    let keys =
        |field: &str| -> Vec<&str> { items(&holder[field]).iter().filter_map(Value::as_str).collect() };
    let (wanted, unwanted) = (keys("matchLabelKeys"), keys("mismatchLabelKeys"));
    let selector = &holder["labelSelector"];
    for (field, keys) in [("matchLabelKeys", &wanted), ("mismatchLabelKeys", &unwanted)] {
        if !keys.is_empty() && !selector.is_object() {
            problems.forbidden(&path.field(field), "must not be specified when labelSelector is not set");
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            problems.all(&path.field(field).index(index), key, names::qualified_name(key));
        }
    }
    // The merge has put one requirement for each key into the selector: another one is the client's own.
    let places: BTreeMap<&str, usize> = wanted.iter().enumerate().map(|(index, key)| (*key, index)).collect();
    let mut seen: BTreeSet<&str> = members(&selector["matchLabels"]).map(|(key, _)| key.as_str()).collect();
    for expression in items(&selector["matchExpressions"]) {
        let key = text(expression, "key");
        if let Some(index) = places.get(key).filter(|_| seen.contains(key)) {
            // Upstream names the place so.
            problems.invalid(&path.index(*index), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(key);
    }
    for (index, key) in wanted.iter().enumerate().filter(|(_, key)| unwanted.contains(*key)) {
        let path = path.field("matchLabelKeys").index(index);
        problems.invalid(&path, *key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// Puts what a new pod's labels say about the keys into the selectors of its constraints and affinity terms.
pub(super) fn merge_label_keys(pod: &mut Map<String, Value>) {
    let labels = pod.get("metadata").map(|metadata| metadata["labels"].clone()).unwrap_or_default();
    let Some(spec) = member_mut(pod, "spec") else { return };
    items_mut(spec, "topologySpreadConstraints").for_each(|constraint| merge(constraint, &labels));
    let Some(affinity) = member_mut(spec, "affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(kind) = member_mut(affinity, kind) else { continue };
        for term in items_mut(kind, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = member_mut(term, "podAffinityTerm") {
                merge(term, &labels);
            }
        }
        items_mut(kind, "requiredDuringSchedulingIgnoredDuringExecution")
            .for_each(|term| merge(term, &labels));
    }
}

fn merge(holder: &mut Map<String, Value>, labels: &Value) {
    let mut added = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let keys = holder.get(field).map_or(&[][..], items);
        for key in keys.iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    // Without a selector nothing is selected, whatever the keys are.
    if added.is_empty() || !holder.get("labelSelector").is_some_and(Value::is_object) {
        return;
    }
    let selector = ensure(holder, "labelSelector");
    match selector.entry("matchExpressions").or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(list) => list.extend(added),
        other => *other = added.into(),
    }
}
