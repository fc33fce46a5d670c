//! Admission, in two phases. After defaults and before validation a plugin may change or refuse a write. After validation
//! it may refuse what will be stored, and have other objects stored in the same commit: a quota's usage, a budget's
//! allowance. Either all of it is stored or nothing, and where somebody was faster on any of it both phases run again.
//!
//! The chain is put together by the composition root. A plugin reads other objects through [`Objects`], which
//! serves them from memory; it writes nothing but through its [`Batch`]. A dry-run write is admitted like any other but
//! must leave no trace in the plugin.

use async_trait::async_trait;
use serde_json::Value;

use super::{Actor, Objects, WriteOptions, body, row};
use crate::{
    kinds::{Kind, Subresource},
    model::{ApiError, Cause, Key, Object, Resource},
    store::{Change, Expect},
};

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object; `old` is `None`.
    Create,
    /// A change of an object or of one of its subresources.
    Update,
    /// A deletion; `object` is the state that is going.
    Delete,
    /// A stream into a pod, or a proxy; `object` is what its client asks for.
    Connect,
}

/// One write under admission.
pub struct Request<'a> {
    /// What is being done.
    pub operation: Operation,
    /// To which kind.
    pub kind: &'a Kind,
    /// To which subresource; `None` for the object itself.
    pub subresource: Option<Subresource>,
    /// Where.
    pub namespace: Option<&'a str>,
    /// The object's name, `generateName` already resolved.
    pub name: &'a str,
    /// The object as it will be stored; plugins may change it.
    pub object: &'a mut Value,
    /// The stored state.
    pub old: Option<&'a Value>,
    /// Who asks.
    pub actor: &'a Actor,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// For looking at other objects.
    pub objects: &'a Objects,
    /// What plugins take back when the write is not stored after all.
    pub undo: &'a mut Undo,
}

/// A write after validation: nothing of it changes any more.
#[derive(Clone, Copy)]
pub struct Checked<'a> {
    /// What is being done.
    pub operation: Operation,
    /// To which kind.
    pub kind: &'a Kind,
    /// To which subresource; `None` for the object itself.
    pub subresource: Option<Subresource>,
    /// Where.
    pub namespace: Option<&'a str>,
    /// The object's name.
    pub name: &'a str,
    /// The object as it will be stored, or what a connection is for; `None` when nothing of it will be left.
    pub object: Option<&'a Value>,
    /// The stored state.
    pub old: Option<&'a Value>,
    /// Who asks.
    pub actor: &'a Actor,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// For looking at other objects.
    pub objects: &'a Objects,
}

/// What is stored together with a write, or not at all.
#[derive(Default)]
pub struct Batch(Vec<Change>);

impl Batch {
    /// Another object becomes `new`, if it is still as `current` was read.
    pub fn replace(&mut self, objects: &Objects, current: &Object, new: &Value) -> Result<(), ApiError> {
        let kinds = objects.kinds();
        let draft = body::draft(row(&kinds, current.key.resource)?, current.key.clone(), new)?;
        self.0.push(Change::Put { draft, expect: Expect::At(current.revision) });
        Ok(())
    }

    /// Another object comes about, if there is none of its name: as its creation would store it, in the name of `options`.
    pub fn create(
        &mut self,
        objects: &Objects,
        resource: Resource,
        namespace: Option<&str>,
        body: Value,
        options: &WriteOptions,
    ) -> Result<(), ApiError> {
        let kinds = objects.kinds();
        let draft = objects.fresh(row(&kinds, resource)?, namespace, body, options)?;
        self.0.push(Change::Put { draft, expect: Expect::Absent });
        Ok(())
    }

    /// Another object goes, if it is still as `current` was read.
    pub fn remove(&mut self, current: &Object) {
        self.0.push(Change::Delete { key: current.key.clone(), expect: current.revision });
    }

    /// What is stored besides.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().map(Change::key)
    }

    /// All changes of a commit, that of the write itself first.
    pub(super) fn after(self, own: Change) -> Vec<Change> {
        std::iter::once(own).chain(self.0).collect()
    }
}

/// What admission did beside changing the object. It is taken back when the write is known to have failed, and only
/// then: a write whose end nobody waited for may still be stored.
#[derive(Default)]
pub struct Undo(Vec<Box<dyn FnOnce() + Send>>);

impl Undo {
    /// Does `step` if the write fails.
    pub fn push(&mut self, step: impl FnOnce() + Send + 'static) {
        self.0.push(Box::new(step));
    }

    /// The write has failed.
    pub(super) fn run(self) {
        for step in self.0.into_iter().rev() {
            step();
        }
    }
}

/// One plugin of the chain.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// The first phase: lets the write pass, changed or not, or refuses it. Deletions and connections are not changed.
    async fn mutate(&self, _request: &mut Request<'_>) -> Result<(), ApiError> {
        Ok(())
    }

    /// The second phase: lets pass what is known to be valid, perhaps with more to store beside it, or refuses it.
    async fn validate(&self, _write: Checked<'_>, _batch: &mut Batch) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Objects {
    /// Runs the first phase.
    pub(super) async fn mutate(&self, mut request: Request<'_>) -> Result<(), ApiError> {
        NamespaceLifecycle.mutate(&mut request).await?;
        for plugin in &self.inner.admission {
            plugin.mutate(&mut request).await?;
        }
        Ok(())
    }

    /// Runs the second phase; returns what is to be stored beside the write.
    pub(super) async fn validate(&self, write: Checked<'_>) -> Result<Batch, ApiError> {
        let mut batch = Batch::default();
        NamespaceLifecycle.validate(write, &mut batch).await?;
        for plugin in &self.inner.admission {
            plugin.validate(write, &mut batch).await?;
        }
        Ok(batch)
    }

    /// Admits a connection to a subresource. `options` is what the client asks for.
    pub async fn admit_connection(
        &self,
        key: &Key,
        subresource: Subresource,
        options: &Value,
        actor: &Actor,
    ) -> Result<(), ApiError> {
        let kinds = self.kinds();
        let write = Checked {
            operation: Operation::Connect,
            kind: row(&kinds, key.resource)?,
            subresource: Some(subresource),
            namespace: key.namespace.as_deref(),
            name: &key.name,
            object: Some(options),
            old: None,
            actor,
            dry_run: false,
            objects: self,
        };
        // There is no commit that anything could be stored with.
        self.validate(write).await.map(drop)
    }
}

/// Nothing is created outside a live namespace, and the system's namespaces stay.
#[derive(Debug, Default)]
pub struct NamespaceLifecycle;

/// Namespaces that nobody may delete.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[async_trait]
impl Admission for NamespaceLifecycle {
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let resource = request.kind.resource;
        let (Operation::Create, Some(namespace)) = (request.operation, request.namespace) else {
            return Ok(());
        };
        let key = Key::cluster(Resource::NAMESPACES, namespace);
        let Some(found) = request.objects.stored(&key) else {
            return Err(ApiError::not_found(Resource::NAMESPACES, namespace));
        };
        if !found.deleting {
            return Ok(());
        }
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = ApiError::forbidden(resource, request.name, &why);
        error.causes.push(Cause {
            reason: "NamespaceTerminating",
            field: "metadata.namespace".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
        });
        Err(error)
    }

    async fn validate(&self, write: Checked<'_>, _: &mut Batch) -> Result<(), ApiError> {
        let resource = write.kind.resource;
        let ends = resource == Resource::NAMESPACES && write.operation == Operation::Delete;
        if ends && IMMORTAL.contains(&write.name) {
            return Err(ApiError::forbidden(resource, write.name, "this namespace may not be deleted"));
        }
        Ok(())
    }
}
