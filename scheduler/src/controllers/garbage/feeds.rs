//! One watch for each kind that is stored, whichever there are at the moment: they fill the graph and say what must be
//! looked at.
//!
//! In: the catalogues and the changes of every kind. Out: keys in the collector's queue. Never: a decision.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

use super::{graph::Graph, metadata, owner_key};
use crate::{
    controllers::runner::Queue,
    kinds::Catalogue,
    model::{ApiError, Key, Object, Resource},
    objects::{Objects, Selection, WatchEvent},
};

const AGAIN: Duration = Duration::from_millis(200);

/// Nobody owns these or is owned by them, as upstream has it, and there are more of them than of all else.
const IGNORED: [Resource; 1] = [Resource::EVENTS];

/// The resources that are followed.
pub(super) fn followed(kinds: &Catalogue) -> impl Iterator<Item = Resource> {
    kinds.stored().map(|kind| kind.resource).filter(|resource| !IGNORED.contains(resource))
}

/// The kinds that have not been listed whole yet. Without the whole graph nobody can say that an object has no
/// dependents.
pub(super) type Unlisted = watch::Sender<HashSet<Resource>>;

/// The watches.
pub(super) struct Feeds {
    pub(super) objects: Objects,
    pub(super) graph: Arc<Graph>,
    pub(super) queue: Arc<Queue<Key>>,
    pub(super) unlisted: Arc<Unlisted>,
}

impl Feeds {
    /// Follows all kinds. Cancel-safe: the graph is made anew at the next start. Ends when a watch panics.
    pub(super) async fn run(self) {
        let mut catalogues = self.objects.registry().follow();
        let mut running: HashMap<Resource, AbortHandle> = HashMap::new();
        let mut tasks = JoinSet::new();
        loop {
            let kinds = catalogues.borrow_and_update().clone();
            self.fit(&kinds, &mut running, &mut tasks);
            tokio::select! {
                changed = catalogues.changed() => if changed.is_err() { return },
                Some(ended) = tasks.join_next() => match ended {
                    Err(error) if error.is_cancelled() => {}
                    _ => return,
                },
            }
        }
    }

    /// One watch for each followed kind, and none for others.
    fn fit(&self, kinds: &Catalogue, running: &mut HashMap<Resource, AbortHandle>, tasks: &mut JoinSet<()>) {
        running.retain(|resource, task| {
            let stays = kinds.by_resource(*resource).is_some();
            if !stays {
                task.abort();
                self.unlisted.send_if_modified(|unlisted| unlisted.remove(resource));
                for key in self.graph.missing(*resource, &HashSet::new()) {
                    self.graph.forget(&key, |_| None);
                }
            }
            stays
        });
        let first = running.is_empty();
        for resource in followed(kinds) {
            running.entry(resource).or_insert_with(|| {
                self.unlisted.send_modify(|unlisted| {
                    unlisted.insert(resource);
                });
                let feed = Feed {
                    objects: self.objects.clone(),
                    graph: self.graph.clone(),
                    queue: self.queue.clone(),
                    resource,
                    listed: false,
                    came_later: !first,
                    unlisted: self.unlisted.clone(),
                };
                tasks.spawn(feed.run())
            });
        }
    }
}

/// One kind's watch.
struct Feed {
    objects: Objects,
    graph: Arc<Graph>,
    queue: Arc<Queue<Key>>,
    resource: Resource,
    listed: bool,
    /// Whether others have been judged without this kind.
    came_later: bool,
    unlisted: Arc<Unlisted>,
}

impl Feed {
    async fn run(mut self) {
        loop {
            if let Err(error) = self.follow().await {
                tracing::warn!(resource = %self.resource, %error, "watch ended, listing again");
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn follow(&mut self) -> Result<(), ApiError> {
        let mut watch = self.objects.watch(self.resource, Selection::default(), None).await?;
        let mut list = Some(HashSet::new());
        while let Some(event) = watch.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    if let Some(list) = &mut list {
                        list.insert(object.key.clone());
                    }
                    self.look(self.graph.observe(&object));
                }
                WatchEvent::Deleted(object) => self.forget(&object.key, Some(&object)),
                WatchEvent::Bookmark(_) => {
                    for key in
                        list.take().map(|l| self.graph.missing(self.resource, &l)).into_iter().flatten()
                    {
                        self.forget(&key, None);
                    }
                    if !std::mem::replace(&mut self.listed, true) {
                        self.unlisted.send_if_modified(|unlisted| unlisted.remove(&self.resource));
                        if self.came_later {
                            // What names an owner of this kind could not be judged before.
                            self.look(self.graph.owned());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The owners of what went may have waited for it.
    fn forget(&self, key: &Key, last: Option<&Object>) {
        let owners = last.map(metadata).and_then(|m| m.owner_references).unwrap_or_default();
        let kinds = self.objects.kinds();
        let key_of = |uid: &Arc<str>| {
            let owner = owners.iter().find(|o| o.uid == **uid)?;
            owner_key(&kinds, owner, key.namespace.as_deref())
        };
        self.look(self.graph.forget(key, key_of));
    }

    fn look(&self, keys: Vec<Key>) {
        for key in keys {
            self.queue.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_stored_is_followed_but_events() {
        let kinds = crate::kinds::builtin();
        let (followed, stored): (HashSet<_>, HashSet<_>) =
            (followed(kinds).collect(), kinds.stored().map(|kind| kind.resource).collect());
        assert_eq!(stored.difference(&followed).collect::<Vec<_>>(), [&Resource::EVENTS]);
    }
}
