//! Rows of tables that watches are sent, each made once however many watch: to decode an object and to make its cells is
//! most of what an event of such a watch costs. Only the latest are kept, for as long as watchers are about to send them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use bytes::{Bytes, BytesMut};

use super::{
    negotiate::Accepted,
    request::Include,
    table::{self, Layout},
};
use crate::{
    kinds::Kind,
    model::{ApiError, Object},
};

/// So many rows are kept: a burst of changes that watchers have yet to send.
const KEPT: usize = 64;
/// The row of a larger object, which has its metadata in it at least, is made for each watcher: kept rows are to take a
/// megabyte or so at most.
const LARGEST: usize = 16 << 10;

/// A row that is being made, or was.
type Row = Arc<OnceLock<Result<Bytes, ApiError>>>;

/// What a row is of, and how it is shown. Objects and kinds are told by their place, which is nobody else's while it is
/// remembered here.
struct What {
    object: Weak<Object>,
    kind: Weak<Kind>,
    include: Include,
    /// Of `meta.k8s.io`.
    version: &'static str,
    /// Ages are in it.
    second: i64,
}

impl PartialEq for What {
    fn eq(&self, other: &Self) -> bool {
        self.object.ptr_eq(&other.object)
            && self.kind.ptr_eq(&other.kind)
            && (self.include, self.version, self.second) == (other.include, other.version, other.second)
    }
}

/// The latest rows.
#[derive(Default)]
pub(super) struct Rows {
    latest: Mutex<VecDeque<(What, Row)>>,
    #[cfg(test)]
    made: std::sync::atomic::AtomicUsize,
}

impl Rows {
    /// The row of an object as it is shown now.
    pub(super) fn row(
        &self,
        kind: &Arc<Kind>,
        object: &Arc<Object>,
        include: Include,
        accepted: Accepted,
    ) -> Result<Bytes, ApiError> {
        let second = table::now();
        let make = || {
            #[cfg(test)]
            self.made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut out = BytesMut::new();
            table::write_row(&mut out, Layout::of(kind), object, second, include, accepted)?;
            Ok(out.freeze())
        };
        if include != Include::None && object.json.len() > LARGEST {
            return make();
        }
        let (object, kind) = (Arc::downgrade(object), Arc::downgrade(kind));
        let what = What { object, kind, include, version: accepted.version(), second };
        self.of(what).get_or_init(make).clone()
    }

    fn of(&self, what: What) -> Row {
        // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // Who asks for a row asks for one of the last.
        if let Some((_, row)) = latest.iter().rev().find(|(known, _)| *known == what) {
            return row.clone();
        }
        if latest.len() >= KEPT {
            latest.pop_front();
        }
        let row = Row::default();
        latest.push_back((what, row.clone()));
        row
    }

    /// How many were made.
    #[cfg(test)]
    pub(super) fn made(&self) -> usize {
        self.made.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        kinds,
        model::{Key, Resource},
    };

    fn object(name: &str, bytes: usize) -> Arc<Object> {
        let value = json!({"metadata": {"name": name}, "data": {"k": "x".repeat(bytes)}});
        Arc::new(Object::plain(Key::namespaced(Resource::CONFIG_MAPS, "default", name), &value))
    }

    #[test]
    fn rows_that_are_kept_are_few_and_none_of_them_is_large() {
        let kind = kinds::builtin().by_resource(Resource::CONFIG_MAPS).unwrap();
        let rows = Rows::default();
        let kept = || {
            let latest = rows.latest.lock().unwrap();
            let bytes = latest.iter().filter_map(|(_, row)| Some(row.get()?.as_ref().ok()?.len()));
            (latest.len(), bytes.sum::<usize>())
        };
        let row =
            |object: &Arc<Object>, include| rows.row(kind, object, include, Accepted::default()).unwrap();
        // Whoever still holds the objects, as the store does, does not make it keep more rows of them.
        let objects: Vec<_> = (0..KEPT * 3).map(|n| object(&format!("m{n}"), LARGEST / 2)).collect();
        for object in &objects {
            row(object, Include::Object);
            assert!(kept().0 <= KEPT, "{} rows are kept", kept().0);
        }
        assert!(kept().1 <= KEPT * LARGEST, "{} bytes are kept", kept().1);
        let large = object("large", LARGEST);
        for include in [Include::Metadata, Include::Object] {
            let (before, made) = (kept(), rows.made());
            assert_eq!(row(&large, include), row(&large, include));
            assert_eq!(kept(), before, "a large row is for who asks for it alone");
            assert!(rows.made() >= made + 2);
        }
        // Its cells are as small as any.
        row(&large, Include::None);
        assert!(kept().1 <= KEPT * LARGEST);
        assert!(rows.latest.lock().unwrap().iter().any(|(what, _)| what.include == Include::None));
    }
}
