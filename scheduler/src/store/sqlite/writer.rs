//! The writer: group commit on a thread of its own, and by the committer himself where nothing stands in his way.
//!
//! Handing a batch to another thread and being woken by it costs about as much as a commit on a quick disk. So who finds
//! no batch waiting, no writer at work and a disk that has been quick of late commits at once, where he is. On a slow disk
//! that would hold up everything else on his thread: there, and under load, the thread writes, in groups.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, params};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
};

use super::{Request, SealError, Sealer, load};
use crate::{
    model::Object,
    store::{
        Change, Condition, Event, StoreError,
        image::{Image, News},
        stage::Stage,
    },
};

/// Batches in one transaction: bounds how long the first of them waits for the last.
const GROUP: usize = 256;
/// Commits that take less than this, on the mean, may hold up a thread of the runtime.
const QUICK: Duration = Duration::from_micros(500);
/// So many changes a batch may have that is committed where it comes from.
const FEW: usize = 8;
/// And so many bytes.
const SMALL: usize = 64 << 10;
/// So many such commits follow each other before others on that thread go on.
const TURN: usize = 8;

type Answer = oneshot::Sender<Result<Vec<Arc<Object>>, StoreError>>;

/// Where batches are committed, by whoever holds the writer.
#[derive(Debug)]
pub(super) struct Desk {
    writer: Mutex<Writer>,
    condition: watch::Sender<Condition>,
    /// Batches on their way to the thread.
    waiting: Arc<AtomicUsize>,
    /// How many were committed where they came from.
    here: AtomicUsize,
}

/// Owns the connection.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) image: Arc<Image>,
    pub(super) sealer: Sealer,
    pub(super) condition: watch::Sender<Condition>,
    pub(super) pace: Pace,
    /// Tells that there is something to be laid to rest. One word that waits is enough.
    pub(super) rest: std::sync::mpsc::SyncSender<()>,
}

/// How long commits took of late; nothing is known of a disk at first, so that it counts as slow.
#[derive(Debug)]
pub(super) struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(QUICK * 8)
    }
}

impl Pace {
    fn took(&mut self, time: Duration) {
        self.0 = (self.0 * 7 + time) / 8;
    }

    fn is_quick(&self) -> bool {
        self.0 < QUICK
    }
}

/// A batch that waits for the thread, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Says that there is no writer any more, however it ended.
struct Gone(watch::Sender<Condition>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.send_replace(Condition::Broken);
    }
}

/// Says that there is no writer any more when a commit breaks off with a panic.
struct Unwound<'a>(&'a watch::Sender<Condition>);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(Condition::Broken);
        }
    }
}

/// Why a transaction failed, and whether its outcome is known.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("a row could not be written")]
    Row(#[source] rusqlite::Error),
    #[error("a row could not be sealed")]
    Seal(#[source] SealError),
    #[error("the transaction could not be committed")]
    Commit(#[source] rusqlite::Error),
}

impl WriteError {
    fn is_full(&self) -> bool {
        match self {
            Self::Row(error) | Self::Commit(error) => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::Seal(_) => false,
        }
    }

    /// Whether the transaction may have happened although it failed. The frame that commits is the last one
    /// written: a log that had no room for all of them has none that counts.
    fn is_uncertain(&self) -> bool {
        matches!(self, Self::Commit(_)) && !self.is_full()
    }

    fn told(self) -> StoreError {
        if self.is_full() { StoreError::Full(Arc::new(self)) } else { StoreError::Write(Arc::new(self)) }
    }
}

impl Desk {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            condition: writer.condition.clone(),
            writer: Mutex::new(writer),
            waiting: Arc::default(),
            here: AtomicUsize::new(0),
        }
    }

    /// Counts a batch that the thread is to commit.
    pub(super) fn queue(&self) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Release);
        Waiting(self.waiting.clone())
    }

    /// Commits a batch here and now if that is quick; gives it back otherwise.
    pub(super) fn commit(
        &self,
        changes: Vec<Change>,
    ) -> Result<Result<Vec<Arc<Object>>, StoreError>, Vec<Change>> {
        let small = changes.len() <= FEW && changes.iter().map(Change::bytes).sum::<usize>() <= SMALL;
        // On one processor nothing else would go on meanwhile, not even heartbeats: its only thread is not held up.
        let alone = Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() < 2);
        if !small || alone || self.waiting.load(Ordering::Acquire) > 0 {
            return Err(changes);
        }
        let Ok(mut writer) = self.writer.try_lock() else { return Err(changes) };
        if !writer.pace.is_quick() || *self.condition.borrow() != Condition::Good {
            return Err(changes);
        }
        let _broken = Unwound(&self.condition);
        let (answer, mut answered) = oneshot::channel();
        let (_, news) = writer.commit(vec![(changes, answer)]);
        drop(writer);
        // Waking those who watch goes on after the committer, who is about to answer somebody.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { news.tell() })),
            Err(_) => news.tell(),
        }
        Ok(answered.try_recv().unwrap_or(Err(StoreError::Closed)))
    }

    /// Whether it is time to let others on this thread go on: a committer who is never made to wait would keep it.
    pub(super) fn is_turn_over(&self) -> bool {
        self.here.fetch_add(1, Ordering::Relaxed) % TURN == TURN - 1
    }

    /// As if a commit had taken so long.
    #[cfg(test)]
    pub(super) fn took(&self, time: Duration) {
        self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pace.took(time);
    }

    /// The thread: runs until the store is dropped or the outcome of a commit is unknown.
    pub(super) fn run(&self, mut queue: mpsc::Receiver<Request>) {
        let _gone = Gone(self.condition.clone());
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(request) = queue.try_recv()
            {
                group.push(request);
            }
            // They count as waiting until they are answered: who comes now waits behind them.
            let (group, _waiting): (Vec<_>, Vec<Waiting>) =
                group.into_iter().map(|r| ((r.changes, r.answer), r.waiting)).unzip();
            let goes_on = match self.writer.lock() {
                Ok(mut writer) => {
                    let (goes_on, news) = writer.commit(group);
                    drop(writer);
                    // Whoever waits for his answer went before those who only look on.
                    news.tell();
                    goes_on
                }
                // It broke off in the midst of a commit.
                Err(_) => false,
            };
            if !goes_on {
                // What is on disk is unknown: going on could acknowledge writes on top of a lost one.
                return;
            }
        }
    }
}

impl Writer {
    /// Stages, persists, publishes and answers a group: whether the store may go on, and the news of it.
    fn commit(&mut self, group: Vec<(Vec<Change>, Answer)>) -> (bool, News) {
        if *self.condition.borrow() == Condition::Broken {
            // Whose answers are dropped knows that the store is closed.
            return (false, News::default());
        }
        let image = self.image.clone();
        let mut stage = Stage::new(&image);
        let mut accepted: Vec<(Answer, Vec<Arc<Event>>)> = Vec::with_capacity(group.len());
        for (changes, answer) in group {
            match stage.add(changes) {
                Ok(events) => accepted.push((answer, events)),
                Err(refused) => drop(answer.send(Err(refused))),
            }
        }
        if stage.events().is_empty() {
            for (answer, _) in accepted {
                drop(answer.send(Ok(Vec::new())));
            }
            return (true, News::default());
        }
        let since = Instant::now();
        let persisted = self.persist(stage.events());
        self.pace.took(since.elapsed());
        match persisted {
            Ok(()) => {
                let news = image.apply(stage.events().iter().cloned());
                if news.may_rest() {
                    let _told_already = self.rest.try_send(());
                }
                let good = Condition::Good;
                self.condition.send_if_modified(|now| std::mem::replace(now, good) != good);
                for (answer, events) in accepted {
                    drop(answer.send(Ok(events.iter().map(|e| e.object.clone()).collect())));
                }
                (true, news)
            }
            Err(error) => {
                (self.refuse(error, accepted.into_iter().map(|(answer, _)| answer)), News::default())
            }
        }
    }

    /// Answers a group that was not written; `false` when the store must stop.
    fn refuse(&self, error: WriteError, answers: impl Iterator<Item = Answer>) -> bool {
        let sound = !error.is_uncertain() && self.nothing_happened();
        let condition = match (sound, error.is_full()) {
            (false, _) => Condition::Broken,
            (true, true) => Condition::Full,
            (true, false) => Condition::Good,
        };
        self.condition.send_if_modified(|now| std::mem::replace(now, condition) != condition);
        let refusal = error.told();
        for answer in answers {
            drop(answer.send(Err(refusal.clone())));
        }
        sound
    }

    /// Whether the failed transaction is over and the database is where the image is.
    fn nothing_happened(&self) -> bool {
        let revision = self.connection.query_row(load::NEWEST, [], |row| row.get::<_, i64>(0));
        self.connection.is_autocommit()
            && revision.is_ok_and(|revision| revision.cast_unsigned() == self.image.revision().0)
    }

    fn persist(&mut self, events: &[Arc<Event>]) -> Result<(), WriteError> {
        let transaction = self.connection.transaction().map_err(WriteError::Row)?;
        {
            let mut put = transaction
                .prepare_cached("INSERT INTO objects VALUES (?1, ?2, ?3, ?4, ?5)")
                .map_err(WriteError::Row)?;
            let mut delete = transaction
                .prepare_cached("DELETE FROM objects WHERE revision = ?1")
                .map_err(WriteError::Row)?;
            for event in events {
                if let Some(previous) = &event.previous {
                    let rows =
                        delete.execute([previous.revision.0.cast_signed()]).map_err(WriteError::Row)?;
                    // No key holds the rows of one object together: one that stayed would come back at the next start.
                    if rows != 1 {
                        return Err(WriteError::Row(rusqlite::Error::StatementChangedRows(rows)));
                    }
                }
                let (object, revision) = (&event.object, event.revision().0.cast_signed());
                if event.deleted {
                    transaction
                        .prepare_cached("UPDATE clock SET revision = ?1")
                        .and_then(|mut clock| clock.execute([revision]))
                        .map_err(WriteError::Row)?;
                } else {
                    let (key, body) = (&object.key, self.sealer.encode(object).map_err(WriteError::Seal)?);
                    put.execute(params![revision, key.resource.0, key.namespace_str(), &*key.name, &*body])
                        .map_err(WriteError::Row)?;
                }
            }
        }
        transaction.commit().map_err(WriteError::Commit)
    }
}
