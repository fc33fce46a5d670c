//! The Kubernetes REST API over HTTPS: routes, negotiation, authentication; no object logic of its own.
//!
//! In: HTTP requests with what their TLS connection proved. Out: stored bytes as they are, tables,
//! metadata, `Status` failures. Never: a rule about an object (that is in [`crate::objects`] and the kind's
//! row), or a request's body in a log.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use axum::{
    extract::{Request, WebSocketUpgrade},
    response::Response,
};
use http::Method;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::sync::watch as ready_watch;
use tokio_util::sync::CancellationToken;

use crate::{
    access::{self, Authenticator},
    kinds::{Column, Subresource},
    model::{ApiError, Key, Object, Reason, Resource},
    objects::{Actor, Objects},
};

mod body;
mod connection;
pub mod discovery;
mod handle;
mod health;
mod issuer;
mod limits;
mod listing;
mod metrics;
pub mod metrics_api;
mod negotiate;
pub mod openapi;
mod query;
mod read;
mod request;
mod respond;
mod reviews;
mod route;
mod rows;
mod server;
mod stored;
pub mod streams;
mod system;
mod table;
mod upgrade;
mod watch;
mod write;

#[cfg(test)]
mod tests;

pub use limits::InFlight;
pub use metrics::Metrics;
pub use query::Params;
pub use server::{Server, ServerError};

use listing::ListOptions;
use negotiate::Offer;
use openapi::OpenApi;
use request::RequestContext;
use route::Route;
use rows::Rows;

/// What a proxied request is for. The name may have a scheme and a port.
#[derive(Clone, Copy, Debug)]
pub struct Proxied<'a> {
    /// Pods, services or nodes.
    pub resource: Resource,
    /// `None` for nodes.
    pub namespace: Option<&'a str>,
    /// `web`, `web:80`, `https:web:443`
    pub name: &'a str,
}

/// Where a request came from; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub std::net::IpAddr);

/// Serves the subresources that reach into a container (log, exec, attach, port-forward), and the proxies.
#[async_trait]
pub trait Connect: Send + Sync + 'static {
    /// Answers a request about `pod`; `request` still has its body and its upgrade.
    async fn connect(
        &self,
        pod: Arc<Object>,
        sub: Subresource,
        params: Params,
        request: Request,
    ) -> Result<Response, ApiError>;

    /// Passes `request` on to a backend.
    async fn proxy(&self, proxied: Proxied<'_>, request: Request) -> Result<Response, ApiError>;
}

/// Serves a group whose objects are computed and not stored (`metrics.k8s.io`).
#[async_trait]
pub trait Computed: Send + Sync + 'static {
    /// Whether a path belongs to it.
    fn owns(&self, path: &str) -> bool;

    /// The JSON at a path, or a refusal.
    async fn get(&self, path: &str, params: &Params) -> Result<Value, ApiError>;

    /// The columns of its tables.
    fn columns(&self) -> &'static [Column];

    /// The cells of one of its objects; the second argument is now, in Unix seconds.
    fn cells(&self) -> fn(&Value, i64) -> Vec<Value>;
}

/// What the API is made of.
pub struct Parts {
    /// The object machine.
    pub objects: Objects,
    /// Streams into containers.
    pub connect: Option<Arc<dyn Connect>>,
    /// Computed groups.
    pub computed: Vec<Arc<dyn Computed>>,
    /// The address that clients reach us at, for discovery: `10.0.0.1:6443`.
    pub server: String,
    /// Whether `/readyz` says yes.
    pub ready: ready_watch::Receiver<bool>,
    /// What `/metrics` tells; nothing until it is given.
    pub measures: Arc<OnceLock<Arc<Registry>>>,
    /// How many requests may be worked on at a time.
    pub in_flight: InFlight,
    /// Ends watches and connections.
    pub stop: CancellationToken,
}

/// The API. Shared by all connections.
pub struct Api {
    objects: Objects,
    openapi: OpenApi,
    authenticators: Vec<Box<dyn Authenticator>>,
    authorizer: access::Union,
    connect: Option<Arc<dyn Connect>>,
    computed: Vec<Arc<dyn Computed>>,
    server: String,
    ready: ready_watch::Receiver<bool>,
    measures: Arc<OnceLock<Arc<Registry>>>,
    stop: CancellationToken,
    metrics: Metrics,
    gate: limits::Gate,
    rows: Arc<Rows>,
}

impl Api {
    /// Puts it together.
    pub fn new(parts: Parts, registry: &mut Registry) -> Arc<Self> {
        let Parts { objects, connect, computed, server, ready, measures, in_flight, stop } = parts;
        let metrics = Metrics::new(registry);
        let gate = limits::Gate::new(in_flight, registry);
        let authenticators: Vec<Box<dyn Authenticator>> = vec![Box::new(access::ClientCertificates)];
        let authorizer = access::standard();
        Arc::new(Self {
            objects,
            openapi: OpenApi::default(),
            authenticators,
            authorizer,
            connect,
            computed,
            server,
            ready,
            measures,
            stop,
            metrics,
            gate,
            rows: Arc::default(),
        })
    }

    async fn answer(
        &self,
        actor: &Actor,
        path: &str,
        route: Route<'_>,
        params: Params,
        request: Request,
    ) -> Result<Response, ApiError> {
        match route {
            Route::Object(_, _, _, Some(sub)) if connects(sub) && !is_connect(sub, request.method()) => {
                Err(respond::method_not_allowed())
            }
            Route::Object(kind, namespace, name, Some(Subresource::Proxy)) => {
                if params.get("dryRun").is_some() {
                    return Err(ApiError::new(Reason::BadRequest, "dryRun is not supported"));
                }
                let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
                let connect = self.connect.as_ref().ok_or_else(respond::no_such_path)?;
                let key = Key::scoped(kind.resource, namespace, &name);
                let asked = connection::options(kind, Subresource::Proxy, path, &params);
                self.objects.admit_connection(&key, Subresource::Proxy, &asked, actor).await?;
                let proxied = Proxied { resource: kind.resource, namespace, name: &name };
                connect.proxy(proxied, request).await
            }
            Route::Object(kind, namespace, name, Some(sub)) if is_stream(sub) => {
                let pod = self.objects.get(kind.resource, namespace, name).await?;
                let connect = self.connect.as_ref().ok_or_else(respond::no_such_path)?;
                // To read what a container wrote is to read.
                if sub != Subresource::Log {
                    let asked = connection::options(kind, sub, path, &params);
                    self.objects.admit_connection(&pod.key, sub, &asked, actor).await?;
                }
                connect.connect(pod, sub, params, request).await
            }
            Route::Other => self.other(path, params, actor, request).await,
            _ => {
                let (mut head, body) = request.into_parts();
                route::check_method(&route, &head.method)?;
                let streams =
                    head.method == Method::GET && matches!(route, Route::Collection(..) | Route::Watch(..));
                negotiate::check_media(&head.method, &head.headers, streams)?;
                let watches = streams && (matches!(route, Route::Watch(..)) || params.is_set("watch"));
                let socket = match watches && upgrade::is_socket(&head.headers) {
                    true => Some(upgrade::socket(&mut head).await?),
                    false => None,
                };
                let offer = if matches!(route, Route::Review(..)) { Offer::Review } else { Offer::Kind };
                let ask = RequestContext::new(&head.headers, params, actor, offer)?;
                self.resource(&head.method, route, &ask, body, socket).await
            }
        }
    }

    async fn resource(
        &self,
        method: &Method,
        route: Route<'_>,
        ask: &RequestContext<'_>,
        body: axum::body::Body,
        socket: Option<WebSocketUpgrade>,
    ) -> Result<Response, ApiError> {
        match route {
            Route::Collection(kind, namespace) => match *method {
                Method::GET => {
                    let options = ListOptions::of(&ask.params, kind, namespace, false);
                    match options {
                        Ok(options) if options.watch => watch::watch(self, ask, kind, options, socket).await,
                        options => {
                            if !ask.params.is_set("watch") {
                                ask.params.check_timeout()?;
                            }
                            read::list(self, ask, kind, options?).await
                        }
                    }
                }
                Method::POST => write::create(self, ask, kind, namespace, body).await,
                Method::DELETE => write::delete_collection(self, ask, kind, namespace, body).await,
                _ => Err(respond::method_not_allowed()),
            },
            Route::Watch(kind, namespace, name) => {
                let mut options = ListOptions::of(&ask.params, kind, namespace, true)?;
                name.map_or(Ok(()), |name| options.only(name))?;
                watch::watch(self, ask, kind, options, socket).await
            }
            Route::Object(kind, namespace, name, sub) => {
                ask.params.check_timeout()?;
                let at = write::At { kind, namespace, name, sub };
                match *method {
                    Method::GET => read::get(self, ask, kind, namespace, name, sub).await,
                    Method::PUT => write::update(self, ask, at, body).await,
                    Method::PATCH => write::patch(self, ask, at, body).await,
                    Method::DELETE => write::delete(self, ask, at, body).await,
                    Method::POST => write::create_sub(self, ask, at, body).await,
                    _ => Err(respond::method_not_allowed()),
                }
            }
            Route::Bindings(kind, namespace) => write::bind(self, ask, kind, namespace, body).await,
            Route::Review(review, namespace) => {
                reviews::review(review, namespace, ask, body, &self.authorizer).await
            }
            Route::Other => Err(respond::no_such_path()),
        }
    }

    async fn other(
        &self,
        path: &str,
        params: Params,
        actor: &Actor,
        request: Request,
    ) -> Result<Response, ApiError> {
        let (head, _) = request.into_parts();
        if let Some(computed) = self.computed.iter().find(|c| c.owns(path)) {
            if head.method != Method::GET {
                return Err(respond::method_not_allowed());
            }
            let ask = RequestContext::new(&head.headers, params, actor, Offer::Kind)?;
            let value = computed.get(path, &ask.params).await?;
            return table::computed(&ask, computed.as_ref(), value).await;
        }
        system::discover(self, &self.objects.kinds(), path, &params, &head.method, &head.headers).await
    }
}

/// Whether a subresource leads out of the API.
const fn connects(sub: Subresource) -> bool {
    is_stream(sub) || matches!(sub, Subresource::Proxy)
}

/// Whether it does so with this method.
fn is_connect(sub: Subresource, method: &Method) -> bool {
    match *method {
        Method::GET => true,
        Method::POST => sub != Subresource::Log,
        Method::PUT | Method::PATCH | Method::DELETE | Method::HEAD | Method::OPTIONS => {
            sub == Subresource::Proxy
        }
        _ => false,
    }
}

const fn is_stream(sub: Subresource) -> bool {
    matches!(sub, Subresource::Log | Subresource::Exec | Subresource::Attach | Subresource::PortForward)
}
