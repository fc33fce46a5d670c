//! containerd's task events as a stream that never ends: after every (re)connection it says `Resync`, because what
//! happened in between was not seen. The end of a container is recorded as labels before it is passed on, so that
//! it outlives the shim.

use std::{path::PathBuf, time::Duration};

use containerd_client::{
    events::{TaskExit, TaskOom},
    services::v1::{Container, GetContainerRequest, PublishRequest, SubscribeRequest},
    types::Envelope,
};
use futures::stream::{self, BoxStream, StreamExt};
use prost::Message;
use prost_types::Any;
use tonic::{Status, Streaming};

use super::{
    RuntimeEvent,
    facts::{Exit, milliseconds, oom_killed, settle},
    labels,
};
use crate::{containerd::Containerd, model::ContainerId};

/// containerd restarts within a second; asking more often gains nothing.
const RETRY: Duration = Duration::from_millis(500);

/// Topic of our own event.
const SUBSCRIBED: &str = "/gantry/subscribed";
const PUBLISH_INTERVAL: Duration = Duration::from_millis(50);

struct Source {
    client: Containerd,
    cgroup_mount: PathBuf,
    connection: Option<Streaming<Envelope>>,
}

pub(super) fn stream(client: Containerd, cgroup_mount: PathBuf) -> BoxStream<'static, RuntimeEvent> {
    let source = Source { client, cgroup_mount, connection: None };
    stream::unfold(source, |mut source| async move {
        let event = source.next().await;
        Some((event, source))
    })
    .boxed()
}

impl Source {
    async fn next(&mut self) -> RuntimeEvent {
        loop {
            let Some(connection) = &mut self.connection else {
                self.connect().await;
                return RuntimeEvent::Resync;
            };
            match connection.message().await {
                Ok(Some(envelope)) => {
                    if let Some(event) = self.translate(&envelope).await {
                        return event;
                    }
                }
                Ok(None) => self.connection = None,
                Err(status) => {
                    tracing::warn!(error = %status.message(), "containerd's event stream was interrupted");
                    self.connection = None;
                }
            }
        }
    }

    async fn connect(&mut self) {
        let mut told = false;
        loop {
            match self.subscribe().await {
                Ok(connection) => {
                    self.connection = Some(connection);
                    return;
                }
                Err(status) => {
                    if !told {
                        tracing::warn!(error = %status.message(), "containerd cannot be reached");
                        told = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// containerd answers a subscription with its first event only, however long that takes. So that it is known
    /// from when on nothing is missed, an event of our own is published until the answer comes.
    async fn subscribe(&self) -> Result<Streaming<Envelope>, Status> {
        let filter = |topic: &str| format!("namespace=={:?},topic=={topic:?}", self.client.namespace());
        let filters = ["/tasks/exit", "/tasks/oom", SUBSCRIBED].map(filter).into();
        let mut events = self.client.events();
        let answer = events.subscribe(self.client.open_ended(SubscribeRequest { filters }));
        tokio::pin!(answer);
        let mut again = tokio::time::interval(PUBLISH_INTERVAL);
        loop {
            // Cancel safety: the subscription is polled again; a publication that is cut short is repeated.
            tokio::select! {
                answer = &mut answer => return Ok(answer?.into_inner()),
                _ = again.tick() => {
                    let event = Any { type_url: "gantry.dev/Subscribed".to_owned(), value: Vec::new() };
                    let request = PublishRequest { topic: SUBSCRIBED.to_owned(), event: Some(event) };
                    self.client.events().publish(self.client.request(request)).await?;
                }
            }
        }
    }

    async fn translate(&self, envelope: &Envelope) -> Option<RuntimeEvent> {
        let event = envelope.event.as_ref()?;
        match envelope.topic.as_str() {
            "/tasks/oom" => {
                let oom = TaskOom::decode(event.value.as_slice()).ok()?;
                Some(RuntimeEvent::Oom(self.record(&oom.container_id).await?.0))
            }
            "/tasks/exit" => {
                let exit = TaskExit::decode(event.value.as_slice()).ok()?;
                // The end of an exec is waited for by who started it.
                if exit.id != exit.container_id {
                    return None;
                }
                let (id, record) = self.record(&exit.container_id).await?;
                self.record_exit(&exit, &record).await;
                Some(RuntimeEvent::Exited(id))
            }
            _ => None,
        }
    }

    async fn record(&self, native: &str) -> Option<(ContainerId, Container)> {
        let request = self.client.request(GetContainerRequest { id: native.to_owned() });
        let record = self.client.containers().get(request).await.ok()?.into_inner().container?;
        let id = ContainerId::new(record.labels.get(labels::ID)?.clone());
        Some((id, record))
    }

    async fn record_exit(&self, exit: &TaskExit, record: &Container) {
        let code = i32::try_from(exit.exit_status).unwrap_or(255);
        let facts = Exit {
            code,
            finished_ms: exit.exited_at.as_ref().map_or(0, milliseconds),
            oom_killed: oom_killed(code, record, &self.cgroup_mount),
        };
        settle(&self.client, record, facts).await;
    }
}
