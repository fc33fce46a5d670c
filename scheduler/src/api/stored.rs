//! Stored objects as values, and what is said of one that is none.

use serde_json::Value;

use crate::model::{ApiError, Chain, Object, ObjectError, Reason};

/// The whole object.
pub(super) fn decode(object: &Object) -> Result<Value, ApiError> {
    object.decode().map_err(|error| undecodable(&error))
}

/// The object without `metadata.managedFields`.
pub(super) fn decode_bare(object: &Object) -> Result<Value, ApiError> {
    object.decode_bare().map_err(|error| undecodable(&error))
}

/// A stored object that does not decode.
pub(super) fn undecodable(error: &ObjectError) -> ApiError {
    tracing::error!(error = %Chain(error), "a stored object does not decode");
    ApiError::new(Reason::InternalError, error.to_string())
}
