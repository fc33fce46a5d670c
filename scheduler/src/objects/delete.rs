//! Deletion: preconditions, propagation, grace periods and finalizers.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    ATTEMPTS, DeleteOptions, Objects, Propagation, WriteOptions,
    admission::{Checked, Operation, Undo},
    body,
    many::{Prepared, Writes},
    meta::{self, FOREGROUND, ORPHAN},
    row,
    target::Target,
    update,
};
use crate::{
    kinds::{Catalogue, Kind, Subresource},
    model::{ApiError, Key, Object, Reason, Resource},
    store::{Change, Expect, StoreError},
};
/// `terminationGracePeriodSeconds` of a pod that does not say.
const DEFAULT_GRACE: i64 = 30;

/// What a deletion came to.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// The last state, or the state that waits for finalizers, for the grace period or for the node.
    pub object: Arc<Object>,
    /// Whether it is gone.
    pub gone: bool,
}

impl Objects {
    /// Deletes, or marks for deletion when finalizers or a grace period hold it.
    pub async fn remove(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Deleted, ApiError> {
        self.remove_by(None, resource, namespace, name, delete, options).await
    }

    /// Deletes a pod as far as those who look at evictions let it go.
    pub async fn evict(
        &self,
        namespace: &str,
        pod: &str,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Deleted, ApiError> {
        let sub = Some(Subresource::Eviction);
        self.remove_by(sub, Resource::PODS, Some(namespace), pod, delete, options).await
    }

    async fn remove_by(
        &self,
        sub: Option<Subresource>,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Deleted, ApiError> {
        let kinds = self.kinds();
        let target = Target { kinds: &kinds, kind: row(&kinds, resource)?, namespace, name, sub };
        for _ in 0..ATTEMPTS {
            let current = self.stored(&target.key()).ok_or_else(|| ApiError::not_found(resource, name))?;
            check_preconditions(target, delete, &current)?;
            if let Some(deleted) = self.remove_once(target, delete, options, &current).await? {
                return Ok(deleted);
            }
            tokio::task::yield_now().await;
        }
        Err(ApiError::conflict(resource, name, super::MODIFIED))
    }

    /// Deletes all of these objects of one resource, or marks them, in one commit; answers for each in their order.
    pub async fn remove_all(
        &self,
        keys: &[Key],
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Vec<Result<Deleted, ApiError>> {
        self.write_all(&Removals { objects: self, kinds: self.kinds(), delete, options }, keys).await
    }

    /// One attempt; `None` when somebody else was faster.
    async fn remove_once(
        &self,
        target: Target<'_>,
        delete: &DeleteOptions,
        options: &WriteOptions,
        current: &Arc<Object>,
    ) -> Result<Option<Deleted>, ApiError> {
        let (own, batch) = match self.removal(target, delete, options, current).await? {
            Prepared::Done(deleted) => return Ok(Some(deleted)),
            Prepared::Store { own, batch } => (*own, batch),
        };
        let gone = matches!(own, Change::Delete { .. });
        match self.inner.store.commit(batch.after(own)).await {
            Ok(mut objects) => Ok(Some(Deleted { object: objects.remove(0), gone })),
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What deletes an object as it is stored now.
    async fn removal(
        &self,
        target: Target<'_>,
        delete: &DeleteOptions,
        options: &WriteOptions,
        current: &Arc<Object>,
    ) -> Result<Prepared<Deleted>, ApiError> {
        let old = update::decode(current)?;
        let mut new = old.clone();
        set_propagation(target.kind, delete, &mut new);
        let gone = mark(target.kind, delete, &old, &mut new) && !update::held(target.kind, &new);
        let evicts = target.sub == Some(Subresource::Eviction);
        let write = Checked {
            // An eviction is made, and what it takes along is its affair.
            operation: if evicts { Operation::Create } else { Operation::Delete },
            kind: target.kind,
            subresource: target.sub,
            namespace: target.namespace,
            name: target.name,
            object: (!gone).then_some(&new),
            old: Some(&old),
            actor: &options.actor,
            dry_run: options.dry_run,
            objects: self,
        };
        let batch = self.validate(write).await?;
        if !gone && options.dry_run {
            // As it would wait.
            let preview = body::draft(target.kind, target.key(), &new)?.at(current.revision);
            return Ok(Prepared::Done(Deleted { object: preview.into(), gone }));
        }
        if options.dry_run || (!gone && new == old) {
            return Ok(Prepared::Done(Deleted { object: current.clone(), gone }));
        }
        let own = if gone {
            Change::Delete { key: target.key(), expect: current.revision }
        } else {
            let draft = body::draft(target.kind, target.key(), &new)?;
            Change::Put { draft, expect: Expect::At(current.revision) }
        };
        Ok(Prepared::Store { own: Box::new(own), batch })
    }
}

struct Removals<'a> {
    objects: &'a Objects,
    kinds: Arc<Catalogue>,
    delete: &'a DeleteOptions,
    options: &'a WriteOptions,
}

#[async_trait]
impl Writes for Removals<'_> {
    type Item = Key;
    type Answer = Deleted;

    async fn prepare(&self, key: &Key, _: &mut Undo) -> Result<Prepared<Deleted>, ApiError> {
        let target = Target {
            kinds: &self.kinds,
            kind: row(&self.kinds, key.resource)?,
            namespace: key.namespace.as_deref(),
            name: &key.name,
            sub: None,
        };
        let current = self.objects.stored(key);
        let current = current.ok_or_else(|| ApiError::not_found(key.resource, &key.name))?;
        check_preconditions(target, self.delete, &current)?;
        self.objects.removal(target, self.delete, self.options, &current).await
    }

    fn answer(&self, object: Arc<Object>, gone: bool) -> Deleted {
        Deleted { object, gone }
    }
}

fn check_preconditions(target: Target<'_>, delete: &DeleteOptions, current: &Object) -> Result<(), ApiError> {
    if delete.unreadable {
        return Err(target
            .storage_error("unsafe deletion is not allowed because the object is decodable from storage"));
    }
    // The kind stands where the resource is mostly told.
    let conflict = |why: &str| {
        let Kind { group, kind, .. } = target.kind;
        let named = if group.is_empty() { kind.clone().into_owned() } else { format!("{kind}.{group}") };
        let message = format!("Operation cannot be fulfilled on {named} {:?}: {why}", target.name);
        let error = ApiError::new(Reason::Conflict, message);
        Err(ApiError {
            name: target.name.to_owned(),
            group: group.clone().into_owned(),
            kind: kind.clone().into_owned(),
            ..error
        })
    };
    if let Some(uid) = &delete.uid
        && **uid != *current.uid
    {
        return conflict(&format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            current.uid
        ));
    }
    if let Some(revision) = delete.revision
        && revision != current.revision
    {
        return conflict(&format!(
            "the ResourceVersion in the precondition ({revision}) does not match the ResourceVersion in record ({}). \
             The object might have been modified",
            current.revision
        ));
    }
    Ok(())
}

/// The propagation policy becomes a finalizer that the garbage collector acts on and removes.
fn set_propagation(kind: &Kind, delete: &DeleteOptions, object: &mut Value) {
    if kind.resource == Resource::EVENTS {
        // Nothing belongs to one, and there are too many to look.
        return;
    }
    let chosen = meta::finalizers(object).iter().any(|f| matches!(*f, FOREGROUND | ORPHAN));
    let of_kind = (kind.orphans && !chosen).then_some(Propagation::Orphan);
    let Some(propagation) = delete.propagation.or(of_kind) else { return };
    let mut finalizers: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
    finalizers.retain(|f| f != FOREGROUND && f != ORPHAN);
    match propagation {
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Background => {}
    }
    meta::set_finalizers(object, &finalizers);
}

/// Marks for deletion; says whether the grace period is over.
fn mark(kind: &Kind, delete: &DeleteOptions, old: &Value, new: &mut Value) -> bool {
    let grace = grace_seconds(kind, delete, old);
    let given = meta::of(old).get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    // A second deletion can only shorten the wait of the first.
    if meta::deleting(old) && grace >= given {
        return given == 0;
    }
    let metadata = meta::of_mut(new);
    metadata.insert("deletionTimestamp".to_owned(), meta::after(grace).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if !meta::deleting(old) && meta::of(old).contains_key("generation") {
        meta::raise_generation(new, old);
    }
    if kind.resource == Resource::NAMESPACES {
        new["status"]["phase"] = "Terminating".into();
    }
    grace == 0
}

/// Pods on a node are given time, and their node confirms that they are gone by deleting them without any;
/// everything else goes at once.
fn grace_seconds(kind: &Kind, delete: &DeleteOptions, object: &Value) -> i64 {
    if kind.resource != Resource::PODS {
        return 0;
    }
    let text = |path| object.pointer(path).and_then(Value::as_str).unwrap_or("");
    let finished = matches!(text("/status/phase"), "Succeeded" | "Failed");
    if text("/spec/nodeName").is_empty() || finished {
        return 0;
    }
    let own = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    // Upstream takes a negative grace period for the smallest one.
    match delete.grace_seconds.or(own).unwrap_or(DEFAULT_GRACE) {
        seconds if seconds < 0 => 1,
        seconds => seconds,
    }
}
