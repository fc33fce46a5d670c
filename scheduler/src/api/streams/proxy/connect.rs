//! HTTP to a backend over a connection that the node's agent made; TLS without a look at the certificate, as upstream's
//! proxies: what is behind a pod's address is not told by a name.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::Request;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::place::{Place, Scheme};
use crate::{
    model::{ApiError, Chain, Reason},
    nodes::Nodes,
    streams::Pipe,
};
use gantry_proto::node::v1::stream_request::Kind;

/// Of an answer; more than any program sends, and far from what could fill the memory.
const MAX_HEADERS: usize = 4096;
/// Bytes of an answer before its body.
const MAX_HEAD: usize = 1 << 20;

/// Why a backend does not answer, in the words of Go's transport.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreachable(String);

impl Unreachable {
    /// To who asked for an answer.
    pub(super) fn plain(&self) -> ApiError {
        ApiError::new(Reason::ServiceUnavailable, format!("error trying to reach service: {self}"))
    }

    /// To who asked for another protocol.
    pub(super) fn upgrade(&self) -> ApiError {
        ApiError::new(Reason::Unknown, format!("error dialing backend: {self}"))
    }
}

/// A way to speak with one backend.
pub(super) struct Backend(http1::SendRequest<Body>);

impl Backend {
    /// By way of the node's agent.
    pub(super) async fn reach(nodes: &Nodes, tls: &TlsConnector, place: &Place) -> Result<Self, Unreachable> {
        let dial = place.dial().map_err(Unreachable)?;
        let stream = nodes.open_stream(&place.node, Kind::Dial(dial)).await;
        let pipe = Pipe::from(stream.map_err(|error| Unreachable(error.to_string()))?);
        match place.scheme {
            Scheme::Http => Self::speak(pipe).await,
            Scheme::Https => {
                let name = ServerName::IpAddress(place.ip.into());
                let stream = tls.connect(name, pipe).await.map_err(|error| Unreachable(handshake(&error)))?;
                Self::speak(stream).await
            }
        }
    }

    async fn speak(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, Unreachable> {
        // Some backends know headers only as Go writes them.
        let spoken = http1::Builder::new()
            .title_case_headers(true)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(io))
            .await;
        let (sender, connection) = spoken.map_err(|error| Unreachable(transport(&error)))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = %Chain(&error), "a proxied connection ended");
            }
        });
        Ok(Self(sender))
    }

    /// One request; the answer's body follows.
    pub(super) async fn ask(mut self, request: Request<Body>) -> Result<Response<Incoming>, Unreachable> {
        self.0.send_request(request).await.map_err(|error| Unreachable(transport(&error)))
    }
}

fn transport(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "EOF".to_owned();
    }
    if error.is_parse() {
        return format!("net/http: HTTP/1.x transport connection broken: malformed HTTP response: {error}");
    }
    // The agent told what happened to the connection.
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

fn handshake(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => format!("remote error: tls: {alert:?}"),
        Some(other) => format!("tls: {other}"),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        None => error.to_string(),
    }
}

/// TLS that takes every certificate.
pub(super) fn tls() -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
