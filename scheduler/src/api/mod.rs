//! The Kubernetes REST API over HTTPS: routes, negotiation, authentication; no object logic of its own.
//!
//! In: HTTP requests with the identity of their TLS connection. Out: stored bytes as they are, tables,
//! metadata, `Status` failures. Never: a rule about an object (that is in [`crate::objects`] and the kind's
//! row), or a request's body in a log.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use async_trait::async_trait;
use axum::{extract::Request, response::Response};
use http::Method;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::sync::watch as ready_watch;
use tokio_util::sync::CancellationToken;

use crate::{
    kinds::{Column, Kind, Subresource},
    model::{ApiError, Object, Reason, Resource},
    objects::{Actor, Objects},
};

mod access;
mod body;
pub mod discovery;
mod health;
mod issuer;
mod listing;
mod metrics;
pub mod metrics_api;
mod negotiate;
pub mod openapi;
mod query;
mod read;
mod request;
mod respond;
mod route;
mod server;
pub mod streams;
mod system;
mod table;
mod watch;
mod write;

#[cfg(test)]
mod tests;

pub use metrics::Metrics;
pub use query::Params;
pub use server::{Server, ServerError};

use listing::ListOptions;
use negotiate::Offer;
use request::RequestContext;
use route::Route;

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
    /// Ends watches and connections.
    pub stop: CancellationToken,
}

/// The API. Shared by all connections.
pub struct Api {
    objects: Objects,
    connect: Option<Arc<dyn Connect>>,
    computed: Vec<Arc<dyn Computed>>,
    server: String,
    ready: ready_watch::Receiver<bool>,
    measures: Arc<OnceLock<Arc<Registry>>>,
    stop: CancellationToken,
    metrics: Metrics,
}

impl Api {
    /// Puts it together.
    pub fn new(parts: Parts, registry: &mut Registry) -> Arc<Self> {
        let Parts { objects, connect, computed, server, ready, measures, stop } = parts;
        let metrics = Metrics::new(registry);
        Arc::new(Self { objects, connect, computed, server, ready, measures, stop, metrics })
    }

    /// Answers one request of a caller, who is known by the connection.
    pub async fn handle(self: Arc<Self>, actor: Option<Actor>, request: Request) -> Response {
        let started = Instant::now();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let path = query::unescaped(uri.path(), false).unwrap_or_else(|| uri.path().to_owned());
        let route = Route::of(&path);
        let label = label(&route, &method, &uri);
        let kept = respond::Kept::of(request.headers());
        let mut response = match self.answer(actor.clone(), &path, route, request).await {
            Ok(response) => response,
            Err(error) => {
                let error = if matches!(route, Route::Other) {
                    respond::absent(error, &method, &path)
                } else {
                    error
                };
                let error = route::named_as_asked(error, &route);
                refused(actor.as_ref(), &method, &path, &error);
                respond::failure(&error, kept.wishes(&Params::of(&uri)))
            }
        };
        if let Route::Collection(kind, _) | Route::Object(kind, ..) | Route::Watch(kind, ..) = route
            && let Some(warning) = kind.deprecated
        {
            respond::warn(&mut response, &[warning.to_owned()]);
        }
        self.metrics.answered(&label, response.status().as_u16(), started.elapsed());
        if label.verb == "WATCH" && response.status().is_success() {
            let watching = self.metrics.watching(&label);
            response = response.map(|body| {
                use futures::StreamExt as _;
                axum::body::Body::from_stream(body.into_data_stream().inspect(move |_| {
                    let _ = &watching;
                }))
            });
        }
        response
    }

    async fn answer(
        &self,
        actor: Option<Actor>,
        path: &str,
        route: Route<'_>,
        request: Request,
    ) -> Result<Response, ApiError> {
        let params = Params::of(request.uri());
        if access::is_open(path) {
            return system::open(self, path, &params, request.method(), request.headers());
        }
        let Some(actor) = actor else { return Err(ApiError::new(Reason::Unauthorized, "Unauthorized")) };
        let actor = access::impersonated(actor, request.headers())?;
        access::authorize(&actor, request.method(), path, &route)?;
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
                let proxied = Proxied { resource: kind.resource, namespace, name: &name };
                connect.proxy(proxied, request).await
            }
            Route::Object(kind, namespace, name, Some(sub)) if is_stream(sub) => {
                let pod = self.objects.get(kind.resource, namespace, name).await?;
                let connect = self.connect.as_ref().ok_or_else(respond::no_such_path)?;
                connect.connect(pod, sub, params, request).await
            }
            Route::Other => self.other(path, params, &actor, request).await,
            _ => {
                let (head, body) = request.into_parts();
                route::check_method(&route, &head.method)?;
                let streams =
                    head.method == Method::GET && matches!(route, Route::Collection(..) | Route::Watch(..));
                negotiate::check_media(&head.method, &head.headers, streams)?;
                let offer = if matches!(route, Route::Review(_)) { Offer::Review } else { Offer::Kind };
                let ask = RequestContext::new(&head.headers, params, &actor, offer)?;
                self.resource(&head.method, route, &ask, body).await
            }
        }
    }

    async fn resource(
        &self,
        method: &Method,
        route: Route<'_>,
        ask: &RequestContext<'_>,
        body: axum::body::Body,
    ) -> Result<Response, ApiError> {
        match route {
            Route::Collection(kind, namespace) => match *method {
                Method::GET => {
                    let options = ListOptions::of(&ask.params, kind, namespace, false);
                    match options {
                        Ok(options) if options.watch => watch::watch(self, ask, kind, options).await,
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
                watch::watch(self, ask, kind, options).await
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
            Route::Review(review) => access::review(review, ask, body).await,
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
        system::discover(self, path, &params, &head.method, &head.headers).await
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

/// One line per refused request. Never the body, and of the query nothing: names in paths are enough to find
/// the client.
fn refused(actor: Option<&Actor>, method: &Method, path: &str, error: &ApiError) {
    let user = actor.map_or(access::ANONYMOUS, |a| &*a.user);
    let (code, reason) = (error.reason.code(), error.reason.as_str());
    match code {
        401 | 403 => tracing::warn!(user, %method, path, code, reason, "request refused"),
        500.. => tracing::error!(user, %method, path, code, reason, message = %error, "request failed"),
        _ => tracing::debug!(user, %method, path, code, reason, "request refused"),
    }
}

fn label(route: &Route<'_>, method: &Method, uri: &http::Uri) -> metrics::Request {
    let of = |kind: &Kind| (kind.group, kind.plural);
    let ((group, resource), sub, collection) = match route {
        Route::Collection(kind, _) | Route::Watch(kind, ..) => (of(kind), None, true),
        Route::Object(kind, _, _, sub) => (of(kind), *sub, false),
        Route::Review(_) => (("authorization.k8s.io", "reviews"), None, true),
        Route::Other => (("", ""), None, false),
    };
    let watching = || {
        uri.query().is_some_and(|q| {
            q.split('&').any(|p| p.starts_with("watch=") && p != "watch=false" && p != "watch=0")
        })
    };
    let verb = match (method.as_str(), collection) {
        _ if sub.is_some_and(connects) => "CONNECT",
        ("GET", true) if watching() || matches!(route, Route::Watch(..)) => "WATCH",
        ("GET", true) => "LIST",
        ("GET", false) => "GET",
        ("POST", _) => "POST",
        ("PUT", _) => "PUT",
        ("PATCH", _) => "PATCH",
        ("DELETE", true) => "DELETECOLLECTION",
        ("DELETE", false) => "DELETE",
        _ => "OTHER",
    };
    let subresource = sub.map_or("", Subresource::name);
    metrics::Request { verb, group, resource, subresource }
}
