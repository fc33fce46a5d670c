//! The tasks of the process: they end when it stops, and some of them must not end before.
//!
//! A scheduler without its projection, a cache feed or a control loop answers as if all were well and does nothing.
//! Such a task is essential: when it panics, or returns although nobody told it to, that is reported to the
//! composition root, which ends the process so that its supervisor starts a whole one.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An essential task that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which one.
    pub task: &'static str,
    /// Whether it panicked; else it returned.
    pub panicked: bool,
}

/// Starts tasks and knows when all have ended. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    /// Ends them.
    pub stop: CancellationToken,
    /// Waited for at the end.
    pub tracker: TaskTracker,
    ended: mpsc::UnboundedSender<Ended>,
}

impl Tasks {
    /// None yet; the receiver gets the essential ones that end before `stop`.
    pub fn new(stop: CancellationToken) -> (Self, mpsc::UnboundedReceiver<Ended>) {
        let (ended, receiver) = mpsc::unbounded_channel();
        (Self { stop, tracker: TaskTracker::new(), ended }, receiver)
    }

    /// Runs `work`, without which the scheduler is none, until the stop. It must be cancel-safe.
    pub fn essential<F>(&self, task: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.draining(task, async move {
            let _ = stop.run_until_cancelled(work).await;
        });
    }

    /// As [`Tasks::essential`], for `work` that sees the stop itself and has something to finish then.
    pub fn draining<F>(&self, task: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (stop, ended) = (self.stop.clone(), self.ended.clone());
        self.tracker.spawn(async move {
            // What a panic leaves half-done is never looked at again: the process ends.
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            if !stop.is_cancelled() {
                // Nobody listens any more only when the scheduler is ending anyway.
                let _ = ended.send(Ended { task, panicked: outcome.is_err() });
            }
        });
    }
}

#[cfg(test)]
impl Default for Tasks {
    /// For tests that do not look at how tasks end.
    fn default() -> Self {
        Self::new(CancellationToken::new()).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_essential_task_that_panics_or_returns_is_reported_and_one_that_was_told_to_stop_is_not() {
        let (tasks, mut ended) = Tasks::new(CancellationToken::new());
        tasks.essential("broken", async { panic!("on purpose") });
        assert_eq!(ended.recv().await, Some(Ended { task: "broken", panicked: true }));
        tasks.essential("lazy", async {});
        assert_eq!(ended.recv().await, Some(Ended { task: "lazy", panicked: false }));
        tasks.essential("steady", std::future::pending());
        tasks.stop.cancel();
        tasks.tracker.close();
        tasks.tracker.wait().await;
        assert!(ended.try_recv().is_err());
    }
}
