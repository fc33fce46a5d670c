//! What nobody else takes away: events after an hour, and the oldest of very many finished pods.

mod ages;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::Event,
    jiff::{SignedDuration, Timestamp},
};

use self::ages::Ages;
use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{Cache, Client, WriteError},
    model::{Key, Object, Reason, Resource},
    objects::{DeleteOptions, Objects},
};

/// Events are kept for so long, as upstream.
const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Finished pods beyond this go, oldest first, as upstream.
const FINISHED_PODS: usize = 12_500;
/// So many failures end a sweep.
const FAILURES: usize = 10;
/// The time between two sweeps.
const AGAIN: Duration = Duration::from_secs(120);

struct Sweep {
    cache: Cache,
    client: Client,
    ages: Arc<Ages>,
}

/// Starts the controller.
pub(super) fn start(objects: &Objects, cache: &Cache, runtime: &Runtime) {
    let queue: Arc<Queue<&'static str>> = runtime.queue(Sweep::NAME);
    queue.add("events");
    queue.add("pods");
    let client = Client::new(objects, cache, "pod-garbage-collector");
    let ages = Arc::new(Ages::default());
    // Cancel-safe: what was noted is noted again, of everything that is there, at the next start.
    runtime.tasks.essential("ages of events", ages::follow(objects.clone(), ages.clone()));
    runtime.spawn(Sweep { cache: cache.clone(), client, ages }, &queue);
}

impl Controller for Sweep {
    type Key = &'static str;
    const NAME: &'static str = "sweep";
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &&'static str) -> Result<Next, WriteError> {
        match *key {
            "events" => drop(self.events(Timestamp::now()).await?),
            _ => self.pods().await?,
        }
        Ok(Next::After(AGAIN))
    }

    fn all(&self) -> Vec<&'static str> {
        vec!["events", "pods"]
    }
}

impl Sweep {
    /// Looks at those that may be old by now, and at no others; says at how many.
    async fn events(&self, now: Timestamp) -> Result<usize, WriteError> {
        let oldest = now.saturating_sub(EVENT_LIFE).unwrap_or(Timestamp::MIN);
        let (mut looked_at, mut failed) = (0, Vec::new());
        // One that cannot be removed keeps no other; many mean that nothing can be written.
        while failed.len() < FAILURES
            && let Some(event) = self.ages.take_before(oldest)
        {
            looked_at += 1;
            let key = Key::namespaced(Resource::EVENTS, &event.namespace, &event.name);
            let Some(object) = self.client.objects().stored(&key) else { continue };
            // Told again since it was noted, it lives on from then.
            match last_seen(&object).filter(|last| *last >= oldest) {
                Some(last) => self.ages.note(event, last),
                None => {
                    if let Err(error) = self.remove(&object).await {
                        failed.push((event, error));
                    }
                }
            }
        }
        let mut first = Ok(looked_at);
        for (event, error) in failed {
            self.ages.note(event, Timestamp::MIN);
            first = first.and(Err(error));
        }
        first
    }

    async fn remove(&self, event: &Object) -> Result<(), WriteError> {
        let (namespace, name) = (event.key.namespace.as_deref(), &event.key.name);
        let delete = DeleteOptions { uid: Some(event.uid.to_string()), ..DeleteOptions::default() };
        let options = self.client.options();
        match self.client.objects().remove(Resource::EVENTS, namespace, name, &delete, options).await {
            Err(error) if error.reason == Reason::NotFound => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    async fn pods(&self) -> Result<(), WriteError> {
        let mut finished = self.cache.pods.finished();
        finished.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
        let over = finished.len().saturating_sub(FINISHED_PODS);
        for pod in finished.into_iter().take(over) {
            let options = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
            self.client.delete(&*pod, options).await?;
        }
        Ok(())
    }
}

/// When an event was told last; `None` when it does not say, or does not decode.
fn last_seen(object: &Object) -> Option<Timestamp> {
    let event: Event = object.decode_bare().ok()?;
    let times = [
        event.last_timestamp.map(|t| t.0),
        event.series.and_then(|s| s.last_observed_time).map(|t| t.0),
        event.event_time.map(|t| t.0),
        event.metadata.creation_timestamp.map(|t| t.0),
    ];
    times.into_iter().flatten().max()
}

#[cfg(test)]
mod tests;
