//! What this process has seen of the nodes, by its own clock: when their leases were renewed, since when they are
//! lost, and whether the loss of nodes may be believed at all.
//!
//! Two rules keep a mistake of ours from emptying the cluster. When nearly everything is lost at once it is more
//! likely the scheduler that is cut off: nobody is evicted for a lost node until that is over. And tolerations of a
//! lost node begin no earlier than this process, or than the end of such a time: agents that were silent while
//! nobody could hear them get the whole of it, and at least one lease to come back.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::time::Instant;

use super::plan::Lost;
use crate::cache::Id;

struct State {
    renewals: HashMap<Id, (Option<MicroTime>, Instant)>,
    missing: HashMap<Id, Instant>,
    lost: HashMap<Id, Instant>,
    /// Nodes whose pods carry no word of ours that their node is not ready.
    ready_marked: HashSet<Id>,
    /// Since when evictions from lost nodes may happen; `None` while too much is lost.
    calm: Option<Instant>,
}

/// What was seen.
pub(super) struct Health {
    lease: Duration,
    state: Mutex<State>,
}

impl Health {
    /// Every node has its whole lease from now on.
    pub(super) fn new(lease: Duration) -> Self {
        let state = State {
            renewals: HashMap::new(),
            missing: HashMap::new(),
            lost: HashMap::new(),
            ready_marked: HashSet::new(),
            calm: Some(Instant::now()),
        };
        Self { lease, state: Mutex::new(state) }
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease as it is now: a renewal that was not seen before happened just now.
    pub(super) fn renewed(&self, node: &Id, renewal: Option<&MicroTime>) {
        let mut state = self.lock();
        if state.renewals.get(node).is_none_or(|(last, _)| last.as_ref() != renewal) {
            state.renewals.insert(node.clone(), (renewal.cloned(), Instant::now()));
        }
    }

    /// How much of its lease a node has left. One that has no lease yet is counted from the first look.
    pub(super) fn left(&self, node: &Id) -> Duration {
        let mut state = self.lock();
        let (_, at) = state.renewals.entry(node.clone()).or_insert_with(|| (None, Instant::now()));
        self.lease.saturating_sub(at.elapsed())
    }

    /// A node exists.
    pub(super) fn present(&self, node: &Id) {
        self.lock().missing.remove(node);
    }

    /// A node does not exist; since when, as long as there are pods that `stranded` there.
    pub(super) fn absent(&self, node: &Id, stranded: bool) -> Duration {
        let mut state = self.lock();
        state.renewals.remove(node);
        state.lost.remove(node);
        state.ready_marked.remove(node);
        if !stranded {
            state.missing.remove(node);
            return Duration::ZERO;
        }
        state.missing.entry(node.clone()).or_insert_with(Instant::now).elapsed()
    }

    /// Takes it that a node is lost or not, and whether too many are; for how long it counts as lost, or `None`
    /// when nobody may be evicted for that now.
    pub(super) fn lost(&self, node: &Id, lost: bool, disrupted: bool) -> Option<Lost> {
        let mut state = self.lock();
        let now = Instant::now();
        if disrupted {
            state.calm = None;
        } else if state.calm.is_none() {
            state.calm = Some(now);
            state.lost.clear();
        }
        let age = if lost {
            let since = *state.lost.entry(node.clone()).or_insert(now);
            now - since
        } else {
            state.lost.remove(node);
            Duration::ZERO
        };
        let wait = self.lease.saturating_sub(now - state.calm?);
        Some(Lost { age, wait })
    }

    /// Pods of the node say that it is not ready.
    pub(super) fn mark_unready(&self, node: &Id) {
        self.lock().ready_marked.remove(node);
    }

    /// Whether pods of the node may say so; from now on they do not.
    pub(super) fn take_unready(&self, node: &Id) -> bool {
        self.lock().ready_marked.insert(node.clone())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    const LEASE: Duration = Duration::from_secs(40);

    fn renewal(second: i64) -> MicroTime {
        MicroTime(Timestamp::from_second(second).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_age_of_a_renewal_counts_from_when_it_was_seen() {
        let (health, node) = (Health::new(LEASE), Id::new("", "n1"));
        assert_eq!(health.left(&node), LEASE, "nothing is known of it");
        health.renewed(&node, Some(&renewal(1)));
        tokio::time::advance(Duration::from_secs(30)).await;
        health.renewed(&node, Some(&renewal(2)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(health.left(&node), Duration::from_secs(30), "not from the first look after it");
        health.renewed(&node, Some(&renewal(2)));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(health.left(&node), Duration::ZERO, "the same renewal again is none");
    }

    #[tokio::test(start_paused = true)]
    async fn tolerations_begin_with_the_process_and_again_after_a_disruption() {
        let (health, node) = (Health::new(LEASE), Id::new("", "n1"));
        let after = |age: u64, wait: u64| {
            Some(Lost { age: Duration::from_secs(age), wait: Duration::from_secs(wait) })
        };
        assert_eq!(health.lost(&node, true, false), after(0, 40), "agents have a lease to come back");
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(health.lost(&node, true, false), after(100, 0));
        assert_eq!(health.lost(&node, true, true), None);
        tokio::time::advance(Duration::from_secs(1000)).await;
        assert_eq!(health.lost(&node, true, true), None);
        assert_eq!(health.lost(&node, true, false), after(0, 40), "the clock begins anew");
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(health.lost(&node, true, false), after(50, 0));
        assert_eq!(health.lost(&node, false, false), after(0, 0));
    }
}
