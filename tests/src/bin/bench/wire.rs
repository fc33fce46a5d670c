//! One connection to an API server with as little client around it as goes: HTTP/1.1 over TLS, requests and answers as
//! bytes. What is timed through it is the server's work and the way there. It decodes nothing and never retries.

use anyhow::{Context, Result, ensure};
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use kube::{Config, client::ConfigExt as _};
use std::sync::Arc;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// An open connection, used for one request at a time.
pub(crate) struct Wire {
    authority: String,
    requests: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Wire {
    /// Connects to the server of `config`, with its client certificate.
    pub(crate) async fn connect(config: &Config) -> Result<Self> {
        let host = config.cluster_url.host().context("the server's address has no host")?.to_owned();
        let port = config.cluster_url.port_u16().unwrap_or(443);
        let tls = TlsConnector::from(Arc::new(config.rustls_client_config()?));
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let stream = tls.connect(ServerName::try_from(host.clone())?, stream).await?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        // When the connection ends, the next request says so.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { authority: format!("{host}:{port}"), requests, driver })
    }

    /// Sends a request and takes the whole answer, which must have `expected` as its status.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        path: &str,
        (content_type, body): (&str, Bytes),
        expected: StatusCode,
    ) -> Result<Bytes> {
        let answer = self.open(method, path, content_type, body).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(
            status == expected,
            "{path}: {status} {}",
            String::from_utf8_lossy(&body[..body.len().min(300)])
        );
        Ok(body)
    }

    /// Sends a request and gives the answer whose body is still to come.
    pub(crate) async fn open(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<http::Response<Incoming>> {
        let uri: Uri = path.parse()?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, &self.authority)
            .header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        self.requests.ready().await?;
        Ok(self.requests.send_request(request.body(Full::new(body))?).await?)
    }
}
