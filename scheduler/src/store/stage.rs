//! Changes on their way into the image: checked against what is there and given revisions.
//!
//! In: batches of changes. Out: events, for the disk and then for [`Image::apply`]. Never: changes what is read.

use std::{collections::HashMap, sync::Arc};

use super::{Change, Event, Expect, StoreError, image::Image};
use crate::model::{Key, Object, Revision};

/// Changes that were checked and given revisions but are not visible yet: one group commit.
pub(super) struct Stage<'a> {
    image: &'a Image,
    next: Revision,
    events: Vec<Arc<Event>>,
    overlay: HashMap<Key, Option<Arc<Object>>>,
}

impl<'a> Stage<'a> {
    /// On top of the image. Only the image's single writer may stage.
    pub(super) fn new(image: &'a Image) -> Self {
        Self { next: image.revision(), image, events: Vec::new(), overlay: HashMap::new() }
    }

    /// Adds a batch, all or nothing; returns the events of it.
    pub(super) fn add(&mut self, changes: Vec<Change>) -> Result<Vec<Arc<Event>>, StoreError> {
        let (mut next, mut events) = (self.next, Vec::with_capacity(changes.len()));
        let mut overlay: HashMap<Key, Option<Arc<Object>>> = HashMap::new();
        for change in changes {
            let key = change.key();
            let previous = match overlay.get(key).or_else(|| self.overlay.get(key)) {
                Some(staged) => staged.clone(),
                None => self.image.get(key),
            };
            next.0 += 1;
            let event = event_of(change, previous, next, self.image)?;
            let now = (!event.deleted).then(|| event.object.clone());
            overlay.insert(event.object.key.clone(), now);
            events.push(Arc::new(event));
        }
        self.next = next;
        self.overlay.extend(overlay);
        self.events.extend(events.iter().cloned());
        Ok(events)
    }

    /// All events added, in revision order.
    pub(super) fn events(&self) -> &[Arc<Event>] {
        &self.events
    }
}

fn event_of(
    change: Change,
    previous: Option<Arc<Object>>,
    next: Revision,
    image: &Image,
) -> Result<Event, StoreError> {
    let found = previous.as_ref().map(|o| o.revision);
    match change {
        Change::Put { draft, expect: Expect::Absent } if found.is_none() => {
            let mut object = draft.at(next);
            image.share(&mut object);
            Ok(Event { object: Arc::new(object), previous: None, deleted: false })
        }
        Change::Put { draft, expect: Expect::At(revision) } if found == Some(revision) => {
            let mut object = draft.at(next);
            match previous.as_ref().filter(|old| old.labels == object.labels) {
                Some(old) => object.labels = Arc::clone(&old.labels),
                None => image.share(&mut object),
            }
            // The states of one object share what none of them changes.
            if let Some(old) = &previous {
                object.key = old.key.clone();
                if object.uid == old.uid {
                    object.uid = Arc::clone(&old.uid);
                }
            }
            Ok(Event { object: Arc::new(object), previous, deleted: false })
        }
        Change::Delete { key, expect } => match previous {
            Some(old) if old.revision == expect => {
                let object = Arc::new(old.at_revision(next));
                Ok(Event { object, previous: Some(old), deleted: true })
            }
            current => Err(StoreError::Conflict { key, current }),
        },
        Change::Put { draft, .. } => Err(StoreError::Conflict { key: draft.key, current: previous }),
    }
}
