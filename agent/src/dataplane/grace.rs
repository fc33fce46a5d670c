//! Waits for running programs to end before what they may be reading is freed. One thread, off the publish
//! path; everything retired while it waits shares the next wait.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use super::{
    DataplaneError, lock,
    maps::kernel,
    table::{Retired, Table, TableMaps},
};
use crate::sys::bpf::GracePeriod;

/// Ends when it is dropped and the table it serves is no longer published to.
#[derive(Debug)]
pub(super) struct GraceWorker<M> {
    queue: Sender<Retired>,
    _table: Arc<Mutex<Table<M>>>,
}

impl<M: TableMaps + Send + 'static> GraceWorker<M> {
    /// Starts the thread.
    pub(super) fn start(table: Arc<Mutex<Table<M>>>) -> Result<Self, DataplaneError> {
        let period = GracePeriod::new().map_err(|source| kernel("create", "the grace period map", source))?;
        let (queue, retired) = mpsc::channel();
        let worker_table = Arc::clone(&table);
        thread::Builder::new()
            .name("datapath-grace".to_owned())
            .spawn(move || run(&period, &retired, &worker_table))
            .map_err(|source| kernel("start", "the grace period thread", source))?;
        Ok(Self { queue, _table: table })
    }

    /// Frees `retired` after a grace period.
    pub(super) fn retire(&self, retired: Retired) {
        if !retired.is_empty() && self.queue.send(retired).is_err() {
            // Only after a panic of the thread. What is never freed is found by the next start.
            tracing::error!("the datapath's grace period thread is gone");
        }
    }
}

fn run<M: TableMaps>(period: &GracePeriod, retired: &Receiver<Retired>, table: &Mutex<Table<M>>) {
    while let Ok(first) = retired.recv() {
        let batch: Vec<Retired> = std::iter::once(first).chain(retired.try_iter()).collect();
        if let Err(error) = period.wait() {
            // Not freeing is safe, freeing early is not.
            tracing::error!(%error, "no grace period: the datapath's freed entries stay reserved");
            continue;
        }
        let mut table = lock(table);
        for retired in batch {
            table.release(retired);
        }
    }
}
