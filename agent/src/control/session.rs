//! One session with the scheduler, from hello to its end. Three things go on side by side: reading updates,
//! writing reports, and heartbeats; a slow one never holds up another.

use std::{
    convert::Infallible,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::FutureExt;
use gantry_proto::node::v1::{self as pb, node_client::NodeClient};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    Client,
    convert::{self, ConvertError},
    credentials::{CredentialError, Credentials, Request},
    dial::{self, Dialer},
    objects::Taken,
    state::{ResumeError, State},
    tls::{self, TlsError},
};
use crate::model::{Chain, NodeCondition, NodeFacts, Vitals};

/// What this agent speaks.
const PROTOCOL: pb::Version = pb::Version { major: 1, minor: 1 };
/// The largest message: a Secret or ConfigMap may be 1 MiB, a service thousands of endpoints.
const MAX_MESSAGE: usize = 16 << 20;
/// Messages that wait for the connection.
const BUFFER: usize = 128;
/// The scheduler says hello once it has registered the node.
const HELLO: Duration = Duration::from_secs(30);
/// Updates taken into one commit: bounds the delay of the first of them.
const BATCH: usize = 4096;
/// How long the service table may be ahead of the ledger.
const TABLE_DELAY: Duration = Duration::from_secs(1);
/// The node should tell how it is at once.
const VITALS: Duration = Duration::from_secs(3);
/// A renewal that was not answered is asked for again.
const RENEW_AGAIN: Duration = Duration::from_secs(60);

/// Why there is no session, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The scheduler refused this node; its message says what to do.
    #[error("the scheduler refused the session: {0}")]
    Refused(String),
    /// The connection or the call failed.
    #[error("the session broke: {}", .0.message())]
    Broken(Box<Status>),
    /// The scheduler closed it.
    #[error("the scheduler closed the session")]
    Closed,
    /// No hello in time, or none that makes sense.
    #[error("the scheduler sent no valid hello")]
    NoHello,
    /// As [`SessionError::NoHello`], with the field.
    #[error("the scheduler's hello makes no sense")]
    Hello(#[source] ConvertError),
    /// It goes on from somewhere else than this agent asked for.
    #[error("the scheduler resumes what this agent does not have")]
    Resume(#[from] ResumeError),
    /// Something that is no update at all.
    #[error("the scheduler sent an update that makes no sense")]
    Update(#[source] ConvertError),
    /// No heartbeat was answered for the lease's duration.
    #[error("the scheduler did not answer heartbeats for {} s", .0.as_secs())]
    Silent(Duration),
    /// What the hello told is the node's no longer, and a connection from an address that went is dead.
    #[error("the node has other addresses: the session begins anew")]
    Readdressed,
    /// Key or certificate.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What the three sides share.
struct Link {
    outbound: mpsc::Sender<pb::AgentMessage>,
    epoch: u64,
    durable: AtomicU64,
    heartbeat: Duration,
    lease: Duration,
    answered: Mutex<Instant>,
    renewal: Mutex<Renewal>,
}

struct Renewal {
    due: SystemTime,
    pending: Option<Request>,
}

/// Opens a session and serves it to its end.
pub(super) async fn run(
    client: &Client,
    state: &mut State,
    credentials: &Credentials,
    dialer: &Dialer,
    channel: tonic::transport::Channel,
    on_open: impl FnOnce(),
) -> Result<Infallible, SessionError> {
    let (outbound, messages) = mpsc::channel(BUFFER);
    let facts = client.reporter.facts().await;
    let told = facts.addresses.clone();
    // The channel is new and empty: this does not wait.
    let _ = outbound.send(hello(client, state, facts)).await;
    let broken = |status: Status| SessionError::Broken(Box::new(status));
    let mut inbound = NodeClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
        .session(ReceiverStream::new(messages))
        .await
        .map_err(broken)?
        .into_inner();
    let first = tokio::time::timeout(HELLO, inbound.message()).await.map_err(|_| SessionError::NoHello)?;
    let hello = match first.map_err(broken)?.and_then(|m| m.kind) {
        Some(pb::scheduler_message::Kind::Hello(hello)) => hello,
        Some(_) => return Err(SessionError::NoHello),
        None => return Err(SessionError::Closed),
    };
    if !hello.refusal.is_empty() {
        return Err(SessionError::Refused(hello.refusal));
    }
    on_open();
    tracing::info!(
        scheduler = hello.scheduler_version,
        epoch = hello.epoch,
        snapshot = hello.snapshot,
        "session opened"
    );
    state.begin(hello.epoch, hello.snapshot)?;
    state.set_network(convert::network(hello.cluster, hello.assignment).map_err(SessionError::Hello)?);
    state.commit().await;
    client.outbox.begin();
    let link = Link {
        outbound,
        epoch: hello.epoch,
        durable: AtomicU64::new(state.durable().within(hello.epoch)),
        heartbeat: Duration::from_secs(hello.heartbeat_seconds.max(1).into()),
        lease: Duration::from_secs(hello.lease_seconds.max(2).into()),
        answered: Mutex::new(Instant::now()),
        renewal: Mutex::new(Renewal { due: credentials.renewal(), pending: None }),
    };
    // Cancel-safe: the session is over with the first of them. What was not confirmed is sent again, and updates
    // are taken up at the last accepted generation. Addresses first: the scheduler judges reports by them, so that
    // none of the new ones may go the old way.
    let ended = tokio::select! {
        biased;
        () = client.reporter.readdressed(&told) => Err(SessionError::Readdressed),
        ended = read(client, state, &link, dialer, inbound) => ended,
        ended = report(client, &link) => ended,
        ended = beat(client, &link) => ended,
    };
    // A table that is ahead of the ledger would be asked for again after a restart.
    state.flush_table().await;
    ended
}

fn hello(client: &Client, state: &State, facts: NodeFacts) -> pb::AgentMessage {
    let (accepted, durable) = (state.accepted(), state.durable());
    convert::message(pb::agent_message::Kind::Hello(pb::AgentHello {
        protocol: Some(PROTOCOL),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: facts.boot_id.clone(),
        instance: client.instance.clone(),
        node: Some(convert::node_info(facts)),
        epoch: accepted.epoch,
        accepted: accepted.generation,
        programmed: client.outbox.in_force(accepted.epoch).min(durable.within(accepted.epoch)),
    }))
}

async fn read(
    client: &Client,
    state: &mut State,
    link: &Link,
    dialer: &Dialer,
    mut inbound: Streaming<pb::SchedulerMessage>,
) -> Result<Infallible, SessionError> {
    let mut table_due: Option<Instant> = None;
    loop {
        let next = tokio::select! {
            // Cancel-safe: a partly read message stays in the stream.
            message = inbound.message() => message,
            () = due(table_due) => {
                state.flush_table().await;
                table_due = None;
                acknowledge(client, state, link);
                continue;
            }
        };
        take(client, state, link, dialer, next).await?;
        // What has arrived already goes into the same commit.
        for _ in 1..BATCH {
            let Some(next) = inbound.message().now_or_never() else { break };
            take(client, state, link, dialer, next).await?;
        }
        state.commit().await;
        acknowledge(client, state, link);
        if state.table_dirty() && table_due.is_none() {
            table_due = Some(Instant::now() + TABLE_DELAY);
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn acknowledge(client: &Client, state: &State, link: &Link) {
    client.outbox.not_understood(state.failed(), state.unknown_kinds());
    let durable = state.durable().within(link.epoch);
    if link.durable.swap(durable, Ordering::Relaxed) != durable {
        client.outbox.acknowledge();
    }
}

async fn take(
    client: &Client,
    state: &mut State,
    link: &Link,
    dialer: &Dialer,
    message: Result<Option<pb::SchedulerMessage>, Status>,
) -> Result<(), SessionError> {
    use pb::scheduler_message::Kind;
    let message = message.map_err(|status| SessionError::Broken(Box::new(status)))?;
    match message.ok_or(SessionError::Closed)?.kind {
        Some(Kind::Update(raw)) => update(client, state, &raw)?,
        Some(Kind::SnapshotEnd(end)) => state.end_snapshot(end.generation),
        Some(Kind::Heartbeat(_)) => {
            *link.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        Some(Kind::PodStatus(reply)) => client.outbox.confirm(&reply),
        Some(Kind::Renewed(renewed)) => renew(client, link, dialer, &renewed)?,
        Some(Kind::Stream(request)) => {
            let stream = dial::serve(request, client.streams.clone(), dialer.clone(), link.outbound.clone());
            let stop = client.stop.clone();
            // Cut short: a client that follows a log would follow it for ever, and must not hold up the agent's stop.
            client.tracker.spawn(async move { stop.run_until_cancelled(stream).await });
        }
        Some(Kind::Hello(_)) | None => tracing::debug!("message of an unknown kind ignored"),
    }
    Ok(())
}

fn update(client: &Client, state: &mut State, raw: &Bytes) -> Result<(), SessionError> {
    client.metrics.updates.inc();
    match state.apply(raw).map_err(SessionError::Update)? {
        Taken::Done => {}
        Taken::UnknownKind { id, first } => {
            client.metrics.rejected.inc();
            if first {
                let kind = id.kind;
                tracing::warn!(
                    kind,
                    "updates of a kind that this agent does not know are kept for one that does"
                );
            }
        }
        Taken::NotUnderstood { id, error } => {
            client.metrics.rejected.inc();
            let (namespace, name) = (&*id.namespace, &*id.name);
            tracing::error!(
                namespace,
                name,
                error = %Chain(&error),
                "update not understood: the object stays as it was"
            );
        }
    }
    Ok(())
}

/// Installs a renewed certificate: new connections use it, this session goes on.
fn renew(
    client: &Client,
    link: &Link,
    dialer: &Dialer,
    renewed: &pb::RenewResponse,
) -> Result<(), SessionError> {
    let mut renewal = link.renewal.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(request) = renewal.pending.take() else { return Ok(()) };
    let credentials = client.store.install(&request, &renewed.certificate_pem, &renewed.ca_pem)?;
    dialer.renewed(tls::client_config(&client.trust()?, Some(&credentials))?);
    renewal.due = credentials.renewal();
    client.note_expiry(&credentials);
    tracing::info!("certificate renewed");
    Ok(())
}

/// Writes what the outbox has.
async fn report(client: &Client, link: &Link) -> Result<Infallible, SessionError> {
    loop {
        while let Some(message) = client.outbox.take(link.durable.load(Ordering::Relaxed), link.epoch) {
            send(link, message).await?;
        }
        client.outbox.changed().await;
    }
}

/// Heartbeats, and whatever is due with them.
async fn beat(client: &Client, link: &Link) -> Result<Infallible, SessionError> {
    let mut sequence = 0;
    loop {
        sequence += 1;
        let vitals = vitals(client).await;
        send(link, convert::heartbeat(sequence, vitals)).await?;
        ask_renewal(client, link).await?;
        client.outbox.retry();
        tokio::time::sleep(next_beat(link)).await;
        let silent = link.answered.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if silent >= link.lease {
            return Err(SessionError::Silent(silent));
        }
    }
}

/// Whatever a reporter waits for, the heartbeat goes.
async fn vitals(client: &Client) -> Vitals {
    let vitals = tokio::time::timeout(VITALS, client.reporter.vitals()).await;
    vitals.unwrap_or_else(|_| {
        let silent = NodeCondition {
            kind: "Ready".to_owned(),
            status: "False".to_owned(),
            reason: "NodeSilent".to_owned(),
            message: format!("the node did not tell how it is within {} s", VITALS.as_secs()),
        };
        Vitals { conditions: vec![silent], ..Vitals::default() }
    })
}

/// A renewal must not wait for the next heartbeat when certificates live for minutes.
fn next_beat(link: &Link) -> Duration {
    let renewal = link.renewal.lock().unwrap_or_else(PoisonError::into_inner);
    let due = renewal.due.duration_since(SystemTime::now()).unwrap_or_default();
    link.heartbeat.min(due.max(Duration::from_millis(100)))
}

async fn ask_renewal(client: &Client, link: &Link) -> Result<(), SessionError> {
    let csr = {
        let mut renewal = link.renewal.lock().unwrap_or_else(PoisonError::into_inner);
        if renewal.due > SystemTime::now() {
            return Ok(());
        }
        let request = Request::new(&client.config.node)?;
        let csr = request.csr_der.clone();
        renewal.pending = Some(request);
        renewal.due = SystemTime::now() + RENEW_AGAIN;
        csr
    };
    let renew = pb::RenewRequest { csr_der: csr.into() };
    send(link, convert::message(pb::agent_message::Kind::Renew(renew))).await
}

async fn send(link: &Link, message: pb::AgentMessage) -> Result<(), SessionError> {
    link.outbound.send(message).await.map_err(|_| SessionError::Closed)
}
