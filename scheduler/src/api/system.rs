//! Paths that are not resources: health, version, discovery, OpenAPI documents, metrics, and the list of them all.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Api, Params, discovery, health, issuer,
    negotiate::{self, Accepted, Media, Offer},
    openapi::{self, OpenApi},
    respond::{self, Wishes},
    route,
};
use crate::{
    kinds::Catalogue,
    model::{ApiError, Reason, encode_pretty},
};

/// Health and version.
fn open(
    api: &Api,
    path: &str,
    params: &Params,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if matches!(path, "/version" | "/version/") {
        if method != Method::GET {
            return Err(respond::method_not_allowed());
        }
        negotiate::check_produced(headers, &[Media::Json.name()])?;
        return Ok(plain_json(StatusCode::OK, &version()));
    }
    let ready = *api.ready.borrow();
    let state = health::State { ready, store: api.objects.store_condition() };
    Ok(health::answer(path, params, &state).unwrap_or_else(respond::page_not_found))
}

/// JSON as upstream's own handlers write it: indented, whatever the client accepts.
fn plain_json(status: StatusCode, value: &Value) -> Response {
    respond::with_type(status, encode_pretty(value).into(), Media::Json.name())
}

/// `kubectl version`: the Kubernetes whose behaviour we follow, and ourselves.
fn version() -> Value {
    let kubernetes = crate::kinds::KUBERNETES_VERSION;
    let mut parts = kubernetes.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    // What the version before wrote is still understood.
    let before = minor.parse::<u32>().unwrap_or_default().saturating_sub(1).to_string();
    json!({
        "major": major, "minor": minor,
        "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": before,
        "gitVersion": format!("{kubernetes}+gantry-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "",
        "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// As Go spells it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Discovery, OpenAPI, metrics.
pub(super) async fn discover(
    api: &Api,
    kinds: &Arc<Catalogue>,
    path: &str,
    params: &Params,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let parts = route::parts(path);
    match parts.as_slice() {
        [""] => Ok(plain_json(StatusCode::OK, &paths(kinds))),
        ["healthz" | "livez" | "readyz" | "version", ..] => open(api, path, params, method, headers),
        ["metrics"] if !path.ends_with('/') => Ok(metrics(api, headers)),
        [".well-known", "openid-configuration"] => issuer::configuration(method, headers, &api.server),
        ["openid", "v1", "jwks"] => issuer::keys(method, headers),
        // Upstream's words about the old paths of watches and proxies without anything behind them.
        ["api", _, "watch" | "proxy"] | ["apis", _, _, "watch" | "proxy"] => {
            let why = "failed to create RequestInfo: unable to determine kind and namespace from url";
            let message = format!("Internal Server Error: {path:?}: {why}, {path}\n");
            Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
        ["openapi", ..] if path.ends_with('/') && parts.len() > 1 => Ok(bare(false)),
        ["openapi", ..] => described(&api.openapi, kinds, &parts, headers).await,
        ["api"] => {
            only_get(method)?;
            negotiate::check_produced(headers, &PRODUCED)?;
            document(headers, params, |form| Some(discovery::core(kinds, form, &api.server)), true).await
        }
        // A slash at its end leads past the aggregated form.
        ["apis"] => {
            let aggregates = !path.ends_with('/');
            document(headers, params, |form| Some(discovery::groups(kinds, form)), aggregates).await
        }
        ["apis", group, ..] if !discovery::is_known(kinds, group) => Ok(respond::page_not_found()),
        ["apis", group] => document(headers, params, |_| discovery::group(kinds, group), false).await,
        ["api", version] => resources(kinds, "", version, method, headers, params).await,
        ["apis", group, version] => resources(kinds, group, version, method, headers, params).await,
        ["api" | "apis", ..] => Err(respond::no_such_path()),
        _ => Ok(respond::page_not_found()),
    }
}

const PRODUCED: [&str; 3] = [Media::Json.name(), Media::Yaml.name(), Media::Protobuf.name()];

fn only_get(method: &Method) -> Result<(), ApiError> {
    if method == Method::GET { Ok(()) } else { Err(respond::method_not_allowed()) }
}

async fn resources(
    kinds: &Catalogue,
    group: &str,
    version: &str,
    method: &Method,
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response, ApiError> {
    let found = discovery::resources(kinds, group, version).ok_or_else(respond::no_such_path)?;
    only_get(method)?;
    negotiate::check_produced(headers, &PRODUCED)?;
    document(headers, params, |_| Some(found), false).await
}

/// A discovery document, in the aggregated form where there is one and the client prefers it.
async fn document(
    headers: &HeaderMap,
    params: &Params,
    make: impl FnOnce(discovery::Form) -> Option<Value>,
    aggregates: bool,
) -> Result<Response, ApiError> {
    let form = if aggregates { aggregated(headers) } else { None };
    let found =
        make(form.map_or(discovery::Form::Legacy, |(form, _)| form)).ok_or_else(respond::no_such_path)?;
    let accepted = match form {
        Some((_, media)) => Accepted { media, ..Accepted::default() },
        None => negotiate::accepted(headers, Offer::Bare)?,
    };
    let wishes = Wishes::of(headers, params, accepted);
    let form = form.map_or(discovery::Form::Legacy, |(form, _)| form);
    let mut response = respond::value(StatusCode::OK, &found, wishes).await;
    if let Some(parameters) = form.parameters()
        && let Ok(value) = HeaderValue::from_str(&format!("{}{parameters}", accepted.media.name()))
    {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// The first clause of `Accept` that takes an aggregated form. Those that take the plain one do not come before it, as
/// upstream. In protobuf it has none here, where the client takes JSON too.
fn aggregated(headers: &HeaderMap) -> Option<(discovery::Form, Media)> {
    let header = headers.get(header::ACCEPT)?.to_str().ok()?;
    negotiate::clauses(header).iter().find_map(|clause| {
        let media = [Media::Json, Media::Yaml].into_iter().find(|media| clause.takes(media.name()))?;
        Some((discovery::Form::of(clause)?, media))
    })
}

/// OpenAPI documents. They have no `Status` failures, as upstream's handlers of them know none.
async fn described(
    openapi: &OpenApi,
    kinds: &Arc<Catalogue>,
    parts: &[&str],
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    let clauses = negotiate::clauses(accept);
    let json = accept.is_empty() || clauses.iter().any(|clause| clause.takes(Media::Json.name()));
    match parts {
        ["openapi", "v2"] if accept.starts_with(openapi::V2_PROTOBUF) => {
            let mut response = Response::new(openapi::EMPTY_V2_PROTOBUF.into());
            let kind = HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        }
        ["openapi", "v2"] if json => built(openapi, kinds, headers, |all| Some(all.v2())).await,
        ["openapi", "v3"] => {
            let mut response = built(openapi, kinds, headers, |all| Some(all.index().clone())).await?;
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, text);
            Ok(response)
        }
        ["openapi", "v3", rest @ ..] => {
            let path = rest.join("/");
            let known = openapi::is_document(kinds, &path);
            if known && json {
                built(openapi, kinds, headers, move |all| all.document(&path).cloned()).await
            } else {
                Ok(bare(known))
            }
        }
        ["openapi", "v2"] => Ok(bare(true)),
        _ => Ok(respond::page_not_found()),
    }
}

/// No document: there is none (404), or not in the client's media type (406).
fn bare(known: bool) -> Response {
    let mut response = Response::default();
    *response.status_mut() = if known { StatusCode::NOT_ACCEPTABLE } else { StatusCode::NOT_FOUND };
    response
}

fn metrics(api: &Api, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    match api.measures.get().map(|registry| gantry_exposition::answer(registry, accept)) {
        Some(Ok(answer)) => respond::with_type(StatusCode::OK, answer.text.into(), answer.content_type),
        _ => respond::text(StatusCode::SERVICE_UNAVAILABLE, "no metrics are collected yet"),
    }
}

/// `/`: everything else.
fn paths(kinds: &Catalogue) -> Value {
    let mut out: Vec<String> =
        ["/api", "/api/v1", "/apis", "/apis/", "/metrics", "/openapi/v2", "/openapi/v3", "/version"]
            .map(str::to_owned)
            .to_vec();
    out.extend([issuer::CONFIGURATION, issuer::KEYS].map(|path| format!("/{path}")));
    for (group, versions) in discovery::group_versions(kinds) {
        out.push(format!("/apis/{group}"));
        out.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    out.extend(openapi::paths(kinds).into_iter().map(|path| format!("/openapi/v3/{path}")));
    out.extend(health::paths());
    out.sort();
    out.dedup();
    json!({ "paths": out })
}

/// A document that is built when it is first asked for, which takes long enough to delay other tasks.
async fn built(
    openapi: &OpenApi,
    kinds: &Arc<Catalogue>,
    headers: &HeaderMap,
    pick: impl FnOnce(&openapi::Documents) -> Option<Arc<openapi::Document>> + Send + 'static,
) -> Result<Response, ApiError> {
    let (openapi, kinds) = (openapi.clone(), kinds.clone());
    let found = tokio::task::spawn_blocking(move || pick(&openapi.of(&kinds))).await.ok().flatten();
    match found {
        Some(found) => Ok(prepared(headers, found).await),
        None => Err(ApiError::new(Reason::InternalError, "the OpenAPI document could not be built")),
    }
}

/// A prepared document; clients that have it already get 304.
async fn prepared(headers: &HeaderMap, document: Arc<openapi::Document>) -> Response {
    let etag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut response = if known == Some(etag.as_str()) {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if negotiate::gzip(headers) {
        // Compressed once: the documents are megabytes, and never change.
        let packed = tokio::task::spawn_blocking(move || document.packed()).await.unwrap_or_default();
        let mut response = respond::with_type(StatusCode::OK, packed.into(), Media::Json.name());
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        respond::with_type(StatusCode::OK, document.body.clone().into(), Media::Json.name())
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(header::ETAG, value);
    }
    response
}
