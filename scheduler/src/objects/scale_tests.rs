//! Whose the count of an object is that is written by its Scale, too. What is expected here is what the real API server
//! answers.

use serde_json::{Value, json};

use super::*;
use crate::kinds::Subresource;

const SCALE: Option<Subresource> = Some(Subresource::Scale);

fn options(manager: &str, force: bool) -> WriteOptions {
    WriteOptions { force, ..WriteOptions::controller(manager) }
}

fn deployment(replicas: Option<u32>) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = replicas.into();
    }
    object
}

/// A Scale with this specification.
fn scale(spec: Value) -> Value {
    let mut scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}});
    if !spec.is_null() {
        scale["spec"] = spec;
    }
    scale
}

struct World(Objects);

impl World {
    async fn new() -> Self {
        Self(Objects::in_memory(Vec::new()).await.unwrap())
    }

    async fn write(
        &self,
        sub: Option<Subresource>,
        patch: Patch,
        manager: &str,
        force: bool,
    ) -> Result<Written, ApiError> {
        let options = options(manager, force);
        self.0.patch(Resource::DEPLOYMENTS, Some("default"), "web", sub, patch, &options).await
    }

    async fn scaled(&self, spec: Value, manager: &str, force: bool) -> Result<Written, ApiError> {
        self.write(SCALE, Patch::Apply(scale(spec)), manager, force).await
    }

    async fn applied(&self, replicas: Option<u32>, manager: &str) -> Result<Written, ApiError> {
        self.write(None, Patch::Apply(deployment(replicas)), manager, true).await
    }

    /// The count, and who owns it: manager, operation, version, subresource, whether a time is told.
    async fn owners(&self) -> (u64, Vec<String>) {
        let object = self.0.get(Resource::DEPLOYMENTS, Some("default"), "web").await.unwrap();
        let object: Value = object.decode().unwrap();
        let owners = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let owners = owners.filter(|entry| entry["fieldsV1"]["f:spec"].get("f:replicas").is_some());
        let told = |entry: &Value| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let timed = if entry.get("time").is_some() { " timed" } else { "" };
            format!(
                "{} {} {} {}{timed}",
                text("manager"),
                text("operation"),
                text("apiVersion"),
                text("subresource")
            )
        };
        (object["spec"]["replicas"].as_u64().unwrap(), owners.map(told).collect())
    }

    async fn expect(&self, replicas: u64, owners: &[&str]) {
        assert_eq!(self.owners().await, (replicas, owners.iter().map(ToString::to_string).collect()));
    }
}

#[tokio::test]
async fn a_forced_apply_of_a_scale_takes_the_count_from_whoever_had_it() {
    let world = World::new().await;
    let created = deployment(Some(3));
    world
        .0
        .create(Resource::DEPLOYMENTS, Some("default"), created, &options("creator", false))
        .await
        .unwrap();
    let refused = world.scaled(json!({"replicas": 5}), "hpa", false).await.unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"creator\" using autoscaling/v1: .spec.replicas"
    );
    world.scaled(json!({"replicas": 5}), "hpa", true).await.unwrap();
    world.expect(5, &["hpa Apply apps/v1 scale"]).await;

    world.applied(Some(4), "app").await.unwrap();
    world.expect(4, &["app Apply apps/v1  timed"]).await;
    world.scaled(json!({"replicas": 8}), "app", true).await.unwrap();
    world.expect(8, &["app Apply apps/v1 scale"]).await;
    for (replicas, manager) in [(6, "put"), (7, "put"), (7, "same")] {
        let body = scale(json!({"replicas": replicas}));
        let (namespace, options) = (Some("default"), options(manager, false));
        world.0.update(Resource::DEPLOYMENTS, namespace, "web", SCALE, body, &options).await.unwrap();
        world.expect(replicas, &["put Update apps/v1 scale"]).await;
    }
    world.write(SCALE, Patch::Merge(json!({"spec": {"replicas": 9}})), "merged", false).await.unwrap();
    world.expect(9, &["merged Update apps/v1 scale"]).await;
}

#[tokio::test]
async fn who_applies_the_same_count_shares_it_until_another_is_applied() {
    let world = World::new().await;
    world.applied(Some(3), "app").await.unwrap();
    world.scaled(json!({"replicas": 3}), "hpa", false).await.unwrap();
    world.expect(3, &["hpa Apply apps/v1 scale", "app Apply apps/v1  timed"]).await;
    let refused = world.scaled(json!({"replicas": 4}), "hpa", false).await.unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"app\": .spec.replicas");
    world.applied(None, "app").await.unwrap();
    world.expect(3, &["hpa Apply apps/v1 scale"]).await;
    world.scaled(json!({"replicas": 4}), "hpa", false).await.unwrap();
    // Who names no count any more gives it up, and with it the count.
    world.scaled(Value::Null, "hpa", false).await.unwrap();
    world.expect(0, &[]).await;
}

#[tokio::test]
async fn a_count_that_nobody_set_is_of_before_the_first_apply() {
    let world = World::new().await;
    world.applied(None, "app").await.unwrap();
    let refused = world.scaled(json!({"replicas": 5}), "hpa", false).await.unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" with subresource \"scale\" using \
         autoscaling/v1: .spec.replicas"
    );
    world.scaled(json!({"replicas": 1}), "hpa", false).await.unwrap();
    world.expect(1, &["hpa Apply apps/v1 scale", "before-first-apply Update apps/v1 scale"]).await;
    world.scaled(json!({"replicas": 5}), "hpa", true).await.unwrap();
    world.expect(5, &["hpa Apply apps/v1 scale"]).await;
}

#[tokio::test]
async fn what_is_no_scale_of_this_object_is_refused() {
    let world = World::new().await;
    world.applied(Some(3), "app").await.unwrap();
    let with = |pointer: &str, value: Value| {
        let mut body = scale(json!({"replicas": 4}));
        body[pointer] = value;
        body
    };
    for (body, reason, words) in [
        (deployment(Some(4)), Reason::BadRequest, "invalid object type: apps/v1, Kind=Deployment"),
        (
            with("metadata", json!({"name": "web", "managedFields": [{}]})),
            Reason::BadRequest,
            "metadata.managedFields must be nil",
        ),
        (
            with("metadata", json!({"name": "other"})),
            Reason::BadRequest,
            "the name of the object (other) does not match the name on the URL (web)",
        ),
        (
            with("metadata", json!({"name": "web", "namespace": "other"})),
            Reason::BadRequest,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            with("spec", json!({"replicas": 1, "bogus": 1})),
            Reason::Unknown,
            "failed to create typed patch object (/web; autoscaling/v1, Kind=Scale): .spec.bogus: field not declared in \
             schema",
        ),
        (
            with("metadata", json!({"name": "web", "resourceVersion": "1"})),
            Reason::Conflict,
            "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your \
             changes to the latest version and try again",
        ),
        (
            with("spec", json!({"replicas": -1})),
            Reason::Invalid,
            "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
    ] {
        let refused = world.write(SCALE, Patch::Apply(body), "hpa", true).await.unwrap_err();
        assert_eq!((refused.reason, refused.message.as_str()), (reason, words));
    }
    let refused = world
        .write(SCALE, Patch::Apply(with("metadata", json!({"name": "web", "uid": "x"}))), "hpa", true)
        .await
        .unwrap_err();
    let words = "Operation cannot be fulfilled on deployments/scale.apps \"web\": Precondition failed: UID in \
                 precondition: x, UID in object meta: ";
    assert!(refused.message.starts_with(words), "{}", refused.message);
    world.expect(3, &["app Apply apps/v1  timed"]).await;
}
