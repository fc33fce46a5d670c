//! TLS of both ports: our serving certificate, client certificates of the cluster CA or none.

use std::sync::Arc;

use rustls::{ServerConfig, crypto::ring};

use super::{Authority, PkiError, Serving};

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2 and HTTP/1.1: the API.
    Http,
    /// HTTP/2 alone: the node protocol.
    Grpc,
}

/// A server configuration. A client without a certificate gets through (the API answers 401, the node port lets
/// it call Bootstrap alone); one with an expired or foreign certificate does not complete the handshake.
pub fn server_config(
    authority: &Authority,
    serving: Arc<Serving>,
    alpn: Alpn,
) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .with_client_cert_verifier(authority.client_verifier()?)
        .with_cert_resolver(serving);
    config.alpn_protocols = match alpn {
        Alpn::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Alpn::Grpc => vec![b"h2".to_vec()],
    };
    Ok(Arc::new(config))
}
