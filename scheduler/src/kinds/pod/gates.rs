//! Fields of containers and volumes that the version we follow knows, and drops from what is written: their gates are
//! off. In: a pod spec as a client wrote it. Out: the same without them. Never: a refusal.

use serde_json::{Map, Value};

use crate::kinds::json::{items_mut, member_mut};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
/// Sources of files whose owner could be said. Only the first of these that is there is looked at, as upstream does: a
/// second one is refused later, with what it says of owners.
const OWNED: [&str; 4] = ["secret", "configMap", "downwardAPI", "projected"];
/// The same for the parts of a projected volume.
const OWNED_PARTS: [&str; 6] =
    ["secret", "downwardAPI", "configMap", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];

/// Drops them.
pub(super) fn drop_fields(spec: &mut Map<String, Value>) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items_mut(spec, list).for_each(container);
    }
    items_mut(spec, "volumes").for_each(volume);
}

fn container(container: &mut Map<String, Value>) {
    for mount in items_mut(container, "volumeMounts") {
        mount.remove("bindMountOptions");
    }
    for probe in PROBES {
        if let Some(probe) = member_mut(container, probe) {
            remove(probe, "grpc", "mode");
            remove(probe, "httpGet", "protocol");
        }
    }
    let Some(lifecycle) = member_mut(container, "lifecycle") else { return };
    for hook in HOOKS {
        if let Some(hook) = member_mut(lifecycle, hook) {
            remove(hook, "httpGet", "protocol");
        }
    }
    if lifecycle.remove("stopSignal").is_some() && lifecycle.is_empty() {
        container.remove("lifecycle");
    }
}

fn volume(volume: &mut Map<String, Value>) {
    remove(volume, "emptyDir", "mode");
    let Some(source) = first(volume, &OWNED) else { return };
    owners(source);
    for part in items_mut(source, "sources") {
        if let Some(part) = first(part, &OWNED_PARTS) {
            owners(part);
        }
    }
}

fn first<'a>(holder: &'a mut Map<String, Value>, fields: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let field = fields.iter().find(|field| holder.get(**field).is_some_and(Value::is_object))?;
    member_mut(holder, field)
}

/// Who owns the files of a source.
fn owners(source: &mut Map<String, Value>) {
    for field in ["defaultUser", "user"] {
        source.remove(field);
    }
    items_mut(source, "items").for_each(|item| drop(item.remove("user")));
}

fn remove(holder: &mut Map<String, Value>, object: &str, field: &str) {
    if let Some(object) = member_mut(holder, object) {
        object.remove(field);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_behind_gates_that_are_off_are_dropped() {
        let mut spec = json!({
            "containers": [{
                "name": "c",
                "lifecycle": {"stopSignal": "SIGTERM"},
                "livenessProbe": {"grpc": {"port": 1, "mode": "TLS"}},
                "readinessProbe": {"httpGet": {"port": 1, "protocol": "HTTP2"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "bindMountOptions": ["noexec"]}],
            }, {
                "name": "d",
                "lifecycle": {"stopSignal": "SIGTERM", "preStop": {"httpGet": {"port": 1, "protocol": "HTTP1"}}},
            }, {"name": "e", "lifecycle": {}}],
            "volumes": [
                {"name": "a", "emptyDir": {"mode": 0o700}},
                {"name": "b", "secret": {"secretName": "s", "defaultUser": 1, "items": [{"key": "k", "path": "p", "user": 2}]}},
                {"name": "c", "projected": {"defaultUser": 1, "sources": [
                    {"serviceAccountToken": {"path": "t", "user": 1}},
                    {"downwardAPI": {"items": [{"path": "f", "user": 1}]}, "podCertificate": {"user": 1}},
                ]}},
            ],
        });
        if let Some(spec) = spec.as_object_mut() {
            drop_fields(spec);
        }
        let expected = json!({
            "containers": [{
                "name": "c",
                "livenessProbe": {"grpc": {"port": 1}},
                "readinessProbe": {"httpGet": {"port": 1}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }, {
                "name": "d",
                "lifecycle": {"preStop": {"httpGet": {"port": 1}}},
            }, {"name": "e", "lifecycle": {}}],
            "volumes": [
                {"name": "a", "emptyDir": {}},
                {"name": "b", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p"}]}},
                {"name": "c", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "t"}},
                    {"downwardAPI": {"items": [{"path": "f"}]}, "podCertificate": {"user": 1}},
                ]}},
            ],
        });
        assert_eq!(spec, expected);
    }
}
