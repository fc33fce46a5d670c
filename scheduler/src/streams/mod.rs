//! Rendezvous between a client's exec, attach, logs or port-forward request and the stream the agent dials back.
//!
//! In: a request for a node, and the stream that an agent opens with the request's id. Out: the two ends joined.
//! An id is 128 random bits, holds for one stream of one node, and is forgotten after a timeout. Never: HTTP, or
//! any look at what flows.

mod pipe;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use gantry_proto::node::v1 as pb;
use tokio::sync::{mpsc, oneshot};

pub(crate) use pipe::Pipe;

/// How long an agent may take to dial back.
pub const DIAL_BACK: Duration = Duration::from_secs(10);
/// An agent that is to reach somebody else first tries for 30 seconds.
const REACH: Duration = Duration::from_secs(30);

/// How long to wait for a stream of this kind.
pub(crate) fn patience(kind: &pb::stream_request::Kind) -> Duration {
    match kind {
        pb::stream_request::Kind::Dial(_) => REACH + DIAL_BACK,
        _ => DIAL_BACK,
    }
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The node has no session.
    #[error("node {0} is not connected")]
    NotConnected(String),
    /// The agent did not dial back in time.
    #[error("node {0} did not open the stream in time")]
    TimedOut(String),
    /// The agent refused.
    #[error("{message}")]
    Refused {
        /// An HTTP status.
        code: u16,
        /// For the user.
        message: String,
    },
}

/// An agent's end of a stream.
#[derive(Debug)]
pub struct NodeStream {
    /// From the agent; ends with its last frame or with the connection.
    pub from_agent: mpsc::Receiver<pb::StreamFrame>,
    /// To the agent.
    pub to_agent: mpsc::Sender<pb::StreamFrame>,
}

struct Waiting {
    node: Arc<str>,
    answer: oneshot::Sender<Result<NodeStream, StreamError>>,
}

/// Streams that wait for their agent. Cheap to clone.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<String, Waiting>>>);

/// A stream that was asked for; forgotten when dropped.
pub(crate) struct Expected {
    streams: Streams,
    /// What the agent has to present.
    pub(crate) id: String,
    node: Arc<str>,
    answer: oneshot::Receiver<Result<NodeStream, StreamError>>,
}

impl Streams {
    /// Expects `node` to dial back.
    pub(crate) fn expect(&self, node: &str) -> Expected {
        let id = format!("{:032x}", rand::random::<u128>());
        let (sender, answer) = oneshot::channel();
        let node: Arc<str> = node.into();
        self.lock().insert(id.clone(), Waiting { node: node.clone(), answer: sender });
        Expected { streams: self.clone(), id, node, answer }
    }

    /// An agent dialled back: whether anybody waits for this stream from this very node.
    pub(crate) fn arrive(&self, node: &str, id: &str, stream: NodeStream) -> bool {
        self.take(node, id).is_some_and(|waiting| waiting.answer.send(Ok(stream)).is_ok())
    }

    /// An agent refused.
    pub(crate) fn refuse(&self, node: &str, refused: pb::StreamRefused) {
        if let Some(waiting) = self.take(node, &refused.id) {
            let code = u16::try_from(refused.code).ok().filter(|c| (400..600).contains(c)).unwrap_or(500);
            // Nobody waits any longer: the client went away.
            let _ = waiting.answer.send(Err(StreamError::Refused { code, message: refused.message }));
        }
    }

    fn take(&self, node: &str, id: &str) -> Option<Waiting> {
        let mut waiting = self.lock();
        // Another node's id is as good as none.
        if waiting.get(id).is_none_or(|w| &*w.node != node) {
            return None;
        }
        waiting.remove(id)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Expected {
    /// Waits for the agent.
    pub(crate) async fn arrived(mut self, within: Duration) -> Result<NodeStream, StreamError> {
        match tokio::time::timeout(within, &mut self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(StreamError::TimedOut(self.node.to_string())),
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> NodeStream {
        NodeStream { from_agent: mpsc::channel(1).1, to_agent: mpsc::channel(1).0 }
    }

    #[tokio::test]
    async fn a_stream_is_for_the_node_it_was_asked_of_and_for_once() {
        let streams = Streams::default();
        let expected = streams.expect("n1");
        let id = expected.id.clone();
        assert!(!streams.arrive("n2", &id, stream()), "another node's");
        assert!(streams.arrive("n1", &id, stream()));
        assert!(!streams.arrive("n1", &id, stream()), "twice");
        assert!(expected.arrived(DIAL_BACK).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_forgotten() {
        let streams = Streams::default();
        let expected = streams.expect("n1");
        let id = expected.id.clone();
        assert_eq!(expected.arrived(DIAL_BACK).await.unwrap_err(), StreamError::TimedOut("n1".to_owned()));
        assert!(!streams.arrive("n1", &id, stream()));
        assert!(streams.lock().is_empty());
    }

    #[tokio::test]
    async fn a_refusal_reaches_the_client() {
        let streams = Streams::default();
        let expected = streams.expect("n1");
        let refused =
            |message: &str| pb::StreamRefused { id: expected.id.clone(), code: 404, message: message.into() };
        streams.refuse("n2", refused("not yours"));
        streams.refuse("n1", refused("no such container"));
        let error = expected.arrived(DIAL_BACK).await.unwrap_err();
        assert_eq!(error, StreamError::Refused { code: 404, message: "no such container".to_owned() });
    }
}
