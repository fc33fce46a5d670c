//! The generic object machine: what the Kubernetes API does to any kind, independent of HTTP. The REST layer,
//! the controllers and the node sessions all go through it, so admission, defaults, validation, generation,
//! finalizers and preconditions hold for everyone alike.
//!
//! In: requests as JSON. Out: stored objects and watch events. Never: HTTP, or knowledge of one kind (that is
//! in the kind's row).

use std::sync::Arc;

use futures::stream::BoxStream;
use serde_json::Value;

use crate::{
    kinds::Subresource,
    model::{ApiError, FieldSelector, LabelSelector, Object, Resource, Revision},
};

/// Who asks: the authenticated identity, for admission, managed fields and audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `system:node:node-1`, `kubernetes-admin`, `system:controller:deployment`.
    pub user: Arc<str>,
    /// `system:masters`, `system:nodes`.
    pub groups: Vec<Arc<str>>,
}

impl Actor {
    /// One of our own control loops.
    pub fn controller(name: &str) -> Self {
        Self { user: format!("system:controller:{name}").into(), groups: vec!["system:masters".into()] }
    }
}

/// How strictly unknown and duplicate fields are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Silently dropped.
    Ignore,
    /// Dropped with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// What every write carries.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Who asks.
    pub actor: Actor,
    /// `?fieldManager=`; derived from the user agent when not given.
    pub manager: String,
    /// Nothing is stored.
    pub dry_run: bool,
    /// `?fieldValidation=`.
    pub validation: FieldValidation,
    /// Server-side apply: take conflicting fields over.
    pub force: bool,
}

impl WriteOptions {
    /// The options of a control loop's own writes.
    pub fn controller(name: &str) -> Self {
        Self {
            actor: Actor::controller(name),
            manager: name.to_owned(),
            dry_run: false,
            validation: FieldValidation::Ignore,
            force: true,
        }
    }
}

/// Deletion: propagation and preconditions.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// `None`: the kind's default (background).
    pub propagation: Option<Propagation>,
    /// Pods: seconds between SIGTERM and SIGKILL; `None`: the pod's own.
    pub grace_seconds: Option<i64>,
    /// Refuse unless the object has this uid.
    pub uid: Option<String>,
    /// Refuse unless the object is at this revision.
    pub revision: Option<Revision>,
}

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents stay and lose their owner.
    Orphan,
    /// The object goes at once, dependents follow.
    Background,
    /// Dependents go first.
    Foreground,
}

/// The four patch bodies.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Strategic merge, by the kind's merge keys.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// What a list or watch selects.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// `None`: all namespaces (or a cluster-scoped resource).
    pub namespace: Option<Arc<str>>,
    /// `?labelSelector=`
    pub labels: LabelSelector,
    /// `?fieldSelector=`
    pub fields: FieldSelector,
}

/// A consistent list.
#[derive(Clone, Debug)]
pub struct List {
    /// In key order.
    pub items: Vec<Arc<Object>>,
    /// The revision the list is true for; a watch goes on from here.
    pub revision: Revision,
    /// Present when `limit` cut the list.
    pub next: Option<String>,
    /// How many come after, when known.
    pub remaining: Option<u64>,
}

/// One change, as a watcher of a selection sees it.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// Came into the selection.
    Added(Arc<Object>),
    /// Changed within it.
    Modified(Arc<Object>),
    /// Left it, or was deleted: the last state, at the revision of the change.
    Deleted(Arc<Object>),
    /// Nothing newer up to here.
    Bookmark(Revision),
}

/// What a write returns.
#[derive(Clone, Debug)]
pub struct Written {
    /// The object after the write (or as it would be, with dry-run).
    pub object: Arc<Object>,
    /// Whether it was created by this write (server-side apply, create).
    pub created: bool,
    /// For the client's eyes: `Warning:` headers.
    pub warnings: Vec<String>,
}

/// A watch: ends with an error when it fell too far behind (410) and the watcher must list again.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, ApiError>>;

/// The object machine. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    #[expect(dead_code, reason = "replaced with the store by the implementation")]
    inner: Arc<()>,
}

#[expect(
    clippy::unimplemented,
    clippy::unused_async,
    unused_variables,
    missing_docs,
    reason = "seam under construction"
)]
impl Objects {
    /// Reads one object from memory.
    pub async fn get(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Object>, ApiError> {
        unimplemented!()
    }
    /// Lists everything that matches, at one revision.
    pub async fn list(&self, resource: Resource, selection: &Selection) -> Result<List, ApiError> {
        unimplemented!()
    }
    /// Changes after `from`; starts with synthetic `Added` events of everything when `from` is `None`, then a
    /// bookmark.
    pub async fn watch(
        &self,
        resource: Resource,
        selection: Selection,
        from: Option<Revision>,
    ) -> Result<WatchStream, ApiError> {
        unimplemented!()
    }
    /// Creates `body` (name or generateName inside).
    pub async fn create(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        unimplemented!()
    }
    /// Replaces; `metadata.resourceVersion` in the body, when there, must match.
    pub async fn update(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        sub: Option<Subresource>,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        unimplemented!()
    }
    /// Patches; server-side apply creates what is missing. Retries internally on a concurrent change unless
    /// the patch names a resourceVersion.
    pub async fn patch(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        sub: Option<Subresource>,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        unimplemented!()
    }
    /// Deletes, or marks for deletion when finalizers or a grace period hold it; returns the last state.
    pub async fn delete(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        unimplemented!()
    }
}
