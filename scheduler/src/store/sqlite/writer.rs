//! The writer thread: group commit.

use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::{Request, SealError, Sealer, load};
use crate::{
    model::Object,
    store::{
        Condition, Event, StoreError,
        image::{Image, Stage},
    },
};

/// Batches in one transaction: bounds how long the first of them waits for the last.
const GROUP: usize = 256;

type Answer = oneshot::Sender<Result<Vec<Arc<Object>>, StoreError>>;

/// Owns the connection.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) image: Arc<Image>,
    pub(super) sealer: Sealer,
    pub(super) condition: watch::Sender<Condition>,
}

/// Says that there is no writer any more, however it ended.
struct Gone(watch::Sender<Condition>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.send_replace(Condition::Broken);
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

impl Writer {
    /// Runs until the store is dropped or the outcome of a commit is unknown.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let _gone = Gone(self.condition.clone());
        while let Some(first) = queue.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP
                && let Ok(request) = queue.try_recv()
            {
                group.push(request);
            }
            if !self.commit(group) {
                // What is on disk is unknown: going on could acknowledge writes on top of a lost one.
                return;
            }
        }
    }

    /// Stages, persists, publishes and answers a group; `false` when the store must stop.
    fn commit(&mut self, group: Vec<Request>) -> bool {
        let image = self.image.clone();
        let mut stage = Stage::new(&image);
        let mut accepted: Vec<(Answer, Vec<Arc<Event>>)> = Vec::with_capacity(group.len());
        for Request { changes, answer } in group {
            match stage.add(changes) {
                Ok(events) => accepted.push((answer, events)),
                Err(refused) => drop(answer.send(Err(refused))),
            }
        }
        if stage.events().is_empty() {
            for (answer, _) in accepted {
                drop(answer.send(Ok(Vec::new())));
            }
            return true;
        }
        match self.persist(stage.events()) {
            Ok(()) => {
                let news = image.apply(stage.events().iter().cloned());
                let good = Condition::Good;
                self.condition.send_if_modified(|now| std::mem::replace(now, good) != good);
                for (answer, events) in accepted {
                    drop(answer.send(Ok(events.iter().map(|e| e.object.clone()).collect())));
                }
                // Whoever waits for his answer goes before those who only look on.
                news.tell();
                true
            }
            Err(error) => self.refuse(error, accepted.into_iter().map(|(answer, _)| answer)),
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
