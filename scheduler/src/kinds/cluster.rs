//! The kinds around the workloads: Namespaces, Nodes, ServiceAccounts, Events, Leases.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    json::{items, text},
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

/// A Namespace.
pub(super) fn validate_namespace(namespace: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(namespace, names::dns_label, &mut problems);
    problems.into_causes()
}

/// A Node; `old` on update.
pub(super) fn validate_node(node: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(node, names::dns_subdomain, &mut problems);
    let mut seen = BTreeSet::new();
    for (index, taint) in items(&node["spec"]["taints"]).iter().enumerate() {
        let path = Path::new("spec.taints").index(index);
        let (key, effect) = (text(taint, "key"), text(taint, "effect"));
        problems.all(&path.field("key"), key, names::qualified_name(key));
        problems.all(&path.field("value"), text(taint, "value"), names::label_value(text(taint, "value")));
        problems.one_of(&path.field("effect"), effect, &["NoExecute", "NoSchedule", "PreferNoSchedule"]);
        if !seen.insert((key, effect)) {
            problems.duplicate(&path, taint.clone());
        }
    }
    for field in ["podCIDR", "providerID"] {
        let before = old.map(|old| text(&old["spec"], field)).unwrap_or_default();
        if !before.is_empty() && before != text(&node["spec"], field) {
            let path = Path::new("spec").field(field);
            problems.forbidden(&path, "node updates may not change it except from \"\" to valid");
        }
    }
    problems.into_causes()
}

/// A ServiceAccount.
pub(super) fn validate_service_account(account: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(account, names::dns_subdomain, &mut problems);
    problems.into_causes()
}

/// An Event.
pub(super) fn validate_event(event: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(event, names::dns_subdomain, &mut problems);
    let (own, about) = (text(&event["metadata"], "namespace"), text(&event["involvedObject"], "namespace"));
    let path = Path::new("involvedObject.namespace");
    // An event about a cluster-scoped object is kept in the default namespace.
    let cluster_scoped = about.is_empty() && matches!(own, "" | "default");
    if !cluster_scoped && about != own {
        problems.invalid(&path, about, "does not match event.namespace");
    }
    problems.into_causes()
}

/// A Lease.
pub(super) fn validate_lease(lease: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(lease, names::dns_subdomain, &mut problems);
    let (spec, path) = (&lease["spec"], Path::new("spec"));
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|s| *s <= 0) {
        problems.invalid(&path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    problems.not_negative(&path.field("leaseTransitions"), &spec["leaseTransitions"]);
    problems.into_causes()
}
