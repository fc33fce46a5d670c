//! The pods that wait for a node: by priority, then by age. One that found none is set aside with the reasons,
//! and comes back when something happens that could remove one of them. Pure: the time is an argument.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::filter::Rejection;
use crate::cache::Id;

/// Wait after the first failed attempt; doubles with each, as upstream.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(10);
/// A pod that was set aside is tried again after so long whatever happens: it repairs a hint that was missed.
const FORGOTTEN: Duration = Duration::from_secs(300);

/// Something that may let a waiting pod in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// A node came.
    NodeCame,
    /// A node changed.
    NodeChanged(NodeChange),
    /// A node went: topologies may be even again.
    NodeLeft,
    /// A pod left a node.
    PodLeft,
    /// A pod came onto a node or changed its labels.
    PodCame,
    /// Namespaces changed: terms may select others.
    Namespace,
}

/// What is another thing about a node than before; a heartbeat changes none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeChange {
    /// Its labels.
    pub(super) labels: bool,
    /// Its taints, or whether it is cordoned.
    pub(super) taints: bool,
    /// Resources that there are more of.
    pub(super) more: BTreeSet<String>,
}

impl NodeChange {
    fn could_help(&self, reason: &Rejection) -> bool {
        match reason {
            Rejection::Unschedulable | Rejection::Taint { .. } => self.taints,
            Rejection::NodeAffinity => self.labels,
            Rejection::NodeName | Rejection::HostPort => false,
            Rejection::TooManyPods => self.more.contains("pods"),
            Rejection::Insufficient { resource, .. } => self.more.contains(resource),
            Rejection::Spread
            | Rejection::SpreadLabel
            | Rejection::Affinity
            | Rejection::AntiAffinity
            | Rejection::ExistingAntiAffinity => self.labels || self.taints,
        }
    }
}

impl Hint {
    fn could_help(&self, reason: &Rejection) -> bool {
        match self {
            Self::NodeCame => true,
            Self::NodeChanged(change) => change.could_help(reason),
            Self::NodeLeft => matches!(reason, Rejection::Spread),
            Self::PodLeft => !matches!(
                reason,
                Rejection::Unschedulable
                    | Rejection::NodeName
                    | Rejection::Taint { .. }
                    | Rejection::NodeAffinity
                    | Rejection::SpreadLabel
                    | Rejection::Affinity
                    // More than the whole node has: no pod that leaves makes room for it.
                    | Rejection::Insufficient { never: true, .. }
            ),
            Self::PodCame => matches!(reason, Rejection::Affinity | Rejection::Spread),
            Self::Namespace => matches!(
                reason,
                Rejection::Affinity | Rejection::AntiAffinity | Rejection::ExistingAntiAffinity
            ),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active(i32, u64),
    Backoff(Instant),
    Aside(BTreeSet<Rejection>),
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
        let place = Place::Active(priority, sequence);
        self.active.insert((Reverse(priority), sequence, id.clone()));
        self.pods.insert(id.clone(), Waiting { place, priority, sequence, attempts: 0, last: None });
    }

    /// The pod changed in a way that may let it in.
    pub(super) fn touch(&mut self, id: &Id, now: Instant) {
        if self.pods.get(id).is_some_and(|w| matches!(w.place, Place::Aside(_))) {
            self.release(id, now);
        }
    }

    /// The pod needs no node any more.
    pub(super) fn remove(&mut self, id: &Id) {
        if let Some(waiting) = self.pods.remove(id) {
            self.unlink(id, &waiting.place);
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
    pub(super) fn set_aside(&mut self, attempt: Attempt, reasons: BTreeSet<Rejection>, now: Instant) {
        self.put(attempt, Place::Aside(reasons), now);
    }

    /// Something else went wrong: again after a while.
    pub(super) fn try_again(&mut self, attempt: Attempt, now: Instant) {
        let at = now + wait(attempt.attempts);
        self.backoff.insert((at, attempt.id.clone()));
        self.put(attempt, Place::Backoff(at), now);
    }

    /// Something happened: those it could help come back.
    pub(super) fn hint(&mut self, hint: &Hint, now: Instant) {
        let helped = |w: &Waiting| match &w.place {
            // No reasons: there were no nodes at all.
            Place::Aside(reasons) => {
                (*hint == Hint::NodeCame && reasons.is_empty()) || reasons.iter().any(|r| hint.could_help(r))
            }
            Place::Active(..) | Place::Backoff(_) => false,
        };
        let ids: Vec<Id> = self.pods.iter().filter(|(_, w)| helped(w)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.release(&id, now);
        }
    }

    /// Brings back those that were set aside long ago.
    pub(super) fn flush(&mut self, now: Instant) {
        let old = |w: &Waiting| {
            matches!(w.place, Place::Aside(_)) && w.last.is_some_and(|last| now - last >= FORGOTTEN)
        };
        let ids: Vec<Id> = self.pods.iter().filter(|(_, w)| old(w)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.release(&id, now);
        }
    }

    /// When the next pod becomes ready to be tried; `None` when none will by itself.
    pub(super) fn next_wake(&self, now: Instant) -> Option<Instant> {
        if self.active.is_empty() { self.backoff.first().map(|(at, _)| *at) } else { Some(now) }
    }

    pub(super) fn depths(&self) -> Depths {
        let (active, backoff) = (self.active.len(), self.backoff.len());
        Depths { active, backoff, aside: self.pods.len() - active - backoff }
    }

    fn put(&mut self, attempt: Attempt, place: Place, now: Instant) {
        let Attempt { id, priority, sequence, attempts } = attempt;
        let waiting = Waiting { place, priority, sequence, attempts, last: Some(now) };
        self.pods.insert(id, waiting);
    }

    fn release(&mut self, id: &Id, now: Instant) {
        let Some(waiting) = self.pods.get_mut(id) else { return };
        let at = waiting.last.map_or(now, |last| last + wait(waiting.attempts));
        if at <= now {
            waiting.place = Place::Active(waiting.priority, waiting.sequence);
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
                waiting.place = Place::Active(waiting.priority, waiting.sequence);
                self.active.insert((Reverse(waiting.priority), waiting.sequence, id));
            }
        }
    }

    fn unlink(&mut self, id: &Id, place: &Place) {
        match place {
            Place::Active(priority, sequence) => {
                self.active.remove(&(Reverse(*priority), *sequence, id.clone()));
            }
            Place::Backoff(at) => {
                self.backoff.remove(&(*at, id.clone()));
            }
            Place::Aside(_) => {}
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
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        Id::new("default", name)
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|a| a.id.name.to_string())
    }

    fn aside(queue: &mut Queue, reason: Rejection, now: Instant) {
        let attempt = queue.pop(now).unwrap();
        queue.set_aside(attempt, [reason].into(), now);
    }

    #[test]
    fn priority_comes_first_then_age() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 0), ("high", 10), ("a", 99)] {
            queue.add(&id(name), priority);
        }
        let now = Instant::now();
        let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["high", "a", "b"]);
    }

    #[test]
    fn only_what_could_help_brings_a_pod_back() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        queue.add(&id("a"), 0);
        aside(&mut queue, Rejection::NodeAffinity, now);
        queue.hint(&Hint::PodLeft, later);
        assert_eq!(pop(&mut queue, later), None);
        queue.hint(&Hint::NodeCame, later);
        assert_eq!(pop(&mut queue, later).as_deref(), Some("a"), "at once: its wait is long over");
    }

    #[test]
    fn a_pod_for_which_nothing_changed_stays_where_it_is() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        queue.add(&id("a"), 0);
        aside(
            &mut queue,
            Rejection::Insufficient { resource: "example.com/gpu".to_owned(), never: true },
            now,
        );
        let more = |resource: &str| {
            Hint::NodeChanged(NodeChange { more: [resource.to_owned()].into(), ..NodeChange::default() })
        };
        let labels = Hint::NodeChanged(NodeChange { labels: true, ..NodeChange::default() });
        for hint in [Hint::PodLeft, Hint::PodCame, Hint::NodeLeft, Hint::Namespace, labels, more("memory")] {
            queue.hint(&hint, later);
            assert_eq!(pop(&mut queue, later), None, "{hint:?}");
        }
        queue.hint(&more("example.com/gpu"), later);
        assert_eq!(pop(&mut queue, later).as_deref(), Some("a"));
    }

    #[test]
    fn a_hint_does_not_shorten_the_wait() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(&id("a"), 0);
        aside(&mut queue, Rejection::TooManyPods, now);
        queue.hint(&Hint::PodLeft, now);
        assert_eq!(pop(&mut queue, now), None);
        assert_eq!(queue.next_wake(now), Some(now + FIRST_WAIT));
        assert_eq!(pop(&mut queue, now + FIRST_WAIT).as_deref(), Some("a"));
    }

    #[test]
    fn waits_double_up_to_a_bound_and_nothing_is_forgotten() {
        assert_eq!([1, 2, 3, 4, 5, 90].map(|n| wait(n).as_secs()), [1, 2, 4, 8, 10, 10]);
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add(&id("a"), 0);
        aside(&mut queue, Rejection::NodeAffinity, now);
        queue.flush(now + Duration::from_secs(299));
        assert_eq!(queue.depths(), Depths { aside: 1, ..Depths::default() });
        queue.flush(now + FORGOTTEN);
        assert_eq!(queue.depths(), Depths { active: 1, ..Depths::default() });
        queue.remove(&id("a"));
        assert_eq!(queue.depths(), Depths::default());
    }
}
