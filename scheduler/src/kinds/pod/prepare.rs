//! What happens to a pod or a template between its defaults and its validation: fields behind gates that are off go,
//! and a new pod gets what follows from its own words.

use serde_json::{Map, Value, json};

use super::{annotations, resources, spread};
use crate::kinds::json::{ensure, is_unset, items_mut, member_mut, text};

/// Annotations of a form of init containers that is long gone.
const OLD_INIT_CONTAINERS: [&str; 4] = [
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];
/// Fields of a pod spec behind gates that are off in the version that we follow.
const GATED: [&str; 2] = ["schedulingGroup", "evictionResponders"];

/// What a new pod gets from its own words. Afterwards nothing looks at a client's own form of it.
pub(in crate::kinds) fn new_pod(pod: &mut Value) {
    let Some(map) = pod.as_object_mut() else { return };
    map.insert("status".to_owned(), json!({"phase": "Pending"}));
    spread::merge_label_keys(map);
    profiles_from_annotations(map);
    if let Some(spec) = map.get_mut("spec") {
        resources::fill_pod(spec);
        let qos = super::qos_class(spec);
        pod["status"]["qosClass"] = qos.into();
    }
}

/// Requests of a whole pod stay when a client that does not know them leaves them out.
pub(in crate::kinds) fn changed_pod(new: &mut Value, old: &Value) {
    let Some(map) = new.as_object_mut() else { return };
    let before = &old["spec"]["resources"];
    if let Some(spec) = member_mut(map, "spec")
        && is_unset(spec, "resources")
        && !before.is_null()
    {
        spec.insert("resources".to_owned(), before.clone());
    }
}

/// `holder` is a pod, or the template of a workload.
pub(in crate::kinds) fn drop_gated(holder: &mut Map<String, Value>) {
    if let Some(spec) = member_mut(holder, "spec") {
        for field in GATED {
            spec.remove(field);
        }
    }
    let Some(metadata) = member_mut(holder, "metadata") else { return };
    let Some(annotations) = member_mut(metadata, "annotations") else { return };
    for key in OLD_INIT_CONTAINERS {
        annotations.remove(key);
    }
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// `AppArmor` profiles that only the annotations name go into the containers' fields.
fn profiles_from_annotations(pod: &mut Map<String, Value>) {
    let named = pod.get("metadata").map(|metadata| metadata["annotations"].clone()).unwrap_or_default();
    if !named.as_object().is_some_and(|map| map.keys().any(|key| key.starts_with(annotations::APP_ARMOR))) {
        return;
    }
    let Some(spec) = member_mut(pod, "spec") else { return };
    if spec.get("os").is_some_and(|os| os["name"] == "windows") {
        return;
    }
    let of_pod = spec.get("securityContext").map(|context| context["appArmorProfile"].clone());
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            let key = format!("{}{}", annotations::APP_ARMOR, name_of(container));
            let profile = annotations::app_armor_field(text(&named, &key));
            let unset =
                container.get("securityContext").is_none_or(|context| context["appArmorProfile"].is_null());
            if let Some(profile) = profile
                && unset
                && of_pod.as_ref() != Some(&profile)
            {
                ensure(container, "securityContext").insert("appArmorProfile".to_owned(), profile);
            }
        }
    }
}

fn name_of(container: &Map<String, Value>) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or_default()
}
