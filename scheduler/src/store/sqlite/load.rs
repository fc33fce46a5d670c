//! Opening: settings, schema, and the rows into an image.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, params};
use serde_json::Value;

use super::{OpenError, Sealer, Upgrade};
use crate::{
    model::{Key, Object, Resource, Revision},
    store::{Draft, Layout, image::Image},
};

/// Raised when the tables change; older versions are migrated here, newer ones refused.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS objects (
    resource  TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name      TEXT NOT NULL,
    revision  INTEGER NOT NULL,
    body      BLOB NOT NULL,
    PRIMARY KEY (resource, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 0), revision INTEGER NOT NULL);
INSERT OR IGNORE INTO clock VALUES (0, 0);
COMMIT;
";

pub(super) fn database_error(path: &Path, source: rusqlite::Error) -> OpenError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            OpenError::InUse { path: path.to_owned() }
        }
        _ => OpenError::Database { path: path.to_owned(), source },
    }
}

/// Settings and schema. With exclusive locking the first write takes a lock that lasts until the close.
pub(super) fn prepare(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let database = |source| database_error(path, source);
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(database)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(database)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(database)?;
    let found: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(database)?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::Schema { path: path.to_owned(), found, known: SCHEMA_VERSION });
    }
    connection.execute_batch(SCHEMA).map_err(database)?;
    connection.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(database)
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
    upgrade: Upgrade,
) -> Result<Image, OpenError> {
    let database = |source| database_error(path, source);
    let revision: i64 =
        connection.query_row("SELECT revision FROM clock", [], |row| row.get(0)).map_err(database)?;
    let rows = read_rows(connection).map_err(database)?;
    let (mut objects, mut stale) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let (object, current) = open_row(row, layout, sealer, upgrade)?;
        if !current {
            stale.push(objects.len());
        }
        objects.push(object);
    }
    if !stale.is_empty() {
        let stale = stale.into_iter().filter_map(|at| objects.get(at));
        reseal(connection, path, stale, sealer)?;
    }
    Ok(Image::load(objects, Revision(revision.cast_unsigned())))
}

fn read_rows(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let mut statement =
        connection.prepare("SELECT resource, namespace, name, revision, body FROM objects")?;
    let rows = statement.query_map([], |row| {
        Ok(Row {
            resource: row.get(0)?,
            namespace: row.get(1)?,
            name: row.get(2)?,
            revision: row.get::<_, i64>(3)?.cast_unsigned(),
            body: row.get(4)?,
        })
    })?;
    rows.collect()
}

fn open_row(
    row: Row,
    layout: &Layout,
    sealer: &Sealer,
    upgrade: Upgrade,
) -> Result<(Object, bool), OpenError> {
    let Some((resource, fields)) = layout.find(&row.resource) else {
        return Err(OpenError::UnknownResource { name: row.resource });
    };
    let (resource, fields) = (*resource, fields);
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
    Ok((Draft::new(key, &value, fields)?.at(Revision(row.revision)), current))
}

fn reseal<'a>(
    connection: &mut Connection,
    path: &Path,
    objects: impl Iterator<Item = &'a Object>,
    sealer: &Sealer,
) -> Result<(), OpenError> {
    let database = |source| database_error(path, source);
    let transaction = connection.transaction().map_err(database)?;
    for object in objects {
        let body = sealer
            .encode(object)
            .map_err(|source| OpenError::Seal { row: object.key.to_string(), source })?;
        let key = &object.key;
        transaction
            .execute(
                "UPDATE objects SET body = ?1 WHERE resource = ?2 AND namespace = ?3 AND name = ?4",
                params![body, key.resource.0, key.namespace_str(), &*key.name],
            )
            .map_err(database)?;
    }
    transaction.commit().map_err(database)
}
