//! The four patch types as pure functions over JSON. In: an object, a patch, the kind's row. Out: the patched
//! object, or why not. Never: IO, a clock (times are passed in), defaults or validation.

mod apply;
mod check;
mod fields;
mod golang;
mod json;
#[cfg(test)]
mod laws;
mod managed;
mod merge;
mod plain;
mod restore;
pub(crate) mod scale;
mod strategic;
#[cfg(test)]
mod tests;
mod typed;

use serde_json::Value;

pub use apply::apply;
pub use managed::{record_update, take_managed_fields};
pub use plain::merge;

use crate::{
    kinds::{Catalogue, Kind},
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
    /// More operations than anybody needs.
    #[error("{0}")]
    TooLarge(String),
    /// A strategic merge that made what the type cannot hold.
    #[error("{why}")]
    Unfitting {
        /// The patch, as upstream prints it.
        patch: String,
        /// What does not fit.
        why: String,
    },
    /// An applied object that is not of its type. Upstream answers it as a fault of its own (500).
    #[error("{0}")]
    Failed(String),
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
            PatchError::TooLarge(message) => Self::new(Reason::RequestEntityTooLarge, message),
            PatchError::Unfitting { patch, why } => unfitting(&patch, &why),
            PatchError::Failed(message) => Self::new(Reason::Unknown, message),
            PatchError::Unprocessable(message) => Self::new(Reason::Invalid, message),
            PatchError::Conflict { message, causes } => {
                Self { causes, ..Self::new(Reason::Conflict, message) }
            }
        }
    }
}

/// RFC 6902. Returns the object, and what strict validation finds in the patch itself.
pub fn json(object: &Value, patch: &Value) -> Result<(Value, Vec<String>), PatchError> {
    json::apply(object, patch)
}

/// Strategic merge, by the merge keys of the kind's type.
pub fn strategic(kind: &Kind, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let merged = strategic::merge(&kind.ty, object, patch)?;
    match restore::fault(&kind.ty, &merged) {
        Some(why) => Err(PatchError::Unfitting { patch: golang::spelled(patch), why }),
        None => Ok(merged),
    }
}

/// The refusal of a patch that makes something that the type cannot hold, or that strict validation finds fault with.
pub fn unfitting(patch: &str, why: &str) -> ApiError {
    let message = format!("Invalid value: {patch:?}: {why}");
    let cause = crate::model::Cause { reason: "FieldValueInvalid", field: "patch".to_owned(), message };
    ApiError::invalid("", "", "", vec![cause])
}

/// A value as upstream prints it in refusals of a strategic patch.
pub fn printed(patch: &Value) -> String {
    golang::spelled(patch)
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
    /// The kinds, to compare fields of other versions in theirs.
    pub kinds: &'a Catalogue,
}
