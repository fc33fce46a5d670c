//! What a write is about, and what it makes of it.

use serde_json::Value;

use super::key;
use crate::{
    kinds::{Kind, Subresource},
    model::{ApiError, Key, Resource},
};

/// What a write is about.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) kind: &'static Kind,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) sub: Option<Subresource>,
}

impl Target<'_> {
    pub(super) fn key(&self) -> Key {
        key(self.kind.resource, self.namespace, self.name)
    }
}

/// What an edit made of the stored state.
pub(super) struct Edited {
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
    /// Whether `metadata.managedFields` already tells of this write, as after an apply.
    pub(super) recorded: bool,
}

/// The object under this name is another one than the client means.
pub(super) fn uid_conflict(resource: Resource, name: &str, wanted: &str, found: &str) -> ApiError {
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    ApiError::conflict(resource, name, &why)
}
