//! A cursor over the history. It holds no queue: a slow watcher costs nothing but its place, and is told to
//! list again once the history has moved past it.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Event, StoreError, image::Image};
use crate::model::{Resource, Revision};

/// Events taken from the history at a time: bounds how long the image's lock is held for one watcher.
const CHUNK: usize = 256;

/// Changes of one resource after a revision, in revision order, without gaps.
#[derive(Debug)]
pub struct Watcher {
    image: Arc<Image>,
    resource: Resource,
    reached: Revision,
    changed: watch::Receiver<()>,
}

impl Watcher {
    pub(super) fn new(
        image: Arc<Image>,
        resource: Resource,
        reached: Revision,
        changed: watch::Receiver<()>,
    ) -> Self {
        Self { image, resource, reached, changed }
    }

    /// The next changes, at least one. Cancel-safe: nothing is taken before it is returned.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        loop {
            // Marked as seen before looking: a change that lands in between wakes us again.
            self.changed.borrow_and_update();
            let events = self.ready()?;
            if !events.is_empty() {
                return Ok(events);
            }
            // The sender lives in the image, which we hold: this never fails.
            if self.changed.changed().await.is_err() {
                return Err(StoreError::Closed);
            }
        }
    }

    /// The changes that are there already, possibly none.
    pub fn ready(&mut self) -> Result<Vec<Arc<Event>>, StoreError> {
        let (events, reached) = self.image.changes(self.resource, self.reached, CHUNK)?;
        self.reached = reached;
        Ok(events)
    }

    /// Everything up to here has been returned.
    pub fn reached(&self) -> Revision {
        self.reached
    }
}
