//! Answers: objects, lists and failures into HTTP responses.

use std::io::Write as _;

use axum::{body::Body, response::Response};
use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use super::{
    Params,
    negotiate::{self, Accepted, Media, Offer},
};
use crate::{
    kinds::{Catalogue, wire},
    model::{ApiError, Reason, encode, encode_pretty},
};

/// Answers larger than this are compressed for clients that take it; upstream's threshold.
const GZIP_FROM: usize = 128 << 10;

/// How the client wants bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// `?pretty=true`, and programs that people read.
    pub(super) pretty: bool,
    /// `Accept-Encoding: gzip`
    pub(super) gzip: bool,
    /// `Accept`
    pub(super) media: Media,
}

impl Wishes {
    /// Of a request, after negotiation.
    pub(super) fn of(headers: &HeaderMap, params: &Params, accepted: Accepted) -> Self {
        let pretty = params.pretty().unwrap_or_else(|| negotiate::is_for_eyes(headers));
        Self { pretty: pretty || accepted.pretty, gzip: negotiate::gzip(headers), media: accepted.media }
    }
}

/// What a failure's form hangs on, kept while the request is being answered.
pub(super) struct Kept([Option<HeaderValue>; 2]);

const KEPT: [HeaderName; 2] = [header::ACCEPT, header::USER_AGENT];

impl Kept {
    /// Of a request.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self(KEPT.map(|name| headers.get(name).cloned()))
    }

    /// The form of a failure: where none is acceptable it is indented JSON, as upstream.
    pub(super) fn wishes(self, params: &Params) -> Wishes {
        let pairs = KEPT.into_iter().zip(self.0).filter_map(|(name, value)| Some((name, value?)));
        let headers: HeaderMap = pairs.collect();
        match negotiate::accepted(&headers, Offer::Bare) {
            Ok(accepted) => Wishes::of(&headers, params, accepted),
            Err(_) => Wishes { pretty: true, ..Wishes::default() },
        }
    }
}

/// An answer that is JSON, in the client's media type.
pub(super) async fn json(status: StatusCode, body: Bytes, wishes: Wishes) -> Response {
    let body = match wishes.media {
        Media::Json if !wishes.pretty => Some(body),
        media => transcoded(&body, media),
    };
    match body {
        Some(body) => packed(status, body, wishes.media.name(), wishes.gzip).await,
        None => failure(&negotiate::not_acceptable(), Wishes::default()),
    }
}

/// An answer in bytes of its own, compressed when it is large and the client takes that.
pub(super) async fn packed(status: StatusCode, body: Bytes, media: &'static str, gzip: bool) -> Response {
    if !gzip || body.len() < GZIP_FROM {
        return with_type(status, Body::from(body), media);
    }
    // A list of many megabytes takes long enough to delay other tasks of this thread.
    let plain = body.clone();
    let packed = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(BytesMut::new().writer(), Compression::fast());
        encoder.write_all(&plain)?;
        encoder.finish().map(|writer| writer.into_inner().freeze())
    });
    let Ok(Ok(packed)) = packed.await else { return with_type(status, Body::from(body), media) };
    let mut response = with_type(status, Body::from(packed), media);
    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// A JSON answer made on the spot.
pub(super) async fn value(status: StatusCode, value: &Value, wishes: Wishes) -> Response {
    json(status, encode(value), wishes).await
}

/// A failure as a `Status`, in the client's media type.
pub(super) fn failure(error: &ApiError, wishes: Wishes) -> Response {
    let status = StatusCode::from_u16(error.reason.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let plain = encode(&error.to_status());
    let (body, media) = match wishes.media {
        Media::Json if !wishes.pretty => (plain, Media::Json),
        media => transcoded(&plain, media).map_or((plain, Media::Json), |body| (body, media)),
    };
    let mut response = with_type(status, Body::from(body), media.name());
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// JSON in another media type, or indented; `None` when it has no form in protobuf.
fn transcoded(body: &[u8], media: Media) -> Option<Bytes> {
    let value: Value = serde_json::from_slice(body).ok()?;
    Some(match media {
        Media::Json => encode_pretty(&value),
        Media::Yaml => serde_saphyr::to_string(&value).ok()?.into(),
        Media::Protobuf => wire::encode(&value)?.into(),
    })
}

/// `Warning:` headers, which kubectl prints.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    // Each is told once, as upstream does.
    let once = warnings.iter().enumerate().filter(|(at, warning)| !warnings[..*at].contains(warning));
    for (_, warning) in once {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// 404 of a path that is not served.
pub(super) fn no_such_path() -> ApiError {
    ApiError::generic(Reason::NotFound, "the server could not find the requested resource")
}

/// Subresources that upstream has and that come later.
const LATER: [&str; 5] = ["ephemeralcontainers", "resize", "token", "proxy", "approval"];

/// Says of a 404 for a path below `/api` or `/apis` what is not served. The details also keep kubectl from looking for a
/// kind's name in vain.
pub(super) fn absent(kinds: &Catalogue, error: ApiError, method: &Method, path: &str) -> ApiError {
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
    // What upstream does not have either is refused in its words alone.
    if kinds.by_path(group, version, resource).is_some() && sub.is_none_or(|sub| !LATER.contains(&sub)) {
        return error;
    }
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
    ApiError::generic(Reason::MethodNotAllowed, message)
}

/// 404 of a path that is no API's.
pub(super) fn page_not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = with_type(status, text.into(), "text/plain; charset=utf-8");
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A body with its content type.
pub(super) fn with_type(status: StatusCode, body: Body, media: &'static str) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::kinds::builtin;

    #[tokio::test]
    async fn big_answers_are_compressed_for_who_takes_it() {
        let body = Bytes::from(vec![b' '; GZIP_FROM + 1]);
        let gzip = Wishes { gzip: true, ..Wishes::default() };
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
        let said = |method: Method, path: &str| absent(builtin(), no_such_path(), &method, path).to_status();
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
        assert_eq!(said(Method::GET, "/nothing")["details"], serde_json::json!({}));
        let never = said(Method::GET, "/api/v1/namespaces/shop/pods/web/nothing");
        assert_eq!(never["message"], "the server could not find the requested resource");
        let gone = ApiError::not_found(crate::model::Resource::PODS, "web");
        assert!(
            absent(builtin(), gone, &Method::GET, "/api/v1/namespaces/a/pods/web")
                .message
                .ends_with("\"web\" not found")
        );
    }

    #[test]
    fn warnings_are_quoted() {
        let mut response = text(StatusCode::OK, "");
        warn(&mut response, &["unknown field \"spec.x\"".to_owned()]);
        assert_eq!(response.headers()[header::WARNING], "299 - \"unknown field \\\"spec.x\\\"\"");
        let mut response = text(StatusCode::OK, "");
        warn(&mut response, &["a".to_owned(), "b".to_owned(), "a".to_owned()]);
        assert_eq!(response.headers().get_all(header::WARNING).iter().count(), 2, "each is told once");
    }
}
