//! The changes of one resource that can still be told, oldest first.
//!
//! In: committed changes. Out: those behind a revision. The newest are as they were committed and shared by all who watch;
//! older ones, which only those ask for who were away, hold their objects at rest.

use std::{collections::VecDeque, sync::Arc};

use super::{Event, packed::Held};
use crate::model::{Key, Object, Paths, Revision};

/// The changes of one resource, all of the past older than all of the recent ones.
#[derive(Debug, Default)]
pub(super) struct History {
    past: VecDeque<Past>,
    recent: VecDeque<Arc<Event>>,
}

/// A change at rest. What is an object of the table or of another change is one with it.
#[derive(Clone, Debug)]
pub(super) struct Past {
    object: Held,
    previous: Option<Held>,
    deleted: bool,
}

impl Past {
    fn event(&self) -> Event {
        let previous = self.previous.as_ref().map(Held::object);
        Event { object: self.object.object(), previous, deleted: self.deleted }
    }
}

/// Changes that were found: those of the past first.
pub(super) struct Found {
    past: Vec<Past>,
    recent: Vec<Arc<Event>>,
}

impl Found {
    pub(super) fn len(&self) -> usize {
        self.past.len() + self.recent.len()
    }

    pub(super) fn last(&self) -> Option<Revision> {
        let recent = self.recent.last().map(|event| event.revision());
        recent.or_else(|| self.past.last().map(|past| past.object.revision()))
    }

    /// As they were committed. This may take its time, and needs no lock.
    pub(super) fn events(self) -> Vec<Arc<Event>> {
        if self.past.is_empty() {
            return self.recent;
        }
        let past = self.past.iter().map(|past| Arc::new(past.event()));
        past.chain(self.recent).collect()
    }
}

/// What of a change is at rest from now on.
pub(super) struct Rest {
    pub(super) object: Option<Held>,
    pub(super) previous: Option<Held>,
}

impl History {
    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.recent.push_back(event);
    }

    /// Forgets the oldest and says which it was.
    pub(super) fn forget_oldest(&mut self) -> Option<Revision> {
        let past = self.past.pop_front().map(|past| past.object.revision());
        past.or_else(|| self.recent.pop_front().map(|event| event.revision()))
    }

    #[cfg(test)]
    pub(super) fn oldest(&self) -> Option<Revision> {
        let past = self.past.front().map(|past| past.object.revision());
        past.or_else(|| self.recent.front().map(|event| event.revision()))
    }

    pub(super) fn is_empty_after(&self, revision: Revision) -> bool {
        self.recent_after(revision).next().is_none() && self.past_after(revision).next().is_none()
    }

    /// Up to `limit` changes after a revision.
    pub(super) fn after(&self, revision: Revision, limit: usize) -> Found {
        let past: Vec<Past> = self.past_after(revision).take(limit).cloned().collect();
        let recent = self.recent_after(revision).take(limit - past.len()).cloned().collect();
        Found { past, recent }
    }

    /// What was there before each change after a revision, newest change first: the key is the object's.
    pub(super) fn undo(&self, revision: Revision) -> impl Iterator<Item = (&Key, Option<Held>)> {
        let recent = self.recent_after(revision).rev();
        let recent = recent.map(|event| (&event.object.key, event.previous.clone().map(Held::Whole)));
        let past = self.past_after(revision).rev();
        recent.chain(past.map(|past| (past.object.key(), past.previous.clone())))
    }

    /// Who watches and keeps up asks for none of them: that costs a look at the newest.
    fn past_after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Past> {
        let all_before = self.past.back().is_none_or(|newest| newest.object.revision() <= revision);
        let first = if all_before {
            self.past.len()
        } else {
            self.past.partition_point(|past| past.object.revision() <= revision)
        };
        self.past.range(first..)
    }

    fn recent_after(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.recent.range(self.recent.partition_point(|event| event.revision() <= revision)..)
    }

    /// The recent change behind so many others.
    pub(super) fn recent(&self, at: usize) -> Option<&Arc<Event>> {
        self.recent.get(at)
    }

    /// Lays the oldest recent change to rest, if it is this one; `false` when it was forgotten meanwhile.
    pub(super) fn rest(&mut self, event: &Arc<Event>, rest: Rest) -> bool {
        let Some(oldest) = self.recent.pop_front_if(|oldest| oldest.revision() == event.revision()) else {
            return false;
        };
        // It may have been indexed anew meanwhile.
        let same = Arc::ptr_eq(&oldest, event);
        let object = rest.object.filter(|_| same).unwrap_or_else(|| Held::Whole(oldest.object.clone()));
        let previous = rest.previous.filter(|_| same).or_else(|| oldest.previous.clone().map(Held::Whole));
        // The state before is that after another change, which would keep it whole.
        if let Some(before) = previous.as_ref().filter(|before| matches!(before, Held::Packed(_)))
            && let Ok(at) = self.past.binary_search_by_key(&before.revision(), |past| past.object.revision())
        {
            self.past[at].object = before.clone();
        }
        self.past.push_back(Past { object, previous, deleted: oldest.deleted });
        true
    }

    /// Indexes all that are not so by these paths.
    pub(super) fn index(&mut self, paths: &Paths) {
        for event in self.recent.iter_mut().filter(|event| !event.object.fields.are_at(paths)) {
            *event = Arc::new(indexed(event, paths));
        }
        for past in &mut self.past {
            let event = past.event();
            if !event.object.fields.are_at(paths) {
                let Event { object, previous, deleted } = indexed(&event, paths);
                *past = Past { object: Held::Whole(object), previous: previous.map(Held::Whole), deleted };
            }
        }
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<Arc<Event>> {
        self.after(Revision(0), usize::MAX).events()
    }

    /// How many are at rest.
    #[cfg(test)]
    pub(super) fn past(&self) -> usize {
        self.past.len()
    }

    /// How many states are whole in the past that are not those of `present`.
    #[cfg(test)]
    pub(super) fn whole(&self, present: impl Fn(&Arc<Object>) -> bool) -> usize {
        let held = self.past.iter().flat_map(|past| past.previous.iter().chain([&past.object]));
        held.filter(|held| matches!(held, Held::Whole(object) if !present(object))).count()
    }
}

/// The same change, its objects indexed by these paths.
pub(super) fn indexed(event: &Event, paths: &Paths) -> Event {
    let of = |object: &Arc<Object>| Arc::new(object.indexed(paths));
    Event { object: of(&event.object), previous: event.previous.as_ref().map(of), deleted: event.deleted }
}
