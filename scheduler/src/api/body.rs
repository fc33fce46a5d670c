//! Request bodies: size limit, JSON and YAML, and the fields that were given twice.

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;

use crate::{
    kinds::{decode::parse, wire},
    model::{ApiError, Reason},
};

/// Upstream's limit of a request body.
const MAX_BODY: usize = 3 << 20;

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
    to_bytes(body, MAX_BODY).await.map_err(|error| {
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            if cause.is::<http_body_util::LengthLimitError>() {
                let message = format!("Request entity too large: limit is {MAX_BODY}");
                return ApiError::new(Reason::RequestEntityTooLarge, message);
            }
            source = cause.source();
        }
        ApiError::new(Reason::BadRequest, "the request body could not be read")
    })
}

/// The media type of the body, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

/// Decodes an object's body.
pub(super) fn decode(headers: &HeaderMap, bytes: &Bytes) -> Result<Decoded, ApiError> {
    match media_type(headers) {
        "" | "application/json" | "*/*" => Ok(Decoded { source: Some(bytes.clone()), ..json(bytes)? }),
        "application/yaml" | "text/yaml" | "application/x-yaml" => yaml(bytes),
        "application/vnd.kubernetes.protobuf" => protobuf(bytes),
        _ => Err(unsupported("application/json, application/yaml, application/vnd.kubernetes.protobuf")),
    }
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
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
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
        assert_eq!(
            decode(&headers, &Bytes::from_static(b"\xd9")).unwrap_err().reason,
            Reason::UnsupportedMediaType
        );
        headers.insert(header::CONTENT_TYPE, "application/vnd.kubernetes.protobuf".parse().unwrap());
        assert_eq!(decode(&headers, &Bytes::from_static(b"k8s")).unwrap_err().reason, Reason::BadRequest);
        headers.insert(header::CONTENT_TYPE, "application/json; charset=utf-8".parse().unwrap());
        assert!(decode(&headers, &Bytes::from_static(b"{}")).is_ok());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let small = read(Body::from(vec![b' '; MAX_BODY])).await;
        assert_eq!(small.unwrap().len(), MAX_BODY);
        let large = read(Body::from(vec![b' '; MAX_BODY + 1])).await.unwrap_err();
        assert_eq!(large.reason, Reason::RequestEntityTooLarge);
    }
}
