//! Headers on their way through: what is for one connection alone or for us ends here, what a backend is told is added.

use std::net::IpAddr;

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use hyper::body::Body as _;

/// Of one connection. What announces trailers is not: they go through, and on each connection they must be announced.
const HOPS: [HeaderName; 7] = [
    header::CONNECTION,
    // Answered on the connection that it came by, before the body is read.
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const MORE_HOPS: [&str; 2] = ["proxy-connection", "keep-alive"];
/// A backend is not let decide who may use the API's answers.
const CORS: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What a backend never gets: the client's credentials are for us.
pub(super) fn without_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    // Whom a front of ours has found the client to be is said to us alone, too.
    let ours = |name: &&HeaderName| {
        ["impersonate-", "x-remote-"].iter().any(|prefix| name.as_str().starts_with(prefix))
    };
    let names: Vec<HeaderName> = headers.keys().filter(ours).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// Tells the backend who asks.
pub(super) fn forwarded_for(headers: &mut HeaderMap, client: Option<IpAddr>) {
    let Some(client) = client else { return };
    let mut all: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let client = client.to_canonical().to_string();
    all.push(&client);
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
}

/// Tells the backend what was asked for.
pub(super) fn forwarded_uri(headers: &mut HeaderMap, uri: &str) {
    if let Ok(value) = HeaderValue::from_str(uri) {
        headers.insert(FORWARDED_URI, value);
    }
}

/// Says of a request that mostly has a body that it has none: some backends wait for one, or refuse to guess.
pub(super) fn with_length(request: &mut Request<Body>) {
    let has_body = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if has_body && request.body().is_end_stream() {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Takes away what is of one connection.
pub(super) fn without_hops(headers: &mut HeaderMap) {
    let trailers = headers.get_all(header::TE).iter().any(|value| value.as_bytes() == b"trailers");
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain(HOPS) {
        headers.remove(name);
    }
    for name in MORE_HOPS {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// An answer's headers as the client gets them.
pub(super) fn answered(headers: &mut HeaderMap) {
    without_hops(headers);
    for name in CORS {
        headers.remove(name);
    }
    not_cached(headers);
}

/// Beside what the backend says of it, as upstream.
fn not_cached(headers: &mut HeaderMap) {
    let theirs: Vec<HeaderValue> = headers.get_all(header::CACHE_CONTROL).iter().cloned().collect();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    for value in theirs {
        headers.append(header::CACHE_CONTROL, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_is_of_one_connection_ends_here() {
        let mut all = headers(&[
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "5"),
            ("expect", "100-continue"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("x-other", "2"),
            ("cookie", "c"),
            ("trailer", "x-sum"),
        ]);
        without_hops(&mut all);
        let left = [("te", "trailers"), ("x-other", "2"), ("cookie", "c"), ("trailer", "x-sum")];
        assert_eq!(all, headers(&left));
    }

    #[test]
    fn credentials_stay_with_us() {
        let mut all = headers(&[
            ("authorization", "Bearer x"),
            ("impersonate-user", "a"),
            ("impersonate-group", "b"),
            ("x-remote-user", "c"),
            ("accept", "*/*"),
        ]);
        without_credentials(&mut all);
        assert_eq!(all, headers(&[("accept", "*/*")]));
    }

    #[test]
    fn a_request_without_a_body_says_so_where_one_is_expected() {
        let length = |method: Method, body: Body| {
            let mut request = Request::builder().method(method).body(body).unwrap();
            with_length(&mut request);
            request.headers().get(header::CONTENT_LENGTH).cloned()
        };
        assert_eq!(length(Method::POST, Body::empty()), Some(HeaderValue::from_static("0")));
        assert_eq!(length(Method::PATCH, Body::empty()), Some(HeaderValue::from_static("0")));
        assert_eq!(length(Method::GET, Body::empty()), None);
        assert_eq!(length(Method::PUT, Body::from("x")), None, "its own length is told elsewhere");
    }

    #[test]
    fn the_client_is_added_to_who_asked() {
        let mut all = headers(&[("x-forwarded-for", "1.1.1.1")]);
        forwarded_for(&mut all, Some("10.0.0.9".parse().unwrap()));
        assert_eq!(all, headers(&[("x-forwarded-for", "1.1.1.1, 10.0.0.9")]));
    }

    #[test]
    fn answers_do_not_open_the_api_to_other_sites() {
        let mut all = headers(&[("access-control-allow-origin", "*"), ("cache-control", "max-age=5")]);
        answered(&mut all);
        assert_eq!(all, headers(&[("cache-control", "no-cache, private"), ("cache-control", "max-age=5")]));
    }
}
