//! Bodies that say something odd: what is told of them, and in which order it is looked at.

use serde_json::{Value, json};

use super::{
    tests::{config_map, machine, make, options, value},
    *,
};
use crate::kinds::Subresource;

const NAMESPACE: Option<&str> = Some("default");

#[tokio::test]
async fn what_does_not_decode_is_told_before_anything_else() {
    let objects = machine().await;
    make(&objects, "a").await;
    let body = json!({"metadata": {"name": 1, "namespace": "other"}});
    let options = options();
    let sent = [
        objects.create(Resource::CONFIG_MAPS, NAMESPACE, body.clone(), &options).await,
        objects.update(Resource::CONFIG_MAPS, NAMESPACE, "a", None, body, &options).await,
    ];
    for refused in sent {
        assert_eq!(
            refused.unwrap_err().message,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct \
             field ObjectMeta.metadata.name of type string"
        );
    }
    let refused = objects.update(Resource::CONFIG_MAPS, NAMESPACE, "a", None, json!({}), &options).await;
    assert!(refused.unwrap_err().message.ends_with("was undeterminable: name must be provided"));
}

#[tokio::test]
async fn a_missing_part_of_the_type_is_that_of_the_path() {
    let objects = machine().await;
    let said = |version: &'static str, kind: &'static str| {
        let objects = objects.clone();
        async move {
            let mut body = config_map("a", &json!({}));
            (body["apiVersion"], body["kind"]) = (version.into(), kind.into());
            objects.create(Resource::CONFIG_MAPS, NAMESPACE, body, &options()).await.unwrap_err().message
        }
    };
    assert_eq!(
        said("v9", "").await,
        "ConfigMap in version \"v9\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \
         \"v9\" in scheme \"pkg/runtime/scheme.go:111\""
    );
    assert_eq!(
        said("", "Secret").await,
        "Secret in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown \
         conversion"
    );
}

#[tokio::test]
async fn an_event_is_sent_in_the_version_of_its_path() {
    let mismatch = |data: &str, path: &str| {
        format!("the API version in the data ({data}) does not match the expected API version ({path})")
    };
    let newer =
        WriteOptions { view: kinds::builtin().by_gvk("events.k8s.io", "v1", "Event").cloned(), ..options() };
    let body = json!({"apiVersion": "v1", "metadata": {"name": "e"}});
    let refused = machine().await.create(Resource::EVENTS, NAMESPACE, body, &newer).await.unwrap_err();
    assert_eq!(refused.message, mismatch("v1", "events.k8s.io/v1"));
    let body = json!({"apiVersion": "events.k8s.io/v1", "metadata": {"name": "e"}});
    let refused = machine().await.create(Resource::EVENTS, NAMESPACE, body, &options()).await.unwrap_err();
    assert_eq!(refused.message, mismatch("events.k8s.io/v1", "v1"));
}

#[tokio::test]
async fn a_scale_is_of_its_own_type() {
    let objects = machine().await;
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    objects.create(Resource::DEPLOYMENTS, NAMESPACE, deployment, &options()).await.unwrap();
    let sub = Some(Subresource::Scale);
    let scale = |replicas: Value| json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas}});
    let put = |replicas: Value| {
        let objects = objects.clone();
        async move {
            objects.update(Resource::DEPLOYMENTS, NAMESPACE, "web", sub, scale(replicas), &options()).await
        }
    };
    assert_eq!(
        put(json!(2_147_483_648_u32)).await.unwrap_err().message,
        "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal number 2147483648 into Go struct \
         field ScaleSpec.spec.replicas of type int32"
    );
    assert_eq!(put(json!(-1)).await.unwrap_err().reason, Reason::Invalid);
    let patch = Patch::Merge(json!({"spec": {"replicas": "1"}}));
    let refused = objects.patch(Resource::DEPLOYMENTS, NAMESPACE, "web", sub, patch, &options()).await;
    assert_eq!(refused.unwrap_err().causes[0].field, "patch");
    let mut applied = scale(json!("1"));
    applied["apiVersion"] = json!("autoscaling/v1");
    applied["kind"] = json!("Scale");
    let patch = Patch::Apply(applied);
    let refused = objects.patch(Resource::DEPLOYMENTS, NAMESPACE, "web", sub, patch, &options()).await;
    assert_eq!(
        refused.unwrap_err().message,
        "failed to create typed patch object (/web; autoscaling/v1, Kind=Scale): .spec.replicas: expected numeric (int or \
         float), got string"
    );
    let none = put(json!(0)).await.unwrap();
    assert_eq!(subresources::scale(&value(&none.object))["spec"], json!({}), "none is not told");
}

#[tokio::test]
async fn a_deletion_that_is_only_tried_shows_what_would_wait() {
    let objects = machine().await;
    make(&objects, "a").await;
    let delete = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
    let tried = WriteOptions { dry_run: true, ..options() };
    let shown = objects.delete(Resource::CONFIG_MAPS, NAMESPACE, "a", &delete, &tried).await.unwrap();
    let shown = value(&shown);
    assert_eq!(shown["metadata"]["finalizers"], json!(["orphan"]));
    assert!(shown["metadata"]["deletionTimestamp"].is_string());
    let kept = objects.get(Resource::CONFIG_MAPS, NAMESPACE, "a").await.unwrap();
    assert_eq!(value(&kept)["metadata"]["finalizers"], Value::Null);
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}});
    objects.create(Resource::EVENTS, NAMESPACE, event, &options()).await.unwrap();
    let gone = objects.remove(Resource::EVENTS, NAMESPACE, "e", &delete, &options()).await.unwrap();
    assert!(gone.gone, "nothing belongs to an event");
}

#[tokio::test]
async fn a_status_does_not_keep_what_upstream_drops() {
    let objects = machine().await;
    let node = json!({"metadata": {"name": "n"}});
    objects.create(Resource::NODES, None, node, &options()).await.unwrap();
    let status = json!({"config": {"error": "x"}, "phase": "Running"});
    let body = json!({"metadata": {"name": "n"}, "status": status});
    let sub = Some(Subresource::Status);
    let written = objects.update(Resource::NODES, None, "n", sub, body, &options()).await.unwrap();
    let written = value(&written.object);
    assert_eq!(
        (&written["status"]["config"], &written["status"]["phase"]),
        (&Value::Null, &json!("Running"))
    );
}

#[tokio::test]
async fn a_runtime_class_is_replaced_by_who_has_read_it() {
    let objects = machine().await;
    let class = json!({"metadata": {"name": "c"}, "handler": "h"});
    let options = options();
    let made =
        objects.update(Resource::RUNTIME_CLASSES, None, "c", None, class.clone(), &options).await.unwrap();
    assert!(made.created, "a PUT of one that is not there makes it");
    let refused =
        objects.update(Resource::RUNTIME_CLASSES, None, "c", None, class, &options).await.unwrap_err();
    assert_eq!(refused.causes[0].field, "metadata.resourceVersion");
}
