//! Pods, and the pod templates of workloads.

mod affinity;
mod containers;
pub(super) mod defaults;
mod env;
mod probes;
mod security;
mod update;
pub(super) mod validate;
mod volumes;

#[cfg(test)]
mod tests;

use serde_json::Value;

use super::json::items;

/// The quality-of-service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`. `spec` has its defaults.
pub fn qos_class(spec: &Value) -> &'static str {
    let counted = |list: &Value, name: &str| -> Option<String> {
        let text = list.get(name)?.as_str()?.to_owned();
        (text != "0").then_some(text)
    };
    let (mut any, mut guaranteed) = (false, true);
    let containers = items(&spec["initContainers"]).iter().chain(items(&spec["containers"]));
    for container in containers {
        let (requests, limits) = (&container["resources"]["requests"], &container["resources"]["limits"]);
        for resource in ["cpu", "memory"] {
            let (request, limit) = (counted(requests, resource), counted(limits, resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
        (false, _) => "BestEffort",
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
        for (source, _) in super::json::members(volume) {
            if source != "name" && !SUPPORTED_VOLUMES.contains(&source.as_str()) {
                out.push((name.to_owned(), source.clone()));
            }
        }
    }
    out
}
