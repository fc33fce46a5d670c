//! The embedded store: SQLite in WAL mode under the in-memory image.
//!
//! One thread takes every batch that is waiting, commits them in one transaction (group commit), and answers after the
//! fsync; a small batch that finds nobody before it and a quick disk is committed by the committer's own thread. Reads
//! never come here. The database is locked exclusively: a second scheduler on the same data directory is refused at start.
//!
//! A transaction that fails is rolled back and its writes are refused; the writer goes on when the database then
//! proves that nothing of it happened. A commit that failed for anything but a full disk proves nothing: its frames
//! may be in the log without being safe there, and the store is broken until a restart reads what is.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use async_trait::async_trait;
use rusqlite::Connection;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Change, Condition, DraftError, Keyring, Layout, Scan, SealError, Snapshot, Store, StoreError, Watcher,
    image::Image,
};
use crate::model::{Key, Object, Paths, Resource, Revision};

mod load;
mod writer;

#[cfg(test)]
mod tests;

/// Batches that may wait for the writer: beyond that, committers wait for a place.
const QUEUE: usize = 1024;

/// Why the store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or file cannot be used.
    #[error("cannot prepare {path}")]
    Path {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error(
        "{path} is in use by another process: is a second gantry-scheduler running on this data directory?"
    )]
    InUse {
        /// Which database.
        path: PathBuf,
    },
    /// SQLite refused.
    #[error("cannot open the database {path}")]
    Database {
        /// Which database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a newer version.
    #[error("{path} has schema version {found}; this program knows up to {known}")]
    Schema {
        /// Which database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A row that does not decode.
    #[error("stored object {row} does not decode")]
    Decode {
        /// Which row.
        row: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A row that is not an object.
    #[error("stored object is not complete")]
    Draft(#[from] DraftError),
    /// A sealed row that does not open.
    #[error("stored object {row} cannot be decrypted")]
    Seal {
        /// Which row.
        row: String,
        /// Why.
        #[source]
        source: SealError,
    },
    /// No thread for the writer.
    #[error("cannot start the writer thread")]
    Thread(#[source] io::Error),
}

/// Where and how the database is kept.
#[derive(Debug)]
pub struct SqliteOptions<'a> {
    /// The database file.
    pub path: &'a Path,
    /// Known resources and their indexed fields.
    pub layout: Layout,
    /// Resources that are seldom read: their objects are packed in memory.
    pub seldom: Vec<Resource>,
    /// Resources whose bytes are sealed.
    pub sealed: Vec<Resource>,
    /// The keys for them.
    pub keys: Keyring,
    /// What becomes of an object that an earlier version may have stored.
    pub upgrade: Upgrade,
}

/// Brings an object of a resource, as it was stored, into today's form. It is called for every row at the start; the row
/// stays as it is until the object's next write.
pub type Upgrade = fn(Resource, &mut Value);

/// The embedded store.
#[derive(Debug)]
pub struct SqliteStore {
    image: Arc<Image>,
    desk: Arc<writer::Desk>,
    requests: mpsc::Sender<Request>,
    condition: watch::Sender<Condition>,
    writer: Option<thread::JoinHandle<()>>,
}

/// One batch on its way to the writer's thread.
struct Request {
    changes: Vec<Change>,
    answer: oneshot::Sender<Result<Vec<Arc<Object>>, StoreError>>,
    waiting: writer::Waiting,
}

/// Decides what is sealed and how a row is named in an envelope.
#[derive(Debug)]
struct Sealer {
    resources: Vec<Resource>,
    keys: Keyring,
}

impl Sealer {
    fn encode<'a>(&self, object: &'a Object) -> Result<Cow<'a, [u8]>, SealError> {
        if self.resources.contains(&object.key.resource) {
            return self.keys.seal(&object.key.to_string(), &object.json).map(Cow::Owned);
        }
        Ok(Cow::Borrowed(&object.json))
    }
}

impl SqliteStore {
    /// Whether the database at `path`, if there is one, has objects of any of `resources`.
    pub fn holds(path: &Path, resources: &[Resource]) -> Result<bool, OpenError> {
        let database = |source| load::database_error(path, source);
        if !path.exists() {
            return Ok(false);
        }
        let connection = Connection::open(path).map_err(database)?;
        load::prepare(&connection, path)?;
        load::holds(&connection, resources).map_err(database)
    }

    /// Opens the database, making it and its directory when missing, and loads the image.
    pub fn open(options: SqliteOptions<'_>) -> Result<Self, OpenError> {
        let path = options.path;
        let database = |source| load::database_error(path, source);
        if let Some(dir) = path.parent() {
            private_dir(dir).map_err(|source| OpenError::Path { path: dir.to_owned(), source })?;
        }
        let mut connection = Connection::open(path).map_err(database)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(|source| OpenError::Path { path: path.to_owned(), source })?;
        load::prepare(&connection, path)?;
        let sealer = Sealer { resources: options.sealed, keys: options.keys };
        let SqliteOptions { layout, seldom, upgrade, .. } = options;
        let image = Arc::new(load::load(&mut connection, path, &layout, &sealer, seldom, upgrade)?);
        if let Err(error) = load::reserve_log(path) {
            tracing::warn!(path = %path.display(), %error, "no room for the database's log was reserved: writes are slower");
        }
        Self::run(connection, image, sealer)
    }

    /// Starts the writer.
    fn run(connection: Connection, image: Arc<Image>, sealer: Sealer) -> Result<Self, OpenError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let condition = watch::Sender::new(Condition::Good);
        let desk = Arc::new(writer::Desk::new(writer::Writer {
            connection,
            image: image.clone(),
            sealer,
            condition: condition.clone(),
            pace: writer::Pace::default(),
            rest: rest_behind(&image)?,
        }));
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn({
                let desk = desk.clone();
                move || desk.run(queue)
            })
            .map_err(OpenError::Thread)?;
        Ok(Self { image, desk, requests, condition, writer: Some(writer) })
    }

    /// Stops accepting writes, finishes those that wait, and closes the database.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        // Dropping the only sender ends the writer's loop after what is queued.
        self.requests = mpsc::channel(1).0;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.image.get(key)
    }

    fn scan(&self, scan: &Scan, keep: &dyn Fn(&Object) -> bool) -> Result<Snapshot, StoreError> {
        self.image.scan(scan, keep)
    }

    fn revision(&self) -> Revision {
        self.image.revision()
    }

    fn watch(&self, resource: Resource, from: Revision) -> Result<Watcher, StoreError> {
        self.image.watch(resource, from)
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Arc<Object>>, StoreError> {
        let changes = match self.desk.commit(changes) {
            Ok(committed) => {
                if self.desk.is_turn_over() {
                    tokio::task::yield_now().await;
                }
                return committed;
            }
            Err(changes) => changes,
        };
        let (answer, answered) = oneshot::channel();
        let request = Request { changes, answer, waiting: self.desk.queue() };
        self.requests.send(request).await.map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    fn renew(&self, resource: Resource, paths: &Paths, form: &dyn Fn(&mut Value)) {
        self.image.renew(resource, paths, form);
    }

    fn census(&self) -> BTreeMap<Resource, usize> {
        self.image.census()
    }

    #[cfg(test)]
    fn compact(&self, upto: Revision) {
        self.image.compact(upto);
    }
}

/// A thread that lays to rest what is no longer recent whenever it is told, for as long as somebody could tell it.
fn rest_behind(image: &Arc<Image>) -> Result<std::sync::mpsc::SyncSender<()>, OpenError> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let image = image.clone();
    let rest = move || receiver.iter().for_each(|()| image.rest());
    thread::Builder::new().name("store-rest".to_owned()).spawn(rest).map_err(OpenError::Thread)?;
    Ok(sender)
}

fn private_dir(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        fs::create_dir_all(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}
