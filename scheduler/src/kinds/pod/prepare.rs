//! What happens to a pod or a template between its defaults and its validation: fields behind gates that are off go,
//! and a new pod gets what follows from its own words.

use serde_json::{Map, Value, json};

use super::{annotations, gates, resources, spread};
use crate::kinds::{
    json::{ensure, is_unset, items, member_mut, members, text},
    schema::{ObjectType, settle},
    validate::Path,
};

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
    drop_gated(map);
    spread::merge_label_keys(map);
    profiles_from_annotations(pod);
    if let Some(spec) = pod.get_mut("spec") {
        resources::fill_pod(spec);
        let qos = super::qos_class(spec);
        pod["status"]["qosClass"] = qos.into();
    }
}

/// What is behind a gate stays away, an empty list is none to those who compare with what there was, and requests of a whole pod stay when a client that does not know them leaves
/// them out.
pub(in crate::kinds) fn changed_pod(new: &mut Value, old: &Value) {
    settle(&ObjectType::published("io.k8s.api.core.v1.Pod"), new);
    let Some(map) = new.as_object_mut() else { return };
    drop_gated(map);
    let before = &old["spec"]["resources"];
    if let Some(spec) = member_mut(map, "spec")
        && is_unset(spec, "resources")
        && !before.is_null()
    {
        spec.insert("resources".to_owned(), before.clone());
    }
}

/// `holder` is a pod, or the template of a workload. A pod loses these fields after its defaults and not with them:
/// upstream notes first who set what, and a manager owns what it set here too.
pub(in crate::kinds) fn drop_gated(holder: &mut Map<String, Value>) {
    if let Some(spec) = member_mut(holder, "spec") {
        for field in GATED {
            spec.remove(field);
        }
        gates::drop_fields(spec);
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
fn profiles_from_annotations(pod: &mut Value) {
    for (list, index, _, profile) in noted_profiles(pod) {
        if let (Some(profile), Some(container)) = (profile, pod["spec"][list][index].as_object_mut()) {
            ensure(container, "securityContext").insert("appArmorProfile".to_owned(), profile);
        }
    }
}

/// Warnings about annotations of a new pod that name what has a field now. Whoever sets both is not warned, so they are
/// looked at before one makes the other.
pub(in crate::kinds) fn profile_warnings(pod: &Value) -> Vec<String> {
    const WHY: &str = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
    let path = Path::new("metadata").field("annotations");
    noted_profiles(pod).into_iter().map(|(_, _, key, _)| format!("{}: {WHY}", path.key(&key))).collect()
}

/// Containers whose profile an annotation names, and nothing else does: the list and place of each, the annotation, and
/// the field that means the same; none when it means nothing.
fn noted_profiles(pod: &Value) -> Vec<(&'static str, usize, String, Option<Value>)> {
    let (spec, named) = (&pod["spec"], &pod["metadata"]["annotations"]);
    let mut out = Vec::new();
    let any = members(named).any(|(key, _)| key.starts_with(annotations::APP_ARMOR));
    if !any || spec["os"]["name"] == "windows" {
        return out;
    }
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            let key = format!("{}{}", annotations::APP_ARMOR, text(container, "name"));
            let noted = named.get(&key).and_then(Value::as_str);
            let Some(noted) = noted.filter(|_| container["securityContext"]["appArmorProfile"].is_null())
            else {
                continue;
            };
            let profile = annotations::app_armor_field(noted);
            if profile.is_none() || profile.as_ref() != Some(&spec["securityContext"]["appArmorProfile"]) {
                out.push((list, index, key, profile));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::pod::{defaults, validate};

    fn created(spec: Value, labels: &Value, annotations: &Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "labels": labels, "annotations": annotations}});
        pod["spec"] = spec;
        defaults::pod(&mut pod);
        new_pod(&mut pod);
        pod
    }

    #[test]
    fn label_keys_are_merged_into_selectors() {
        let term = json!({"labelSelector": {"matchLabels": {"a": "b"}}, "matchLabelKeys": ["v", "gone"],
            "mismatchLabelKeys": ["t"], "topologyKey": "k"});
        let spec = json!({
            "topologySpreadConstraints": [{"labelSelector": {}, "matchLabelKeys": ["v"]}, {"matchLabelKeys": ["v"]}],
            "affinity": {
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": term}]},
            },
        });
        let pod = created(spec, &json!({"v": "1", "t": "2"}), &json!({}));
        let (own, other) = (
            json!({"key": "v", "operator": "In", "values": ["1"]}),
            json!({"key": "t", "operator": "NotIn", "values": ["2"]}),
        );
        let spec = &pod["spec"];
        assert_eq!(spec["topologySpreadConstraints"][0]["labelSelector"], json!({"matchExpressions": [own]}));
        assert_eq!(spec["topologySpreadConstraints"][1]["labelSelector"], Value::Null, "selects nothing");
        let both = json!({"matchLabels": {"a": "b"}, "matchExpressions": [own, other]});
        let affinity = &spec["affinity"];
        let required = &affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(required["labelSelector"], both);
        let preferred = &affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0];
        assert_eq!(preferred["podAffinityTerm"]["labelSelector"], both);
    }

    #[test]
    fn a_key_that_the_selector_has_already_is_refused() {
        let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "matchLabelKeys": ["v"], "labelSelector": {"matchLabels": {"v": "1"}}});
        let spec =
            json!({"containers": [{"name": "c", "image": "i"}], "topologySpreadConstraints": [constraint]});
        let pod = created(spec, &json!({"v": "1"}), &json!({}));
        let causes = validate::pod(&pod, None);
        let causes: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let why = "spec.topologySpreadConstraints[0][0]: Invalid value: \"v\": exists in both matchLabelKeys and labelSelector";
        assert_eq!(causes, [why]);
    }

    #[test]
    fn a_pods_own_resources_follow_its_containers() {
        let limits = |cpu: &str| json!({"resources": {"limits": {"cpu": cpu, "hugepages-2Mi": "2Mi"}}});
        let spec = json!({"containers": [limits("1"), limits("500m")], "resources": {"requests": {"memory": "1Gi"}}});
        let pod = created(spec, &json!({}), &json!({}));
        let expected = json!({
            "limits": {"cpu": "1500m", "hugepages-2Mi": "4Mi"},
            "requests": {"cpu": "1500m", "hugepages-2Mi": "4Mi", "memory": "1Gi"},
        });
        assert_eq!(pod["spec"]["resources"], expected);
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
    }

    #[test]
    fn what_is_behind_a_gate_and_what_is_long_gone_is_dropped() {
        let spec = json!({"containers": [{"name": "c"}], "evictionResponders": [{"name": "a"}],
            "schedulingGroup": {"podGroupName": "g"}, "terminationGracePeriodSeconds": -7});
        let annotations = json!({"pod.beta.kubernetes.io/init-containers": "[]",
            "container.apparmor.security.beta.kubernetes.io/c": "localhost/x"});
        let pod = created(spec, &json!({}), &annotations);
        for field in ["evictionResponders", "schedulingGroup"] {
            assert_eq!(pod["spec"][field], Value::Null, "{field}");
        }
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 1);
        assert_eq!(pod["metadata"]["annotations"].as_object().unwrap().len(), 1);
        let profile = &pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"];
        assert_eq!(*profile, json!({"type": "Localhost", "localhostProfile": "x"}));
    }

    #[test]
    fn an_annotation_that_alone_names_a_profile_is_warned_about() {
        let key = |name: &str| format!("container.apparmor.security.beta.kubernetes.io/{name}");
        let warning = |name: &str| {
            let key = key(name);
            format!(
                "metadata.annotations[{key}]: deprecated since v1.30; use the \"appArmorProfile\" field instead"
            )
        };
        let field = json!({"appArmorProfile": {"type": "Unconfined"}});
        let mut pod = json!({
            "metadata": {"annotations": {key("a"): "unconfined", key("b"): "unconfined", key("c"): "?", key("x"): ""}},
            "spec": {"initContainers": [{"name": "a"}], "containers": [{"name": "b", "securityContext": field}, {"name": "c"}]},
        });
        assert_eq!(profile_warnings(&pod), [warning("a"), warning("c")]);
        pod["spec"]["securityContext"] = field;
        assert_eq!(profile_warnings(&pod), [warning("c")], "the pod as a whole says the same");
    }

    #[test]
    fn annotations_of_pods_mean_what_upstream_says() {
        for (annotations, expected) in [
            (
                json!({"controller.kubernetes.io/pod-deletion-cost": "+1"}),
                "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"+1\": must be a 32bit \
                 integer",
            ),
            (
                json!({"seccomp.security.alpha.kubernetes.io/pod": "x"}),
                "metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"x\": must be a valid \
                 seccomp profile",
            ),
            (
                json!({"kubernetes.io/config.mirror": "x"}),
                "metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName if mirror pod \
                 annotation is set",
            ),
        ] {
            let pod = created(json!({"containers": [{"name": "c", "image": "i"}]}), &json!({}), &annotations);
            let causes = validate::pod(&pod, None);
            assert_eq!(
                causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>(),
                [expected]
            );
        }
    }
}
