//! The node port: accepts, shakes hands, hands connections to gRPC. Failed handshakes (a foreign or expired
//! certificate) are logged with the peer's address.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use crate::{
    access::anonymous,
    connections::{Bounded, Deadline, Place, Places, Refusal},
    model::Chain,
    pki::{Identity, not_after},
};

/// A peer that takes longer is no agent.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After an accept that failed, which is mostly for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be served.
const BACKLOG: usize = 64;

/// A session says that its certificate has expired before its connection breaks.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Stream = Bounded<TlsStream<TcpStream>>;
pub(super) type Connections = ReceiverStream<io::Result<Stream>>;

/// What calls get to know of their connection.
#[derive(Clone)]
pub struct Arrived {
    tls: TlsConnectInfo<TcpConnectInfo>,
    /// When it ends, unless the certificate is renewed.
    pub(super) deadline: Arc<Deadline>,
    /// Why nothing is served over it.
    pub(super) refusal: Option<Refusal>,
}

impl Arrived {
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.tls.get_ref().remote_addr()
    }

    /// The certificate that TLS verified.
    pub(super) fn leaf(&self) -> Option<CertificateDer<'static>> {
        self.tls.peer_certs()?.first().cloned()
    }
}

impl Connected for Stream {
    type ConnectInfo = Arrived;

    fn connect_info(&self) -> Arrived {
        let tls = self.get_ref().connect_info();
        Arrived { tls, deadline: self.deadline().clone(), refusal: self.place().refusal().cloned() }
    }
}

/// Connections that completed their handshake; the accept loop ends with `stop` or with the stream.
pub(super) fn connections(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    places: Places,
    stop: CancellationToken,
) -> Connections {
    let (ready, stream) = mpsc::channel(BACKLOG);
    tokio::spawn(accept(listener, TlsAcceptor::from(tls), places, ready, stop));
    Connections::new(stream)
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    places: Places,
    ready: mpsc::Sender<io::Result<Stream>>,
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
                let Some(place) = places.take() else {
                    tracing::warn!(%peer, "no place for another connection, closed");
                    continue;
                };
                let (tls, ready) = (tls.clone(), ready.clone());
                // A handshake waits for the peer: none may hold up the next.
                tokio::spawn(async move {
                    let handshake = async {
                        socket.set_nodelay(true)?;
                        tls.accept(socket).await
                    };
                    match tokio::time::timeout(HANDSHAKE, handshake).await {
                        Ok(Ok(stream)) => drop(ready.send(Ok(bounded(stream, place))).await),
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

/// Counts a connection for its node, and ends it with the node's certificate.
fn bounded(stream: TlsStream<TcpStream>, mut place: Place) -> Stream {
    let leaf = stream.get_ref().1.peer_certificates().and_then(|certificates| certificates.first());
    let identity = leaf.and_then(|leaf| Identity::of(leaf));
    let until = leaf.and_then(|leaf| not_after(leaf)).map(|until| until + LAST_WORDS);
    place.belongs_to(&identity.map_or_else(|| anonymous().user, |identity| identity.user.into()));
    Bounded::new(stream, Deadline::at(until), place)
}

/// The same end for a certificate that took the place of the one that a connection was opened with.
pub(super) fn put_off(deadline: &Deadline, until: std::time::SystemTime) {
    deadline.put_off(until + LAST_WORDS);
}
