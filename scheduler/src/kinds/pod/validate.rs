//! Validation of pod specs: what belongs to the pod as a whole. Causes come in upstream's order.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    affinity, annotations, containers, env, host, resources, security, spread, status, tolerations, volumes,
    windows,
};
use crate::{
    kinds::{
        json::{items, text},
        validate::{Path, Problems, meta, names},
    },
    model::Cause,
};

/// A Pod; `old` on update.
pub(in crate::kinds) fn pod(pod: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(pod, names::dns_subdomain, &mut problems);
    match old {
        None => {
            let path = Path::new("spec");
            whole(pod, &mut problems);
            if !items(&pod["spec"]["ephemeralContainers"]).is_empty() {
                problems.forbidden(&path.field("ephemeralContainers"), "cannot be set on create");
            }
            gated(&pod["spec"], &path, &mut problems);
            annotations::agree(&pod["metadata"], &pod["spec"], &path, &mut problems);
        }
        Some(old) => {
            super::update::check(pod, old, whole, &mut problems);
            if old["status"] != pod["status"] {
                status::check(pod, old, &mut problems);
            }
        }
    }
    problems.into_causes()
}

/// What holds for the annotations and the spec of a new pod and of a changed one.
fn whole(pod: &Value, problems: &mut Problems) {
    let (metadata, pod_spec, path) = (&pod["metadata"], &pod["spec"], Path::new("spec"));
    let annotations_path = Path::new("metadata").field("annotations");
    annotations::check(&metadata["annotations"], pod_spec, &annotations_path, problems);
    spec(pod_spec, Some(metadata), &path, problems);
    volumes::check_tokens(pod_spec, &path, problems);
    problems.not_negative(
        &path.field("terminationGracePeriodSeconds"),
        &pod_spec["terminationGracePeriodSeconds"],
    );
    containers::check_images(pod_spec, &path, problems);
}

/// The `template` of a workload of this kind: its pods are kept running.
pub(in crate::kinds) fn template(template: &Value, kind: &str, path: &Path, problems: &mut Problems) {
    any_template(template, path, problems);
    let path = path.field("spec");
    let policy = text(&template["spec"], "restartPolicy");
    if policy != "Always" {
        problems.unsupported(&path.field("restartPolicy"), policy, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let path = path.field("activeDeadlineSeconds");
        problems.forbidden(&path, format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// A pod template by itself.
pub(in crate::kinds) fn any_template(template: &Value, path: &Path, problems: &mut Problems) {
    // Upstream leaves out `metadata` in these paths.
    let metadata = &template["metadata"];
    meta::labels(&metadata["labels"], &path.field("labels"), problems);
    let annotations_path = path.field("annotations");
    meta::annotations(&metadata["annotations"], &annotations_path, problems);
    annotations::check(&metadata["annotations"], &template["spec"], &annotations_path, problems);
    let path = path.field("spec");
    spec(&template["spec"], None, &path, problems);
    annotations::agree(metadata, &template["spec"], &path, problems);
    if !items(&template["spec"]["ephemeralContainers"]).is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        problems.forbidden(&path.field("ephemeralContainers"), why);
    }
}

/// A pod spec; `metadata` is there for a pod and not for a template.
fn spec(spec: &Value, metadata: Option<&Value>, path: &Path, problems: &mut Problems) {
    if spec["terminationGracePeriodSeconds"].is_null() {
        problems.required(&path.field("terminationGracePeriodSeconds"), "");
    }
    let name = metadata.map(|metadata| text(metadata, "name"));
    let volumes = volumes::check(&spec["volumes"], name, &path.field("volumes"), problems);
    let is_static = metadata.is_some_and(|m| m["annotations"].get(annotations::MIRROR).is_some());
    resources::claims(&spec["resourceClaims"], is_static, &path.field("resourceClaims"), problems);
    containers::check(spec, &volumes, path, problems);
    resources::pod(spec, path, problems);
    host::ports(spec, metadata.is_some(), path, problems);
    let policies = ["Always", "OnFailure", "Never"];
    problems.one_of(&path.field("restartPolicy"), text(spec, "restartPolicy"), &policies);
    host::dns_policy(spec, path, problems);
    meta::labels(&spec["nodeSelector"], &path.field("nodeSelector"), problems);
    security::pod(spec, path, problems);
    affinity::check(&spec["affinity"], &path.field("affinity"), problems);
    host::dns(spec, path, problems);
    gates(spec, path, problems);
    spread::check(&spec["topologySpreadConstraints"], &path.field("topologySpreadConstraints"), problems);
    windows::host_processes(spec, path, problems);
    host::users(spec, path, problems);
    host::hostname_override(spec, path, problems);
    named(spec, &["serviceAccountName", "nodeName"], names::dns_subdomain, path, problems);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64() {
        problems.in_range(&path.field("activeDeadlineSeconds"), seconds, 1, i64::from(i32::MAX));
    }
    named(spec, &["hostname", "subdomain"], names::dns_label, path, problems);
    tolerations::check(&spec["tolerations"], &path.field("tolerations"), problems);
    host::aliases(&spec["hostAliases"], &path.field("hostAliases"), problems);
    named(spec, &["priorityClassName"], names::dns_subdomain, path, problems);
    if let Some(class) = spec["runtimeClassName"].as_str() {
        problems.all(&path.field("runtimeClassName"), class, names::dns_subdomain(class));
    }
    if let Some(policy) = spec["preemptionPolicy"].as_str() {
        let policies = ["PreemptLowerPriority", "Never"];
        problems.one_of(&path.field("preemptionPolicy"), policy, &policies);
    }
    resources::overhead(&spec["overhead"], &path.field("overhead"), problems);
    windows::os(spec, path, problems);
    env::check_files(spec, path, problems);
}

/// Fields that name something, where they do.
fn named(
    spec: &Value,
    fields: &[&str],
    check: fn(&str) -> Vec<String>,
    path: &Path,
    problems: &mut Problems,
) {
    for field in fields {
        let value = text(spec, field);
        if !value.is_empty() {
            problems.all(&path.field(field), value, check(value));
        }
    }
}

/// `readinessGates` and `schedulingGates`.
fn gates(spec: &Value, path: &Path, problems: &mut Problems) {
    for (index, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let (path, ty) = (path.field("readinessGates").index(index), text(gate, "conditionType"));
        problems.all(&path.field("conditionType"), ty, names::qualified_name(ty));
    }
    let mut seen = BTreeSet::new();
    for (index, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let (path, name) = (path.field("schedulingGates").index(index), text(gate, "name"));
        problems.all(&path, name, names::qualified_name(name));
        if !seen.insert(name) {
            problems.duplicate(&path, name);
        }
    }
}

/// A pod waits at its gates before it has a node.
fn gated(spec: &Value, path: &Path, problems: &mut Problems) {
    if !items(&spec["schedulingGates"]).is_empty() && !text(spec, "nodeName").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        problems.forbidden(&path.field("nodeName"), why);
    }
}
