//! Durable, revisioned storage of object bytes.
//!
//! Owns: the current state of every object (an in-memory image that all reads are served from), one
//! strictly rising revision for the whole store, a bounded history of changes that watches resume from, and
//! its durability. In: batches of compare-and-swap changes. Out: objects and change events, shared, never
//! copied. Never: validation, defaulting or any knowledge of a kind beyond the fields it indexes.
//!
//! A change is acknowledged after it is on disk and visible to reads. Watches see changes in revision order,
//! without gaps; a watcher that falls behind the history, or asks for a revision older than it, is told so
//! ([`StoreError::Compacted`]) and lists again. The history does not survive a restart, revisions do.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use serde_json::Value;

use crate::model::{Key, Object, Paths, Resource, Revision};

mod draft;
mod equal;
mod history;
mod image;
mod memory;
mod packed;
mod seal;
mod sqlite;
mod stage;
mod watcher;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod durability;

pub use draft::{Draft, DraftError};
pub use memory::MemoryStore;
pub use seal::{Keyring, SealError};
pub use sqlite::{OpenError, SqliteOptions, SqliteStore, Upgrade};
pub use watcher::Watcher;

/// What the store indexes of each resource: the resource and the JSON paths of its selectable fields. What is found of
/// another resource is kept as it is, not indexed, until somebody says how ([`Store::renew`]).
#[derive(Clone, Debug, Default)]
pub struct Layout(pub Vec<(Resource, Paths)>);

impl Layout {
    /// The resource of this name and its fields.
    pub fn find(&self, name: &str) -> Option<&(Resource, Paths)> {
        self.0.iter().find(|(resource, _)| resource.0 == name)
    }
}

/// What a change requires of the present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key is free.
    Absent,
    /// The object is at exactly this revision.
    At(Revision),
}

/// One change of one object.
#[derive(Clone, Debug)]
pub enum Change {
    /// Creates or replaces.
    Put {
        /// The new state.
        draft: Draft,
        /// Its precondition.
        expect: Expect,
    },
    /// Removes.
    Delete {
        /// Which object.
        key: Key,
        /// The revision that is being deleted.
        expect: Revision,
    },
}

impl Change {
    /// The object it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::Put { draft, .. } => &draft.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// How much there is to write.
    fn bytes(&self) -> usize {
        match self {
            Self::Put { draft, .. } => draft.bytes(),
            Self::Delete { .. } => 0,
        }
    }
}

/// One committed change, as the history keeps it.
#[derive(Clone, Debug)]
pub struct Event {
    /// The state after the change; for a deletion the last state, at the revision of the deletion.
    pub object: Arc<Object>,
    /// The state before; `None` when the object was created.
    pub previous: Option<Arc<Object>>,
    /// Whether the object is gone.
    pub deleted: bool,
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.object.revision
    }
}

/// Which objects a scan returns.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The resource.
    pub resource: Resource,
    /// One namespace or all.
    pub namespace: Option<Arc<str>>,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// The state at this revision instead of the present one.
    pub at: Option<Revision>,
    /// No more than so many.
    pub limit: Option<usize>,
    /// Paths and the values that everything to be kept is indexed by there: others may be passed over unseen.
    pub with: Vec<(String, String)>,
}

/// The result of a scan: consistent at one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// In key order.
    pub items: Vec<Arc<Object>>,
    /// Where the limit cut them: how many come behind, kept or not.
    pub rest: usize,
    /// The revision they are true for.
    pub revision: Revision,
}

/// Why the store refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition does not hold: somebody else was faster.
    #[error("{key} is not at the expected revision")]
    Conflict {
        /// Which object of the batch.
        key: Key,
        /// What is there instead; `None` when nothing is.
        current: Option<Arc<Object>>,
    },
    /// The revision is older than the history.
    #[error("revision {requested} is compacted; the oldest kept is {oldest}")]
    Compacted {
        /// What was asked for.
        requested: Revision,
        /// What can be had.
        oldest: Revision,
    },
    /// The revision has not happened yet.
    #[error("revision {requested} is in the future; the current one is {current}")]
    Future {
        /// What was asked for.
        requested: Revision,
        /// The present.
        current: Revision,
    },
    /// There is no room for the change; nothing of the batch happened.
    #[error("no room is left on the disk of the store")]
    Full(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The change could not be made durable; nothing of the batch happened, unless the store is
    /// [`Condition::Broken`] from now on.
    #[error("cannot write the change to disk")]
    Write(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The store has stopped, or a failed commit left the disk's state unknown: only a restart helps.
    #[error("the store accepts no more writes")]
    Closed,
}

/// Whether the store takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It does.
    Good,
    /// The last write found no room. The next one that does makes it good again.
    Full,
    /// It takes no more writes: what is on disk after a failed commit is unknown, or its writer is gone. Only a
    /// restart helps.
    Broken,
}

/// The store. Reads are synchronous and never touch a disk.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One object.
    fn get(&self, key: &Key) -> Option<Arc<Object>>;

    /// Many objects at one revision.
    fn scan(&self, scan: &Scan, keep: &dyn Fn(&Object) -> bool) -> Result<Snapshot, StoreError>;

    /// The newest committed revision.
    fn revision(&self) -> Revision;

    /// Changes of a resource after `from`.
    fn watch(&self, resource: Resource, from: Revision) -> Result<Watcher, StoreError>;

    /// Makes all changes or none, each at a revision of its own, in order. Returns once they are durable and
    /// visible; deletions return the last state at the deletion's revision.
    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Arc<Object>>, StoreError>;

    /// Whether it takes writes. The sender goes with the store.
    fn condition(&self) -> tokio::sync::watch::Receiver<Condition>;

    /// Brings the present objects of a resource into another form, and indexes them by these paths from now on. On disk
    /// each stays as it is until its next write.
    fn renew(&self, resource: Resource, paths: &Paths, form: &dyn Fn(&mut Value));

    /// How many objects there are of each resource that has any.
    fn census(&self) -> BTreeMap<Resource, usize>;

    /// Forgets the history up to and including `upto`, as its bounds do in time.
    #[cfg(test)]
    fn compact(&self, upto: Revision);
}
