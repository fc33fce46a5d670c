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
    sync::Notify,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Api, Peer, respond};
use crate::{
    access::{Certified, Connection, anonymous},
    connections::{Bounded, Deadline, Place, Places, Refusal},
    model::{ApiError, Chain, Reason},
};

/// A client that does not finish its handshake or its request head is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that acknowledges nothing for so long, because it is gone or does not read, loses its connection.
const STALLED: Duration = Duration::from_secs(90);
/// The largest request head. Paths with long selectors, and all that impersonation adds, are a tenth of it.
const HEAD: usize = 64 << 10;
/// When to try again for a connection, in seconds.
const LATER: u32 = 5;
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

    /// Serves until `stop`, then lets open requests finish for a moment. `places` are the connections that there may be.
    pub async fn run(self, api: Arc<Api>, tls: Arc<ServerConfig>, places: Places, stop: CancellationToken) {
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
                    // Without a place it is closed here.
                    let Some(place) = places.take() else { continue };
                    let arrived = Arrived { stream, peer, place };
                    connections.spawn(connection(arrived, acceptor.clone(), api.clone(), stop.clone()));
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

/// An accepted connection.
struct Arrived {
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
}

async fn connection(arrived: Arrived, acceptor: TlsAcceptor, api: Arc<Api>, stop: CancellationToken) {
    let Arrived { stream, peer, mut place } = arrived;
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
    let user = certificate.as_ref().map_or_else(|| anonymous().user, |c| c.actor.user.clone());
    place.belongs_to(&user);
    let refusal = place.refusal().cloned();
    // Whatever it carries by then ends with the certificate: watches, and what was upgraded.
    let deadline = Deadline::at(certificate.as_ref().map(|c| c.until));
    let stream = TokioIo::new(Bounded::new(tls, deadline, place));
    if let Some(refusal) = refusal {
        tracing::info!(%peer, user = &*user, reason = %refusal, "connection refused");
        return turn_away(stream, &refusal).await;
    }
    let from = Arc::new(Connection { peer, certificate });
    let service = service_fn(move |request| serve(api.clone(), from.clone(), request));
    let builder = protocol();
    let serving = builder.serve_connection_with_upgrades(stream, service);
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

fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(STALLED / 3)
        .keep_alive_timeout(STALLED / 3)
        .max_header_list_size(u32::try_from(HEAD).unwrap_or(u32::MAX))
        .max_concurrent_streams(1000);
    builder
}

/// Tells the first request why its connection is not served, and hangs up.
async fn turn_away(stream: TokioIo<Bounded<TlsStream<TcpStream>>>, refusal: &Refusal) {
    let told = Notify::new();
    let service = service_fn(|_: http::Request<Incoming>| {
        told.notify_one();
        let error = ApiError {
            retry_after: Some(LATER),
            ..ApiError::new(Reason::TooManyRequests, refusal.to_string())
        };
        let response = respond::failure(&error, respond::Wishes::default());
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let builder = protocol();
    let serving = builder.serve_connection(stream, service);
    tokio::pin!(serving);
    let told = async {
        // Cancel-safe: the connection is only borrowed.
        tokio::select! {
            _ = serving.as_mut() => return,
            () = told.notified() => {}
        }
        serving.as_mut().graceful_shutdown();
        // Who was told is no longer of interest.
        let _ = serving.await;
    };
    // One that asks nothing keeps its place no longer.
    let _ = timeout(PATIENCE, told).await;
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
