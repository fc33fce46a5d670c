//! The store without a disk: for tests and simulations.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::watch;

use super::{Change, Condition, Scan, Snapshot, Store, StoreError, Watcher, image::Image, stage::Stage};
use crate::model::{Key, Object, Paths, Resource, Revision};

/// Everything in memory; gone with the process.
#[derive(Debug)]
pub struct MemoryStore {
    image: Arc<Image>,
    writer: Mutex<()>,
    condition: watch::Sender<Condition>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            image: Arc::default(),
            writer: Mutex::default(),
            condition: watch::Sender::new(Condition::Good),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.image.get(key)
    }

    fn scan(&self, scan: &Scan, keep: &dyn Fn(&Object) -> bool) -> Result<Snapshot, StoreError> {
        self.image.scan(scan, keep)
    }

    fn revision(&self) -> Revision {
        self.image.revision()
    }

    fn watch(&self, resource: Resource, from: Revision) -> Result<Watcher, StoreError> {
        self.image.watch(resource, from)
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Arc<Object>>, StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let events = Stage::new(&self.image).add(changes)?;
        let objects = events.iter().map(|e| e.object.clone()).collect();
        let news = self.image.apply(events);
        if news.may_rest() {
            self.image.rest();
        }
        news.tell();
        Ok(objects)
    }

    fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    fn renew(&self, resource: Resource, paths: &Paths, form: &dyn Fn(&mut Value)) {
        self.image.renew(resource, paths, form);
    }

    fn census(&self) -> BTreeMap<Resource, usize> {
        self.image.census()
    }

    #[cfg(test)]
    fn compact(&self, upto: Revision) {
        self.image.compact(upto);
    }
}
