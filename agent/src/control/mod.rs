//! The scheduler session: join, handshake, updates in, acks and status out, certificate renewal, the ledger on disk.

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::model::{NodeFacts, StreamEnd, StreamInput, StreamOutput, StreamRefusal, StreamRequest, Vitals};

/// What the node says of itself.
#[async_trait]
pub trait NodeReporter: Send + Sync {
    /// Asked at the start of each session.
    async fn facts(&self) -> NodeFacts;
    /// Asked for each heartbeat; should answer within a second.
    async fn vitals(&self) -> Vitals;
}

/// Both directions of one stream. Bounded: `output.send` waits while the client is slow and fails when it has
/// gone; `input` ends when the client has gone.
#[derive(Debug)]
pub struct StreamChannel {
    /// From the client.
    pub input: mpsc::Receiver<StreamInput>,
    /// To the client.
    pub output: mpsc::Sender<StreamOutput>,
}

/// A stream that was accepted and waits for its channel.
pub type OpenStream = Box<dyn FnOnce(StreamChannel) -> BoxFuture<'static, StreamEnd> + Send>;

/// Serves exec, attach, logs and port-forward.
#[async_trait]
pub trait StreamHandler: Send + Sync {
    /// Checks that the request can be served and prepares it: a refusal here becomes the client's HTTP status.
    /// The returned closure runs once the scheduler was dialled, and is dropped unrun when that fails.
    async fn open(&self, request: StreamRequest) -> Result<OpenStream, StreamRefusal>;
}
