//! What an update of a pod may change.

use serde_json::{Map, Value};

use super::{annotations, validate::whole};
use crate::kinds::{
    json::{items, members, text},
    validate::{Path, Problems},
};

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Compares two states of a pod. What was accepted stays acceptable: a spec that did not change is not looked at, and
/// what was wrong with it before is no reason to refuse another change.
pub(super) fn check(pod: &Value, before: &Value, problems: &mut Problems) {
    let annotations = |pod: &Value| pod["metadata"]["annotations"].clone();
    let (new, old) = (&pod["spec"], &before["spec"]);
    let same_annotations = annotations(pod) == annotations(before);
    if new == old && same_annotations {
        return;
    }
    fresh(pod, before, problems, whole);
    if !same_annotations {
        let path = Path::new("metadata").field("annotations");
        annotations::update(&annotations(pod), &annotations(before), &path, problems);
        // Upstream looks at them once more here, and lists what it finds once more.
        fresh(pod, before, problems, |pod, problems| {
            annotations::check(&pod["metadata"]["annotations"], &pod["spec"], &path, problems);
        });
    }
    if new != old {
        spec(new, old, problems);
    }
}

/// What `check` finds in the new pod and not in the old one.
fn fresh(pod: &Value, before: &Value, problems: &mut Problems, check: impl Fn(&Value, &mut Problems)) {
    let mut found = Problems::default();
    check(pod, &mut found);
    if !found.is_empty() {
        let mut known = Problems::default();
        check(before, &mut known);
        problems.add_new(found, &known);
    }
}

/// Compares two pod specs.
fn spec(new: &Value, old: &Value, problems: &mut Problems) {
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        if items(&new[list]).len() != items(&old[list]).len() {
            return problems.forbidden(&path.field(list), "pod updates may not add or remove containers");
        }
        for (index, container) in items(&new[list]).iter().enumerate() {
            let image = text(container, "image");
            let path = path.field(list).index(index).field("image");
            if image.is_empty() {
                problems.required(&path, "");
            }
            if image.trim() != image {
                problems.invalid(&path, image, "must not have leading or trailing whitespace");
            }
        }
    }
    if !deadline(new, old, &path.field("activeDeadlineSeconds"), problems) {
        return;
    }
    tolerations(new, old, &path.field("tolerations"), problems);
    gates(new, old, &path.field("schedulingGates"), problems);
    if is_gated(old) {
        node_selector(new, old, &path.field("nodeSelector"), problems);
        node_affinity(new, old, &path.field("affinity").field("nodeAffinity"), problems);
    }
    let (fixed_new, fixed_old) = (fixed(new, old), fixed(old, old));
    if fixed_new != fixed_old {
        let mut changed = Vec::new();
        differences(&fixed_old, &fixed_new, &path, &mut changed);
        problems.forbidden(&path, format!("{ALLOWED}\nchanged: {}", changed.join(", ")));
    }
}

/// Where two values differ, as deep as their shape is the same.
fn differences(old: &Value, new: &Value, path: &Path, found: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut fields: Vec<&String> = old.keys().chain(new.keys()).collect();
            fields.sort();
            fields.dedup();
            for field in fields {
                let (old, new) =
                    (old.get(field).unwrap_or(&Value::Null), new.get(field).unwrap_or(&Value::Null));
                differences(old, new, &path.field(field), found);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differences(old, new, &path.index(index), found);
            }
        }
        _ if old != new => found.push(path.to_string()),
        _ => {}
    }
}

/// The spec without what may change.
fn fixed(spec: &Value, old: &Value) -> Value {
    let mut out = spec.as_object().cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        out.remove(field);
    }
    if is_gated(old) {
        out.remove("nodeSelector");
        if let Some(affinity) = out.get_mut("affinity").and_then(Value::as_object_mut) {
            affinity.remove("nodeAffinity");
            if affinity.is_empty() {
                out.remove("affinity");
            }
        }
    }
    if old["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0)
        && out.get("terminationGracePeriodSeconds").and_then(Value::as_i64) == Some(1)
    {
        out.insert("terminationGracePeriodSeconds".to_owned(), old["terminationGracePeriodSeconds"].clone());
    }
    for list in ["containers", "initContainers"] {
        let containers = out.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            container.remove("image");
        }
    }
    Value::Object(out)
}

/// Placement does not look at the pod yet.
fn is_gated(spec: &Value) -> bool {
    !items(&spec["schedulingGates"]).is_empty()
}

/// Gates are opened, never put up again.
fn gates(new: &Value, old: &Value, path: &Path, problems: &mut Problems) {
    let known = items(&old["schedulingGates"]);
    for (index, gate) in items(&new["schedulingGates"]).iter().enumerate() {
        if !known.contains(gate) {
            let why =
                format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
            problems.forbidden(&path.index(index).field("name"), why);
        }
    }
}

/// Whoever holds a gate may narrow down where the pod goes, and never widen it.
fn node_selector(new: &Value, old: &Value, path: &Path, problems: &mut Problems) {
    let kept = members(&old["nodeSelector"]).all(|(key, value)| new["nodeSelector"].get(key) == Some(value));
    if !kept {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        problems.invalid(path, new["nodeSelector"].clone(), why);
    }
}

/// As for the selector: required terms may get further requirements. What is only preferred may change freely.
fn node_affinity(new: &Value, old: &Value, path: &Path, problems: &mut Problems) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let of = |spec: &Value| spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].clone();
    let (wanted, known) = (of(new), of(old));
    let (wanted, known) = (items(&wanted), items(&known));
    let path = path.field(REQUIRED).field("nodeSelectorTerms");
    if known.is_empty() {
        return;
    }
    if wanted.len() != known.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        // None at all are no list, as upstream prints it.
        let shown = if wanted.is_empty() { Value::Null } else { wanted.to_vec().into() };
        problems.invalid_of(&path, "NodeSelectorTerm", &shown, why);
        return;
    }
    for (index, (new, old)) in wanted.iter().zip(known).enumerate() {
        let only_adds = |field: &str| items(&new[field]).starts_with(items(&old[field]));
        // A term without requirements matches nothing: anything more would widen it.
        let empty =
            |term: &Value| ["matchExpressions", "matchFields"].iter().all(|f| items(&term[*f]).is_empty());
        if !only_adds("matchExpressions") || !only_adds("matchFields") || (empty(old) && !empty(new)) {
            let why = "only additions are allowed (no mutations or deletions)";
            problems.invalid_of(&path.index(index), "NodeSelectorTerm", new, why);
        }
    }
}

/// A deadline may come, and come nearer; returns whether upstream looks any further.
fn deadline(new: &Value, old: &Value, path: &Path, problems: &mut Problems) -> bool {
    let before = problems.count();
    match (new["activeDeadlineSeconds"].as_i64(), old["activeDeadlineSeconds"].as_i64()) {
        (Some(new), old) => {
            problems.in_range(path, new, 0, i64::from(i32::MAX));
            if problems.count() == before && old.is_some_and(|old| old < new) {
                problems.invalid(path, new, "must be less than or equal to previous value");
            }
            problems.count() == before
        }
        (None, Some(_)) => {
            problems.invalid(path, Value::Null, "must not update from a positive integer to nil value");
            true
        }
        (None, None) => true,
    }
}

/// Existing tolerations stay (their seconds may change); new ones may come.
fn tolerations(new: &Value, old: &Value, path: &Path, problems: &mut Problems) {
    let plain = |toleration: &Value| -> Map<String, Value> {
        let mut out = toleration.as_object().cloned().unwrap_or_default();
        out.remove("tolerationSeconds");
        out
    };
    let wanted = items(&new["tolerations"]);
    let kept = |old: &Value| wanted.iter().any(|new| plain(new) == plain(old));
    if !items(&old["tolerations"]).iter().all(kept) {
        return problems
            .forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
    super::tolerations::check(&new["tolerations"], path, problems);
}
