//! The second phase of admission: what is stored beside a write is stored with it or not at all.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{
    admission::{Batch, Checked, Request},
    *,
};
use crate::kinds::Subresource;

/// Counts the ConfigMaps of a namespace in one of them, lets so many in, and counts bindings and evictions there too.
struct Tally {
    most: i64,
}

const LEDGER: &str = "ledger";

fn ledger(objects: &Objects) -> (Arc<Object>, Value) {
    let key = Key::namespaced(Resource::CONFIG_MAPS, "default", LEDGER);
    let object = objects.stored(&key).unwrap();
    let value = object.decode().unwrap();
    (object, value)
}

fn count(objects: &Objects, what: &str) -> i64 {
    ledger(objects).1["data"][what].as_str().map_or(0, |text| text.parse().unwrap())
}

#[async_trait::async_trait]
impl Admission for Tally {
    async fn validate(&self, write: Checked<'_>, batch: &mut Batch) -> Result<(), ApiError> {
        if write.name == LEDGER {
            return Ok(());
        }
        let (what, step) = match (write.kind.resource, write.subresource, write.operation) {
            (Resource::CONFIG_MAPS, None, Operation::Create) => ("maps", 1),
            (Resource::CONFIG_MAPS, ..) if write.object.is_none() => ("maps", -1),
            (Resource::PODS, Some(Subresource::Binding), _) => ("bound", 1),
            (Resource::PODS, Some(Subresource::Eviction), _) => ("evicted", 1),
            _ => return Ok(()),
        };
        let (current, mut new) = ledger(write.objects);
        let next = count(write.objects, what) + step;
        if next > self.most {
            return Err(ApiError::forbidden(write.kind.resource, write.name, "exceeded quota"));
        }
        new["data"][what] = next.to_string().into();
        // Gives the others a chance to be faster.
        tokio::task::yield_now().await;
        batch.replace(write.objects, &current, &new)
    }
}

async fn machine(most: i64) -> Objects {
    let objects = Objects::in_memory(vec![Arc::new(Tally { most })]).await.unwrap();
    let body = json!({"metadata": {"name": LEDGER}, "data": {"maps": "0"}});
    objects.create(Resource::CONFIG_MAPS, Some("default"), body, &options()).await.unwrap();
    objects
}

fn options() -> WriteOptions {
    WriteOptions::controller("test")
}

async fn make(objects: &Objects, name: &str, options: &WriteOptions) -> Result<Written, ApiError> {
    let body = json!({"metadata": {"name": name, "finalizers": ["example.com/hold"]}});
    objects.create(Resource::CONFIG_MAPS, Some("default"), body, options).await
}

#[tokio::test]
async fn of_many_at_once_exactly_as_many_get_in_as_there_is_room_for() {
    let objects = machine(20).await;
    let all = (0..32).map(|n| {
        let objects = objects.clone();
        async move { make(&objects, &format!("m{n}"), &options()).await }
    });
    let outcomes = futures::future::join_all(all).await;
    let made = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let refused = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    assert!(
        refused.clone().all(|error| error.reason == Reason::Forbidden),
        "{:?}",
        refused.collect::<Vec<_>>()
    );
    assert_eq!((made, count(&objects, "maps")), (20, 20));
}

#[tokio::test]
async fn what_is_not_stored_counts_for_nothing_and_what_goes_is_taken_off_as_it_goes() {
    let objects = machine(20).await;
    make(&objects, "a", &WriteOptions { dry_run: true, ..options() }).await.unwrap();
    assert_eq!(count(&objects, "maps"), 0);
    make(&objects, "a", &options()).await.unwrap();
    assert_eq!(make(&objects, "a", &options()).await.unwrap_err().reason, Reason::AlreadyExists);
    assert_eq!(count(&objects, "maps"), 1);
    let (resource, namespace) = (Resource::CONFIG_MAPS, Some("default"));
    objects.delete(resource, namespace, "a", &DeleteOptions::default(), &options()).await.unwrap();
    assert_eq!(count(&objects, "maps"), 1, "it waits for its finalizer");
    let before = objects.revision();
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    objects.patch(resource, namespace, "a", None, release, &options()).await.unwrap();
    assert_eq!(count(&objects, "maps"), 0);
    assert_eq!(ledger(&objects).0.revision.0 - before.0, 2, "the deletion and the count are one commit");
}

#[tokio::test]
async fn evictions_and_bindings_are_admitted_with_what_they_cost() {
    let objects = machine(2).await;
    let mut bindings = Vec::new();
    for name in ["a", "b", "c"] {
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let made = objects.create(Resource::PODS, Some("default"), pod, &options()).await.unwrap();
        bindings.push(Binding {
            namespace: "default".into(),
            name: name.into(),
            uid: made.object.uid.clone(),
            node: "n".into(),
        });
    }
    let bound = objects.bind_all(&bindings, &options()).await;
    assert_eq!(bound.iter().filter(|outcome| outcome.is_ok()).count(), 2, "{bound:?}");
    assert_eq!(bound[2].as_ref().unwrap_err().reason, Reason::Forbidden);
    assert_eq!(count(&objects, "bound"), 2);

    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    for name in ["a", "b"] {
        objects.evict("default", name, &now, &options()).await.unwrap();
    }
    let refused = objects.evict("default", "c", &now, &options()).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Forbidden);
    assert_eq!(count(&objects, "evicted"), 2);
    let left = objects.list(Resource::PODS, &Selection::default()).await.unwrap();
    assert_eq!(left.items.iter().map(|pod| &*pod.key.name).collect::<Vec<_>>(), ["c"]);
}

/// Changes everything that it may, and says what it saw.
struct Stamp;

#[async_trait::async_trait]
impl Admission for Stamp {
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        request.object["data"]["stamp"] = json!("mutated");
        Ok(())
    }

    async fn validate(&self, write: Checked<'_>, _: &mut Batch) -> Result<(), ApiError> {
        let stamp = write.object.map(|object| object["data"]["stamp"].clone());
        if stamp.is_some_and(|stamp| stamp != "mutated") {
            return Err(ApiError::forbidden(write.kind.resource, write.name, "not stamped"));
        }
        Ok(())
    }
}

#[tokio::test]
async fn the_second_phase_sees_what_the_first_has_made() {
    let objects = Objects::in_memory(Vec::new()).await.unwrap();
    let objects = Objects::new(objects.inner.store.clone(), vec![Arc::new(Stamp)]);
    let body = json!({"metadata": {"name": "a"}, "data": {"stamp": "none"}});
    let made = objects.create(Resource::CONFIG_MAPS, Some("default"), body, &options()).await.unwrap();
    assert_eq!(made.object.decode::<Value>().unwrap()["data"]["stamp"], "mutated");
    let patch = Patch::Merge(json!({"data": {"stamp": "none"}}));
    let changed = objects.patch(Resource::CONFIG_MAPS, Some("default"), "a", None, patch, &options()).await;
    assert_eq!(changed.unwrap().object.decode::<Value>().unwrap()["data"]["stamp"], "mutated");
}

/// Stores a ConfigMap of its own beside each Secret, counts how often it is asked, and takes it along.
#[derive(Clone, Default)]
struct Beside(Arc<AtomicUsize>);

#[async_trait::async_trait]
impl Admission for Beside {
    async fn validate(&self, write: Checked<'_>, batch: &mut Batch) -> Result<(), ApiError> {
        if write.kind.resource != Resource::SECRETS {
            return Ok(());
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        if write.operation == Operation::Create {
            let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": write.name}});
            return batch.create(write.objects, Resource::CONFIG_MAPS, write.namespace, body, &options());
        }
        let key = Key::namespaced(Resource::CONFIG_MAPS, "default", write.name);
        if let Some(map) = write.objects.stored(&key) {
            batch.remove(&map);
        }
        Ok(())
    }
}

#[tokio::test]
async fn writes_that_store_different_things_beside_them_share_a_commit() {
    let beside = Beside::default();
    let objects = Objects::in_memory(vec![Arc::new(beside.clone())]).await.unwrap();
    let keys: Vec<Key> =
        (0..6).map(|n| Key::namespaced(Resource::SECRETS, "default", &format!("s{n}"))).collect();
    for key in &keys {
        let body = json!({"metadata": {"name": &*key.name}});
        objects.create(Resource::SECRETS, Some("default"), body, &options()).await.unwrap();
    }
    let map = |name: &str| objects.stored(&Key::namespaced(Resource::CONFIG_MAPS, "default", name));
    let made = map("s0").unwrap();
    assert!(
        !made.uid.is_empty() && made.decode::<Value>().unwrap()["metadata"]["creationTimestamp"].is_string()
    );
    // What is there already keeps the write from being stored.
    let body = json!({"metadata": {"name": "taken"}});
    objects.create(Resource::CONFIG_MAPS, Some("default"), body.clone(), &options()).await.unwrap();
    objects.create(Resource::SECRETS, Some("default"), body, &options()).await.unwrap_err();
    assert!(objects.stored(&Key::namespaced(Resource::SECRETS, "default", "taken")).is_none());

    beside.0.store(0, Ordering::Relaxed);
    let outcomes = objects.remove_all(&keys, &DeleteOptions::default(), &options()).await;
    for (key, outcome) in keys.iter().zip(outcomes) {
        assert_eq!(outcome.unwrap().object.key, *key);
        assert!(map(&key.name).is_none());
    }
    assert_eq!(beside.0.load(Ordering::Relaxed), keys.len(), "none had to be prepared again");
}
