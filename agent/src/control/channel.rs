//! Connections to the scheduler.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// To reach the scheduler and to shake hands.
const CONNECT: Duration = Duration::from_secs(10);
/// A scheduler that vanished without a word is noticed by these.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The scheduler cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not `host:port`.
    #[error("{0:?} is not an address of the form host:port")]
    Address(String),
    /// TCP or TLS failed.
    #[error("cannot connect to the scheduler at {address}")]
    Transport {
        /// `host:port`
        address: String,
        /// Cause.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects to `address` (`host:port`).
pub(super) async fn connect(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let bad = || ConnectError::Address(address.to_owned());
    // The connector below speaks TLS; with `https` tonic would insist on its own.
    let uri: Uri = format!("http://{address}").parse().map_err(|_| bad())?;
    let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
    uri.port().ok_or_else(bad)?;
    let name = ServerName::try_from(host).map_err(|_| bad())?;
    let connector = TlsConnector::from(tls);
    let target = address.to_owned();
    let dial = service_fn(move |_: Uri| {
        let (connector, name, target) = (connector.clone(), name.clone(), target.clone());
        async move {
            let socket = TcpStream::connect(&target).await?;
            socket.set_nodelay(true)?;
            let stream = connector.connect(name, socket).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from(uri)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(dial)
        .await
        .map_err(|source| ConnectError::Transport { address: address.to_owned(), source })
}
