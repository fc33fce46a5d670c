//! When events may be old. Each is noted once, when it comes, and looked at when an hour has passed: one that was told
//! again meanwhile is noted anew then, so that neither counting an event nor a sweep costs a look at the others.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;

use crate::{
    cache::Id,
    model::{ApiError, Chain, Object, Resource},
    objects::{Objects, Selection, WatchEvent},
};

/// Wait between a watch that ended and the next list.
const LIST_AGAIN: Duration = Duration::from_millis(200);

/// Events by a time before which they are not older.
#[derive(Default)]
pub(super) struct Ages(Mutex<BinaryHeap<Reverse<(Timestamp, Id)>>>);

impl Ages {
    /// An event was not told before `seen`.
    pub(super) fn note(&self, event: Id, seen: Timestamp) {
        self.lock().push(Reverse((seen, event)));
    }

    /// Takes out one that may have been told before `oldest` for the last time.
    pub(super) fn take_before(&self, oldest: Timestamp) -> Option<Id> {
        let mut noted = self.lock();
        noted.peek().filter(|Reverse((seen, _))| *seen < oldest)?;
        noted.pop().map(|Reverse((_, event))| event)
    }

    /// How many are noted.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    fn clear(&self) {
        self.lock().clear();
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, BinaryHeap<Reverse<(Timestamp, Id)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes every event that comes, for ever.
pub(super) async fn follow(objects: Objects, ages: Arc<Ages>) {
    loop {
        if let Err(error) = watch(&objects, &ages).await {
            tracing::warn!(error = %Chain(&error), "watch of events ended, listing again");
        }
        tokio::time::sleep(LIST_AGAIN).await;
    }
}

async fn watch(objects: &Objects, ages: &Ages) -> Result<(), ApiError> {
    ages.clear();
    // Those that are there already may be of any age; one that comes is no older than its creation, which is now.
    let at = objects.each(Resource::EVENTS, &|object| ages.note(id(object), Timestamp::MIN))?;
    let mut watch = objects.watch(Resource::EVENTS, Selection::default(), Some(at)).await?;
    while let Some(event) = watch.next().await {
        match event? {
            WatchEvent::Added(object) => ages.note(id(&object), Timestamp::now()),
            WatchEvent::Bookmark(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_) => {}
        }
    }
    Ok(())
}

/// Shares the letters with the stored object.
fn id(object: &Object) -> Id {
    let namespace = object.key.namespace.clone().unwrap_or_default();
    Id { namespace, name: object.key.name.clone() }
}
