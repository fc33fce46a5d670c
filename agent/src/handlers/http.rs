//! httpGet as upstream does it: any status from 200 to 399 is good, a redirect is followed on the same host and
//! counts as good with a warning to another one, certificates are not verified.

use std::{sync::Arc, time::Duration};

use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Response, body::Incoming};
use hyper_util::rt::TokioIo;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::model::{HttpCheck, chain};

/// Of the body, for messages.
const MAX_BODY: usize = 10 * 1024;
/// As the client that upstream uses.
const MAX_REDIRECTS: usize = 10;
const USER_AGENT: &str = "kube-probe/1.37";

/// What a good answer was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Good {
    /// The answer asked for.
    Answered,
    /// A redirect that is not followed, with the text for the event.
    Redirected(String),
}

/// One request with its redirects. `Err` is the text for the event.
pub async fn probe(check: &HttpCheck, limit: Duration) -> Result<Good, String> {
    let scheme = if check.https { "https" } else { "http" };
    let host = if check.host.contains(':') { format!("[{}]", check.host) } else { check.host.clone() };
    let path = if check.path.starts_with('/') { check.path.clone() } else { format!("/{}", check.path) };
    let url = format!("{scheme}://{host}:{}{path}", check.port);
    match tokio::time::timeout(limit, follow(check, &url)).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn follow(check: &HttpCheck, first: &str) -> Result<Good, String> {
    let mut url: Uri = first.parse().map_err(|error| format!("parse {first:?}: {error}"))?;
    for _ in 0..=MAX_REDIRECTS {
        let response = get(check, &url).await.map_err(|error| format!("Get \"{url}\": {error}"))?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let next = location.filter(|_| status.is_redirection()).and_then(|to| resolve(&url, to));
        if let Some(next) = next.filter(|next| next.host() == url.host()) {
            url = next;
            continue;
        }
        return match status.as_u16() {
            200..300 => {
                // Read, so that a server that cannot write its answer shows.
                body(response).await;
                Ok(Good::Answered)
            }
            300..400 => {
                let body = body(response).await;
                Ok(Good::Redirected(format!("Probe terminated redirects, Response body: {body}")))
            }
            other => Err(format!("HTTP probe failed with statuscode: {other}")),
        };
    }
    Err(format!("Get {first:?}: stopped after {MAX_REDIRECTS} redirects"))
}

fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let target: Uri = location.parse().ok()?;
    if target.host().is_some() {
        return Some(target);
    }
    let mut parts = base.clone().into_parts();
    let path = target.path_and_query()?.clone();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

async fn body(response: Response<Incoming>) -> String {
    let collected = Limited::new(response.into_body(), MAX_BODY).collect().await;
    collected.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default()
}

async fn get(check: &HttpCheck, url: &Uri) -> Result<Response<Incoming>, String> {
    let host = url.host().unwrap_or_default();
    let https = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = connect(bare, port).await?;
    let request = request(check, url)?;
    if !https {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(unverified()?);
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    send(stream, request).await
}

/// A connection, with the words Go has for a failure.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            _ => error.to_string(),
        };
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        format!("dial tcp {address}: {why}")
    })
}

fn request(check: &HttpCheck, url: &Uri) -> Result<Request<Empty<bytes::Bytes>>, String> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path).header(header::CONNECTION, "close");
    let named = |name: &str| check.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
    if !named("host") {
        request = request.header(header::HOST, url.authority().map_or("", |authority| authority.as_str()));
    }
    if !named("user-agent") {
        request = request.header(header::USER_AGENT, USER_AGENT);
    }
    if !named("accept") {
        request = request.header(header::ACCEPT, "*/*");
    }
    for (name, value) in check.headers.iter().filter(|(_, value)| !value.is_empty()) {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|error| error.to_string())
}

async fn send<S>(stream: S, request: Request<Empty<bytes::Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    // Ends with the response's body, or when the probe is given up and drops the sender.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| chain(&error))
}

fn unverified() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Unverified(Arc::clone(&provider)));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A probe asks whether a container answers, not who it is: upstream verifies nothing either.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
