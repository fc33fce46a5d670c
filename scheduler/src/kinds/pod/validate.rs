//! Validation of pod specs: what belongs to the pod as a whole.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{affinity, containers, security, volumes};
use crate::{
    kinds::{
        json::{items, members, text},
        validate::{Path, Problems, meta, names, selectors},
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
            if !items(&pod["spec"]["ephemeralContainers"]).is_empty() {
                problems.forbidden(&path.field("ephemeralContainers"), "cannot be set on create");
            }
            spec(&pod["spec"], &path, &mut problems);
        }
        // What was accepted stays acceptable; only the few things that may change are looked at again.
        Some(old) if old["spec"] != pod["spec"] => {
            super::update::check(&pod["spec"], &old["spec"], &mut problems);
        }
        Some(_) => {}
    }
    problems.into_causes()
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
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        problems.forbidden(&path.field("activeDeadlineSeconds"), why);
    }
}

/// A pod template by itself.
pub(in crate::kinds) fn any_template(template: &Value, path: &Path, problems: &mut Problems) {
    let metadata = path.field("metadata");
    meta::labels(&template["metadata"]["labels"], &metadata.field("labels"), problems);
    meta::annotations(&template["metadata"]["annotations"], &metadata.field("annotations"), problems);
    spec(&template["spec"], &path.field("spec"), problems);
}

/// What a pod costs beside its containers, as a RuntimeClass states it.
pub(in crate::kinds) fn overhead(fixed: &Value, path: &Path, problems: &mut Problems) {
    containers::resources(&json!({"limits": fixed}), path, problems);
}

fn spec(spec: &Value, path: &Path, problems: &mut Problems) {
    let names = volumes::check(&spec["volumes"], &path.field("volumes"), problems);
    containers::check(spec, &names, path, problems);
    problems.one_of(
        &path.field("restartPolicy"),
        text(spec, "restartPolicy"),
        &["Always", "Never", "OnFailure"],
    );
    dns(spec, path, problems);
    problems
        .not_negative(&path.field("terminationGracePeriodSeconds"), &spec["terminationGracePeriodSeconds"]);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64() {
        problems.in_range(&path.field("activeDeadlineSeconds"), seconds, 1, i64::from(i32::MAX));
    }
    meta::labels(&spec["nodeSelector"], &path.field("nodeSelector"), problems);
    if !items(&spec["schedulingGates"]).is_empty() && !text(spec, "nodeName").is_empty() {
        let why = "cannot be set until all schedulingGates have been cleared";
        problems.forbidden(&path.field("nodeName"), why);
    }
    for (field, check) in [
        ("nodeName", names::dns_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns_subdomain),
        ("priorityClassName", names::dns_subdomain),
        ("runtimeClassName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        let value = text(spec, field);
        if !value.is_empty() {
            problems.all(&path.field(field), value, check(value));
        }
    }
    security::pod(spec, path, problems);
    affinity::check(&spec["affinity"], &path.field("affinity"), problems);
    tolerations(&spec["tolerations"], &path.field("tolerations"), problems);
    spread(&spec["topologySpreadConstraints"], &path.field("topologySpreadConstraints"), problems);
    for (index, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let ip = text(alias, "ip");
        if ip.parse::<std::net::IpAddr>().is_err() {
            let path = path.field("hostAliases").index(index).field("ip");
            problems.invalid(&path, ip, "must be a valid IP address");
        }
    }
}

fn dns(spec: &Value, path: &Path, problems: &mut Problems) {
    let policies = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    problems.one_of(&path.field("dnsPolicy"), text(spec, "dnsPolicy"), &policies);
    let servers = items(&spec["dnsConfig"]["nameservers"]);
    let path = path.field("dnsConfig").field("nameservers");
    if text(spec, "dnsPolicy") == "None" && servers.is_empty() {
        problems.required(&path, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if servers.len() > 3 {
        problems.invalid(
            &path,
            spec["dnsConfig"]["nameservers"].clone(),
            "must not have more than 3 nameservers",
        );
    }
    for (index, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        if server.parse::<std::net::IpAddr>().is_err() {
            problems.invalid(&path.index(index), server, "must be valid IP address.");
        }
    }
}

/// Tolerations; also checked when an update adds some.
pub(in crate::kinds) fn tolerations(tolerations: &Value, path: &Path, problems: &mut Problems) {
    for (index, toleration) in items(tolerations).iter().enumerate() {
        let path = path.index(index);
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
        if !key.is_empty() {
            problems.all(&path.field("key"), key, names::qualified_name(key));
        } else if operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            problems.invalid(&path.field("operator"), operator, why);
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            problems.invalid(&path.field("effect"), effect, why);
        }
        match operator {
            "" | "Equal" => problems.all(&path.field("operator"), value, names::label_value(value)),
            "Exists" if !value.is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                problems.invalid(&path.field("operator"), value, why);
            }
            "Exists" => {}
            other => problems.unsupported(&path.field("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            problems.one_of(&path.field("effect"), effect, &effects);
        }
    }
}

fn spread(constraints: &Value, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, constraint) in items(constraints).iter().enumerate() {
        let path = path.index(index);
        let skew = constraint["maxSkew"].as_i64().unwrap_or_default();
        if skew <= 0 {
            problems.invalid(&path.field("maxSkew"), skew, "must be greater than zero");
        }
        let (key, action) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        if key.is_empty() {
            problems.required(&path.field("topologyKey"), "can not be empty");
        } else {
            problems.all(&path.field("topologyKey"), key, names::qualified_name(key));
        }
        problems.one_of(&path.field("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
        if !seen.insert((key, action)) {
            problems
                .duplicate(&path.field("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        selectors::label_selector(&constraint["labelSelector"], &path.field("labelSelector"), problems);
    }
}

/// Labels of nodes that had another name once, and what they are called now.
const DEPRECATED_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// Warnings about the keys of a node selector at `path`.
pub(in crate::kinds) fn deprecated_labels(selector: &Value, path: &str) -> Vec<String> {
    let told = |key: &String| DEPRECATED_LABELS.iter().find(|(label, _)| label == key);
    members(selector).filter_map(|(key, _)| Some(format!("{path}: {}", told(key)?.1))).collect()
}

/// Warnings about a legal pod spec.
pub(in crate::kinds) fn warnings(spec: &Value, path: &str) -> Vec<String> {
    let mut out = Vec::new();
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let mut seen = BTreeSet::new();
            for (index, variable) in items(&container["env"]).iter().enumerate() {
                let name = text(variable, "name");
                if !seen.insert(name) {
                    out.push(format!(
                        "{path}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply"
                    ));
                }
            }
            for (kind, values) in members(&container["resources"]) {
                for (resource, value) in
                    members(values).filter(|(r, _)| matches!(r.as_str(), "memory" | "ephemeral-storage"))
                {
                    let text = value.as_str().unwrap_or_default();
                    let fraction =
                        text.parse::<crate::kinds::quantity::Quantity>().is_ok_and(|q| !q.is_whole());
                    if fraction {
                        out.push(format!("{path}.resources.{kind}[{resource}]: fractional byte value {text:?} is invalid, must be an integer"));
                    }
                }
            }
        }
    }
    out
}
