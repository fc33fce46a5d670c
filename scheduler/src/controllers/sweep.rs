//! What nobody else takes away: events after an hour, and the oldest of very many finished pods.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::Event,
    jiff::{SignedDuration, Timestamp},
};

use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{Cache, Client, WriteError},
    model::{Reason, Resource},
    objects::{DeleteOptions, Objects, Selection},
};

/// Events are kept for so long, as upstream.
const EVENT_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Finished pods beyond this go, oldest first, as upstream.
const FINISHED_PODS: usize = 12_500;
/// How often.
const AGAIN: Duration = Duration::from_secs(120);

struct Sweep {
    cache: Cache,
    client: Client,
}

/// Starts the controller.
pub(super) fn start(objects: &Objects, cache: &Cache, runtime: &Runtime) {
    let queue: Arc<Queue<&'static str>> = runtime.queue(Sweep::NAME);
    queue.add("events");
    queue.add("pods");
    let client = Client::new(objects, cache, "pod-garbage-collector");
    runtime.spawn(Sweep { cache: cache.clone(), client }, &queue);
}

impl Controller for Sweep {
    type Key = &'static str;
    const NAME: &'static str = "sweep";
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &&'static str) -> Result<Next, WriteError> {
        match *key {
            "events" => self.events().await?,
            _ => self.pods().await?,
        }
        Ok(Next::After(AGAIN))
    }

    fn all(&self) -> Vec<&'static str> {
        vec!["events", "pods"]
    }
}

impl Sweep {
    async fn events(&self) -> Result<(), WriteError> {
        let objects = self.client.objects();
        let oldest = Timestamp::now().saturating_sub(EVENT_LIFE).unwrap_or(Timestamp::MIN);
        for object in objects.list(Resource::EVENTS, &Selection::default()).await?.items {
            if object.decode::<Event>().is_ok_and(|event| !is_old(&event, oldest)) {
                continue;
            }
            let (namespace, name) = (object.key.namespace.as_deref(), &object.key.name);
            let options = DeleteOptions { uid: Some(object.uid.to_string()), ..DeleteOptions::default() };
            match objects.remove(Resource::EVENTS, namespace, name, &options, self.client.options()).await {
                Err(error) if error.reason == Reason::NotFound => {}
                other => {
                    other?;
                }
            }
        }
        Ok(())
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

fn is_old(event: &Event, oldest: Timestamp) -> bool {
    let times = [
        event.last_timestamp.as_ref().map(|t| t.0),
        event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0),
        event.event_time.as_ref().map(|t| t.0),
        event.metadata.creation_timestamp.as_ref().map(|t| t.0),
    ];
    times.into_iter().flatten().max().is_none_or(|last| last < oldest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_lives_an_hour_from_when_it_was_last_seen() {
        let event: Event = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "involvedObject": {},
            "lastTimestamp": "2026-01-01T05:00:00Z",
        }))
        .unwrap();
        assert!(!is_old(&event, "2026-01-01T04:59:00Z".parse().unwrap()));
        assert!(is_old(&event, "2026-01-01T05:01:00Z".parse().unwrap()));
        assert!(is_old(&Event::default(), "2026-01-01T05:01:00Z".parse().unwrap()));
    }
}
