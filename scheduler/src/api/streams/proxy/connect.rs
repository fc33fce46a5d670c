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

use super::{
    answer_first::AnswerFirst,
    place::{Place, Scheme},
};
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
            .handshake(TokioIo::new(AnswerFirst::new(io)))
            .await;
        let (sender, connection) = spoken.map_err(|error| Unreachable(transport(&error)))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(error = %Chain(&error), "a proxied connection ended");
            }
        });
        Ok(Self(sender))
    }

    /// One request; the answer's body follows. What comes before an answer (100, 103) ends here: the library that serves the
    /// API has no way to send it.
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

#[cfg(test)]
mod tests {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll, ready},
    };

    use bytes::Bytes;
    use futures::{StreamExt as _, stream};
    use http::{HeaderMap, HeaderValue, StatusCode};
    use http_body_util::{BodyExt as _, StreamBody};
    use hyper::body::Frame;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf};

    use super::*;

    /// Reads until the text is there.
    async fn read_to(stream: &mut DuplexStream, end: &str) -> String {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(end) {
            let byte = stream.read_u8().await.unwrap();
            read.push(byte);
        }
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn trailers_go_both_ways_and_hints_before_the_answer_are_not_the_answer() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let backend = tokio::spawn(async move {
            let asked = read_to(&mut theirs, "X-Sum: 1\r\n\r\n").await;
            let answer = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\nHTTP/1.1 200 OK\r\nTrailer: X-Sum\r\n\
                          Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 2\r\n\r\n";
            theirs.write_all(answer.as_bytes()).await.unwrap();
            asked
        });
        let sums = |sum: &'static str| -> HeaderMap {
            [(http::HeaderName::from_static("x-sum"), HeaderValue::from_static(sum))].into_iter().collect()
        };
        let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(sums("1"))];
        let body = Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, io::Error>))));
        let request = Request::post("/x").header("host", "b").header("trailer", "x-sum").body(body).unwrap();
        let answer = Backend::speak(ours).await.unwrap().ask(request).await.unwrap();
        assert!(backend.await.unwrap().contains("Trailer: x-sum\r\n"));
        assert_eq!(answer.status(), StatusCode::OK);
        let whole = answer.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers(), Some(&sums("2")));
        assert_eq!(whole.to_bytes(), "hi");
    }

    #[tokio::test]
    async fn an_answer_before_the_end_of_a_large_upload_arrives() {
        for small in [true, false] {
            // Room for little: the upload waits when the backend goes.
            let (ours, mut theirs) = tokio::io::duplex(if small { 64 } else { 1 << 16 });
            tokio::spawn(async move {
                read_to(&mut theirs, "\r\n\r\n").await;
                let answer =
                    "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge";
                theirs.write_all(answer.as_bytes()).await.unwrap();
            });
            let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 4096])));
            let request = Request::put("/x").header("host", "b").body(Body::from_stream(endless)).unwrap();
            let answer = Backend::speak(ours).await.unwrap().ask(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "large");
        }
    }

    /// What a backend says, and whether its end is a failure.
    struct Said {
        io: DuplexStream,
        reset: bool,
    }

    impl AsyncRead for Said {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let before = into.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(context, into))?;
            let broken = self.reset && into.filled().len() == before;
            Poll::Ready(if broken { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
        }
    }

    #[tokio::test]
    async fn an_answer_that_was_cut_short_is_not_taken_for_a_whole_one() {
        for (length, reset, whole) in [
            ("", true, false),
            ("", false, true),
            ("Content-Length: 4\r\n", true, true),
            ("Content-Length: 5\r\n", true, false),
            ("Content-Length: 5\r\n", false, false),
        ] {
            let (answer, mut backend) = tokio::io::duplex(1024);
            let (upload, mut heard) = tokio::io::duplex(64);
            let (go_on, gone_on) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                read_to(&mut heard, "\r\n\r\n").await;
                // From now on the upload's writes fail.
                drop(heard);
                let head = format!("HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\n{length}\r\n");
                backend.write_all(head.as_bytes()).await.unwrap();
                gone_on.await.unwrap();
                backend.write_all(b"half").await.unwrap();
            });
            // As from a client: not all of it is there at once.
            let endless = stream::repeat_with(|| Bytes::from_static(&[b'x'; 4096])).then(async |piece| {
                tokio::task::yield_now().await;
                Ok::<_, io::Error>(piece)
            });
            let request = Request::put("/x").header("host", "b").body(Body::from_stream(endless)).unwrap();
            let io = tokio::io::join(Said { io: answer, reset }, upload);
            let answer = Backend::speak(io).await.unwrap().ask(request).await.unwrap();
            go_on.send(()).unwrap();
            let body = answer.into_body().collect().await;
            assert_eq!(body.is_ok(), whole, "{length:?}, {reset}");
        }
    }

    #[tokio::test]
    async fn a_backend_that_goes_without_an_answer_is_told() {
        let (ours, theirs) = tokio::io::duplex(64);
        drop(theirs);
        let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from_static(&[b'x'; 4096])));
        let request = Request::put("/x").header("host", "b").body(Body::from_stream(endless)).unwrap();
        let error = Backend::speak(ours).await.unwrap().ask(request).await.unwrap_err();
        assert_eq!(error.to_string(), "EOF");
    }
}
