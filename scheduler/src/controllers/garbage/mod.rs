//! Owner garbage collection: what has lost its owners goes; what is deleted in the foreground waits for its
//! dependents; what is deleted as an orphan lets them go first.
//!
//! It watches every kind but events, undecoded, and decodes metadata only of what it acts on.

mod feeds;
mod graph;
mod plan;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    jiff::Timestamp,
};
use serde_json::json;

use self::{
    feeds::{Feeds, Unlisted, followed},
    graph::Graph,
    plan::{Action, FOREGROUND, ORPHAN, Owner, plan},
};
use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{MetaExt, WriteError},
    events::{Record, Recorder, Severity},
    kinds::{Catalogue, Kind, Scope},
    model::{ApiError, Key, Object, Reason, Resource},
    objects::{DeleteOptions, Objects, Patch, Propagation, Selection, WriteOptions},
};

/// In whose name it tells.
const COMPONENT: &str = "garbage-collector-controller";

/// Absent owners remembered as being nowhere else, so that each is looked for once.
const NOWHERE: usize = 4096;

struct Garbage {
    objects: Objects,
    recorder: Recorder,
    /// Uids of owners that are in no other namespace either.
    nowhere: Mutex<HashSet<String>>,
    options: WriteOptions,
    graph: Arc<Graph>,
    unlisted: Arc<Unlisted>,
}

/// Starts the collector.
pub(super) fn start(objects: &Objects, recorder: &Recorder, runtime: &Runtime) {
    let queue: Arc<Queue<Key>> = runtime.queue(Garbage::NAME);
    let graph = Arc::new(Graph::default());
    // Full of what nobody has listed until the feeds know better.
    let all = followed(&objects.kinds()).collect();
    let unlisted = Arc::new(Unlisted::new(all));
    let feeds = Feeds {
        objects: objects.clone(),
        graph: graph.clone(),
        queue: queue.clone(),
        unlisted: unlisted.clone(),
    };
    runtime.tasks.essential("garbage feeds", feeds.run());
    let options = WriteOptions::controller("generic-garbage-collector");
    let garbage = Garbage {
        objects: objects.clone(),
        recorder: recorder.clone(),
        nowhere: Mutex::default(),
        options,
        graph,
        unlisted,
    };
    runtime.spawn(garbage, &queue);
}

fn metadata(object: &Object) -> ObjectMeta {
    #[derive(serde::Deserialize)]
    struct Only {
        metadata: ObjectMeta,
    }
    object.decode::<Only>().map(|o| o.metadata).unwrap_or_default()
}

fn kind_of<'a>(kinds: &'a Catalogue, owner: &OwnerReference) -> Option<&'a Kind> {
    let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    kinds.by_gvk(group, version, &owner.kind).map(|kind| &**kind)
}

/// Where an owner is; `None` when it is of a kind that is not served or cannot be where the reference says.
fn owner_key(kinds: &Catalogue, owner: &OwnerReference, namespace: Option<&str>) -> Option<Key> {
    let kind = kind_of(kinds, owner)?;
    match (kind.scope, namespace) {
        (Scope::Cluster, _) => Some(Key::cluster(kind.resource, &owner.name)),
        (Scope::Namespaced, Some(namespace)) => Some(Key::namespaced(kind.resource, namespace, &owner.name)),
        (Scope::Namespaced, None) => None,
    }
}

impl Controller for Garbage {
    type Key = Key;
    const NAME: &'static str = "garbage_collector";
    const WORKERS: usize = 4;

    async fn reconcile(&self, key: &Key) -> Result<Next, WriteError> {
        // Without the whole graph nobody can say that an object has no dependents.
        if self.unlisted.subscribe().wait_for(HashSet::is_empty).await.is_err() {
            return Ok(Next::Done);
        }
        let Some(object) = self.objects.stored(key) else { return Ok(Next::Done) };
        let meta = metadata(&object);
        let namespace = key.namespace.as_deref();
        self.warn_of_strangers(&object, &meta).await?;
        let action = plan(
            &meta,
            |owner| self.owner(owner, namespace),
            || !self.graph.dependents(meta.uid_str()).is_empty(),
        );
        match action {
            Action::Nothing => {}
            Action::Delete(propagation) => self.delete(&object, propagation).await?,
            Action::Disown(owners) => self.disown(&object, &meta, &owners).await?,
            Action::Orphan => {
                for dependent in self.dependents(&meta) {
                    let owners = HashSet::from([meta.uid_str().to_owned()]);
                    self.disown(&dependent, &metadata(&dependent), &owners).await?;
                }
                self.release(&object, &meta, ORPHAN).await?;
            }
            Action::Foreground => return self.foreground(&object, &meta).await,
        }
        Ok(Next::Done)
    }

    fn all(&self) -> Vec<Key> {
        self.graph.owned()
    }
}

impl Garbage {
    fn owner(&self, owner: &OwnerReference, namespace: Option<&str>) -> Owner {
        // Nobody knows the kind: it is not for us to say that the owner is gone.
        let Some(key) = owner_key(&self.objects.kinds(), owner, namespace) else { return Owner::Solid };
        match self.objects.stored(&key) {
            Some(found) if *found.uid == *owner.uid => {
                let waits =
                    found.deleting && metadata(&found).finalizers.iter().flatten().any(|f| f == FOREGROUND);
                if waits { Owner::Waiting } else { Owner::Solid }
            }
            Some(_) | None => Owner::Absent,
        }
    }

    /// An owner in another namespace is none: its dependents go, and are told why.
    async fn warn_of_strangers(&self, object: &Object, meta: &ObjectMeta) -> Result<(), WriteError> {
        let namespace = object.key.namespace.as_deref();
        for owner in meta.owner_references.iter().flatten() {
            let here =
                owner_key(&self.objects.kinds(), owner, namespace).and_then(|key| self.objects.stored(&key));
            let absent = here.is_none_or(|found| *found.uid != *owner.uid);
            if absent && self.lives_elsewhere(owner, namespace).await? {
                self.warn_of_stranger(object, owner);
            }
        }
        Ok(())
    }

    async fn lives_elsewhere(
        &self,
        owner: &OwnerReference,
        namespace: Option<&str>,
    ) -> Result<bool, ApiError> {
        // Whatever is in no namespace can be owned from everywhere.
        let kinds = self.objects.kinds();
        let namespaced = kind_of(&kinds, owner).is_some_and(|kind| kind.scope == Scope::Namespaced);
        if !namespaced || self.nowhere().contains(&owner.uid) {
            return Ok(false);
        }
        for other in self.objects.list(Resource::NAMESPACES, &Selection::default()).await?.items {
            let place = Some(&*other.key.name).filter(|other| Some(*other) != namespace);
            let key = place.and_then(|place| owner_key(&kinds, owner, Some(place)));
            if key.and_then(|key| self.objects.stored(&key)).is_some_and(|found| *found.uid == *owner.uid) {
                return Ok(true);
            }
        }
        let mut nowhere = self.nowhere();
        if nowhere.len() >= NOWHERE {
            nowhere.clear();
        }
        nowhere.insert(owner.uid.clone());
        Ok(false)
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn nowhere(&self) -> MutexGuard<'_, HashSet<String>> {
        self.nowhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn_of_stranger(&self, object: &Object, owner: &OwnerReference) {
        let kinds = self.objects.kinds();
        let Some(kind) = kinds.by_resource(object.key.resource) else { return };
        let namespace = object.key.namespace_str();
        let message = format!(
            "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace {namespace:?}",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        self.recorder.publish(Record {
            about: ObjectReference {
                api_version: Some(kind.api_version()),
                kind: Some(kind.kind.to_string()),
                name: Some(object.key.name.to_string()),
                namespace: object.key.namespace.as_deref().map(str::to_owned),
                uid: Some(object.uid.to_string()),
                ..ObjectReference::default()
            },
            severity: Severity::Warning,
            reason: "OwnerRefInvalidNamespace".to_owned(),
            message,
            component: COMPONENT.to_owned(),
            host: None,
            time: Timestamp::now(),
        });
    }

    fn dependents(&self, meta: &ObjectMeta) -> Vec<Arc<Object>> {
        self.graph.dependents(meta.uid_str()).iter().filter_map(|key| self.objects.stored(key)).collect()
    }

    async fn delete(&self, object: &Object, propagation: Propagation) -> Result<(), WriteError> {
        let delete = DeleteOptions {
            propagation: Some(propagation),
            uid: Some(object.uid.to_string()),
            ..DeleteOptions::default()
        };
        let key = &object.key;
        let namespace = key.namespace.as_deref();
        fine(
            self.objects.remove(key.resource, namespace, &key.name, &delete, &self.options).await.map(|_| ()),
        )
    }

    async fn disown(
        &self,
        object: &Object,
        meta: &ObjectMeta,
        owners: &HashSet<String>,
    ) -> Result<(), WriteError> {
        let before = meta.owner_references.clone().unwrap_or_default();
        let after: Vec<_> = before.iter().filter(|o| !owners.contains(&o.uid)).collect();
        if after.len() == before.len() {
            return Ok(());
        }
        self.patch(object, json!({"ownerReferences": after})).await
    }

    /// Removes a finalizer that has done its work.
    async fn release(&self, object: &Object, meta: &ObjectMeta, finalizer: &str) -> Result<(), WriteError> {
        let left: Vec<_> = meta.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        self.patch(object, json!({"finalizers": left})).await
    }

    async fn patch(&self, object: &Object, mut metadata: serde_json::Value) -> Result<(), WriteError> {
        metadata["uid"] = (*object.uid).into();
        metadata["resourceVersion"] = object.revision.to_string().into();
        let key = &object.key;
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let namespace = key.namespace.as_deref();
        let patched =
            self.objects.patch(key.resource, namespace, &key.name, None, patch, &self.options).await;
        fine(patched.map(|_| ()))
    }

    /// Whether `object` waits for `dependent` and that, through its own dependents, for `object`: then neither would
    /// ever go, so the object does not wait for it. Only what has an owner can be part of a circle.
    fn circles(&self, dependent: &Arc<Object>, object: &ObjectMeta) -> bool {
        if object.owner_references.iter().flatten().next().is_none() {
            return false;
        }
        let mut seen = HashSet::new();
        let mut waiting = vec![dependent.clone()];
        while let Some(next) = waiting.pop() {
            if *next.uid == *object.uid_str() {
                return true;
            }
            let meta = metadata(&next);
            let waits = meta.deleting() && meta.finalizers.iter().flatten().any(|f| f == FOREGROUND);
            if waits && seen.insert(next.uid.clone()) {
                let holding = |d: &Arc<Object>| {
                    blocks(metadata(d).owner_references.as_deref().unwrap_or_default(), &next.uid)
                };
                waiting.extend(self.dependents(&meta).into_iter().filter(holding));
            }
        }
        false
    }

    /// Deletes the dependents; the object goes when none that blocks it is left. The last of them to go brings
    /// it back here.
    async fn foreground(&self, object: &Object, meta: &ObjectMeta) -> Result<Next, WriteError> {
        let mut blocked = false;
        for dependent in self.dependents(meta) {
            let owners = metadata(&dependent).owner_references.unwrap_or_default();
            blocked |= blocks(&owners, meta.uid_str()) && !self.circles(&dependent, meta);
            let others = owners.iter().filter(|o| o.uid != meta.uid_str());
            let namespace = dependent.key.namespace.as_deref();
            let kept = others.into_iter().any(|o| self.owner(o, namespace) == Owner::Solid);
            if kept {
                let owners = HashSet::from([meta.uid_str().to_owned()]);
                self.disown(&dependent, &metadata(&dependent), &owners).await?;
            } else if !dependent.deleting {
                let has_own = !self.graph.dependents(&dependent.uid).is_empty();
                let propagation = if has_own { Propagation::Foreground } else { Propagation::Background };
                self.delete(&dependent, propagation).await?;
            }
        }
        if !blocked {
            self.release(object, meta, FOREGROUND).await?;
            return Ok(Next::Done);
        }
        Ok(Next::After(Duration::from_secs(5)))
    }
}

/// Whether an object with these owners holds up the deletion of the one with this uid.
fn blocks(owners: &[OwnerReference], uid: &str) -> bool {
    owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
}

/// What is gone already, or is another object by now, needs nothing more.
fn fine(result: Result<(), ApiError>) -> Result<(), WriteError> {
    match result {
        Err(error) if error.reason == Reason::NotFound => Ok(()),
        other => other.map_err(WriteError::from),
    }
}
