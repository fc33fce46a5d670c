//! Readiness gates and the drain of a graceful stop.
//!
//! A gate is declared with a name before what it stands for is begun, and opened when that is done; dropping it
//! leaves it closed, so that a part that failed to start can never look ready. The drain is one token that every task
//! watches and one tracker that the composition root waits on, with a deadline.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::serve::Readiness;

/// All gates of the agent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gates {
    open: Arc<Mutex<BTreeMap<&'static str, bool>>>,
    changed: watch::Sender<()>,
}

/// One gate.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    gates: Gates,
}

impl Default for Gates {
    fn default() -> Self {
        Self { open: Arc::default(), changed: watch::channel(()).0 }
    }
}

impl Gates {
    /// Declares a gate, closed.
    pub fn register(&self, name: &'static str) -> Gate {
        self.set(name, false);
        Gate { name, gates: self.clone() }
    }

    /// The gates that are closed.
    pub fn closed(&self) -> Vec<&'static str> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter(|(_, open)| !**open).map(|(name, _)| *name).collect()
    }

    /// Waits until every gate is open.
    pub async fn all_open(&self) {
        let mut changed = self.changed.subscribe();
        while !self.closed().is_empty() {
            // The sender is ours: it cannot be gone.
            let _ = changed.changed().await;
        }
    }

    fn set(&self, name: &'static str, open: bool) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(name, open);
        self.changed.send_replace(());
    }
}

impl Readiness for Gates {
    fn gates(&self) -> Vec<(String, bool)> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|(name, open)| ((*name).to_owned(), *open)).collect()
    }
}

impl Gate {
    /// What it stands for is done.
    pub fn open(&self) {
        self.gates.set(self.name, true);
    }

    /// It is not any more.
    pub fn close(&self) {
        self.gates.set(self.name, false);
    }

    /// Is, from the first change on, as a value says, until the agent stops.
    pub async fn follow<T>(
        self,
        mut value: watch::Receiver<T>,
        is_open: impl Fn(&T) -> bool,
        stop: CancellationToken,
    ) {
        loop {
            // Both cancel-safe: a watch and a flag.
            tokio::select! {
                changed = value.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            if is_open(&value.borrow_and_update()) { self.open() } else { self.close() }
        }
    }
}

/// The tasks of the agent and the token that ends them.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Cancelled when the agent is to stop.
    pub stop: CancellationToken,
    /// Every task that must end before the process does.
    pub tasks: TaskTracker,
}

impl Drain {
    /// Runs a task that ends by itself after `stop`.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Asks all tasks to end and waits for them. False when the deadline came first.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dropped_gate_stays_closed_and_all_must_be_open() {
        let gates = Gates::default();
        let (a, b) = (gates.register("a"), gates.register("b"));
        a.open();
        drop(b);
        assert_eq!(gates.closed(), ["b"]);
        let b = gates.register("b");
        let waiting = tokio::spawn({
            let gates = gates.clone();
            async move { gates.all_open().await }
        });
        b.open();
        waiting.await.unwrap();
        b.close();
        assert_eq!(gates.gates(), [("a".to_owned(), true), ("b".to_owned(), false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gate_follows_a_value_from_its_first_change_on() {
        let gates = Gates::default();
        let (value, followed) = watch::channel(true);
        let stop = CancellationToken::new();
        let gate = gates.register("a");
        let task = tokio::spawn(gate.follow(followed, |open| *open, stop.clone()));
        tokio::task::yield_now().await;
        assert_eq!(gates.closed(), ["a"], "what nobody asked yet is not known");
        for (now, closed) in [(true, 0), (false, 1), (true, 0)] {
            value.send_replace(now);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(gates.closed().len(), closed);
        }
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_left_at_the_deadline() {
        let drain = Drain::default();
        let stop = drain.stop.clone();
        drain.spawn(async move { stop.cancelled().await });
        assert!(drain.finish(Duration::from_secs(1)).await);
        let stuck = Drain::default();
        stuck.spawn(std::future::pending());
        assert!(!stuck.finish(Duration::from_secs(1)).await);
    }
}
