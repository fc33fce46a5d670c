//! When events may be old. Each is noted once, when it comes, and looked at when an hour has passed: one that was told
//! again meanwhile is noted anew then, so that neither counting an event nor a sweep costs a look at the others.

use std::{
    collections::BTreeMap,
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

/// Events by the minute before which they are not older: that is as exact as a sweep is, and there are very many.
#[derive(Default)]
pub(super) struct Ages(Mutex<BTreeMap<i64, Vec<Id>>>);

impl Ages {
    /// An event was not told before `seen`.
    pub(super) fn note(&self, event: Id, seen: Timestamp) {
        let (minute, mut noted) = (minute(seen), self.lock());
        if !noted.contains_key(&minute)
            && let Some(mut newest) = noted.last_entry()
        {
            // Few come to it any more.
            newest.get_mut().shrink_to_fit();
        }
        noted.entry(minute).or_default().push(event);
    }

    /// Takes out one that may have been told before `oldest` for the last time, up to a minute late.
    pub(super) fn take_before(&self, oldest: Timestamp) -> Option<Id> {
        let mut noted = self.lock();
        let mut first = noted.first_entry().filter(|first| *first.key() < minute(oldest))?;
        let event = first.get_mut().pop();
        if first.get().is_empty() {
            first.remove();
        }
        event
    }

    /// How many are noted.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    fn clear(&self) {
        self.lock().clear();
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Vec<Id>>> {
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

fn minute(time: Timestamp) -> i64 {
    time.as_second().div_euclid(60)
}

/// Shares the letters with the stored object.
fn id(object: &Object) -> Id {
    let namespace = object.key.namespace.clone().unwrap_or_default();
    Id { namespace, name: object.key.name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_seen_before_is_taken_oldest_first_and_nobody_else() {
        let ages = Ages::default();
        let second = |second| Timestamp::from_second(second).unwrap();
        let seen =
            [(1, Timestamp::MIN), (2, second(59)), (3, second(60)), (4, second(119)), (5, second(7_000))];
        seen.iter().rev().for_each(|(n, seen)| ages.note(Id::new("default", &n.to_string()), *seen));
        let take = |before| ages.take_before(second(before)).map(|id| id.name.to_string());
        assert_eq!([take(59), take(59)], [Some("1".to_owned()), None]);
        assert_eq!(take(60).as_deref(), Some("2"));
        assert_eq!((take(119), ages.count()), (None, 3));
        let mut others = [take(120), take(120)].map(Option::unwrap);
        others.sort();
        assert_eq!((others, take(120)), (["3", "4"].map(str::to_owned), None));
        assert_eq!(take(7_060).as_deref(), Some("5"));
        assert!(take(i64::from(u32::MAX)).is_none() && ages.count() == 0);
    }
}
