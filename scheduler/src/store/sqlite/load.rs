//! Opening: settings, schema, and the rows into an image.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use rusqlite::{Connection, ErrorCode, params};
use serde_json::Value;

use super::{OpenError, Sealer, Upgrade};
use crate::{
    model::{Key, Object, Paths, Resource, Revision},
    store::{
        Draft, Layout,
        image::{Image, Loading},
    },
};

/// Raised when the tables change; older versions are migrated here, newer ones refused.
const SCHEMA_VERSION: i64 = 2;

/// Rows stand in the order of their writes. Nobody looks for one by its key on disk, the image knows the revision of
/// each; so a write touches the end of one tree and the place of the row that it replaces, and nothing else. `clock` is the
/// revision of the newest deletion, which leaves no row.
const SCHEMA: &str = "
CREATE TABLE objects (
    revision  INTEGER PRIMARY KEY,
    resource  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    body      BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 0), revision INTEGER NOT NULL);
INSERT OR IGNORE INTO clock VALUES (0, 0);
";

/// Version 1 had its rows in the order of their keys.
const FROM_1: (&str, &str) = (
    "ALTER TABLE objects RENAME TO objects_1;",
    "INSERT INTO objects SELECT revision, resource, namespace, name, body FROM objects_1 ORDER BY revision;
     DROP TABLE objects_1;",
);

/// The newest revision that anything in the database has.
pub(super) const NEWEST: &str =
    "SELECT max(clock.revision, coalesce((SELECT max(revision) FROM objects), 0)) FROM clock";

pub(super) fn database_error(path: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            OpenError::InUse { path: path.to_owned() }
        }
        _ => OpenError::Database { path: path.to_owned(), source },
    }
}

/// Settings and schema. With exclusive locking the first look takes a lock that lasts until the close.
pub(super) fn prepare(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let database = |source| database_error(path, source);
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(database)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(database)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(database)?;
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(database)?;
    // Version 1 wrote its number after its tables: one that was stopped in between has tables without a number.
    let has_tables = connection.table_exists(None, "objects").map_err(database)?;
    let (before, after) = match found {
        SCHEMA_VERSION => return Ok(()),
        0 if !has_tables => ("", ""),
        0 | 1 => FROM_1,
        _ => return Err(OpenError::Schema { path: path.to_owned(), found, known: SCHEMA_VERSION }),
    };
    let script =
        format!("BEGIN IMMEDIATE; {before} {SCHEMA} {after} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;");
    connection.execute_batch(&script).map_err(database)
}

/// What the log holds before its pages go into the database and it starts again from its beginning: so many pages, and the
/// few of the commit that reaches them.
const LOG_BYTES: u64 = (1000 + 100) * 4120;

/// Gives the log its usual length at once, in zeros, which mean nothing there. A commit that overwrites what is there
/// is one write of the disk; one that makes the file longer is several, as the file system writes down its new size
/// and blocks, and whatever else it has to write down at that time, before it calls the file safe.
pub(super) fn reserve_log(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let mut log = match fs::OpenOptions::new().append(true).open(name) {
        Ok(log) => log,
        // SQLite makes it with the first commit; the next start finds it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = log.metadata()?.len();
    let missing = LOG_BYTES.saturating_sub(length);
    let reserved = io::copy(&mut io::repeat(0).take(missing), &mut log).and_then(|_| log.sync_all());
    if reserved.is_err() {
        // The last room on the disk is not for zeros.
        log.set_len(length)?;
    }
    reserved
}

/// Whether there is a row of any of `resources`.
pub(super) fn holds(connection: &Connection, resources: &[Resource]) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare("SELECT EXISTS (SELECT 1 FROM objects WHERE resource = ?1)")?;
    for resource in resources {
        if statement.query_row([resource.0], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Row {
    resource: String,
    namespace: String,
    name: String,
    revision: u64,
    body: Vec<u8>,
}

/// Reads everything, and seals again what an older key had sealed.
pub(super) fn load(
    connection: &mut Connection,
    path: &Path,
    layout: &Layout,
    sealer: &Sealer,
    seldom: Vec<Resource>,
    upgrade: Upgrade,
) -> Result<Image, OpenError> {
    let database = |source| database_error(path, source);
    let revision: i64 = connection.query_row(NEWEST, [], |row| row.get(0)).map_err(database)?;
    let mut loading = Loading::new(Revision(revision.cast_unsigned()), seldom, sealer.resources.clone());
    let mut stale = Vec::new();
    {
        let mut statement = connection
            .prepare("SELECT resource, namespace, name, revision, body FROM objects")
            .map_err(database)?;
        // One after the other: as rows they are not there all at once.
        for row in statement.query_map([], read_row).map_err(database)? {
            let (object, current) = open_row(row.map_err(database)?, layout, sealer, upgrade)?;
            if !current {
                stale.push(object.clone());
            }
            loading.add(object);
        }
    }
    if !stale.is_empty() {
        reseal(connection, path, &stale, sealer)?;
    }
    Ok(loading.done())
}

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        resource: row.get(0)?,
        namespace: row.get(1)?,
        name: row.get(2)?,
        revision: row.get::<_, i64>(3)?.cast_unsigned(),
        body: row.get(4)?,
    })
}

fn open_row(
    row: Row,
    layout: &Layout,
    sealer: &Sealer,
    upgrade: Upgrade,
) -> Result<(Object, bool), OpenError> {
    let (resource, fields) = match layout.find(&row.resource) {
        Some((resource, fields)) => (*resource, fields.clone()),
        // Of a kind that comes later, or never again: that is not for a store to decide.
        None => (Resource::parse(&row.resource), Paths::default()),
    };
    let namespace = Some(&*row.namespace).filter(|namespace| !namespace.is_empty());
    let key = Key::scoped(resource, namespace, &row.name);
    let name = key.to_string();
    let (json, current) = if sealer.resources.contains(&resource) {
        sealer
            .keys
            .open_envelope(&name, &row.body)
            .map_err(|source| OpenError::Seal { row: name.clone(), source })?
    } else {
        (row.body, true)
    };
    let mut value: Value =
        serde_json::from_slice(&json).map_err(|source| OpenError::Decode { row: name, source })?;
    // Encoded anew, so that what older versions wrote has the same form.
    upgrade(resource, &mut value);
    Ok((Draft::new(key, &value, &fields)?.at(Revision(row.revision)), current))
}

fn reseal(
    connection: &mut Connection,
    path: &Path,
    objects: &[Object],
    sealer: &Sealer,
) -> Result<(), OpenError> {
    let database = |source| database_error(path, source);
    let transaction = connection.transaction().map_err(database)?;
    for object in objects {
        let body = sealer
            .encode(object)
            .map_err(|source| OpenError::Seal { row: object.key.to_string(), source })?;
        transaction
            .execute(
                "UPDATE objects SET body = ?1 WHERE revision = ?2",
                params![body, object.revision.0.cast_signed()],
            )
            .map_err(database)?;
    }
    transaction.commit().map_err(database)
}
