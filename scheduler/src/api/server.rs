//! The HTTPS listener: TLS, the caller's identity, HTTP/1.1 with upgrades and HTTP/2, graceful end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Api, Peer};
use crate::{
    access::{Certified, Connection},
    model::Chain,
};

/// A client that does not finish its handshake or its request head is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that acknowledges nothing for so long, because it is gone or does not read, loses its connection.
const STALLED: Duration = Duration::from_secs(90);
/// How long open requests may still take after the stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why the listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServerError> {
        let wrong = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets open requests finish for a moment.
    pub async fn run(self, api: Arc<Api>, tls: Arc<ServerConfig>, stop: CancellationToken) {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        loop {
            // Cancel-safe: `accept` takes a connection only when it returns it.
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let serve = connection(stream, peer, acceptor.clone(), api.clone(), stop.clone());
                    connections.spawn(serve);
                }
                Err(error) => {
                    // Out of descriptors, mostly: give others time to close theirs.
                    tracing::warn!(error = %Chain(&error), "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        if timeout(GRACE, connections.wait()).await.is_err() {
            tracing::info!(open = connections.len(), "connections are cut after the grace period");
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    stop: CancellationToken,
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%peer, error = %Chain(&error), "cannot set socket options");
    }
    let tls = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::info!(%peer, error = %Chain(&error), "TLS handshake refused");
            return;
        }
        Err(_) => return,
    };
    let certificates = tls.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|c| c.first()).and_then(|leaf| Certified::of(leaf));
    let from = Arc::new(Connection { peer, certificate });
    let service = service_fn(move |request| serve(api.clone(), from.clone(), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(STALLED / 3)
        .keep_alive_timeout(STALLED / 3)
        .max_concurrent_streams(1000);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error = %Chain(&*error), "connection ended");
    }
}

async fn serve(
    api: Arc<Api>,
    from: Arc<Connection>,
    mut request: http::Request<Incoming>,
) -> Result<axum::response::Response, std::convert::Infallible> {
    request.extensions_mut().insert(Peer(from.peer.ip()));
    Ok(api.handle(from, request.map(Body::new)).await)
}

/// Small answers leave at once, and a client that is gone or does not read is noticed by the kernel.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(STALLED))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(STALLED / 3).with_interval(STALLED / 6))
}
