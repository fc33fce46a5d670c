//! The work queue: a set of keys in order of arrival. A key that is added while it is being worked on waits
//! until that pass ends; a key that failed waits longer each time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{Key, metrics::QueueMetrics};

/// First wait after a failure; doubles with each one.
const FIRST_RETRY: Duration = Duration::from_millis(5);
/// Longest wait: a cause that went away is noticed within a minute.
const LAST_RETRY: Duration = Duration::from_secs(60);
/// All retries of one queue together: ten a second after a burst of a hundred, so that a store that refuses
/// everything is not stormed.
const RETRY_EVERY: Duration = Duration::from_millis(100);
const RETRY_BURST: u32 = 100;

struct Inner<K> {
    ready: VecDeque<K>,
    /// Keys that need a pass, with the time since when.
    dirty: HashMap<K, Instant>,
    working: HashSet<K>,
    later: BinaryHeap<Reverse<(Instant, K)>>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    /// When the retry budget is whole again.
    retry_budget: Option<Instant>,
}

/// A queue of keys; shared by the callbacks that add and the workers that take.
pub struct Queue<K> {
    inner: Mutex<Inner<K>>,
    notify: Notify,
    metrics: QueueMetrics,
}

impl<K: Key> Queue<K> {
    /// An empty queue.
    pub fn new(metrics: QueueMetrics) -> Self {
        Self {
            inner: Mutex::new(Inner {
                ready: VecDeque::new(),
                dirty: HashMap::new(),
                working: HashSet::new(),
                later: BinaryHeap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                retry_budget: None,
            }),
            notify: Notify::new(),
            metrics,
        }
    }

    /// Asks for a pass over `key`, unless one is already asked for.
    pub fn add(&self, key: K) {
        let mut inner = self.lock();
        self.add_locked(&mut inner, key);
    }

    /// Asks for a pass after `delay`; an earlier one that is already asked for stands.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut inner = self.lock();
        if inner.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        inner.due.insert(key.clone(), at);
        inner.later.push(Reverse((at, key)));
        drop(inner);
        // A waiting worker must take the earlier deadline into account.
        self.notify.notify_one();
    }

    /// Asks for a pass after a failure: later each time.
    pub fn retry(&self, key: K) {
        let now = Instant::now();
        let delay = {
            let mut inner = self.lock();
            let failures = inner.failures.entry(key.clone()).or_insert(0);
            let own = FIRST_RETRY.saturating_mul(1 << (*failures).min(20)).min(LAST_RETRY);
            *failures += 1;
            let whole = inner.retry_budget.map_or(now, |at| at.max(now)) + RETRY_EVERY;
            inner.retry_budget = Some(whole);
            own.max((whole - now).saturating_sub(RETRY_EVERY * RETRY_BURST))
        };
        self.metrics.retries.inc();
        self.add_after(key, delay);
    }

    /// A pass went well: the next failure of `key` waits briefly again.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// Takes the next key; it stays taken until [`Queue::done`].
    pub async fn get(&self) -> K {
        loop {
            let wait = {
                let mut inner = self.lock();
                self.take_due(&mut inner);
                if let Some(key) = inner.ready.pop_front() {
                    let since = inner.dirty.remove(&key);
                    inner.working.insert(key.clone());
                    self.metrics.depth.set(inner.ready.len() as i64);
                    if !inner.ready.is_empty() {
                        self.notify.notify_one();
                    }
                    drop(inner);
                    if let Some(since) = since {
                        self.metrics.queue_seconds.observe(since.elapsed().as_secs_f64());
                    }
                    return key;
                }
                inner.later.peek().map(|Reverse((at, _))| *at)
            };
            // Cancel-safe: a lost wake-up only repeats the look above.
            match wait {
                Some(at) => tokio::select! {
                    () = self.notify.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.notify.notified().await,
            }
        }
    }

    /// Ends the pass over `key`; it is taken again at once if it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut inner = self.lock();
        inner.working.remove(key);
        if inner.dirty.contains_key(key) {
            inner.ready.push_back(key.clone());
            self.metrics.depth.set(inner.ready.len() as i64);
            drop(inner);
            self.notify.notify_one();
        }
    }

    fn take_due(&self, inner: &mut Inner<K>) {
        let now = Instant::now();
        while inner.later.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((at, key))) = inner.later.pop()
                && inner.due.get(&key) == Some(&at)
            {
                inner.due.remove(&key);
                self.add_locked(inner, key);
            }
        }
    }

    fn add_locked(&self, inner: &mut Inner<K>, key: K) {
        if inner.dirty.contains_key(&key) {
            return;
        }
        self.metrics.adds.inc();
        inner.dirty.insert(key.clone(), Instant::now());
        if !inner.working.contains(&key) {
            inner.ready.push_back(key);
            self.metrics.depth.set(inner.ready.len() as i64);
            self.notify.notify_one();
        }
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
