//! Request bodies: limits of size and time, JSON and YAML, and the fields that were given twice.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::{
    kinds::{decode::parse, wire},
    model::{ApiError, Reason, causes, go},
};

/// Upstream's limit of a request body.
const MAX_BODY: usize = 3 << 20;

/// How long a client may take to send one; as long as upstream lets a request take in all.
const PATIENCE: Duration = Duration::from_secs(60);

/// Media types of patches.
pub(super) const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// A decoded body.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decoded {
    pub(super) value: Value,
    /// `duplicate field "spec.x"` for each field that came twice; the last value is taken.
    pub(super) duplicates: Vec<String>,
    /// The body, when it is JSON.
    pub(super) source: Option<Bytes>,
}

/// Reads a body within the limit.
pub(super) async fn read(body: Body) -> Result<Bytes, ApiError> {
    let read = timeout(PATIENCE, to_bytes(body, MAX_BODY)).await.map_err(|_| {
        ApiError::new(
            Reason::Timeout,
            format!("the request body did not come within {} s", PATIENCE.as_secs()),
        )
    })?;
    read.map_err(|error| {
        if causes(&error).any(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>) {
            let message = format!("Request entity too large: limit is {MAX_BODY}");
            return ApiError::new(Reason::RequestEntityTooLarge, message);
        }
        ApiError::new(Reason::BadRequest, "the request body could not be read")
    })
}

/// The media type of the body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// Decodes the body of an object that is to be of type `of`. Nothing at all (`null`) is an object that says nothing.
pub(super) fn decode(headers: &HeaderMap, bytes: &Bytes, of: &str) -> Result<Decoded, ApiError> {
    let mut decoded = match media_type(headers) {
        "" | "application/json" => typed_json(bytes, of),
        "application/yaml" => yaml(bytes),
        "application/vnd.kubernetes.protobuf" => protobuf(bytes),
        _ => Err(unsupported("application/json, application/yaml, application/vnd.kubernetes.protobuf")),
    }?;
    if decoded.value.is_null() {
        decoded.value = Value::Object(Map::new());
    }
    Ok(decoded)
}

fn typed_json(bytes: &Bytes, of: &str) -> Result<Decoded, ApiError> {
    let refused = |why: String| {
        let shown = summary(bytes);
        let message = format!(
            "the object provided is unrecognized (must be of type {of}): couldn't get version/kind; json parse error: \
             {why} ({shown})"
        );
        ApiError::new(Reason::BadRequest, message)
    };
    let (value, duplicates) = parse(bytes).map_err(|error| refused(go::json_error(&error, bytes)))?;
    let map = match &value {
        Value::Object(map) => map,
        Value::Null => return Ok(Decoded { value, duplicates, source: Some(bytes.clone()) }),
        other => {
            let found = go::json_type(other);
            return Err(refused(format!(
                "json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \
                 \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
            )));
        }
    };
    let odd = |field: &&str| map.get(*field).is_some_and(|value| !value.is_string() && !value.is_null());
    if let Some(field) = ["apiVersion", "kind"].into_iter().find(odd) {
        let found = go::json_type(&map[field]);
        return Err(refused(format!(
            "json: cannot unmarshal {found} into Go struct field .{field} of type string"
        )));
    }
    Ok(Decoded { value, duplicates, source: Some(bytes.clone()) })
}

/// The beginning of a body, as upstream shows it.
fn summary(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    let (head, more) = bytes.split_at(bytes.len().min(SHOWN));
    let shown = match head.first() {
        None => return "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(head).into_owned(),
        Some(_) => head.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    if more.is_empty() { shown } else { format!("{shown} ...") }
}

/// 415, naming what would be taken.
pub(super) fn unsupported(accepted: &str) -> ApiError {
    let message = format!(
        "the body of the request was in an unknown format - accepted media types include: {accepted}"
    );
    ApiError::new(Reason::UnsupportedMediaType, message)
}

/// Decodes JSON and notes what is given twice.
pub(super) fn json(bytes: &[u8]) -> Result<Decoded, ApiError> {
    let (value, duplicates) = parse(bytes).map_err(|error| {
        let message = format!("the object provided is unrecognized: couldn't decode JSON: {error}");
        ApiError::new(Reason::BadRequest, message)
    })?;
    Ok(Decoded { value, duplicates, source: None })
}

/// Decodes a patch in JSON.
pub(super) fn patch(bytes: &[u8]) -> Result<Decoded, ApiError> {
    json(bytes).map_err(|_| ApiError::new(Reason::BadRequest, "invalid JSON patch"))
}

/// Decodes the body of a server-side apply, which is an object or nothing.
pub(super) fn applied(bytes: &[u8]) -> Result<Decoded, ApiError> {
    let decoded = yaml(bytes).map_err(|error| {
        let why = error.message.rsplit_once("YAML: ").map_or(error.message.as_str(), |(_, why)| why);
        ApiError::new(Reason::BadRequest, format!("error encoding patch: yaml: {why}"))
    })?;
    let found = match &decoded.value {
        Value::Object(_) | Value::Null => return Ok(decoded),
        other => go::json_type(other),
    };
    let message = format!(
        "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into Go value \
         of type map[string]interface {{}}"
    );
    Err(ApiError::new(Reason::BadRequest, message))
}

/// Decodes YAML; a key that is given twice is refused by the parser.
pub(super) fn yaml(bytes: &[u8]) -> Result<Decoded, ApiError> {
    // JSON is YAML, and clients send it under YAML's name: the faster parser first.
    if let Ok(decoded) = json(bytes) {
        return Ok(decoded);
    }
    let wrong = |why: String| {
        let message = format!("the object provided is unrecognized: couldn't decode YAML: {why}");
        ApiError::new(Reason::BadRequest, message)
    };
    let text = std::str::from_utf8(bytes).map_err(|e| wrong(e.to_string()))?;
    let value = serde_saphyr::from_str(text).map_err(|e| wrong(e.to_string()))?;
    Ok(Decoded { value, ..Decoded::default() })
}

fn protobuf(bytes: &[u8]) -> Result<Decoded, ApiError> {
    let value = wire::decode(bytes).map_err(|error| {
        let message = format!("the object provided is unrecognized: {error}");
        ApiError::new(Reason::BadRequest, message)
    })?;
    Ok(Decoded { value, ..Decoded::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json as value;

    use super::*;

    #[test]
    fn repeated_fields_are_noted_and_broken_json_is_refused() {
        let decoded = json(br#"{"a": 1, "spec": {"k": 1, "k": 2}}"#).unwrap();
        assert_eq!(decoded.value, value!({"a": 1, "spec": {"k": 2}}));
        assert_eq!(decoded.duplicates, ["duplicate field \"spec.k\""]);
        assert_eq!(json(b"{").unwrap_err().reason, Reason::BadRequest);
        assert!(json(b"{} x").is_err());
    }

    #[test]
    fn what_is_no_object_is_refused_in_upstreams_words() {
        let said = |body: &'static [u8]| typed_json(&Bytes::from_static(body), "Pod").unwrap_err().message;
        let head = "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: ";
        assert_eq!(said(b""), format!("{head}unexpected end of JSON input (<empty>)"));
        assert_eq!(said(b"{"), format!("{head}unexpected end of JSON input ({{)"));
        let why = "invalid character 'a' looking for beginning of value (613a20622e)";
        assert_eq!(said(b"a: b."), format!("{head}{why}"));
        assert_eq!(
            said(b"[]"),
            format!(
                "{head}json: cannot unmarshal array into Go value of type struct {{ APIVersion string \
                 \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }} (5b5d)"
            )
        );
        let why = "json: cannot unmarshal number into Go struct field .kind of type string";
        assert_eq!(said(br#"{"kind":1}"#), format!("{head}{why} ({{\"kind\":1}})"));
        assert!(
            said(br#"{"a":1 "b": "0123456789012345678901"}"#)
                .ends_with("({\"a\":1 \"b\": \"01234567890123456 ...)")
        );
    }

    #[test]
    fn yaml_bodies_mean_what_the_same_json_means() {
        let text = b"kind: Pod\nspec:\n  containers:\n  - name: c\n    args: [\"1\", a]\n  n: 3\n";
        let expected =
            value!({"kind": "Pod", "spec": {"containers": [{"name": "c", "args": ["1", "a"]}], "n": 3}});
        assert_eq!(yaml(text).unwrap().value, expected);
        assert_eq!(yaml(expected.to_string().as_bytes()).unwrap().value, expected);
        assert!(yaml(b"a: [").is_err());
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/cbor".parse().unwrap());
        let decode =
            |headers: &HeaderMap, bytes: &'static [u8]| decode(headers, &Bytes::from_static(bytes), "Pod");
        assert_eq!(decode(&headers, b"\xd9").unwrap_err().reason, Reason::UnsupportedMediaType);
        headers.insert(header::CONTENT_TYPE, "application/vnd.kubernetes.protobuf".parse().unwrap());
        assert_eq!(decode(&headers, b"k8s").unwrap_err().reason, Reason::BadRequest);
        headers.insert(header::CONTENT_TYPE, "application/json; charset=utf-8".parse().unwrap());
        assert!(decode(&headers, b"{}").is_ok());
        assert_eq!(
            decode(&headers, b"null").unwrap().value,
            value!({}),
            "nothing is an object that says nothing"
        );
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let small = read(Body::from(vec![b' '; MAX_BODY])).await;
        assert_eq!(small.unwrap().len(), MAX_BODY);
        let large = read(Body::from(vec![b' '; MAX_BODY + 1])).await.unwrap_err();
        assert_eq!(large.reason, Reason::RequestEntityTooLarge);
    }
}
