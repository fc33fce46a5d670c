//! Validation of what is reported about the devices of containers and the users that they run as: parts of
//! `pods/status`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems, names},
};

const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];
/// Upstream's bound on what is said about a device.
const MAX_MESSAGE: usize = 1024;
/// Before the name of a claim where devices are reported.
const CLAIM: &str = "claim:";
/// Group ids are signed; a runtime may report any user id there is.
const MAX_GROUP: i64 = i32::MAX as i64;
const MAX_USER: i64 = u32::MAX as i64;

/// `extendedResourceClaimStatus`: the claim that stands for extended resources of containers.
pub(super) fn extended_claim(status: &Value, spec: &Value, path: &Path, problems: &mut Problems) {
    if !status.is_object() {
        return;
    }
    let mappings = path.field("requestMappings");
    if items(&status["requestMappings"]).is_empty() {
        problems.required(&mappings, "at least one request mapping is required");
    }
    let mut seen = BTreeSet::new();
    for (index, mapping) in items(&status["requestMappings"]).iter().enumerate() {
        let path_of = |field: &str| mappings.index(index).field(field);
        let [container, resource, request] =
            ["containerName", "resourceName", "requestName"].map(|field| text(mapping, field));
        match of_name(spec, &["containers", "initContainers"], container) {
            Some(found) if found["resources"]["requests"].get(resource).is_none() => {
                let why = "must match the extended resource name of an entry in \
                           spec.initContainers.resources.requests or spec.containers.resources.requests";
                problems.invalid(&path_of("resourceName"), resource, why);
            }
            Some(_) => {}
            None => {
                let why =
                    "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                problems.invalid(&path_of("containerName"), container, why);
            }
        }
        // Upstream names the place so.
        problems.all(&path.field("requestName"), request, names::dns_label(request));
        if !seen.insert((container, resource, request)) {
            problems.duplicate(&path_of("containerName"), container);
            problems.duplicate(&path_of("resourceName"), resource);
            problems.duplicate(&path_of("requestName"), request);
        }
    }
    let (claim, path) = (text(status, "resourceClaimName"), path.field("resourceClaimName"));
    if claim.is_empty() {
        problems.required(&path, "");
    } else {
        problems.all(&path, claim, names::dns_subdomain(claim));
    }
}

fn of_name<'a>(spec: &'a Value, lists: &[&str], name: &str) -> Option<&'a Value> {
    lists.iter().flat_map(|list| items(&spec[*list])).find(|container| text(container, "name") == name)
}

/// `user` of the containers' statuses.
pub(super) fn users(statuses: &Value, os: &str, path: &Path, problems: &mut Problems) {
    for (index, status) in items(statuses).iter().enumerate() {
        let (linux, path) = (&status["user"]["linux"], path.index(index).field("user").field("linux"));
        if !linux.is_object() {
            continue;
        }
        if os == "windows" {
            problems.forbidden(&path, "cannot be set for a windows pod");
            continue;
        }
        for (field, most) in [("uid", MAX_USER), ("gid", MAX_GROUP)] {
            problems.in_range(&path.field(field), linux[field].as_i64().unwrap_or_default(), 0, most);
        }
        let groups = items(&linux["supplementalGroups"]).iter().filter_map(Value::as_i64);
        for (index, group) in groups.enumerate() {
            problems.in_range(&path.field("supplementalGroups").index(index), group, 0, MAX_GROUP);
        }
    }
}

/// `allocatedResourcesStatus` of the statuses of the containers in `list` of the pod's spec.
pub(super) fn allocated(statuses: &Value, pod: &Value, list: &str, path: &Path, problems: &mut Problems) {
    for (index, status) in items(statuses).iter().enumerate() {
        let container = of_name(&pod["spec"], &[list], text(status, "name"));
        let path = path.index(index).field("allocatedResourcesStatus");
        for (index, resource) in items(&status["allocatedResourcesStatus"]).iter().enumerate() {
            let (path, name) = (path.index(index), text(resource, "name"));
            if let Some(container) = container
                && let Some(why) = unasked(name, container, &pod["status"]["extendedResourceClaimStatus"])
            {
                problems.invalid(&path.field("name"), name, why);
            }
            health(&resource["resources"], &path.field("resources"), problems);
        }
    }
}

/// Ephemeral containers have no resources.
pub(super) fn none_allocated(statuses: &Value, path: &Path, problems: &mut Problems) {
    for (index, status) in items(statuses).iter().enumerate() {
        if !items(&status["allocatedResourcesStatus"]).is_empty() {
            let path = path.index(index).field("allocatedResourcesStatus");
            problems.forbidden(&path, "must not be specified in container status");
        }
    }
}

/// Why a container cannot have been given what is called `name`.
fn unasked(name: &str, container: &Value, extended: &Value) -> Option<&'static str> {
    let requests = &container["resources"]["requests"];
    let Some(claim) = name.strip_prefix(CLAIM) else {
        return requests.get(name).is_none().then_some("must match one of the container's resource requests");
    };
    let own = items(&container["resources"]["claims"]).iter().any(|own| match text(own, "request") {
        "" => claim == text(own, "name"),
        request => claim.split_once('/') == Some((text(own, "name"), request)),
    });
    let mapped = claim.split_once('/').is_some_and(|(name, request)| {
        let mut mappings = items(&extended["requestMappings"]).iter();
        !request.is_empty()
            && name == text(extended, "resourceClaimName")
            && mappings.any(|mapping| {
                let amount = requests.get(text(mapping, "resourceName"));
                text(mapping, "containerName") == text(container, "name")
                    && text(mapping, "requestName") == request
                    && amount.is_some_and(|amount| amount != "0")
            })
    });
    (!own && !mapped).then_some(
        "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when \
         container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty",
    )
}

fn health(devices: &Value, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, device) in items(devices).iter().enumerate() {
        let (path, state) = (path.index(index), text(device, "health"));
        if !HEALTH.contains(&state) {
            problems.unsupported(&path.field("health"), state, &HEALTH);
        }
        if let Some(message) = device["message"].as_str() {
            let path = path.field("message");
            if message.is_empty() {
                problems.required(&path, "must be non-empty if specified");
            } else if message.len() > MAX_MESSAGE {
                problems.too_long(&path, MAX_MESSAGE);
            }
        }
        let id = text(device, "resourceID");
        if !seen.insert(id) {
            problems.duplicate(&path.field("resourceID"), id);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_are_reported_of_what_was_asked_for() {
        let container = json!({"name": "c", "resources": {"requests": {"a.io/gpu": "1"},
            "claims": [{"name": "whole"}, {"name": "part", "request": "r"}]}});
        let extended = json!({"resourceClaimName": "x",
            "requestMappings": [{"containerName": "c", "resourceName": "a.io/gpu", "requestName": "q"}]});
        for name in ["a.io/gpu", "claim:whole", "claim:part/r", "claim:x/q"] {
            assert_eq!(unasked(name, &container, &extended), None, "{name}");
        }
        for name in ["cpu", "claim:part", "claim:whole/r", "claim:x", "claim:x/p"] {
            assert!(unasked(name, &container, &extended).is_some(), "{name}");
        }
    }

    #[test]
    fn reports_of_devices_and_users_are_checked_in_upstreams_words() {
        let mut problems = Problems::default();
        let path = Path::new("s");
        let pod = json!({"spec": {"containers": [{"name": "c"}]}});
        let statuses = json!([{"name": "c", "user": {"linux": {"uid": 4_294_967_295_i64, "gid": -1}},
            "allocatedResourcesStatus": [{"name": "a.io/b", "resources": [{"resourceID": "1", "health": "Ill"}]}]}]);
        allocated(&statuses, &pod, "containers", &path, &mut problems);
        users(&statuses, "", &path, &mut problems);
        none_allocated(&statuses, &path, &mut problems);
        extended_claim(&json!({}), &pod["spec"], &path, &mut problems);
        let found: Vec<String> =
            problems.into_causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        assert_eq!(
            found,
            [
                "s[0].allocatedResourcesStatus[0].name: Invalid value: \"a.io/b\": must match one of the container's \
                 resource requests",
                "s[0].allocatedResourcesStatus[0].resources[0].health: Unsupported value: \"Ill\": supported values: \
                 \"Healthy\", \"Unhealthy\", \"Unknown\"",
                "s[0].user.linux.gid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "s[0].allocatedResourcesStatus: Forbidden: must not be specified in container status",
                "s.requestMappings: Required value: at least one request mapping is required",
                "s.resourceClaimName: Required value",
            ]
        );
    }
}
