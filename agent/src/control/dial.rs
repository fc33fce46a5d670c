//! Streams: the scheduler asks over the session, the agent dials back. Each has a connection of its own, so that
//! a slow reader of one cannot hold up the session by HTTP/2 flow control.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use gantry_proto::node::v1::{self as pb, node_client::NodeClient};
use rustls::ClientConfig;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{
    OpenStream, StreamChannel, StreamHandler,
    channel::{self, ConnectError},
    convert,
};
use crate::model::{Chain, StreamEnd, StreamRefusal};

/// Frames that wait in each direction.
const BUFFER: usize = 16;
/// How long the last frames may take to be read.
const LINGER: Duration = Duration::from_secs(30);
/// The largest frame.
const MAX_FRAME: usize = 4 << 20;

/// Opens connections with the node's current certificate. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialer {
    address: Arc<str>,
    tls: Arc<ArcSwap<ClientConfig>>,
}

impl Dialer {
    pub(super) fn new(address: &str, tls: Arc<ClientConfig>) -> Self {
        Self { address: address.into(), tls: Arc::new(ArcSwap::new(tls)) }
    }

    /// The certificate was renewed.
    pub(super) fn renewed(&self, tls: Arc<ClientConfig>) {
        self.tls.store(tls);
    }

    pub(super) async fn connect(&self) -> Result<Channel, ConnectError> {
        channel::connect(&self.address, self.tls.load_full()).await
    }
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the scheduler refused the stream")]
    Refused(#[source] Box<Status>),
}

/// Serves one request from its check to its end.
pub(super) async fn serve(
    request: pb::StreamRequest,
    handler: Arc<dyn StreamHandler>,
    dialer: Dialer,
    session: mpsc::Sender<pb::AgentMessage>,
) {
    let pb::StreamRequest { id, kind } = request;
    let opened = match convert::stream_request(kind) {
        Some(request) => handler.open(request).await,
        None => Err(StreamRefusal { code: 501, message: "this agent does not know such streams".to_owned() }),
    };
    match opened {
        Ok(stream) => {
            if let Err(error) = run(id, stream, &dialer).await {
                tracing::warn!(error = %Chain(&error), "stream not opened");
            }
        }
        // The session may have ended meanwhile; the client then learns of that.
        Err(refusal) => drop(session.send(convert::stream_refused(id, refusal)).await),
    }
}

async fn run(id: String, stream: OpenStream, dialer: &Dialer) -> Result<(), DialError> {
    let channel = dialer.connect().await?;
    let (frames, outbound) = mpsc::channel(BUFFER);
    // The channel is new and empty: this does not wait.
    let _ = frames.send(convert::stream_open(id)).await;
    let response = NodeClient::new(channel)
        .max_decoding_message_size(MAX_FRAME)
        .stream(ReceiverStream::new(outbound))
        .await
        .map_err(|status| DialError::Refused(Box::new(status)))?;
    pump(stream, response.into_inner(), frames).await;
    Ok(())
}

/// Moves frames until the handler has ended or the client has gone.
async fn pump(
    stream: OpenStream,
    inbound: Streaming<pb::StreamFrame>,
    frames: mpsc::Sender<pb::StreamFrame>,
) {
    let (to_handler, input) = mpsc::channel(BUFFER);
    let (output, mut from_handler) = mpsc::channel(BUFFER);
    // A task of its own: when the client goes, the handler sees both ends close and winds up in its own time.
    let handler = tokio::spawn(stream(StreamChannel { input, output }));
    let deliver = async move {
        while let Some(chunk) = from_handler.recv().await {
            if frames.send(convert::stream_output(chunk)).await.is_err() {
                return;
            }
        }
        let failed =
            |_| StreamEnd { exit_code: None, error: Some("the stream failed on the node".to_owned()) };
        let end = handler.await.unwrap_or_else(failed);
        // The last frame; when the client has gone there is nobody to tell.
        let _ = frames.send(convert::stream_end(end)).await;
    };
    let mut receive = std::pin::pin!(receive(inbound, to_handler));
    // Cancel-safe: whichever ends first ends the stream, nothing is resumed.
    tokio::select! {
        () = deliver => {
            // To hang up now would take the last frame back: the scheduler does it once it has read it.
            let _ = tokio::time::timeout(LINGER, receive).await;
        }
        () = &mut receive => {}
    }
}

/// Ends when the client has gone.
async fn receive(
    mut inbound: Streaming<pb::StreamFrame>,
    to_handler: mpsc::Sender<crate::model::StreamInput>,
) {
    while let Ok(Some(frame)) = inbound.message().await {
        if let Some(input) = convert::stream_input(frame) {
            // A handler that reads no input (logs) still has a client to notice the end of.
            let _ = to_handler.send(input).await;
        }
    }
}
