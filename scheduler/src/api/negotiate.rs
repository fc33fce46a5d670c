//! Content negotiation: which form of an object or list the client asked for.

use http::{HeaderMap, header};

use crate::model::{ApiError, Reason};

/// The form of an answer. All are JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The object as it is.
    Plain,
    /// `meta.k8s.io/v1` Table.
    Table,
    /// Metadata alone.
    Partial,
}

/// The first form of the `Accept` header that we speak. Without one, plain JSON.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, ApiError> {
    let accept: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    if accept.iter().all(|a| a.trim().is_empty()) {
        return Ok(Form::Plain);
    }
    let clauses = accept.iter().flat_map(|a| a.split(','));
    clauses.filter_map(clause).next().ok_or_else(|| {
        let message = "only the following media types are accepted: application/json";
        ApiError::new(Reason::NotAcceptable, message)
    })
}

/// One clause: a media type with parameters.
fn clause(text: &str) -> Option<Form> {
    let mut parts = text.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let (mut shape, mut version, mut group) = ("", "v1", "meta.k8s.io");
    for (name, value) in parts.filter_map(|p| p.split_once('=')) {
        match name.trim() {
            "as" => shape = value.trim(),
            "v" => version = value.trim(),
            "g" => group = value.trim(),
            _ => {}
        }
    }
    match shape {
        "" => Some(Form::Plain),
        _ if (group, version) != ("meta.k8s.io", "v1") => None,
        "Table" => Some(Form::Table),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Form::Partial),
        _ => None,
    }
}

/// Whether the client takes gzip.
pub(super) fn gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|e| {
        let mut parts = e.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|p| p == "q=0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> Result<Form, Reason> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        form(&headers).map_err(|e| e.reason)
    }

    #[test]
    fn the_first_known_clause_wins() {
        assert_eq!(form(&HeaderMap::new()).unwrap(), Form::Plain);
        assert_eq!(accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"), Ok(Form::Table));
        assert_eq!(
            accept("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json"),
            Ok(Form::Plain)
        );
        assert_eq!(
            accept("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok(Form::Partial)
        );
        assert_eq!(accept("application/vnd.kubernetes.protobuf, application/json"), Ok(Form::Plain));
        assert_eq!(accept("*/*"), Ok(Form::Plain));
        assert_eq!(accept("application/vnd.kubernetes.protobuf"), Err(Reason::NotAcceptable));
    }

    #[test]
    fn gzip_is_taken_from_the_list() {
        let mut headers = HeaderMap::new();
        assert!(!gzip(&headers));
        headers.insert(header::ACCEPT_ENCODING, "br, gzip;q=0.5".parse().unwrap());
        assert!(gzip(&headers));
        headers.insert(header::ACCEPT_ENCODING, "gzip;q=0".parse().unwrap());
        assert!(!gzip(&headers));
    }
}
