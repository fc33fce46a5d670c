//! What all workloads share: their selector and template, the counts in their status, the cells about both.

pub(super) mod print;
pub(super) mod template;

use serde_json::Value;

use super::{
    pod,
    validate::{Path, Problems, meta, names, selectors},
};

/// The metadata of a workload; `old` on update.
pub(in crate::kinds) fn metadata(object: &Value, old: Option<&Value>, problems: &mut Problems) {
    match old {
        None => meta::object_meta(object, names::dns_subdomain, problems),
        Some(old) => meta::object_meta_update(object, old, problems),
    }
}

pub(in crate::kinds) fn selector_stays(new: &Value, old: Option<&Value>, problems: &mut Problems) {
    let selector = &new["spec"]["selector"];
    if old.is_some_and(|old| old["spec"]["selector"] != *selector) {
        let shown = if selector.is_null() { "null".to_owned() } else { selectors::shown(selector) };
        problems.invalid_shown(&Path::new("spec.selector"), &shown, "field is immutable");
    }
}

/// A selector, and a template that it selects.
pub(in crate::kinds) fn selected_template(spec: &Value, path: &Path, problems: &mut Problems) {
    let (selector, template) = (&spec["selector"], &spec["template"]);
    let path_of_selector = path.field("selector");
    if selector.is_null() {
        problems.required(&path_of_selector, "");
    } else {
        selectors::label_selector(selector, &path_of_selector, problems);
        let shown = selectors::shown(selector);
        if selectors::is_empty(selector) {
            // Upstream says so of ReplicaSets too.
            let why = "empty selector is invalid for deployment";
            problems.invalid_shown(&path_of_selector, &shown, why);
        }
        if !selectors::parses(selector) {
            return problems.invalid_shown(&path_of_selector, &shown, "invalid label selector");
        }
    }
    let labels = &template["metadata"]["labels"];
    // No selector at all selects nothing, an empty one everything.
    if selector.is_null() || (!selectors::is_empty(selector) && !selectors::matches(selector, labels)) {
        let path = path.field("template").field("metadata").field("labels");
        problems.invalid(&path, labels.clone(), "`selector` does not match template `labels`");
    }
    pod::validate::template(template, "ReplicaSet", &path.field("template"), problems);
}

/// The counts in the status of a ReplicaSet or ReplicationController that a client writes.
pub(in crate::kinds) fn replica_status(status: &Value, problems: &mut Problems) {
    let path = Path::new("status");
    for field in ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        problems.not_negative(&path.field(field), &status[field]);
    }
    for field in ["observedGeneration", "terminatingReplicas"] {
        problems.not_negative(&path.field(field), &status[field]);
    }
    at_most(status, &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"], problems);
}

pub(in crate::kinds) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// None of these is more than there are replicas, and none is available that is not ready.
pub(in crate::kinds) fn at_most(status: &Value, counts: &[&str], problems: &mut Problems) {
    let (path, count) = (Path::new("status"), |field: &str| number(&status[field]));
    for field in counts.iter().filter(|field| count(field) > count("replicas")) {
        problems.invalid(&path.field(field), count(field), "cannot be greater than status.replicas");
    }
    if count("availableReplicas") > count("readyReplicas") {
        let why = "cannot be greater than readyReplicas";
        problems.invalid(&path.field("availableReplicas"), count("availableReplicas"), why);
    }
}
