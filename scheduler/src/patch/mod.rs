//! The four patch types as pure functions over JSON. In: an object, a patch, the kind's row. Out: the patched
//! object, or why not. Never: IO, a clock (times are passed in), defaults or validation.

mod apply;
mod fields;
#[cfg(test)]
mod laws;
mod managed;
mod strategic;
#[cfg(test)]
mod tests;
mod typed;

use serde_json::Value;

pub use apply::apply;
pub use managed::record_update;

use crate::{
    kinds::Kind,
    model::{ApiError, Reason},
};

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed.
    #[error("{0}")]
    Malformed(String),
    /// A well-formed patch that does not fit the object (a failed `test`, a missing path).
    #[error("{0}")]
    Unprocessable(String),
    /// Server-side apply met fields that other managers own: one cause per field.
    #[error("{message}")]
    Conflict {
        /// What kubectl prints.
        message: String,
        /// One per field.
        causes: Vec<crate::model::Cause>,
    },
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Malformed(message) => Self::new(Reason::BadRequest, message),
            PatchError::Unprocessable(message) => Self::new(Reason::Invalid, message),
            PatchError::Conflict { message, causes } => {
                Self { causes, ..Self::new(Reason::Conflict, message) }
            }
        }
    }
}

/// RFC 6902.
pub fn json(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Malformed(e.to_string()))?;
    let mut out = object.clone();
    json_patch::patch(&mut out, &patch).map_err(|e| {
        PatchError::Unprocessable(format!(
            "the server rejected our request due to an error in our request: {e}"
        ))
    })?;
    Ok(out)
}

/// RFC 7386.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed("a merge patch must be an object".to_owned()));
    }
    let mut out = object.clone();
    json_patch::merge(&mut out, patch);
    Ok(out)
}

/// Strategic merge, by the merge keys of the kind's type.
pub fn strategic(kind: &Kind, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    strategic::merge(kind.definition, object, patch)
}

/// Which write is being recorded in `metadata.managedFields`.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager's name.
    pub manager: &'a str,
    /// `status`, `scale`; `None` for the object itself.
    pub subresource: Option<&'a str>,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
}
