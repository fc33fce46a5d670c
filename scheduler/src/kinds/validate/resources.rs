//! What the name of a resource tells of it.

use super::names;

/// Counted, never measured.
const COUNTED: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether it is a number of objects.
pub(in crate::kinds) fn is_counted(name: &str) -> bool {
    COUNTED.contains(&name)
}

/// Whether it comes in whole ones: what is counted, and what device plugins offer.
pub(in crate::kinds) fn comes_whole(name: &str) -> bool {
    is_counted(name) || is_extended(name)
}

/// Whether it is one of Kubernetes' own.
pub(in crate::kinds) fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource that somebody's device plugin offers.
pub(in crate::kinds) fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
}
