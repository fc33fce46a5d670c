//! The node port: accepts, shakes hands, hands connections to gRPC. Failed handshakes (a foreign or expired
//! certificate) are logged with the peer's address.

use std::{io, sync::Arc, time::Duration};

use futures::Stream;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::model::Chain;

/// A peer that takes longer is no agent.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After an accept that failed, which is mostly for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be served.
const BACKLOG: usize = 64;

pub(super) type Connections = ReceiverStream<io::Result<TlsStream<TcpStream>>>;

/// Connections that completed their handshake; the accept loop ends with `stop` or with the stream.
pub(super) fn connections(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let (ready, stream) = mpsc::channel(BACKLOG);
    tokio::spawn(accept(listener, TlsAcceptor::from(tls), ready, stop));
    Connections::new(stream)
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
    stop: CancellationToken,
) {
    loop {
        // Cancel-safe: an accepted connection is never dropped by accept itself.
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let (tls, ready) = (tls.clone(), ready.clone());
                // A handshake waits for the peer: none may hold up the next.
                tokio::spawn(async move {
                    let handshake = async {
                        socket.set_nodelay(true)?;
                        tls.accept(socket).await
                    };
                    match tokio::time::timeout(HANDSHAKE, handshake).await {
                        Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                        Ok(Err(error)) => {
                            tracing::warn!(%peer, error = %Chain(&error), "TLS handshake refused");
                        }
                        Err(_) => tracing::warn!(%peer, "TLS handshake timed out"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the node port");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
