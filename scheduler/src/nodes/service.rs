//! The gRPC services and who may call them. The peer's certificate decides which node speaks.

use std::{pin::Pin, sync::Arc, time::SystemTime};

use futures::{Stream, StreamExt};
use gantry_proto::node::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, listener::Arrived, session::Connection};
use crate::{
    connections::Deadline,
    pki::{Identity, KeyRecord, not_after},
    streams::NodeStream,
};

/// Messages that wait for the connection of one session.
const SESSION_BUFFER: usize = 128;
/// Frames that wait on one stream: a slow client slows the process, not the scheduler's memory.
const STREAM_BUFFER: usize = 16;

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The Node service.
#[derive(Clone)]
pub(super) struct NodeService(pub(super) Shared);

/// A caller with a node's certificate.
struct Caller {
    node: String,
    expires: SystemTime,
    key: KeyRecord,
    deadline: Arc<Deadline>,
}

impl NodeService {
    /// The node behind a request: its certificate, verified by TLS, and nothing else.
    fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let arrived = request.extensions().get::<Arrived>();
        let refuse = |status: Status, who: &str| {
            self.0.metrics.sessions_refused.inc();
            let peer = arrived.and_then(Arrived::peer);
            tracing::warn!(?peer, user = who, reason = status.message(), "call to the node service refused");
            status
        };
        let Some((arrived, leaf)) = arrived.and_then(|arrived| Some((arrived, arrived.leaf()?))) else {
            return Err(refuse(Status::unauthenticated("a client certificate is needed: join first"), ""));
        };
        let identity = Identity::of(&leaf);
        let who = identity.as_ref().map_or("", |i| i.user.as_str());
        let node = identity.as_ref().and_then(Identity::node);
        let (Some(node), Some(expires), Some(key)) = (node, not_after(&leaf), KeyRecord::of(&leaf)) else {
            return Err(refuse(Status::permission_denied("the certificate is not a node's"), who));
        };
        // The handshake checked it too, but a connection may be older than its certificate.
        if expires <= SystemTime::now() {
            return Err(refuse(Status::unauthenticated("the client certificate has expired"), who));
        }
        if let Some(refusal) = &arrived.refusal {
            return Err(refuse(Status::resource_exhausted(refusal.to_string()), who));
        }
        Ok(Caller { node: node.to_owned(), expires, key, deadline: arrived.deadline.clone() })
    }
}

#[tonic::async_trait]
impl pb::node_server::Node for NodeService {
    type SessionStream = Outbound<pb::SchedulerMessage>;
    type StreamStream = Outbound<pb::StreamFrame>;

    async fn session(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = self.caller(&request)?;
        let (outbound, messages) = mpsc::channel(SESSION_BUFFER);
        let connection = Connection {
            shared: self.0.clone(),
            node: caller.node,
            expires: caller.expires,
            key: caller.key,
            deadline: caller.deadline,
            inbound: request.into_inner(),
            outbound,
        };
        self.0.tracker.spawn(connection.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(Ok))))
    }

    async fn stream(
        &self,
        request: Request<Streaming<pb::StreamFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let caller = self.caller(&request)?;
        let mut inbound = request.into_inner();
        let Some(pb::StreamFrame { kind: Some(pb::stream_frame::Kind::Open(id)) }) =
            inbound.message().await?
        else {
            return Err(Status::invalid_argument("the first frame must open the stream"));
        };
        let (to_agent, frames) = mpsc::channel(STREAM_BUFFER);
        let (forward, from_agent) = mpsc::channel(STREAM_BUFFER);
        if !self.0.streams.arrive(&caller.node, &id, NodeStream { from_agent, to_agent }) {
            tracing::warn!(node = caller.node, "stream that nobody waits for refused");
            return Err(Status::not_found("nobody waits for this stream"));
        }
        self.0.tracker.spawn(async move {
            // Ends with the agent's last frame, with the connection, or when the client went away.
            while let Ok(Some(frame)) = inbound.message().await {
                if forward.send(frame).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames).map(Ok))))
    }
}
