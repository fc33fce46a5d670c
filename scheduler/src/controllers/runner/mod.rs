//! The one loop that runs every controller: keys come in from cache callbacks, workers take them one at a time,
//! failures back off, and everything is looked at again now and then even if no event came.
//!
//! Never: one key in two hands, and never any knowledge of what a controller does.

mod metrics;
mod queue;

use std::{fmt, hash::Hash, sync::Arc, time::Duration};

use tokio::time::Instant;

pub use metrics::RunnerMetrics;
pub use queue::Queue;

use crate::{
    cache::{Cache, WriteError},
    tasks::Tasks,
};

/// How often everything is enqueued without a reason. Events drive the work; this repairs what a bug or a lost
/// event left behind.
const RESYNC: Duration = Duration::from_secs(600);

/// What to do with a key after a pass that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for the next event.
    Done,
    /// Look again after so long (a deadline comes up).
    After(Duration),
}

impl Next {
    /// [`Next::After`] when there is a delay.
    pub fn after(delay: Option<Duration>) -> Self {
        delay.map_or(Self::Done, Self::After)
    }

    /// Whichever comes first.
    pub fn sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::Done, next) | (next, Self::Done) => next,
        }
    }
}

/// What a queue can hold.
pub trait Key: Clone + Eq + Ord + Hash + fmt::Display + Send + Sync + 'static {}
impl<T: Clone + Eq + Ord + Hash + fmt::Display + Send + Sync + 'static> Key for T {}

/// One controller: a name, and one pass over one key.
pub trait Controller: Send + Sync + 'static {
    /// What its queue holds.
    type Key: Key;
    /// Its name in logs and metrics.
    const NAME: &'static str;
    /// How many keys it works on at a time.
    const WORKERS: usize = 2;

    /// Observes, plans and applies for one key. Runs again on every change, so it may stop half-way.
    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Next, WriteError>> + Send;

    /// Everything there is, for the resync.
    fn all(&self) -> Vec<Self::Key>;
}

/// What every loop needs from the process.
#[derive(Clone)]
pub struct Runtime {
    /// Nothing runs before it is synced: a plan over half of the objects would be a wrong one.
    pub cache: Cache,
    /// Runs the loops, all of them essential.
    pub tasks: Tasks,
    /// Shared by all controllers, labelled by name.
    pub metrics: RunnerMetrics,
}

impl Runtime {
    /// A queue for the controller `name`.
    pub fn queue<K: Key>(&self, name: &'static str) -> Arc<Queue<K>> {
        Arc::new(Queue::new(self.metrics.of(name)))
    }

    /// Runs `controller` over `queue`.
    pub fn spawn<C: Controller>(&self, controller: C, queue: &Arc<Queue<C::Key>>) {
        let controller = Arc::new(controller);
        for _ in 0..C::WORKERS {
            let (controller, queue) = (controller.clone(), queue.clone());
            let (metrics, cache) = (self.metrics.clone(), self.cache.clone());
            // Cancel-safe: a pass that is cut off is repeated from observation at the next start.
            self.tasks.essential(C::NAME, async move {
                cache.synced().await;
                work(&*controller, &queue, &metrics).await;
            });
        }
        let (queue, cache) = (queue.clone(), self.cache.clone());
        self.tasks.essential(C::NAME, async move {
            cache.synced().await;
            let mut tick = tokio::time::interval(RESYNC);
            loop {
                tick.tick().await;
                for key in controller.all() {
                    queue.add(key);
                }
            }
        });
    }
}

async fn work<C: Controller>(controller: &C, queue: &Queue<C::Key>, metrics: &RunnerMetrics) {
    let metrics = metrics.of(C::NAME);
    loop {
        let key = queue.get().await;
        let began = Instant::now();
        let outcome = controller.reconcile(&key).await;
        metrics.work_seconds.observe(began.elapsed().as_secs_f64());
        match outcome {
            Ok(next) => {
                queue.forget(&key);
                if let Next::After(delay) = next {
                    queue.add_after(key.clone(), delay);
                }
            }
            Err(error) => {
                metrics.failures.inc();
                report(C::NAME, &key, &error);
                queue.retry(key.clone());
            }
        }
        queue.done(&key);
    }
}

fn report(controller: &'static str, key: &impl fmt::Display, error: &WriteError) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    if error.is_conflict() {
        tracing::debug!(controller, %key, %error, "object changed meanwhile, planning again");
    } else {
        tracing::warn!(controller, %key, %error, cause, "reconcile failed, will try again");
    }
}

#[cfg(test)]
mod tests;
