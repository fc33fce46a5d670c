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
    kinds::{self, Catalogue, Kind},
    model::{ApiError, Cause, FieldSelector, Key, LabelSelector, Object, Reason, Resource, Revision},
    registry::{Registry, RegistryError},
    store::{Scan, Store, StoreError},
};

mod actor;
pub mod admission;
mod binding;
mod body;
mod create;
mod delete;
mod many;
pub mod meta;
mod ownership;
mod patching;
mod read;
pub mod subresources;
mod target;
mod token;
mod update;

#[cfg(test)]
mod admission_tests;
#[cfg(test)]
mod body_tests;
#[cfg(test)]
mod managed_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod scale_tests;
#[cfg(test)]
mod tests;

pub use actor::{Actor, Extra};
pub use admission::{Admission, NamespaceLifecycle, Operation};
pub use binding::Binding;
pub use body::{check_name, own_body};
pub use delete::Deleted;
pub use read::{Page, VersionMatch};
pub use token::check as check_token;

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
    /// What parsing of the body found: `duplicate field "spec.x"` for each field that came twice.
    pub duplicates: Vec<String>,
    /// The JSON of the object as it came, to list findings in its order. Patches have none.
    pub source: Option<bytes::Bytes>,
    /// The kind that the client writes, where it is a view of the stored one: bodies are of its type, and it has rules
    /// of its own.
    pub view: Option<Arc<Kind>>,
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
            duplicates: Vec::new(),
            source: None,
            view: None,
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
    /// Refuse unless the stored object cannot be read any more.
    pub unreadable: bool,
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
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    admission: Vec<Arc<dyn Admission>>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("revision", &self.inner.store.revision()).finish_non_exhaustive()
    }
}

impl Objects {
    /// The machine over a store, for the kinds that are built in and those that come. The chain runs in order, after
    /// [`NamespaceLifecycle`], which is always there.
    pub fn new(store: Arc<dyn Store>, admission: Vec<Arc<dyn Admission>>) -> Self {
        Self { inner: Arc::new(Inner { store, registry: Arc::default(), admission }) }
    }

    /// Where kinds come and go.
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Serves a resource in these versions from now on, over the objects of it that are there: also those that came from
    /// a database before anybody said what they are.
    pub fn serve(&self, versions: Vec<Kind>) -> Result<(), RegistryError> {
        let stored = versions.iter().find(|kind| kind.is_stored());
        let stored = stored.map(|kind| (kind.resource, kind.fields.clone()));
        self.inner.registry.serve(versions, |kinds| {
            if let Some((resource, paths)) = stored {
                let form = |object: &mut Value| kinds::upgrade_in(kinds, resource, object);
                self.inner.store.renew(resource, &paths, &form);
            }
        })
    }

    /// The resources of which there are objects though nobody serves them, in all namespaces or one, and how many. They are
    /// kept as they are until somebody does.
    pub fn unserved(&self, namespace: Option<&str>) -> Vec<(Resource, usize)> {
        let kinds = self.kinds();
        let mut all: Vec<_> = self.inner.store.census().into_iter().collect();
        all.retain(|(resource, _)| kinds.by_resource(*resource).is_none());
        if let Some(namespace) = namespace {
            for (resource, count) in &mut all {
                let namespace = Some(namespace.into());
                let scan = Scan {
                    resource: *resource,
                    namespace,
                    after: None,
                    at: None,
                    limit: Some(0),
                    with: Vec::new(),
                };
                // What cannot be counted counts as there.
                *count = self.inner.store.scan(&scan, &|_| true).map_or(*count, |found| found.rest);
            }
            all.retain(|(_, count)| *count > 0);
        }
        all
    }

    /// The kinds that are served now.
    pub fn kinds(&self) -> Arc<Catalogue> {
        self.inner.registry.current()
    }

    /// A machine over an empty store in memory, with the namespace `default`: for tests and simulations.
    pub async fn in_memory(admission: Vec<Arc<dyn Admission>>) -> Result<Self, ApiError> {
        let objects = Self::new(Arc::new(crate::store::MemoryStore::default()), admission);
        let namespace = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"},
        });
        objects.create(Resource::NAMESPACES, None, namespace, &WriteOptions::controller("test")).await?;
        Ok(objects)
    }

    /// One object as it is stored, without any wait or failure.
    pub fn stored(&self, key: &Key) -> Option<Arc<Object>> {
        self.inner.store.get(key)
    }

    /// Forgets all changes so far, as the store's bounds do in time.
    #[cfg(test)]
    pub(crate) fn forget_history(&self) {
        self.inner.store.compact(self.revision());
    }

    /// Whether the store takes writes.
    pub fn store_condition(&self) -> tokio::sync::watch::Receiver<crate::store::Condition> {
        self.inner.store.condition()
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.inner.store.revision()
    }

    /// Reads one object from memory.
    pub async fn get(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Object>, ApiError> {
        let key = Key::scoped(resource, namespace, name);
        self.stored(&key).ok_or_else(|| ApiError::not_found(resource, name))
    }

    /// Lists everything that matches, at one revision.
    pub async fn list(&self, resource: Resource, selection: &Selection) -> Result<List, ApiError> {
        self.page(resource, selection, &Page::default())
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
        Ok(self.remove(resource, namespace, name, delete, options).await?.object)
    }
}

/// What a resource is stored as. Whoever asks has found it served, so that its absence means that it has just gone.
fn row(kinds: &Catalogue, resource: Resource) -> Result<&Arc<Kind>, ApiError> {
    let gone = || ApiError::new(Reason::NotFound, "the server could not find the requested resource");
    kinds.by_resource(resource).ok_or_else(gone)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { key, .. } => Self::conflict(key.resource, &key.name, MODIFIED),
            StoreError::Compacted { requested, oldest } => {
                Self::new(Reason::Expired, format!("too old resource version: {requested} ({oldest})"))
            }
            StoreError::Future { requested, current } => {
                let message = format!("Timeout: Too large resource version: {requested}, current: {current}");
                let cause = Cause {
                    reason: "ResourceVersionTooLarge",
                    field: String::new(),
                    message: "Too large resource version".to_owned(),
                };
                Self { causes: vec![cause], retry_after: Some(1), ..Self::new(Reason::Timeout, message) }
            }
            StoreError::Full(source) => {
                tracing::error!(error = %crate::model::Chain(&*source), "the store's disk is full");
                let message = "no room is left on the disk of the scheduler's store: nothing was written, and nothing \
                     will be until there is room";
                Self::new(Reason::InternalError, message)
            }
            StoreError::Write(source) => {
                tracing::error!(error = %crate::model::Chain(&*source), "the store could not write");
                Self::new(Reason::InternalError, "the store could not write the change to disk")
            }
            StoreError::Closed => Self::new(Reason::ServiceUnavailable, "the store accepts no more writes"),
        }
    }
}

/// As many writes go well together into one commit: the disk is waited for once, and others wait no longer than for it.
pub const GROUP: usize = 128;

/// A write that others are faster than this often is refused.
const ATTEMPTS: usize = 64;

/// Why a write with a stale resourceVersion is refused, in upstream's words.
const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";
