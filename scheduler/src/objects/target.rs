//! What a write is about, and what it makes of it.

use serde_json::Value;

use crate::{
    kinds::{Catalogue, Kind, Subresource},
    model::{ApiError, Key, Resource},
};

/// What a write is about.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// All kinds, as they were when the write began.
    pub(super) kinds: &'a Catalogue,
    pub(super) kind: &'a Kind,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) sub: Option<Subresource>,
}

impl Target<'_> {
    pub(super) fn key(&self) -> Key {
        Key::scoped(self.kind.resource, self.namespace, self.name)
    }
}

/// What an edit made of the stored state.
pub(super) struct Edited {
    pub(super) object: Value,
    pub(super) warnings: Vec<String>,
    /// Whether `metadata.managedFields` already tells of this write, as after an apply.
    pub(super) recorded: bool,
}

impl Target<'_> {
    /// What the client means is not what is stored: upstream's words, with the place that it has it at.
    pub(super) fn stale(&self, what: &str, wanted: &str, found: &str) -> ApiError {
        let why =
            format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        self.storage_error(&why)
    }

    /// As upstream tells what its store refuses.
    pub(super) fn storage_error(&self, why: &str) -> ApiError {
        let place = match self.kind.resource {
            Resource::NODES => "minions",
            Resource::SERVICES => "services/specs",
            Resource::ENDPOINTS => "services/endpoints",
            Resource::REPLICATION_CONTROLLERS => "controllers",
            Resource::INGRESSES => "ingress",
            other => other.0.split('.').next().unwrap_or_default(),
        };
        let within = self.namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{place}/{within}{}, ResourceVersion: 0, \
             AdditionalErrorMsg: {why}",
            self.name
        );
        ApiError::conflict(self.kind.resource, self.name, &why)
    }
}

/// The object under this name is another one than the client means.
pub(super) fn uid_conflict(resource: Resource, name: &str, wanted: &str, found: &str) -> ApiError {
    let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    ApiError::conflict(resource, name, &why)
}
