//! Many writes of one kind in one commit: each is prepared for itself, all that pass are stored together, and each gets an
//! answer of its own. A store that waits for its disk once for all of them is as much faster as they are many.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;

use super::{
    Objects,
    admission::{Batch, Undo},
};
use crate::{
    model::{ApiError, Object},
    store::{Change, StoreError},
};

/// What preparing a write came to.
pub(super) enum Prepared<T> {
    /// There is nothing to store.
    Done(T),
    /// To be stored.
    Store {
        /// The change of the object itself.
        own: Box<Change>,
        /// What is stored with it.
        batch: Batch,
    },
}

/// Writes of one sort.
#[async_trait]
pub(super) trait Writes: Sync {
    /// What one is about.
    type Item: Sync;
    /// What one answers.
    type Answer: Send;

    /// Prepares one on top of what is stored now.
    async fn prepare(&self, item: &Self::Item, undo: &mut Undo) -> Result<Prepared<Self::Answer>, ApiError>;

    /// What is answered when `object` was stored, or was the last state of what is gone.
    fn answer(&self, object: Arc<Object>, gone: bool) -> Self::Answer;
}

impl Objects {
    /// Makes all of `items`, each of another object, and answers for each in their order. One that is refused does not
    /// keep the others from being stored.
    pub(super) async fn write_all<W: Writes>(
        &self,
        writes: &W,
        items: &[W::Item],
    ) -> Vec<Result<W::Answer, ApiError>> {
        let mut outcomes: Vec<Option<Result<W::Answer, ApiError>>> = items.iter().map(|_| None).collect();
        // A round ends with all that were stored, or, where one changed meanwhile, begins again on what is there now.
        while outcomes.iter().any(Option::is_none) {
            let (mut changes, mut whose, mut undos) = (Vec::<Change>::new(), Vec::new(), Vec::new());
            let mut beside = HashSet::new();
            for (at, item) in items.iter().enumerate() {
                if outcomes[at].is_some() {
                    continue;
                }
                let mut undo = Undo::default();
                match writes.prepare(item, &mut undo).await {
                    // What is stored beside two of them is the same: the second has another commit, on top of the first.
                    Ok(Prepared::Store { own, batch })
                        if beside.contains(own.key()) || batch.keys().any(|key| beside.contains(key)) =>
                    {
                        undo.run();
                    }
                    Ok(Prepared::Store { own, batch }) => {
                        beside.extend(batch.keys().chain([own.key()]).cloned());
                        whose.push((at, changes.len(), matches!(*own, Change::Delete { .. })));
                        changes.extend(batch.after(*own));
                        undos.push(undo);
                    }
                    Ok(Prepared::Done(answer)) => outcomes[at] = Some(Ok(answer)),
                    Err(error) => {
                        undo.run();
                        outcomes[at] = Some(Err(error));
                    }
                }
            }
            let committed =
                if changes.is_empty() { Ok(Vec::new()) } else { self.inner.store.commit(changes).await };
            let refusal = match committed {
                Ok(objects) => {
                    for (at, place, gone) in whose {
                        // The store answers for each change that it made.
                        let Some(object) = objects.get(place) else { continue };
                        outcomes[at] = Some(Ok(writes.answer(object.clone(), gone)));
                    }
                    continue;
                }
                Err(refusal) => refusal,
            };
            undos.into_iter().for_each(Undo::run);
            if matches!(refusal, StoreError::Conflict { .. }) {
                tokio::task::yield_now().await;
                continue;
            }
            for (at, ..) in whose {
                outcomes[at] = Some(Err(refusal.clone().into()));
            }
        }
        outcomes.into_iter().flatten().collect()
    }
}
