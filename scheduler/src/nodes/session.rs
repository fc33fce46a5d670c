//! One agent's session, from its hello to its end. Two halves run side by side: one reads what the agent says,
//! one writes what its node needs. Neither waits for the other, and neither queues without bound.

mod beats;
mod reader;

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use gantry_proto::node::v1 as pb;
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use self::{beats::Beats, reader::Reader};
use super::{
    Shared,
    acks::{self, Acks},
    convert, handshake,
    hub::Subscription,
    keys::Standing,
    labels,
    pod_status::{Place, StatusWriter},
    registration::{NodeWriter, RegistrationError},
    registry::{Agent, Open, Session},
    status_queue::StatusQueue,
};
use crate::{
    connections::Deadline,
    events::{Record, Severity},
    model::{ApiError, Chain, FieldSelector, Key, Resource},
    objects::{Actor, Selection, WatchEvent, WriteOptions},
    pki::{KeyRecord, NODE_USER_PREFIX, NODES_GROUP},
};

/// An agent says hello at once; what does not is something else.
const HELLO: Duration = Duration::from_secs(10);
/// A message that the agent does not take in this time ends the session.
const STALLED: Duration = Duration::from_secs(15);
/// How long a node may wait for its pod range.
const RANGE: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the agent sent no hello")]
    NoHello,
    #[error("{0}")]
    Refused(String),
    #[error("the node cannot be registered")]
    Registration(#[from] RegistrationError),
    #[error("the node was not given a pod range: is the cluster's pod_cidr exhausted?")]
    NoRange,
    #[error("the agent closed the session")]
    Closed,
    // A gRPC status prints all its causes itself, as debug text: its message says the same in words.
    #[error("the connection broke: {}", .0.message())]
    Broken(Box<Status>),
    #[error("the agent does not take its messages")]
    Stalled,
    #[error("another session took its place, or it fell behind")]
    Displaced,
    #[error("nothing was heard from the agent for its lease duration")]
    Silent,
    #[error("its certificate expired and was not renewed")]
    Expired,
    #[error("its Node object was deleted")]
    Deleted,
    #[error("the scheduler is stopping")]
    Stopping,
}

/// Everything that one session needs besides what all share.
pub(super) struct Connection {
    pub(super) shared: Shared,
    /// From the certificate; nothing in a message can change it.
    pub(super) node: String,
    /// End of the certificate.
    pub(super) expires: SystemTime,
    /// Its key.
    pub(super) key: KeyRecord,
    /// When the connection ends; a renewal puts it off.
    pub(super) deadline: Arc<Deadline>,
    pub(super) inbound: Streaming<pb::AgentMessage>,
    pub(super) outbound: mpsc::Sender<pb::SchedulerMessage>,
}

impl Connection {
    /// Runs the session to its end.
    pub(super) async fn run(mut self) {
        let node = self.node.clone();
        let stop = self.shared.stop.clone();
        let ended = match self.start().await {
            Ok(started) => {
                let metrics = self.shared.metrics.clone();
                metrics.sessions.inc();
                let ended = self.serve(started, &stop).await;
                metrics.sessions.dec();
                ended
            }
            Err(refused @ Ended::Refused(_)) => {
                self.shared.metrics.sessions_refused.inc();
                tracing::warn!(%node, reason = %refused, "session refused");
                self.tell_refusal(&refused).await;
                return;
            }
            Err(error) => {
                self.tell_refusal(&error).await;
                error
            }
        };
        match ended {
            Ended::Closed | Ended::Stopping => tracing::info!(%node, reason = %ended, "session ended"),
            other => tracing::warn!(%node, reason = %Chain(&other), "session ended"),
        }
    }

    async fn start(&mut self) -> Result<Started, Ended> {
        let hello = self.hello().await?;
        if let Some(refusal) = handshake::refusal(handshake::PROTOCOL, hello.protocol, &hello.agent_version) {
            return Err(Ended::Refused(refusal));
        }
        // The name may have gone to another machine while this one was away.
        if !Standing::of_name(&self.shared.objects, &self.node).admits(&self.key) {
            return Err(Ended::Refused(format!(
                "another machine has taken the place of node {0}: if this one is to have it back, remove node.pem from its \
                 state directory and join with a token for it (`gantry-scheduler token create --node {0}`); if not, give \
                 it another name",
                self.node
            )));
        }
        let config = &self.shared.config;
        let agent = Agent { boot_id: hello.boot_id.clone(), instance: hello.instance.clone() };
        let open = self
            .shared
            .registry
            .open(&self.node, agent, self.outbound.clone(), config.lease)
            .map_err(Ended::Refused)?;
        let mut writer = NodeWriter::new(
            self.shared.objects.clone(),
            node_options(&self.node),
            &self.node,
            &hello,
            self.key.clone(),
            config.lease,
        );
        match writer.register(self.shared.registry.knows(&open.session)).await {
            Err(RegistrationError::Deleted) => {
                return Err(Ended::Refused(Chain(&RegistrationError::Deleted).to_string()));
            }
            other => other?,
        }
        self.shared.registry.registered(&open.session);
        self.tell_refused_labels(&hello);
        writer.renew_lease().await?;
        let pod_cidrs = self.pod_ranges().await?;
        let place = place(&self.node, &hello, &pod_cidrs);
        let subscription = self
            .shared
            .hub
            .subscribe(&self.node, handshake::form(hello.protocol), hello.epoch, hello.accepted)
            .await
            .ok_or(Ended::Stopping)?;
        // Generations of another epoch say nothing in this one.
        if hello.epoch == subscription.epoch {
            open.session.acknowledge(hello.accepted, hello.programmed);
        }
        let reply = pb::SchedulerHello {
            protocol: Some(handshake::PROTOCOL),
            scheduler_version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: subscription.epoch,
            refusal: String::new(),
            heartbeat_seconds: seconds(config.heartbeat),
            lease_seconds: seconds(config.lease),
            cluster: Some(config.cluster.to_wire()),
            assignment: Some(pb::NodeAssignment { pod_cidrs }),
            snapshot: subscription.snapshot,
        };
        tracing::info!(
            node = self.node,
            agent = hello.agent_version,
            snapshot = subscription.snapshot,
            objects = subscription.first.len(),
            "session started"
        );
        let release = hello.agent_version;
        Ok(Started { open, writer, place, subscription, reply, release })
    }

    /// Labels that a node may not give itself are left out, which its operator would wonder about.
    fn tell_refused_labels(&self, hello: &pb::AgentHello) {
        let (_, refused) = labels::sorted_out(&hello.node.clone().unwrap_or_default().labels);
        if refused.is_empty() {
            return;
        }
        let node = &self.node;
        let keys = refused.join(", ");
        tracing::warn!(%node, labels = keys, "labels that a node may not give itself ignored");
        self.shared.recorder.publish(Record {
            about: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.clone()),
                uid: Some(node.clone()),
                ..ObjectReference::default()
            },
            severity: Severity::Warning,
            reason: "LabelsRefused".to_owned(),
            message: format!("A node may not give itself the labels {keys}: they are ignored"),
            component: "node-controller".to_owned(),
            host: None,
            time: Timestamp::now(),
        });
    }

    async fn hello(&mut self) -> Result<pb::AgentHello, Ended> {
        let first = tokio::time::timeout(HELLO, self.inbound.message()).await.map_err(|_| Ended::NoHello)?;
        let message = first.map_err(|e| Ended::Broken(Box::new(e)))?.ok_or(Ended::Closed)?;
        match message.kind {
            Some(pb::agent_message::Kind::Hello(hello)) => Ok(hello),
            _ => Err(Ended::NoHello),
        }
    }

    /// The node's ranges, once they are allotted.
    async fn pod_ranges(&self) -> Result<Vec<String>, Ended> {
        let wait = async {
            let name = format!("metadata.name={}", self.node);
            let fields = FieldSelector::parse(&name).unwrap_or_default();
            let selection = Selection { fields, ..Selection::default() };
            let mut watch = self.shared.objects.watch(Resource::NODES, selection, None).await?;
            while let Some(event) = watch.next().await {
                if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event?
                    && let Ok(node) = object.decode()
                {
                    let ranges = convert::pod_cidrs(&node);
                    if !ranges.is_empty() {
                        return Ok(ranges);
                    }
                }
            }
            Ok::<_, ApiError>(Vec::new())
        };
        let ranges = tokio::time::timeout(RANGE, wait).await.map_err(|_| Ended::NoRange)?;
        ranges
            .map_err(|e| Ended::Registration(e.into()))
            .and_then(|r| if r.is_empty() { Err(Ended::NoRange) } else { Ok(r) })
    }

    /// The agent logs it and comes back later.
    async fn tell_refusal(&self, why: &Ended) {
        let hello = pb::SchedulerHello {
            protocol: Some(handshake::PROTOCOL),
            scheduler_version: env!("CARGO_PKG_VERSION").to_owned(),
            refusal: Chain(why).to_string(),
            ..pb::SchedulerHello::default()
        };
        // An agent that does not listen cannot be told.
        let _ = say(&self.outbound, pb::scheduler_message::Kind::Hello(hello)).await;
    }

    async fn serve(self, started: Started, stop: &CancellationToken) -> Ended {
        let Started { open, writer, place, subscription, reply, release } = started;
        let session = open.session.clone();
        let (heard, beats) = beats::channel();
        let statuses = StatusWriter::new(self.shared.objects.clone(), node_options(&self.node), place);
        let outbound = self.outbound.clone();
        let (shared, node) = (self.shared.clone(), self.node.clone());
        let reader = Reader {
            queue: StatusQueue::new(statuses),
            session: session.clone(),
            heartbeats: heard,
            acks: Acks::default(),
            release: release.clone(),
            connection: self,
        };
        // Cancel-safe: the session is over with the first of them, whatever the others were at. Statuses that
        // were not confirmed are sent again by the agent, and the projection resumes by generation.
        let ended = tokio::select! {
            ended = reader.run() => ended,
            ended = write_updates(&shared, &node, &outbound, reply, subscription) => ended,
            ended = beat(&shared, &session, &release, writer, beats, &outbound) => ended,
            () = session.displaced.cancelled() => Ended::Displaced,
            () = stop.cancelled() => Ended::Stopping,
        };
        shared.usage.forget(&node);
        drop(open);
        ended
    }
}

struct Started {
    open: Open,
    writer: NodeWriter,
    place: Place,
    subscription: Subscription,
    reply: pb::SchedulerHello,
    /// The agent's version.
    release: String,
}

/// What the projection says, to the agent.
async fn write_updates(
    shared: &Shared,
    node: &str,
    outbound: &mpsc::Sender<pb::SchedulerMessage>,
    hello: pb::SchedulerHello,
    mut subscription: Subscription,
) -> Ended {
    use pb::scheduler_message::Kind;
    let write = async {
        say(outbound, Kind::Hello(hello)).await?;
        for item in std::mem::take(&mut subscription.first) {
            shared.metrics.updates.inc();
            send(outbound, convert::update(&item)).await?;
        }
        if subscription.snapshot {
            shared.metrics.snapshots.inc();
            let end = pb::SnapshotEnd { generation: subscription.generation };
            say(outbound, Kind::SnapshotEnd(end)).await?;
        } else {
            shared.metrics.resumes.inc();
        }
        while let Some(batch) = subscription.changes.recv().await {
            for item in batch {
                shared.metrics.updates.inc();
                send(outbound, convert::update(&item)).await?;
            }
        }
        // The hub drops the subscription of a node that is deleted, too.
        Err::<Infallible, _>(if is_deleted(shared, node) { Ended::Deleted } else { Ended::Displaced })
    };
    let Err(ended) = write.await;
    ended
}

/// With the Node object ends what its agent may write.
fn is_deleted(shared: &Shared, node: &str) -> bool {
    shared.objects.stored(&Key::cluster(Resource::NODES, node)).is_none()
}

/// Heartbeats into lease and conditions; an answer means that both are stored.
async fn beat(
    shared: &Shared,
    session: &Session,
    release: &str,
    mut writer: NodeWriter,
    mut beats: Beats,
    outbound: &mpsc::Sender<pb::SchedulerMessage>,
) -> Ended {
    let node = &*session.node;
    while let Some(mut heartbeat) = beats.next().await {
        shared.usage.record(node, &heartbeat);
        heartbeat.conditions.extend(session.unknown().map(|kinds| acks::condition(&kinds, release)));
        let stored = async {
            writer.renew_lease().await?;
            writer.status(&heartbeat.conditions, Some(&heartbeat.image_names)).await
        };
        if let Err(error) = stored.await {
            if is_deleted(shared, node) {
                return Ended::Deleted;
            }
            tracing::warn!(node, error = %Chain(&error), "heartbeat not stored");
            continue;
        }
        let reply = pb::HeartbeatReply { sequence: heartbeat.sequence };
        if let Err(ended) = say(outbound, pb::scheduler_message::Kind::Heartbeat(reply)).await {
            return ended;
        }
    }
    Ended::Closed
}

async fn say(
    outbound: &mpsc::Sender<pb::SchedulerMessage>,
    kind: pb::scheduler_message::Kind,
) -> Result<(), Ended> {
    send(outbound, convert::message(kind)).await
}

async fn send(
    outbound: &mpsc::Sender<pb::SchedulerMessage>,
    message: pb::SchedulerMessage,
) -> Result<(), Ended> {
    match tokio::time::timeout(STALLED, outbound.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::Closed),
        Err(_) => Err(Ended::Stalled),
    }
}

/// The node writes in its own name.
pub(super) fn node_options(node: &str) -> WriteOptions {
    let actor = Actor::new(&format!("{NODE_USER_PREFIX}{node}"), [NODES_GROUP]);
    WriteOptions { actor, ..WriteOptions::controller("gantry-agent") }
}

fn place(node: &str, hello: &pb::AgentHello, pod_cidrs: &[String]) -> Place {
    let addresses = hello.node.iter().flat_map(|n| &n.addresses).filter(|a| a.r#type == "InternalIP");
    Place {
        node: node.to_owned(),
        addresses: addresses.filter_map(|a| a.address.parse::<IpAddr>().ok()).collect(),
        pod_ranges: pod_cidrs.iter().filter_map(|c| c.parse().ok()).collect(),
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs().max(1)).unwrap_or(u32::MAX)
}
