//! What an update of a pod may change.

use serde_json::{Map, Value};

use super::annotations;
use crate::kinds::{
    json::{ensure, items, items_mut, members, text},
    validate::{Path, Problems, difference, shapes},
};

const ALLOWED: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Compares two states of a pod. What was accepted stays acceptable: a spec that did not change is not looked at, and
/// what was wrong with it before is no reason to refuse another change. `whole` finds what is wrong with a pod by itself.
pub(super) fn check(pod: &Value, before: &Value, whole: fn(&Value, &mut Problems), problems: &mut Problems) {
    let (new, old) = (&pod["spec"], &before["spec"]);
    let (noted, noted_before) = (&pod["metadata"]["annotations"], &before["metadata"]["annotations"]);
    let same_annotations = noted == noted_before;
    if new == old && same_annotations {
        return;
    }
    fresh(pod, before, problems, whole);
    if !same_annotations {
        let path = Path::new("metadata").field("annotations");
        annotations::update(noted, noted_before, &path, problems);
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
    let rest = without_legal(new, old);
    if rest != *old {
        let lines = |spec: &Value| shapes::pretty("PodSpec", spec);
        problems.forbidden(&path, format!("{ALLOWED}\n{}", difference::unified(&lines(old), &lines(&rest))));
    }
}

/// The new spec with the old one's values wherever a change is legal, or was judged on its own.
fn without_legal(new: &Value, old: &Value) -> Value {
    let mut out = new.as_object().cloned().unwrap_or_default();
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        take(&mut out, old, field);
    }
    if is_gated(old) {
        take(&mut out, old, "nodeSelector");
        let affinity = ensure(&mut out, "affinity");
        take(affinity, &old["affinity"], "nodeAffinity");
        if affinity.is_empty() && old["affinity"].is_null() {
            out.remove("affinity");
        }
    }
    let grace = "terminationGracePeriodSeconds";
    if old[grace].as_i64().is_some_and(|seconds| seconds < 0) && new[grace] == 1 {
        take(&mut out, old, grace);
    }
    for list in ["containers", "initContainers"] {
        for (container, before) in items_mut(&mut out, list).zip(items(&old[list])) {
            take(container, before, "image");
        }
    }
    Value::Object(out)
}

/// Gives `holder` what `other` has at `field`.
fn take(holder: &mut Map<String, Value>, other: &Value, field: &str) {
    match other.get(field) {
        Some(value) => drop(holder.insert(field.to_owned(), value.clone())),
        None => drop(holder.remove(field)),
    }
}

/// Placement does not look at the pod yet.
fn is_gated(spec: &Value) -> bool {
    !items(&spec["schedulingGates"]).is_empty()
}

/// Gates are opened, never put up again.
fn gates(new: &Value, old: &Value, path: &Path, problems: &mut Problems) {
    let wanted = items(&new["schedulingGates"]);
    let known = |name: &str| items(&old["schedulingGates"]).iter().any(|gate| text(gate, "name") == name);
    for (index, gate) in wanted.iter().enumerate() {
        let name = text(gate, "name");
        // Of the same gate twice, the last is told.
        let again = wanted[index + 1..].iter().any(|other| text(other, "name") == name);
        if !known(name) && !again {
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
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
