//! One watch that keeps one table current: list, watch, and list again when the watch ends.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::StreamExt;

use super::{Cached, Id, Table};
use crate::{
    model::{ApiError, Object, Revision},
    objects::{Objects, Selection, WatchEvent},
};

/// Wait between a watch that ended and the next: long enough not to spin on a store that refuses.
const AGAIN: Duration = Duration::from_millis(200);

/// Feeds `table` for ever. Cancel-safe: a watch that is dropped half-way is begun anew with a list.
pub(super) async fn run<T: Cached>(objects: Objects, table: Arc<Table<T>>) {
    loop {
        if let Err(error) = follow(&objects, &table).await {
            tracing::warn!(resource = %T::RESOURCE, error = %error, "watch ended, listing again");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow<T: Cached>(objects: &Objects, table: &Table<T>) -> Result<(), ApiError> {
    let mut watch = objects.watch(T::RESOURCE, Selection::default(), None).await?;
    let mut listed = Some(HashSet::new());
    while let Some(event) = watch.next().await {
        match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                if let Some(value) = decoded(table, &object) {
                    if let Some(listed) = &mut listed {
                        listed.insert(Id::of(value.metadata()));
                    }
                    table.observe(&value, object.revision);
                }
            }
            WatchEvent::Deleted(object) => {
                if let Some(value) = decoded(table, &object) {
                    table.observe_deleted(&value, object.revision);
                }
            }
            WatchEvent::Bookmark(at) => finish_list(table, listed.take(), at),
        }
    }
    Ok(())
}

fn finish_list<T: Cached>(table: &Table<T>, listed: Option<HashSet<Id>>, at: Revision) {
    if let Some(listed) = listed {
        table.retain(&listed, at);
    }
}

/// A stored object that does not decode is a bug: said loudly, and left out rather than stopping the rest.
fn decoded<T: Cached>(table: &Table<T>, object: &Object) -> Option<Arc<T>> {
    match table.read_object(object) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(key = %error.key, revision = %error.revision, cause = %error.source,
                "stored object does not decode");
            None
        }
    }
}
