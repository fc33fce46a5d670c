//! One request from its head to its answer: who asks, what for, whether they may; then it is answered, counted and, where
//! it was refused, told in the log. All of these look at the same [`RequestInfo`].

use std::{sync::Arc, time::Instant};

use axum::{extract::Request, response::Response};

use super::{
    Api, Params, metrics, query, respond,
    route::{self, Route},
};
use crate::{
    access::{
        self, ANONYMOUS, Attributes, Authorizer as _, Connection, Decision, Head, RequestInfo, anonymous,
        authenticate, forbidden,
    },
    model::{ApiError, Reason},
    objects::Actor,
};

/// Who asks.
struct Caller {
    actor: Actor,
    /// Who asks in that name.
    by: Option<Actor>,
    /// Whether a credential was shown.
    known: bool,
}

impl Api {
    /// Answers one request that came over `connection`.
    pub async fn handle(self: Arc<Self>, connection: Arc<Connection>, request: Request) -> Response {
        let started = Instant::now();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let path = query::unescaped(uri.path(), false).unwrap_or_else(|| uri.path().to_owned());
        let params = Params::of(&uri);
        let info = RequestInfo::of(&method, &path, params.is_set("watch"), params.get("fieldSelector"));
        let kinds = self.objects.kinds();
        let route = Route::of(&kinds, &path);
        let label = metrics::label(&route, &info);
        let kept = respond::Kept::of(request.headers());
        let caller = self.identify(&connection, &request);
        let answered = match &caller {
            Ok(caller) => match self.authorize(caller, &info) {
                Ok(()) => match self.gate.enter(&info, &caller.actor) {
                    Ok(_held) => self.answer(&caller.actor, &path, route, params, request).await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            },
            Err(error) => Err(error.clone()),
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(error) => {
                let error = if matches!(route, Route::Other) {
                    respond::absent(&kinds, error, &method, &path)
                } else {
                    error
                };
                let error = route::named_as_asked(error, &route);
                refused(caller.as_ref().ok(), &connection, &info, &error);
                respond::failure(&error, kept.wishes(&Params::of(&uri)))
            }
        };
        if let Some(warning) = route.deprecation() {
            respond::warn(&mut response, &[warning.to_owned()]);
        }
        self.metrics.answered(&label, response.status().as_u16(), started.elapsed());
        if info.verb == "watch" && response.status().is_success() {
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

    /// Who asks: whom the credentials name, or whom he wants to be.
    fn identify(&self, connection: &Connection, request: &Request) -> Result<Caller, ApiError> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        let head = Head { method, uri, headers, connection };
        let actor = authenticate(&self.authenticators, &head).map_err(|invalid| {
            tracing::info!(peer = %connection.peer, why = %invalid, "credential refused");
            unauthorized()
        })?;
        let known = actor.is_some();
        let actor = actor.unwrap_or_else(anonymous);
        Ok(match access::impersonated(&actor, headers, &self.authorizer)? {
            Some(acting) => Caller { actor: acting, by: Some(actor), known },
            None => Caller { actor, by: None, known },
        })
    }

    fn authorize(&self, caller: &Caller, info: &RequestInfo<'_>) -> Result<(), ApiError> {
        let asked = Attributes { actor: &caller.actor, request: info };
        match self.authorizer.authorize(asked) {
            Decision::Allow => Ok(()),
            // Who showed nothing is asked to, as upstream where anonymous requests are for some paths alone.
            _ if !caller.known => Err(unauthorized()),
            Decision::Deny(why) | Decision::NoOpinion(why) => Err(forbidden(asked, &why)),
        }
    }
}

fn unauthorized() -> ApiError {
    ApiError::new(Reason::Unauthorized, "Unauthorized")
}

/// One line per refused request. Never the body, and of the query nothing: names in paths are enough to find
/// the client.
fn refused(caller: Option<&Caller>, connection: &Connection, info: &RequestInfo<'_>, error: &ApiError) {
    let user = caller.map_or(ANONYMOUS, |caller| &*caller.actor.user);
    let by = caller.and_then(|caller| caller.by.as_ref()).map(|by| &*by.user);
    let (code, reason) = (error.reason.code(), error.reason.as_str());
    let (verb, path, peer) = (info.verb, info.path, connection.peer);
    match code {
        401 | 403 => tracing::warn!(user, by, verb, path, code, reason, %peer, "request refused"),
        500.. => tracing::error!(user, by, verb, path, code, reason, message = %error, "request failed"),
        _ => tracing::debug!(user, by, verb, path, code, reason, "request refused"),
    }
}
