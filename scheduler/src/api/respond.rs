//! Answers: objects, lists and failures into HTTP responses.

use std::io::Write as _;

use axum::{body::Body, response::Response};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use crate::model::{ApiError, Reason};

/// Answers larger than this are compressed for clients that take it; upstream's threshold.
const GZIP_FROM: usize = 128 << 10;

/// How the client wants bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// `?pretty=true`
    pub(super) pretty: bool,
    /// `Accept-Encoding: gzip`
    pub(super) gzip: bool,
}

/// A JSON answer.
pub(super) async fn json(status: StatusCode, body: Bytes, wishes: Wishes) -> Response {
    let body = if wishes.pretty { pretty(body) } else { body };
    if !wishes.gzip || body.len() < GZIP_FROM {
        return with_type(status, Body::from(body));
    }
    // A list of many megabytes takes long enough to delay other tasks of this thread.
    let plain = body.clone();
    let packed = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(BytesMut::new().writer(), Compression::fast());
        encoder.write_all(&plain)?;
        encoder.finish().map(BufMutExt::into_bytes)
    });
    let Ok(Ok(packed)) = packed.await else { return with_type(status, Body::from(body)) };
    let mut response = with_type(status, Body::from(packed));
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

trait BufMutExt {
    fn into_bytes(self) -> Bytes;
}

impl BufMutExt for bytes::buf::Writer<BytesMut> {
    fn into_bytes(self) -> Bytes {
        self.into_inner().freeze()
    }
}

/// A JSON answer made on the spot.
pub(super) async fn value(status: StatusCode, value: &Value, wishes: Wishes) -> Response {
    json(status, Bytes::from(value.to_string()), wishes).await
}

/// A failure as a `Status`.
pub(super) fn failure(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.reason.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_type(status, Body::from(error.to_status().to_string()));
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `Warning:` headers, which kubectl prints.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// 404 of a path that is not served.
pub(super) fn no_such_path() -> ApiError {
    ApiError::new(Reason::NotFound, "the server could not find the requested resource")
}

/// Says of a 404 for a path below `/api` or `/apis` what is not served. The details also keep kubectl from looking for a
/// kind's name in vain.
pub(super) fn absent(error: ApiError, method: &Method, path: &str) -> ApiError {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return error,
    };
    if error.reason != Reason::NotFound || !error.kind.is_empty() {
        return error;
    }
    let (resource, sub) = match rest {
        ["namespaces", _, resource, _, sub] => (*resource, Some(*sub)),
        ["namespaces", _, resource, _] | ["namespaces", _, resource] => (*resource, None),
        [resource, _, sub] => (*resource, Some(*sub)),
        [resource, ..] => (*resource, None),
        [] => return error,
    };
    let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let subresource = sub.map(|sub| format!("/{sub}")).unwrap_or_default();
    let verb = method.as_str().to_ascii_lowercase();
    let api = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let message = format!(
        "the server could not find the requested resource ({verb} {qualified}{subresource}): this version of Gantry \
         does not serve {resource}{subresource} of {api}"
    );
    let (group, kind) = (group.to_owned(), resource.to_owned());
    ApiError { group, kind, ..ApiError::new(Reason::NotFound, message) }
}

/// 405.
pub(super) fn method_not_allowed() -> ApiError {
    let message = "the server does not allow this method on the requested resource";
    ApiError::new(Reason::MethodNotAllowed, message)
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn with_type(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn pretty(body: Bytes) -> Bytes {
    let Ok(value) = serde_json::from_slice::<Value>(&body) else { return body };
    serde_json::to_vec_pretty(&value).map_or(body, |mut text| {
        text.push(b'\n');
        Bytes::from(text)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[tokio::test]
    async fn big_answers_are_compressed_for_who_takes_it() {
        let body = Bytes::from(vec![b' '; GZIP_FROM + 1]);
        let gzip = Wishes { gzip: true, pretty: false };
        let response = json(StatusCode::OK, body.clone(), gzip).await;
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let packed = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&*packed).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, body);
        let response = json(StatusCode::OK, body, Wishes::default()).await;
        assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
    }

    #[test]
    fn what_is_not_served_is_named() {
        let said = |method: Method, path: &str| absent(no_such_path(), &method, path).to_status();
        let jobs = said(Method::POST, "/apis/batch/v1/namespaces/shop/jobs");
        assert_eq!(
            jobs["message"],
            "the server could not find the requested resource (post jobs.batch): this version of Gantry does not serve \
             jobs of batch/v1"
        );
        assert_eq!(jobs["details"], serde_json::json!({"group": "batch", "kind": "jobs"}));
        let debug = said(Method::PATCH, "/api/v1/namespaces/shop/pods/web/ephemeralcontainers");
        assert_eq!(
            debug["details"],
            serde_json::json!({"kind": "pods"}),
            "a name would mean that the pod is missing"
        );
        assert!(debug["message"].as_str().unwrap().contains("(patch pods/ephemeralcontainers)"), "{debug}");
        assert_eq!(said(Method::GET, "/nothing")["details"], Value::Null);
        let gone = ApiError::not_found(crate::model::Resource::PODS, "web");
        assert!(
            absent(gone, &Method::GET, "/api/v1/namespaces/a/pods/web")
                .message
                .ends_with("\"web\" not found")
        );
    }

    #[test]
    fn warnings_are_quoted() {
        let mut response = text(StatusCode::OK, "");
        warn(&mut response, &["unknown field \"spec.x\"".to_owned()]);
        assert_eq!(response.headers()[header::WARNING], "299 - \"unknown field \\\"spec.x\\\"\"");
    }
}
