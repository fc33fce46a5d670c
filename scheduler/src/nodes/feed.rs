//! Watches of stored objects as one queue of changes, with a new list after every interruption.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::sync::mpsc;

use super::projection::Name;
use crate::{
    model::{ApiError, Chain, Object, Resource},
    objects::{Objects, Selection, WatchEvent},
};

/// Wait between a watch that ended and the next list.
const AGAIN: Duration = Duration::from_millis(100);

/// What the projection is made of.
pub(super) const RESOURCES: [Resource; 6] = [
    Resource::NODES,
    Resource::SECRETS,
    Resource::CONFIG_MAPS,
    Resource::SERVICES,
    Resource::ENDPOINT_SLICES,
    Resource::PODS,
];

/// One change.
#[derive(Debug)]
pub(super) enum Change {
    /// Came or changed.
    Put(Arc<Object>),
    /// Deleted.
    Gone(Arc<Object>),
    /// A list is complete: what is not in it exists no more.
    Listed(Resource, HashSet<Name>),
}

pub(super) fn name_of(object: &Object) -> Name {
    Name {
        namespace: object.key.namespace.clone().unwrap_or_else(|| "".into()),
        name: object.key.name.clone(),
    }
}

/// Follows one resource for as long as somebody listens. Cancel-safe: an interrupted watch is taken up again with a
/// list, or never.
pub(super) async fn follow(objects: Objects, resource: Resource, changes: mpsc::Sender<Change>) {
    loop {
        match watch(&objects, resource, &changes).await {
            Ok(Ended::NobodyListens) => return,
            Ok(Ended::Watch) => {}
            Err(error) => {
                tracing::warn!(%resource, error = %Chain(&error), "watch for node sessions interrupted");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

enum Ended {
    Watch,
    NobodyListens,
}

async fn watch(
    objects: &Objects,
    resource: Resource,
    changes: &mpsc::Sender<Change>,
) -> Result<Ended, ApiError> {
    let mut stream = objects.watch(resource, Selection::default(), None).await?;
    let mut listed = Some(HashSet::new());
    while let Some(event) = stream.next().await {
        let change = match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                if let Some(listed) = &mut listed {
                    listed.insert(name_of(&object));
                }
                Change::Put(object)
            }
            WatchEvent::Deleted(object) => Change::Gone(object),
            WatchEvent::Bookmark(_) => match listed.take() {
                Some(names) => Change::Listed(resource, names),
                None => continue,
            },
        };
        if changes.send(change).await.is_err() {
            return Ok(Ended::NobodyListens);
        }
    }
    Ok(Ended::Watch)
}
