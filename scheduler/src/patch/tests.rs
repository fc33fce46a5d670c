//! The patch types on real kinds.

use serde_json::{Value, json};

use super::*;
use crate::{kinds, model::Resource};

fn deployment() -> &'static Kind {
    kinds::builtin().by_resource(Resource::DEPLOYMENTS).unwrap()
}

fn pod() -> &'static Kind {
    kinds::builtin().by_resource(Resource::PODS).unwrap()
}

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, subresource: None, now, kinds: kinds::builtin() }
}

const T1: &str = "2026-01-01T00:00:00Z";
const T2: &str = "2026-01-01T00:01:00Z";

fn web(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": image,
                    "ports": [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]}]},
            },
        },
    })
}

/// Records an ordinary write in `object`.
fn record(kind: &Kind, live: Option<&Value>, object: &mut Value, writer: &Writer<'_>) {
    let sent = take_managed_fields(object);
    let managers = record_update(kind, live, sent, object, |_| {}, writer);
    let metadata = object["metadata"].as_object_mut().unwrap();
    match managers {
        Some(managers) => metadata.insert("managedFields".to_owned(), managers),
        None => metadata.remove("managedFields"),
    };
}

#[test]
fn strategic_merge_merges_lists_by_their_keys() {
    let live = json!({"spec": {"containers": [
        {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]}});
    let patch = json!({"spec": {"containers": [
        {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}, {"name": "b", "$patch": "delete"}]}});
    let out = strategic(pod(), &live, &patch).unwrap();
    let expected = json!({"spec": {"containers": [
        {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]}]}});
    assert_eq!(out, expected);
}

#[test]
fn strategic_merge_obeys_its_directives() {
    let live = json!({
        "metadata": {"finalizers": ["a", "b", "c"], "labels": {"x": "1", "y": "2"}},
        "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "containers": [{"name": "a"}, {"name": "b"}],
            "tolerations": [{"key": "old"}]},
    });
    let patch = json!({
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "labels": {"$patch": "replace", "z": "3"}},
        "spec": {
            "volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}],
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
            "tolerations": [{"key": "new"}],
        },
    });
    let expected = json!({
        "metadata": {"finalizers": ["a", "c"], "labels": {"z": "3"}},
        "spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}], "containers": [{"name": "b"}, {"name": "a"}],
            "tolerations": [{"key": "new"}]},
    });
    assert_eq!(strategic(pod(), &live, &patch).unwrap(), expected);
}

#[test]
fn strategic_merge_puts_the_items_of_the_patch_first() {
    let names = |patch: Value| -> Vec<String> {
        let live = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}});
        let out = strategic(pod(), &live, &json!({ "spec": patch })).unwrap();
        let list = out["spec"]["containers"].as_array().unwrap().clone();
        list.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(json!({"containers": [{"name": "x"}]})), ["x", "a", "b", "c"]);
    assert_eq!(names(json!({"containers": [{"name": "c"}, {"name": "x"}]})), ["a", "b", "c", "x"]);
    assert_eq!(names(json!({"containers": [{"name": "x"}, {"name": "b"}]})), ["x", "a", "b", "c"]);
    let ordered = json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "x"}, {"name": "a"}],
        "containers": [{"name": "x"}]});
    assert_eq!(names(ordered), ["b", "c", "x", "a"]);
    let live = json!({"metadata": {"finalizers": ["a", "b"]}});
    let out = strategic(pod(), &live, &json!({"metadata": {"finalizers": ["c", "a"]}})).unwrap();
    assert_eq!(out["metadata"]["finalizers"], json!(["c", "a", "b"]));
}

#[test]
fn strategic_merge_refuses_what_it_cannot_read_in_upstreams_words() {
    let live = json!({"spec": {"containers": [{"name": "a"}], "volumes": []}});
    let containers = |list: Value| json!({"spec": {"containers": list}});
    let cases = [
        (containers(json!([{"image": "x"}])), "map: map[image:x] does not contain declared merge key: name"),
        (
            containers(json!([{"name": "a", "$patch": "merge"}])),
            "merging lists cannot yet be specified in the patch",
        ),
        (json!({"spec": {"$patch": "explode"}}), "unknown patch type: explode in map: map[$patch:explode]"),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
            "The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        ),
        (json!({"spec": {"$retainKeys": ["x"], "nodeName": "n"}}), "invalid patch format of retainKeys"),
        (json!([]), "json: cannot unmarshal array into Go value of type map[string]interface {}"),
    ];
    for (patch, expected) in cases {
        assert_eq!(strategic(pod(), &live, &patch).unwrap_err().to_string(), expected);
    }
}

#[test]
fn what_a_type_cannot_hold_is_refused_in_upstreams_words() {
    let live = json!({"metadata": {"name": "p"}});
    for (patch, expected) in [
        (json!({"spec": {"nodeName": 1}}), "cannot convert int64 to string"),
        (json!({"spec": {"nodeName": {}}}), "unrecognized type: string"),
        (json!({"spec": {"priority": "1"}}), "unrecognized type: int32"),
        (json!({"spec": {"containers": "c"}}), "cannot restore slice from string"),
        (json!({"metadata": {"labels": []}}), "cannot restore map from slice"),
        (json!({"spec": []}), "cannot restore struct from: slice"),
    ] {
        assert_eq!(strategic(pod(), &live, &patch).unwrap_err().to_string(), expected);
    }
    let error = strategic(pod(), &live, &json!({"spec": {"nodeName": 1}})).unwrap_err();
    let expected = " \"\" is invalid: patch: Invalid value: \"map[spec:map[nodeName:1]]\": cannot convert int64 to string";
    assert_eq!(ApiError::from(error).message, expected);
}

#[test]
fn apply_creates_and_owns_what_it_sets() {
    let created = apply(deployment(), None, &web(3, "web:1"), &writer("ci", T1), false).unwrap();
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!((entry["manager"].as_str(), entry["operation"].as_str()), (Some("ci"), Some("Apply")));
    assert_eq!(entry["time"], T1);
    let expected = json!({
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                    ".": {}, "f:image": {}, "f:name": {},
                    "f:ports": {
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                        "k:{\"containerPort\":80,\"protocol\":\"UDP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}},
                    },
                }}},
            },
        },
    });
    assert_eq!(entry["fieldsV1"], expected);
}

#[test]
fn apply_twice_changes_nothing() {
    let first = apply(deployment(), None, &web(3, "web:1"), &writer("ci", T1), false).unwrap();
    let second = apply(deployment(), Some(&first), &web(3, "web:1"), &writer("ci", T2), false).unwrap();
    assert_eq!(first, second);
}

#[test]
fn conflicts_name_manager_and_field_and_force_takes_over() {
    let live = apply(deployment(), None, &web(3, "web:1"), &writer("ci", T1), false).unwrap();
    let error = apply(deployment(), Some(&live), &web(5, "web:1"), &writer("me", T2), false).unwrap_err();
    let PatchError::Conflict { message, causes } = error else { panic!("{error}") };
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"ci\": .spec.replicas");
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    let error = apply(deployment(), Some(&live), &web(5, "web:2"), &writer("me", T2), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"ci\":\n- .spec.replicas\n\
         - .spec.template.spec.containers[name=\"web\"].image"
    );
    let forced = apply(deployment(), Some(&live), &web(5, "web:1"), &writer("me", T2), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 5);
    let ci = forced["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .find(|e| e["manager"] == "ci")
        .unwrap();
    assert!(ci["fieldsV1"]["f:spec"].get("f:replicas").is_none());
    assert!(ci["fieldsV1"]["f:spec"].get("f:selector").is_some(), "what both set stays with both");
}

#[test]
fn a_field_left_out_goes_unless_somebody_else_owns_it() {
    let live = apply(deployment(), None, &web(3, "web:1"), &writer("ci", T1), false).unwrap();
    let mut less = web(3, "web:1");
    less["spec"].as_object_mut().unwrap().remove("replicas");
    less["metadata"].as_object_mut().unwrap().remove("labels");
    let out = apply(deployment(), Some(&live), &less, &writer("ci", T2), false).unwrap();
    assert!(out["spec"]["replicas"].is_null());
    assert!(out["metadata"]["labels"].is_null());

    let shared = apply(deployment(), Some(&live), &web(3, "web:1"), &writer("hpa", T1), false).unwrap();
    let out = apply(deployment(), Some(&shared), &less, &writer("ci", T2), false).unwrap();
    assert_eq!(out["spec"]["replicas"], 3);
}

#[test]
fn an_ordinary_write_takes_its_fields_from_appliers() {
    let live = apply(deployment(), None, &web(3, "web:1"), &writer("ci", T1), false).unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(7);
    record(deployment(), Some(&live), &mut scaled, &writer("kubectl-scale", T2));
    let update = scaled["metadata"]["managedFields"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (update["manager"].as_str(), update["operation"].as_str()),
        (Some("kubectl-scale"), Some("Update"))
    );
    assert_eq!(update["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    let error = apply(deployment(), Some(&scaled), &web(3, "web:1"), &writer("ci", T2), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-scale\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn a_create_is_owned_by_its_writer_and_a_no_op_changes_no_owner() {
    let mut object = web(1, "web:1");
    record(deployment(), None, &mut object, &writer("kubectl-create", T1));
    let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
    assert!(
        fields["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"web\"}"].get(".").is_some()
    );
    assert!(fields["f:metadata"]["f:labels"].get(".").is_some());
    let mut again = object.clone();
    record(deployment(), Some(&object), &mut again, &writer("other", T2));
    assert_eq!(again, object);
}

#[test]
fn kubectl_takes_over_its_own_client_side_apply() {
    let mut object = web(3, "web:1");
    let last = serde_json::to_string(&object).unwrap();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    record(deployment(), None, &mut object, &writer("kubectl-client-side-apply", T1));
    let out = apply(deployment(), Some(&object), &web(5, "web:1"), &writer("kubectl", T2), false).unwrap();
    assert_eq!(out["spec"]["replicas"], 5);
    let last =
        out["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(last).unwrap(), web(5, "web:1"));
    let mut drifted = object.clone();
    drifted["spec"]["replicas"] = json!(9);
    record(deployment(), Some(&object), &mut drifted, &writer("somebody", T1));
    assert!(apply(deployment(), Some(&drifted), &web(5, "web:1"), &writer("kubectl", T2), false).is_err());
}

#[test]
fn managers_of_a_client_are_honoured() {
    let mut object = web(1, "web:1");
    record(deployment(), None, &mut object, &writer("kubectl-client-side-apply", T1));
    let mut migrated = object.clone();
    migrated["metadata"]["managedFields"][0]["manager"] = json!("kubectl");
    migrated["metadata"]["managedFields"][0]["operation"] = json!("Apply");
    let wanted = migrated["metadata"]["managedFields"].clone();
    record(deployment(), Some(&object), &mut migrated, &writer("kubectl", T2));
    assert_eq!(migrated["metadata"]["managedFields"], wanted);
    migrated["metadata"]["managedFields"] = json!([{}]);
    record(deployment(), Some(&object), &mut migrated, &writer("kubectl", T2));
    assert!(migrated["metadata"].get("managedFields").is_none());
}

#[test]
fn many_managers_are_joined() {
    let mut object = web(1, "web:1");
    record(deployment(), None, &mut object, &writer("m0", T1));
    for i in 1..20 {
        let live = object.clone();
        object["metadata"]["labels"][format!("l{i}")] = json!("x");
        let now = format!("2026-01-01T01:{i:02}:00Z");
        record(deployment(), Some(&live), &mut object, &writer(&format!("m{i}"), &now));
    }
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(managers.len(), 10);
    assert!(managers.iter().any(|m| m["manager"] == "ancient-changes"));
}

#[test]
fn duplicate_items_are_refused() {
    let mut config = web(1, "web:1");
    config["spec"]["template"]["spec"]["containers"][0]["ports"] =
        json!([{"containerPort": 80}, {"containerPort": 80, "protocol": "TCP"}]);
    let error = apply(deployment(), None, &config, &writer("ci", T1), false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): \
         .spec.template.spec.containers[name=\"web\"].ports: duplicate entries for key [containerPort=80,protocol=\"TCP\"]"
    );
}

#[test]
fn applied_lists_keep_the_items_of_others_in_place() {
    let env = |names: &[&str]| {
        let env: Vec<Value> = names.iter().map(|n| json!({"name": n, "value": "v"})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "env": env}]}})
    };
    let names = |object: &Value| -> Vec<String> {
        let env = object["spec"]["containers"][0]["env"].as_array().unwrap();
        env.iter().map(|e| e["name"].as_str().unwrap().to_owned()).collect()
    };
    let live = apply(pod(), None, &env(&["a", "b", "c"]), &writer("one", T1), false).unwrap();
    let out = apply(pod(), Some(&live), &env(&["x", "c", "b"]), &writer("two", T2), false).unwrap();
    assert_eq!(names(&out), ["a", "x", "c", "b"]);
    let live = apply(pod(), None, &env(&["a", "b"]), &writer("one", T1), false).unwrap();
    let out = apply(pod(), Some(&live), &env(&["c"]), &writer("two", T2), false).unwrap();
    assert_eq!(names(&out), ["a", "b", "c"]);
    let live = apply(pod(), None, &env(&["a", "b", "c", "d"]), &writer("one", T1), false).unwrap();
    let out = apply(pod(), Some(&live), &env(&["x", "c", "y", "a"]), &writer("two", T2), false).unwrap();
    assert_eq!(names(&out), ["b", "x", "c", "d", "y", "a"]);
}

#[test]
fn conflicts_list_fields_before_what_lies_below_them_and_numbers_by_size() {
    let ports = |ports: &[(u16, &str)]| {
        let ports: Vec<Value> =
            ports.iter().map(|(n, name)| json!({"containerPort": n, "name": name})).collect();
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"z": ports[0]["name"]}},
            "spec": {"containers": [{"name": "c", "image": ports[0]["name"], "ports": ports}],
                "nodeName": ports[0]["name"]}})
    };
    let live = apply(pod(), None, &ports(&[(80, "a"), (9, "b")]), &writer("one", T1), false).unwrap();
    let error =
        apply(pod(), Some(&live), &ports(&[(80, "x"), (9, "y")]), &writer("two", T2), false).unwrap_err();
    let PatchError::Conflict { causes, .. } = error else { panic!("{error}") };
    let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
    let expected = [
        ".metadata.labels.z",
        ".spec.nodeName",
        ".spec.containers[name=\"c\"].image",
        ".spec.containers[name=\"c\"].ports[containerPort=9,protocol=\"TCP\"].name",
        ".spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].name",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn an_applied_object_must_be_of_its_type() {
    let spec = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "spec": spec});
    let cases = [
        (spec(json!({"replicsa": 1})), ".spec.replicsa: field not declared in schema"),
        (spec(json!({"priority": "high"})), ".spec.priority: expected numeric (int or float), got string"),
        (
            spec(json!({"nodeName": 1})),
            ".spec.nodeName: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (spec(json!({"hostNetwork": "yes"})), ".spec.hostNetwork: expected boolean, got &{yes}"),
        (spec(json!({"containers": {"a": "b"}})), ".spec.containers: expected list, got &{map[a:b]}"),
        (
            spec(json!({"containers": [null]})),
            ".spec.containers: element 0: associative list with keys may not have a null element",
        ),
        (
            spec(json!({"nodeName": 1, "priority": true})),
            "errors:\n  .spec.nodeName: expected string, got &value.valueUnstructured{Value:1}\n  \
             .spec.priority: expected numeric (int or float), got bool",
        ),
    ];
    for (config, expected) in cases {
        let error = apply(pod(), None, &config, &writer("ci", T1), false).unwrap_err();
        let expected = format!("failed to create typed patch object (n/p; /v1, Kind=Pod): {expected}");
        assert_eq!(error.to_string(), expected);
    }
    let error = apply(deployment(), None, &spec(json!({})), &writer("ci", T1), false).unwrap_err();
    assert_eq!(error.to_string(), "invalid object type: /v1, Kind=Pod");
}

#[test]
fn an_update_owns_what_the_client_sent_and_loses_what_it_left_out() {
    let mut live = json!({"metadata": {"name": "s", "ownerReferences": [{"uid": "u", "name": "o"}]}, "spec": {
        "clusterIP": "10.0.0.1", "type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]}});
    let service = kinds::builtin().by_resource(Resource::SERVICES).unwrap();
    record(service, None, &mut live, &writer("one", T1));
    let owned = |object: &Value, who: &str| {
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        entries.iter().find(|e| e["manager"] == who).map(|e| e["fieldsV1"].clone())
    };
    assert!(owned(&live, "one").unwrap()["f:spec"].get("f:clusterIP").is_some());
    let mut new = json!({"metadata": {"name": "s", "generation": 7}, "spec": {
        "type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]}});
    record(service, Some(&live), &mut new, &writer("two", T2));
    assert_eq!(owned(&new, "two"), None, "it set nothing that anybody can own");
    let left = owned(&new, "one").unwrap();
    assert!(left["f:spec"].get("f:clusterIP").is_none() && left.get("f:metadata").is_none(), "{left}");
}
