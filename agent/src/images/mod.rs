//! Pulls images from registries into containerd's content store and unpacks them: in parallel, with mirrors, an
//! alias map, credentials from pull secrets, and progress that the pod's events show. Never runs anything.

mod containerd;
mod ingest;
mod leftovers;
pub(crate) mod local;
mod names;
mod platform;
mod pull;
mod reference;
mod registry;
mod share;
mod unpack;

use std::{collections::BTreeMap, sync::Arc};

use crate::model::ImageInfo;
use async_trait::async_trait;

pub use containerd::ContainerdImages;

/// Registry credentials from a pull secret.
#[derive(Clone)]
pub struct Credential {
    /// Registry host.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password; never logged.
    pub password: String,
}

/// Where images come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// Names that are served under another: whole references, repositories, or prefixes that end at a slash.
    pub aliases: BTreeMap<String, String>,
    /// Registry host to hosts with the same content, asked before it.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts without TLS. Registries on loopback addresses need not be named.
    pub plain_http: Vec<String>,
}

/// Bytes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Downloaded.
    pub done: u64,
    /// Sum of the layer sizes; 0 until the manifest is there.
    pub total: u64,
}

/// Why an image is not there. The `Display` text is what the pod's status shows.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference does not parse (`InvalidImageName`).
    #[error("Failed to apply default image tag {reference:?}: {why}")]
    InvalidName {
        /// As given.
        reference: String,
        /// What is wrong with it.
        why: String,
    },
    /// imagePullPolicy Never and not present (`ErrImageNeverPull`).
    #[error("Container image {reference:?} is not present with pull policy of Never")]
    NeverPull {
        /// As given.
        reference: String,
    },
    /// The registry refused or could not be reached (`ErrImagePull`).
    #[error("failed to pull image {reference:?} from {endpoint}: {why}")]
    Pull {
        /// As given.
        reference: String,
        /// Which registry was asked (after aliases and mirrors).
        endpoint: String,
        /// Its answer in words.
        why: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// containerd could not store or unpack it.
    #[error("cannot store image {reference:?}: {why}")]
    Store {
        /// As given.
        reference: String,
        /// What failed.
        why: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// The port.
#[async_trait]
pub trait Images: Send + Sync {
    /// The image when present; never talks to a registry.
    async fn find(&self, reference: &str) -> Result<Option<ImageInfo>, ImageError>;
    /// Pulls and unpacks. Concurrent calls for one reference share one pull. `progress` is called at most a few
    /// times a second.
    async fn pull(
        &self,
        reference: &str,
        credentials: &[Credential],
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<ImageInfo, ImageError>;
    /// References present, for heartbeats.
    async fn list(&self) -> Result<Vec<String>, ImageError>;
}
