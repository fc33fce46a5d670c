//! The pods that wait for a node: by priority, then by age. One that found none is set aside with the reasons,
//! and comes back when something happens that could remove one of them. Pure: the time is an argument.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{aside::Aside, filter::Rejection, hint::Hint, index::Namespaces, pod::Shape};
use crate::cache::Id;

/// Wait after the first failed attempt; doubles with each, as upstream.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Instant),
    Aside,
}

#[derive(Clone, Debug)]
struct Waiting {
    place: Place,
    priority: i32,
    sequence: u64,
    attempts: u32,
    last: Option<Instant>,
}

/// How many wait where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Depths {
    pub(super) active: usize,
    pub(super) backoff: usize,
    pub(super) aside: usize,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pods: HashMap<Id, Waiting>,
    active: BTreeSet<(Reverse<i32>, u64, Id)>,
    backoff: BTreeSet<(Instant, Id)>,
    aside: Aside,
    sequence: u64,
}

impl Queue {
    /// A pod that needs a node. One that waits already keeps its place.
    pub(super) fn add(&mut self, id: &Id, priority: i32) {
        if self.pods.contains_key(id) {
            return;
        }
        self.sequence += 1;
        let sequence = self.sequence;
        self.active.insert((Reverse(priority), sequence, id.clone()));
        let waiting = Waiting { place: Place::Active, priority, sequence, attempts: 0, last: None };
        self.pods.insert(id.clone(), waiting);
    }

    /// The pod changed in a way that may let it in.
    pub(super) fn touch(&mut self, id: &Id, now: Instant) {
        if self.aside.take(id) {
            self.release(id, now);
        }
    }

    /// The pod needs no node any more.
    pub(super) fn remove(&mut self, id: &Id) {
        let Some(waiting) = self.pods.remove(id) else { return };
        match waiting.place {
            Place::Active => {
                self.active.remove(&(Reverse(waiting.priority), waiting.sequence, id.clone()));
            }
            Place::Backoff(at) => {
                self.backoff.remove(&(at, id.clone()));
            }
            Place::Aside => {
                self.aside.take(id);
            }
        }
    }

    /// Takes the next pod; it is out of the queue until it is put back by [`Queue::set_aside`] or
    /// [`Queue::try_again`], which know of its attempts.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Attempt> {
        self.wake(now);
        let (_, _, id) = self.active.pop_first()?;
        let waiting = self.pods.remove(&id)?;
        let (priority, sequence) = (waiting.priority, waiting.sequence);
        Some(Attempt { id, priority, sequence, attempts: waiting.attempts + 1 })
    }

    /// No node would have it.
    pub(super) fn set_aside(
        &mut self,
        attempt: Attempt,
        shape: Arc<Shape>,
        reasons: BTreeSet<Rejection>,
        now: Instant,
    ) {
        self.remove(&attempt.id);
        self.aside.put(attempt.id.clone(), shape, reasons, now);
        self.put(attempt, Place::Aside, now);
    }

    /// Something else went wrong: again after a while.
    pub(super) fn try_again(&mut self, attempt: Attempt, now: Instant) {
        self.remove(&attempt.id);
        let at = now + wait(attempt.attempts);
        self.backoff.insert((at, attempt.id.clone()));
        self.put(attempt, Place::Backoff(at), now);
    }

    /// Something happened: those it could help come back.
    pub(super) fn hint(&mut self, hint: &Hint, namespaces: &Namespaces, now: Instant) {
        for id in self.aside.helped(hint, namespaces) {
            self.release(&id, now);
        }
    }

    /// Brings back those that were set aside long ago.
    pub(super) fn flush(&mut self, now: Instant) {
        for id in self.aside.forgotten(now) {
            self.release(&id, now);
        }
    }

    /// When the next pod becomes ready to be tried; `None` when none will by itself.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        if self.active.is_empty() { self.backoff.first().map(|(at, _)| *at) } else { Some(now) }
    }

    pub(super) fn depths(&self) -> Depths {
        Depths { active: self.active.len(), backoff: self.backoff.len(), aside: self.aside.len() }
    }

    fn put(&mut self, attempt: Attempt, place: Place, now: Instant) {
        let Attempt { id, priority, sequence, attempts } = attempt;
        let waiting = Waiting { place, priority, sequence, attempts, last: Some(now) };
        self.pods.insert(id, waiting);
    }

    /// Brings back a pod that is not aside any more, when its wait is over.
    fn release(&mut self, id: &Id, now: Instant) {
        let Some(waiting) = self.pods.get_mut(id) else { return };
        let at = waiting.last.map_or(now, |last| last + wait(waiting.attempts));
        if at <= now {
            waiting.place = Place::Active;
            self.active.insert((Reverse(waiting.priority), waiting.sequence, id.clone()));
        } else {
            waiting.place = Place::Backoff(at);
            self.backoff.insert((at, id.clone()));
        }
    }

    fn wake(&mut self, now: Instant) {
        while self.backoff.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, id)) = self.backoff.pop_first() else { return };
            if let Some(waiting) = self.pods.get_mut(&id) {
                waiting.place = Place::Active;
                self.active.insert((Reverse(waiting.priority), waiting.sequence, id));
            }
        }
    }
}

/// A pod that is being placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) id: Id,
    priority: i32,
    sequence: u64,
    pub(super) attempts: u32,
}

fn wait(attempts: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LAST_WAIT)
}

#[cfg(test)]
mod tests;
