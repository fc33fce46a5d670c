//! Who owns which fields of what was written through the machine.

use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn options(manager: &str, view: Option<&Arc<Kind>>) -> WriteOptions {
    WriteOptions { view: view.cloned(), ..WriteOptions::controller(manager) }
}

async fn machine() -> Objects {
    Objects::in_memory(Vec::new()).await.unwrap()
}

/// The entries of an object by manager: the version and the fields.
fn managers(written: &Written) -> Vec<(String, String, Value)> {
    let object: Value = written.object.decode().unwrap();
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
    let of = |e: &Value| (text(e, "manager"), text(e, "apiVersion"), e["fieldsV1"].clone());
    entries.iter().map(of).collect()
}

fn event() -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "a", "reason": "r",
        "regarding": {"namespace": "default", "kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "c.example/x", "reportingInstance": "i", "action": "A", "type": "Normal",
    })
}

#[tokio::test]
async fn fields_of_an_event_are_owned_in_the_version_that_they_were_written_in() {
    let objects = machine().await;
    let view = kinds::builtin().by_path("events.k8s.io", "v1", "events").unwrap();
    let new = event();
    let made =
        objects.create(Resource::EVENTS, Some("default"), new, &options("m1", Some(view))).await.unwrap();
    let all = managers(&made);
    assert_eq!(all.len(), 1);
    let (manager, version, fields) = &all[0];
    assert_eq!((manager.as_str(), version.as_str()), ("m1", "events.k8s.io/v1"));
    assert!(fields.get("f:note").is_some() && fields.get("f:regarding").is_some(), "{fields}");
    assert!(fields.get("f:message").is_none(), "that is its name elsewhere: {fields}");
    let mut body: Value = made.object.decode().unwrap();
    body["message"] = json!("b");
    let changed = objects
        .update(Resource::EVENTS, Some("default"), "e", None, body, &options("m2", None))
        .await
        .unwrap();
    let all = managers(&changed);
    let other = all.iter().find(|(manager, ..)| manager == "m2").unwrap();
    assert_eq!((other.1.as_str(), &other.2), ("v1", &json!({"f:message": {}})));
    let first = all.iter().find(|(manager, ..)| manager == "m1").unwrap();
    assert!(first.2.get("f:note").is_none(), "somebody else wrote it by its other name: {}", first.2);
    assert!(first.2.get("f:reason").is_some());
}

#[tokio::test]
async fn an_event_is_applied_and_patched_in_the_form_of_its_version() {
    let objects = machine().await;
    let view = kinds::builtin().by_path("events.k8s.io", "v1", "events").unwrap();
    let patch = async |patch: Patch, manager: &str| {
        objects
            .patch(Resource::EVENTS, Some("default"), "e", None, patch, &options(manager, Some(view)))
            .await
            .unwrap()
    };
    assert!(patch(Patch::Apply(event()), "m1").await.created);
    let again = patch(Patch::Apply(event()), "m1").await;
    assert_eq!(again.object.decode::<Value>().unwrap()["message"], "a", "kept by its stored name");
    let all = managers(&again);
    assert_eq!((all.len(), all[0].1.as_str()), (1, "events.k8s.io/v1"));
    assert!(all[0].2.get("f:note").is_some());
    let patched = patch(Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}})), "m2").await;
    assert_eq!(patched.object.decode::<Value>().unwrap()["message"], "a");
    let all = managers(&patched);
    let fields = &all.iter().find(|(manager, ..)| manager == "m2").unwrap().2;
    assert_eq!(*fields, json!({"f:metadata": {"f:labels": {".": {}, "f:x": {}}}}));
}

#[tokio::test]
async fn an_item_without_its_key_leaves_everything_without_an_owner() {
    let objects = machine().await;
    let account =
        json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "secrets": [{"resourceVersion": "1"}]});
    let made = objects
        .create(Resource::SERVICE_ACCOUNTS, Some("default"), account, &options("m", None))
        .await
        .unwrap();
    assert!(managers(&made).is_empty());
    let secret = json!({"metadata": {"name": "b"}, "secrets": [{"name": "s"}]});
    let made = objects
        .create(Resource::SERVICE_ACCOUNTS, Some("default"), secret, &options("m", None))
        .await
        .unwrap();
    assert!(managers(&made)[0].2["f:secrets"].get("k:{\"name\":\"s\"}").is_some());
}

#[tokio::test]
async fn a_gated_field_of_a_template_is_owned_and_not_kept() {
    let objects = machine().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
        "containers": [{"name": "c", "image": "i", "lifecycle": {"stopSignal": "SIGTERM"}}]}});
    let set = json!({"metadata": {"name": "s"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let made =
        objects.create(Resource::REPLICA_SETS, Some("default"), set, &options("m", None)).await.unwrap();
    let stored: Value = made.object.decode().unwrap();
    assert_eq!(stored["spec"]["template"]["spec"]["containers"][0].get("lifecycle"), None);
    let owned = &managers(&made)[0].2["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"];
    assert!(owned["f:lifecycle"].get("f:stopSignal").is_some(), "{owned}");
}

#[tokio::test]
async fn empty_lists_are_neither_owned_nor_kept() {
    let objects = machine().await;
    let pod = json!({"metadata": {"name": "p", "ownerReferences": [], "finalizers": []}, "spec": {
        "containers": [{"name": "c", "image": "i", "resources": {"claims": []}}],
        "volumes": [{"name": "v", "projected": {"sources": []}}]}});
    let made = objects.create(Resource::PODS, Some("default"), pod, &options("m", None)).await.unwrap();
    let stored: Value = made.object.decode().unwrap();
    assert_eq!(stored["metadata"].get("ownerReferences"), None);
    assert_eq!(stored["spec"]["containers"][0]["resources"], json!({}));
    assert_eq!(stored["spec"]["volumes"][0]["projected"]["sources"], Value::Null);
    let fields = &managers(&made)[0].2;
    assert_eq!(fields.get("f:metadata"), None, "{fields}");
    let set = json!({"metadata": {"name": "t"}, "template": {"spec": {"resources": {"claims": []},
        "containers": [{"name": "c", "image": "i"}]}}});
    let refused =
        objects.create(Resource::POD_TEMPLATES, Some("default"), set, &options("m", None)).await.unwrap_err();
    assert_eq!(
        refused.message,
        "PodTemplate \"t\" is invalid: template.spec.resources.claims: Forbidden: claims may not be set for Resources at \
         pod-level"
    );
}
