//! The API's proxy to pods, services and nodes: a request goes on to the backend, over a connection that the node's agent
//! makes, and the answer comes back, both of them streamed. In: the client's request. Out: the backend's answer, or
//! upstream's `Status` of why there is none. Never: a connection of the scheduler's own to a pod, or an address that a
//! client chose.

mod answer_first;
mod body;
mod connect;
mod headers;
mod links;
mod path;
mod place;

use std::net::IpAddr;

use axum::{body::Body, extract::Request, response::Response};
use http::{HeaderValue, Method, StatusCode, Uri, Version, header};
use hyper_util::rt::TokioIo;
use tokio_rustls::TlsConnector;

use super::{
    super::{Peer, Proxied, respond},
    socket,
};
use crate::{
    model::{ApiError, Reason, Resource},
    nodes::Nodes,
    objects::Objects,
};
use connect::Backend;
use links::Rewriter;
use path::Asked;
use place::Place;

/// What proxied requests go by.
pub(super) struct Proxy {
    nodes: Nodes,
    objects: Objects,
    tls: TlsConnector,
}

impl Proxy {
    /// To what `objects` know, over the sessions of `nodes`.
    pub(super) fn new(nodes: Nodes, objects: Objects) -> Result<Self, rustls::Error> {
        Ok(Self { nodes, objects, tls: connect::tls()? })
    }

    pub(super) async fn serve(&self, proxied: Proxied<'_>, request: Request) -> Result<Response, ApiError> {
        let Proxied { resource, namespace, name } = proxied;
        let segments = if resource == Resource::NODES { 5 } else { 7 };
        let asked = Asked::of(request.uri(), segments).ok_or_else(respond::no_such_path)?;
        let place = place::find(&self.objects, resource, namespace, name).await?;
        if socket::wants_upgrade(request.headers()) {
            return self.upgrade(&place, &asked, request).await;
        }
        if let Some(location) = asked.with_slash().filter(|_| is_read(request.method())) {
            return Ok(moved(&location));
        }
        self.plain(&place, &asked, request).await
    }

    async fn plain(&self, place: &Place, asked: &Asked, request: Request) -> Result<Response, ApiError> {
        let host = host_of(&request);
        let mut request = outgoing(request, asked)?;
        let headers = request.headers_mut();
        headers::without_hops(headers);
        headers::forwarded_uri(headers, &asked.forwarded());
        headers::with_length(&mut request);
        let backend = Backend::reach(&self.nodes, &self.tls, place).await.map_err(|error| error.plain())?;
        let answer = backend.ask(request).await.map_err(|error| error.plain())?;
        let (mut parts, body) = answer.into_parts();
        headers::answered(&mut parts.headers);
        let links = Rewriter {
            prefix: String::from_utf8_lossy(asked.prefix()).into_owned(),
            backend: place.host(),
            asked: host,
        };
        let body = match relocated(&parts.headers, &links) {
            Some(location) => {
                parts.headers.insert(header::LOCATION, location);
                Body::new(body)
            }
            None => body::rewritten(&mut parts.headers, Body::new(body), links).await,
        };
        // The client's connection has a version of its own.
        parts.version = Version::default();
        Ok(Response::from_parts(parts, body))
    }

    /// WebSocket and the like: once both sides agree, bytes.
    async fn upgrade(
        &self,
        place: &Place,
        asked: &Asked,
        mut request: Request,
    ) -> Result<Response, ApiError> {
        let client = hyper::upgrade::on(&mut request);
        let request = outgoing(request, asked)?;
        let backend = Backend::reach(&self.nodes, &self.tls, place).await.map_err(|error| error.upgrade())?;
        let mut answer = backend.ask(request).await.map_err(|error| error.upgrade())?;
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            if status.as_u16() < 400 {
                let message = format!("invalid upgrade response: status code {}", status.as_u16());
                return Err(ApiError::new(Reason::Unknown, message));
            }
            headers::without_hops(answer.headers_mut());
            return Ok(answer.map(Body::new));
        }
        let backend = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            if let (Ok(client), Ok(backend)) = tokio::join!(client, backend) {
                relay(TokioIo::new(client), TokioIo::new(backend)).await;
            }
        });
        Ok(answer.map(|_| Body::empty()))
    }
}

/// Until one side has ended: what is left of the other has nobody to go to, as upstream.
async fn relay(client: TokioIo<hyper::upgrade::Upgraded>, backend: TokioIo<hyper::upgrade::Upgraded>) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    // Cancel-safe: both ends are dropped.
    let ended = tokio::select! {
        ended = tokio::io::copy(&mut from_client, &mut to_backend) => ended,
        ended = tokio::io::copy(&mut from_backend, &mut to_client) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a proxied connection broke");
    }
    // Whoever is still there learns that it is over.
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut to_client).await;
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut to_backend).await;
}

/// The request as the backend gets it.
fn outgoing(request: Request, asked: &Asked) -> Result<Request, ApiError> {
    let host = host_of(&request);
    let client: Option<IpAddr> = request.extensions().get::<Peer>().map(|peer| peer.0);
    let (mut parts, body) = request.into_parts();
    let bad = |error: http::uri::InvalidUri| ApiError::new(Reason::BadRequest, error.to_string());
    parts.uri = asked.target().parse::<Uri>().map_err(bad)?;
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    // The backend sees the host that the client asked, as upstream.
    if let Ok(value) = HeaderValue::from_str(&host) {
        parts.headers.insert(header::HOST, value);
    }
    headers::without_credentials(&mut parts.headers);
    headers::forwarded_for(&mut parts.headers, client);
    Ok(Request::from_parts(parts, body))
}

/// HTTP/2 has it in the URI.
fn host_of(request: &Request) -> String {
    let header = || request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    authority.or_else(header).unwrap_or_default().to_owned()
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn moved(location: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Where the answer sends the client, by way of the proxy.
fn relocated(headers: &http::HeaderMap, links: &Rewriter) -> Option<HeaderValue> {
    let location = headers.get(header::LOCATION)?.to_str().ok().filter(|location| !location.is_empty())?;
    HeaderValue::from_str(&links.link(location)).ok()
}
