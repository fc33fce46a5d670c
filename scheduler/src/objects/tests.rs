//! The machine over a store in memory.

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::*;
use crate::{
    kinds::Subresource,
    store::{Change, Draft, Expect},
};

pub(super) fn options() -> WriteOptions {
    WriteOptions::controller("test")
}

pub(super) async fn machine() -> Objects {
    Objects::in_memory(Vec::new()).await.unwrap()
}

pub(super) fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub(super) async fn make(objects: &Objects, name: &str) -> Written {
    let body = config_map(name, &json!({"k": "v"}));
    objects.create(Resource::CONFIG_MAPS, Some("default"), body, &options()).await.unwrap()
}

pub(super) fn value(object: &Object) -> Value {
    object.decode().unwrap()
}

#[tokio::test]
async fn creation_fills_in_what_the_server_owns() {
    let objects = machine().await;
    let made = make(&objects, "a").await;
    assert!(made.created);
    let v = value(&made.object);
    assert_eq!(v["metadata"]["namespace"], "default");
    assert_eq!(v["metadata"]["resourceVersion"], made.object.revision.to_string());
    assert!(!v["metadata"]["uid"].as_str().unwrap().is_empty());
    assert!(v["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    let again = objects
        .create(Resource::CONFIG_MAPS, Some("default"), config_map("a", &json!({})), &options())
        .await
        .unwrap_err();
    assert_eq!(again.message, "configmaps \"a\" already exists");
    let mut body = config_map("", &json!({}));
    body["metadata"] = json!({"generateName": "web-"});
    let named = objects.create(Resource::CONFIG_MAPS, Some("default"), body, &options()).await.unwrap();
    assert!(named.object.key.name.starts_with("web-") && named.object.key.name.len() == 9);
}

#[tokio::test]
async fn nothing_is_created_without_a_live_namespace() {
    let objects = machine().await;
    let body = config_map("a", &json!({}));
    let missing =
        objects.create(Resource::CONFIG_MAPS, Some("x"), body.clone(), &options()).await.unwrap_err();
    assert_eq!((missing.message.as_str(), missing.reason), ("namespaces \"x\" not found", Reason::NotFound));
    let ns = json!({"metadata": {"name": "x", "finalizers": ["test/hold"]}});
    objects.create(Resource::NAMESPACES, None, ns, &options()).await.unwrap();
    objects.delete(Resource::NAMESPACES, None, "x", &DeleteOptions::default(), &options()).await.unwrap();
    let ending = objects.create(Resource::CONFIG_MAPS, Some("x"), body, &options()).await.unwrap_err();
    assert_eq!(
        ending.message,
        "configmaps \"a\" is forbidden: unable to create new content in namespace x because it is being terminated"
    );
    assert_eq!(ending.causes[0].reason, "NamespaceTerminating");
    let kept = objects
        .delete(Resource::NAMESPACES, None, "default", &DeleteOptions::default(), &options())
        .await
        .unwrap_err();
    assert_eq!(kept.message, "namespaces \"default\" is forbidden: this namespace may not be deleted");
}

#[tokio::test]
async fn updates_respect_versions_and_do_nothing_when_nothing_changes() {
    let objects = machine().await;
    let made = make(&objects, "a").await;
    let mut body = value(&made.object);
    let update = |body: Value| {
        let objects = objects.clone();
        async move { objects.update(Resource::CONFIG_MAPS, Some("default"), "a", None, body, &options()).await }
    };
    assert_eq!(update(body.clone()).await.unwrap().object.revision, made.object.revision);
    body["data"]["k"] = json!("w");
    let changed = update(body.clone()).await.unwrap();
    assert!(changed.object.revision > made.object.revision);
    body["data"]["k"] = json!("x");
    let stale = update(body.clone()).await.unwrap_err();
    assert_eq!(stale.reason, Reason::Conflict);
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
         changes to the latest version and try again"
    );
    body["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    update(body.clone()).await.unwrap();
    body["metadata"]["uid"] = json!("other");
    assert_eq!(update(body).await.unwrap_err().reason, Reason::Conflict);
}

#[tokio::test]
async fn a_dry_run_shows_the_result_and_stores_nothing() {
    let objects = machine().await;
    let dry = WriteOptions { dry_run: true, ..options() };
    let before = objects.revision();
    let body = config_map("a", &json!({}));
    let shown = objects.create(Resource::CONFIG_MAPS, Some("default"), body, &dry).await.unwrap();
    assert!(!value(&shown.object)["metadata"]["uid"].as_str().unwrap().is_empty());
    assert_eq!(value(&shown.object)["metadata"].get("resourceVersion"), None, "it was never stored");
    assert_eq!(objects.revision(), before);
    assert!(objects.get(Resource::CONFIG_MAPS, Some("default"), "a").await.is_err());
}

#[tokio::test]
async fn finalizers_hold_a_deleted_object_until_the_last_is_gone() {
    let objects = machine().await;
    let mut body = config_map("a", &json!({}));
    body["metadata"]["finalizers"] = json!(["test/a"]);
    objects.create(Resource::CONFIG_MAPS, Some("default"), body, &options()).await.unwrap();
    let delete = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    let held =
        objects.remove(Resource::CONFIG_MAPS, Some("default"), "a", &delete, &options()).await.unwrap();
    assert!(!held.gone && held.object.deleting);
    assert_eq!(value(&held.object)["metadata"]["finalizers"], json!(["test/a", "foregroundDeletion"]));
    let merge = |patch: Value| {
        let objects = objects.clone();
        async move {
            let patch = Patch::Merge(patch);
            objects.patch(Resource::CONFIG_MAPS, Some("default"), "a", None, patch, &options()).await
        }
    };
    let added = merge(json!({"metadata": {"finalizers": ["test/a", "test/b"]}})).await.unwrap_err();
    assert!(added.message.contains("no new finalizers can be added"), "{}", added.message);
    merge(json!({"metadata": {"finalizers": ["test/a"]}})).await.unwrap();
    assert!(objects.get(Resource::CONFIG_MAPS, Some("default"), "a").await.is_ok());
    merge(json!({"metadata": {"finalizers": null}})).await.unwrap();
    assert!(objects.get(Resource::CONFIG_MAPS, Some("default"), "a").await.is_err());
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

async fn bind(objects: &Objects, name: &str) -> Result<Written, ApiError> {
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    let sub = Some(Subresource::Binding);
    objects.update(Resource::PODS, Some("default"), name, sub, binding, &options()).await
}

#[tokio::test]
async fn a_bound_pod_is_deleted_by_its_node_and_a_pending_one_at_once() {
    let objects = machine().await;
    let delete = |name: &'static str, grace: Option<i64>| {
        let objects = objects.clone();
        async move {
            let delete = DeleteOptions { grace_seconds: grace, ..DeleteOptions::default() };
            objects.remove(Resource::PODS, Some("default"), name, &delete, &options()).await.unwrap()
        }
    };
    objects.create(Resource::PODS, Some("default"), pod("a"), &options()).await.unwrap();
    assert!(delete("a", None).await.gone);
    objects.create(Resource::PODS, Some("default"), pod("b"), &options()).await.unwrap();
    let bound = value(&bind(&objects, "b").await.unwrap().object);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["metadata"]["generation"], 1, "where a pod runs is no wish of its author");
    assert!(bound["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "PodScheduled"));
    assert_eq!(bind(&objects, "b").await.unwrap_err().reason, Reason::Conflict);
    let first = delete("b", None).await;
    assert!(!first.gone);
    assert_eq!(value(&first.object)["metadata"]["deletionGracePeriodSeconds"], 30);
    let longer = delete("b", Some(60)).await;
    assert_eq!(longer.object.revision, first.object.revision);
    let shorter = delete("b", Some(5)).await;
    assert_eq!(value(&shorter.object)["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(delete("b", Some(0)).await.gone);
}

#[tokio::test]
async fn status_writes_leave_the_spec_alone_and_the_reverse() {
    let objects = machine().await;
    objects.create(Resource::PODS, Some("default"), pod("a"), &options()).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}}));
    let sub = Some(Subresource::Status);
    let written = objects.patch(Resource::PODS, Some("default"), "a", sub, patch, &options()).await.unwrap();
    let v = value(&written.object);
    assert_eq!((&v["status"]["phase"], v["spec"].get("nodeName")), (&json!("Running"), None));
    let patch = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}, "status": {"phase": "Failed"}}));
    let written = objects.patch(Resource::PODS, Some("default"), "a", None, patch, &options()).await.unwrap();
    let v = value(&written.object);
    assert_eq!((&v["status"]["phase"], &v["metadata"]["labels"]["x"]), (&json!("Running"), &json!("y")));
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "web", "labels": {"l": "1"}, "annotations": {"a": "1"}},
        "spec": {"selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    })
}

#[tokio::test]
async fn a_status_write_reaches_the_metadata_that_upstream_lets_it() {
    let objects = machine().await;
    let service =
        json!({"metadata": {"name": "web", "annotations": {"a": "1"}}, "spec": {"ports": [{"port": 80}]}});
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]);
    for (resource, body, labels, owners) in [
        (Resource::SERVICES, service, true, true),
        (Resource::DEPLOYMENTS, deployment(), false, true),
        (Resource::PODS, pod("web"), true, false),
    ] {
        objects.create(resource, Some("default"), body, &options()).await.unwrap();
        let patch = json!({"spec": {"paused": true}, "metadata": {"annotations": {"b": "2"}, "labels": {"b": "2"},
            "finalizers": ["x.y/z"], "ownerReferences": owner}});
        let sub = Some(Subresource::Status);
        let written = objects
            .patch(resource, Some("default"), "web", sub, Patch::Merge(patch), &options())
            .await
            .unwrap();
        let v = value(&written.object);
        let metadata = &v["metadata"];
        assert_eq!(
            (&metadata["annotations"]["b"], &metadata["finalizers"][0]),
            (&json!("2"), &json!("x.y/z"))
        );
        assert_eq!(metadata["labels"]["b"] == "2", labels, "{resource}");
        assert_eq!(!metadata["ownerReferences"].is_null(), owners, "{resource}");
        assert!(v["spec"].get("paused").is_none(), "{resource}");
        assert_ne!(metadata["generation"], 2, "{resource}");
    }
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"c": "3"}}}));
    let written =
        objects.patch(Resource::DEPLOYMENTS, Some("default"), "web", None, patch, &options()).await.unwrap();
    assert_eq!(value(&written.object)["metadata"]["generation"], 2, "annotations go on to the sets");
}

#[tokio::test]
async fn some_kinds_are_made_by_an_update_and_some_only_changed_by_who_read_them() {
    let objects = machine().await;
    let put = async |resource: Resource, body: Value| {
        let namespace = (resource != Resource::RUNTIME_CLASSES).then_some("default");
        objects.update(resource, namespace, "x", None, body, &options()).await
    };
    let class = json!({"metadata": {"name": "x", "finalizers": ["mine"]}, "handler": "h"});
    let mut other = class.clone();
    other["metadata"]["uid"] = json!("u");
    assert_eq!(
        put(Resource::RUNTIME_CLASSES, other).await.unwrap_err().message,
        "Operation cannot be fulfilled on runtimeclasses.node.k8s.io \"x\": Precondition failed: UID in precondition: u, \
         UID in object meta: "
    );
    let mut gone = class.clone();
    gone["metadata"]["resourceVersion"] = json!("5");
    assert!(put(Resource::RUNTIME_CLASSES, gone).await.unwrap().created, "whatever it was a revision of");
    assert_eq!(
        put(Resource::RUNTIME_CLASSES, class).await.unwrap_err().message,
        "runtimeclasses.node.k8s.io \"x\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified \
         for an update"
    );
    let body = json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}});
    assert!(put(Resource::SERVICES, body).await.unwrap().created);
    let missing = put(Resource::CONFIG_MAPS, config_map("x", &json!({}))).await.unwrap_err();
    assert_eq!(missing.message, "configmaps \"x\" not found");
    let lease = json!({"metadata": {"name": "x"}, "spec": {"leaseDurationSeconds": 7}});
    let made = put(Resource::LEASES, lease.clone()).await.unwrap();
    assert!(made.created);
    assert_eq!(
        put(Resource::LEASES, lease).await.unwrap_err().message,
        "leases.coordination.k8s.io \"x\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified \
         for an update"
    );
    assert!(!put(Resource::LEASES, value(&made.object)).await.unwrap().created);
}

#[tokio::test]
async fn an_owner_that_is_named_twice_is_kept_once() {
    let objects = machine().await;
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
    let mut body = config_map("a", &json!({}));
    body["metadata"]["ownerReferences"] = json!([owner, owner]);
    body["metadata"]["generation"] = 7.into();
    let made = objects.create(Resource::CONFIG_MAPS, Some("default"), body, &options()).await.unwrap();
    assert!(made.warnings[0].ends_with("duplicate UID(s) observed: u"), "{:?}", made.warnings);
    let v = value(&made.object);
    assert_eq!(v["metadata"]["ownerReferences"], json!([owner]));
    assert_eq!(v["metadata"]["generation"], 7, "nobody counts for this kind");
    let patch = Patch::Merge(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let refused = objects.patch(Resource::CONFIG_MAPS, Some("default"), "a", None, patch, &options()).await;
    assert!(refused.unwrap_err().message.contains("metadata.deletionTimestamp: Invalid value"));
    let patch = Patch::Merge(json!({"metadata": {"uid": "abc"}}));
    let refused = objects.patch(Resource::CONFIG_MAPS, Some("default"), "a", None, patch, &options()).await;
    assert_eq!(
        refused.unwrap_err().message,
        "ConfigMap \"a\" is invalid: metadata.uid: Invalid value: \"abc\": field is immutable"
    );
}

#[tokio::test]
async fn scale_is_a_view_of_the_replicas() {
    let objects = machine().await;
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    let made = objects.create(Resource::DEPLOYMENTS, Some("default"), deployment, &options()).await.unwrap();
    let view = subresources::scale(&value(&made.object));
    assert_eq!((&view["spec"]["replicas"], &view["status"]["selector"]), (&json!(2), &json!("app=web")));
    let patch = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let sub = Some(Subresource::Scale);
    let scaled =
        objects.patch(Resource::DEPLOYMENTS, Some("default"), "web", sub, patch, &options()).await.unwrap();
    let v = value(&scaled.object);
    assert_eq!((&v["spec"]["replicas"], &v["metadata"]["generation"]), (&json!(5), &json!(2)));
    let stale = json!({"metadata": {"resourceVersion": made.object.revision.to_string()},
        "spec": {"replicas": 1}});
    let refused = objects.update(Resource::DEPLOYMENTS, Some("default"), "web", sub, stale, &options()).await;
    assert_eq!(refused.unwrap_err().reason, Reason::Conflict);
}

#[tokio::test]
async fn pages_show_one_state_and_selectors_are_checked() {
    let objects = machine().await;
    for name in ["a", "b", "c", "d", "e"] {
        make(&objects, name).await;
    }
    let all = Selection::default();
    let first = Page { limit: Some(2), ..Page::default() };
    let one = objects.page(Resource::CONFIG_MAPS, &all, &first).unwrap();
    assert_eq!((one.items.len(), one.remaining), (2, Some(3)));
    make(&objects, "aa").await;
    objects
        .delete(Resource::CONFIG_MAPS, Some("default"), "c", &DeleteOptions::default(), &options())
        .await
        .unwrap();
    let rest = Page { token: one.next, ..Page::default() };
    let two = objects.page(Resource::CONFIG_MAPS, &all, &rest).unwrap();
    let names: Vec<_> = two.items.iter().map(|o| &*o.key.name).collect();
    assert_eq!((names, two.revision), (vec!["c", "d", "e"], one.revision));
    objects.forget_history();
    let expired = objects.page(Resource::CONFIG_MAPS, &all, &rest).unwrap_err();
    assert_eq!(expired.reason, Reason::Expired);
    let junk = Page { token: Some("?".to_owned()), ..Page::default() };
    assert_eq!(objects.page(Resource::CONFIG_MAPS, &all, &junk).unwrap_err().reason, Reason::BadRequest);
    let fields = FieldSelector::parse("spec.x=1").unwrap();
    let bad = Selection { fields, ..Selection::default() };
    let error = objects.list(Resource::CONFIG_MAPS, &bad).await.unwrap_err();
    assert_eq!(error.message, "field label not supported: spec.x");
}

#[tokio::test]
async fn a_watch_sees_objects_come_into_and_leave_its_selection() {
    let objects = machine().await;
    make(&objects, "old").await;
    let labels = LabelSelector::parse("on=yes").unwrap();
    let selection = Selection { labels, ..Selection::default() };
    let mut watch = objects.watch(Resource::CONFIG_MAPS, selection, None).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Bookmark(_)))));
    for patch in [
        json!({"metadata": {"labels": {"on": "yes"}}}),
        json!({"data": {"k": "2"}}),
        json!({"metadata": {"labels": {"on": "no"}}}),
    ] {
        let patch = Patch::Merge(patch);
        objects.patch(Resource::CONFIG_MAPS, Some("default"), "old", None, patch, &options()).await.unwrap();
    }
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Modified(_)))));
    let Some(Ok(WatchEvent::Deleted(left))) = watch.next().await else { panic!("not a deletion") };
    assert_eq!(left.revision, objects.revision());
    let v = value(&left);
    assert_eq!(v["metadata"]["labels"]["on"], "yes", "the last state inside the selection");
    assert_eq!(v["metadata"]["resourceVersion"], left.revision.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_patches_of_one_object_lose_nothing() {
    let objects = machine().await;
    make(&objects, "a").await;
    let tasks: Vec<_> = (0..16)
        .map(|i| {
            let objects = objects.clone();
            tokio::spawn(async move {
                let patch = Patch::Merge(json!({"data": {format!("k{i}"): "v"}}));
                objects
                    .patch(Resource::CONFIG_MAPS, Some("default"), "a", None, patch, &options())
                    .await
                    .unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let last = objects.get(Resource::CONFIG_MAPS, Some("default"), "a").await.unwrap();
    assert_eq!(value(&last)["data"].as_object().unwrap().len(), 17);
}

/// A workload that an earlier version took and today's would refuse, straight in the store.
async fn outdated(objects: &Objects, resource: Resource, selector: &Value) {
    let mut old = json!({
        "metadata": {"name": "old"},
        "spec": {"replicas": 1, "selector": selector, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "Not_A_Label", "image": "i"}]}}},
    });
    kinds::upgrade(resource, &mut old);
    let fields = &kinds::builtin().by_resource(resource).unwrap().fields;
    let draft = Draft::new(Key::scoped(resource, Some("default"), "old"), &old, fields).unwrap();
    objects.inner.store.commit(vec![Change::Put { draft, expect: Expect::Absent }]).await.unwrap();
}

#[tokio::test]
async fn what_was_stored_is_not_held_against_a_write_of_something_else() {
    let objects = machine().await;
    let labels = json!({"app": "web"});
    for (resource, selector) in [
        (Resource::DEPLOYMENTS, json!({"matchLabels": labels})),
        (Resource::REPLICA_SETS, json!({"matchLabels": labels})),
        (Resource::REPLICATION_CONTROLLERS, labels.clone()),
    ] {
        outdated(&objects, resource, &selector).await;
        let patch = async |sub: Option<Subresource>, body: Value| {
            objects.patch(resource, Some("default"), "old", sub, Patch::Strategic(body), &options()).await
        };
        let told = patch(Some(Subresource::Status), json!({"status": {"replicas": 1}})).await.unwrap();
        assert_eq!(value(&told.object)["status"]["replicas"], 1);
        patch(None, json!({"metadata": {"labels": {"tier": "back"}}})).await.unwrap();
        patch(None, json!({"spec": {"replicas": 2}})).await.unwrap();
        // A new fault is one all the same, and it alone is told.
        let refused = patch(None, json!({"spec": {"replicas": -1}})).await.unwrap_err();
        let fields: Vec<_> = refused.causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, ["spec.replicas"]);
    }
}

#[tokio::test]
async fn many_are_removed_at_once_and_each_is_answered() {
    let objects = machine().await;
    for (name, finalizers) in [("a", json!([])), ("held", json!(["example.com/x"]))] {
        let body = json!({"metadata": {"name": name, "finalizers": finalizers}});
        objects.create(Resource::CONFIG_MAPS, Some("default"), body, &options()).await.unwrap();
    }
    let keys = ["a", "missing", "held"].map(|name| Key::scoped(Resource::CONFIG_MAPS, Some("default"), name));
    let outcomes = objects.remove_all(&keys, &DeleteOptions::default(), &options()).await;
    assert!(outcomes[0].as_ref().unwrap().gone);
    assert_eq!(outcomes[1].as_ref().unwrap_err().reason, Reason::NotFound);
    let held = outcomes[2].as_ref().unwrap();
    assert!(!held.gone && held.object.deleting);
    assert!(objects.stored(&keys[0]).is_none() && objects.stored(&keys[2]).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_will_end_is_told_shortly_before_how_far_it_came() {
    use tokio::time::{Duration, Instant, timeout};

    let objects = machine().await;
    let begun = Instant::now();
    let ends = Some(begun + Duration::from_secs(5));
    let watch = async || {
        let selection = Selection::default();
        let mut watch = objects.watch_until(Resource::SECRETS, selection, None, ends).await.unwrap();
        assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Bookmark(_)))));
        watch
    };
    let mut watched = watch().await;
    make(&objects, "of-another-kind").await;
    let told = timeout(Duration::from_secs(4), watched.next()).await.unwrap();
    let Some(Ok(WatchEvent::Bookmark(revision))) = told else { panic!("{told:?}") };
    assert_eq!(revision, objects.revision());
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    // Another that begins so late is not told, and neither is one without news.
    let mut late = watch().await;
    assert!(timeout(Duration::from_secs(4), late.next()).await.is_err());
    let ends = Some(Instant::now() + Duration::from_secs(5));
    let selection = Selection::default();
    let mut quiet = objects.watch_until(Resource::SECRETS, selection, None, ends).await.unwrap();
    quiet.next().await.unwrap().unwrap();
    assert!(timeout(Duration::from_secs(6), quiet.next()).await.is_err());
}
