//! Paths that are not resources: health, version, discovery, OpenAPI documents.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use super::{Api, discovery, openapi, respond};
use crate::model::ApiError;

/// Health and version: open to everyone.
pub(super) async fn open(api: &Api, path: &str, wishes: respond::Wishes) -> Result<Response, ApiError> {
    match path.trim_matches('/').split('/').next().unwrap_or("") {
        "version" => Ok(respond::value(StatusCode::OK, &version(), wishes).await),
        "livez" | "healthz" => Ok(respond::text(StatusCode::OK, "ok")),
        "readyz" if *api.ready.borrow() => Ok(respond::text(StatusCode::OK, "ok")),
        "readyz" => Ok(respond::text(StatusCode::SERVICE_UNAVAILABLE, "not ready")),
        _ => Err(respond::no_such_path()),
    }
}

/// `kubectl version`: the Kubernetes whose behaviour we follow, and ourselves.
fn version() -> serde_json::Value {
    let kubernetes = crate::kinds::KUBERNETES_VERSION;
    let mut parts = kubernetes.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    json!({
        "major": major, "minor": minor,
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

/// Discovery and OpenAPI.
pub(super) async fn discover(
    api: &Api,
    path: &str,
    headers: &HeaderMap,
    wishes: respond::Wishes,
) -> Result<Response, ApiError> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let accept: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let form = discovery::Form::accepted(&accept.join(","));
    let (document, form) = match parts.as_slice() {
        ["api"] => (Some(discovery::core(form, &api.server)), form),
        ["apis"] => (Some(discovery::groups(form)), form),
        ["apis", group] => (discovery::group(group), discovery::Form::Legacy),
        ["api", version] => (discovery::resources("", version), discovery::Form::Legacy),
        ["apis", group, version] => (discovery::resources(group, version), discovery::Form::Legacy),
        ["openapi", "v2"] if accept.iter().any(|a| a.starts_with(openapi::V2_PROTOBUF)) => {
            let mut response = Response::new(openapi::EMPTY_V2_PROTOBUF.into());
            let kind = HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            return Ok(response);
        }
        ["openapi", "v2"] => return built(headers, || Some(openapi::v2())).await,
        ["openapi", "v3"] => return built(headers, || Some(openapi::index())).await,
        ["openapi", "v3", rest @ ..] => {
            let path = rest.join("/");
            return built(headers, move || openapi::document(&path)).await;
        }
        _ => return Err(respond::no_such_path()),
    };
    let document = document.ok_or_else(respond::no_such_path)?;
    let mut response = respond::value(StatusCode::OK, &document, wishes).await;
    if let Ok(value) = HeaderValue::from_str(&form.content_type()) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// A document that is built when it is first asked for, which takes long enough to delay other tasks.
async fn built(
    headers: &HeaderMap,
    build: impl FnOnce() -> Option<&'static openapi::Document> + Send + 'static,
) -> Result<Response, ApiError> {
    let found = tokio::task::spawn_blocking(build).await.ok().flatten();
    found.map(|found| document(headers, found)).ok_or_else(respond::no_such_path)
}

/// A prepared document; clients that have it already get 304.
fn document(headers: &HeaderMap, document: &openapi::Document) -> Response {
    let etag = format!("\"{}\"", document.hash);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut response = if known == Some(etag.as_str()) {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = Response::new(document.body.clone().into());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
