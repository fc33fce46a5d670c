//! Pods, and the pod templates of workloads.

mod affinity;
mod annotations;
mod containers;
pub(super) mod defaults;
mod devices;
mod env;
mod gates;
mod host;
mod image;
mod mounts;
mod overlaps;
mod paths;
pub(super) mod prepare;
mod print;
mod probes;
pub(super) mod resources;
mod restart;
mod row;
mod security;
mod spread;
pub(super) mod status;
pub(super) mod tolerations;
mod update;
pub(super) mod validate;
mod volumes;
pub(super) mod warnings;
mod windows;

#[cfg(test)]
mod container_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod volume_tests;

use serde_json::Value;

pub(super) use row::kind;

use super::{
    json::{items, members},
    quantity::Quantity,
    validate::Path,
};

/// Every container of a pod spec with its path, in upstream's order.
fn each_container<'a>(spec: &'a Value, path: &Path, mut visit: impl FnMut(&'a Value, &Path)) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            visit(container, &path.field(list).index(index));
        }
    }
}

/// The quality-of-service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`. `spec` has its defaults.
pub fn qos_class(spec: &Value) -> &'static str {
    let of_pod = &spec["resources"];
    if ["requests", "limits"].iter().any(|list| members(&of_pod[*list]).next().is_some()) {
        return class_of(of_pod);
    }
    let containers = items(&spec["initContainers"]).iter().chain(items(&spec["containers"]));
    let mut classes = containers.map(|container| class_of(&container["resources"]));
    let first = classes.next().unwrap_or("BestEffort");
    if classes.all(|class| class == first) { first } else { "Burstable" }
}

/// The class of one set of requests and limits.
fn class_of(resources: &Value) -> &'static str {
    let amount = |list: &str, name: &str| {
        let text = resources[list][name].as_str().unwrap_or_default();
        text.parse().unwrap_or(Quantity::ZERO)
    };
    let [cpu, memory] = ["cpu", "memory"].map(|name| {
        let (request, limit) = (amount("requests", name), amount("limits", name));
        (request == limit, limit.is_zero())
    });
    match (cpu, memory) {
        ((true, true), (true, true)) => "BestEffort",
        ((true, false), (true, false)) => "Guaranteed",
        _ => "Burstable",
    }
}

/// Volume sources that the agent can provide. Others are accepted at the API as upstream accepts them; a pod
/// that has one cannot start and says so.
const SUPPORTED_VOLUMES: [&str; 6] =
    ["emptyDir", "configMap", "secret", "projected", "downwardAPI", "hostPath"];

/// The volumes of `spec` that no agent can provide, as (volume name, source).
pub fn unsupported_volumes(spec: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for volume in items(&spec["volumes"]) {
        let name = super::json::text(volume, "name");
        for (source, _) in members(volume) {
            if source != "name" && !SUPPORTED_VOLUMES.contains(&source.as_str()) {
                out.push((name.to_owned(), source.clone()));
            }
        }
    }
    out
}
