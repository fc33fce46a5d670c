//! Work that several callers want at once is done once: whole pulls by reference, blobs and layers by digest.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::{FutureExt, future::BoxFuture, future::Shared};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// One lock per key, for as long as somebody holds or wants it.
#[derive(Debug, Default)]
pub(super) struct KeyedLocks {
    locks: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

impl KeyedLocks {
    pub(super) async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| lock.strong_count() > 0);
            let known = locks.get(key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let lock = Arc::default();
                locks.insert(key.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }
}

/// A running piece of work and what can be seen of it meanwhile.
pub(super) struct Running<T: Clone, P> {
    pub(super) result: Shared<BoxFuture<'static, T>>,
    pub(super) progress: Arc<P>,
}

/// Pieces of work by key.
pub(super) struct Flights<T: Clone, P> {
    running: Mutex<HashMap<String, Running<T, P>>>,
}

impl<T: Clone, P> Default for Flights<T, P> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<T: Clone + Send + Sync + 'static, P: Default + Send + Sync + 'static> Flights<T, P> {
    /// Joins the work of this key, or starts it. It goes on when the callers leave.
    pub(super) fn join<F>(
        self: &Arc<Self>,
        key: String,
        lost: T,
        start: impl FnOnce(Arc<P>) -> F,
    ) -> Running<T, P>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = running.get(&key) {
            return Running { result: known.result.clone(), progress: known.progress.clone() };
        }
        let progress: Arc<P> = Arc::default();
        let (work, flights, own) = (start(progress.clone()), self.clone(), key.clone());
        let task = tokio::spawn(async move {
            let result = work.await;
            flights.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&own);
            result
        });
        let result = async move { task.await.unwrap_or(lost) }.boxed().shared();
        let known = Running { result: result.clone(), progress: progress.clone() };
        running.insert(key, known);
        Running { result, progress }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn callers_at_the_same_time_share_one_run() {
        let flights: Arc<Flights<u32, ()>> = Arc::default();
        let runs = Arc::new(AtomicU32::new(0));
        let (finish, wait) = oneshot::channel();
        let first = flights.join("a".into(), 0, |_| {
            let runs = runs.clone();
            async move {
                wait.await.unwrap();
                runs.fetch_add(1, Ordering::SeqCst) + 7
            }
        });
        let second = flights.join("a".into(), 0, |_| async { unreachable!() });
        finish.send(()).unwrap();
        assert_eq!((first.result.await, second.result.await), (7, 7));
        // Afterwards it is new work.
        let third = flights.join("a".into(), 0, |_| async { 9 });
        assert_eq!(third.result.await, 9);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn one_key_is_held_by_one() {
        let locks = Arc::new(KeyedLocks::default());
        let held = locks.lock("a").await;
        let _other = locks.lock("b").await;
        let waiting = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock("a").await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(held);
        waiting.await.unwrap();
    }
}
