//! The built-in certificate authority: cluster CA, serving and client certificates, bootstrap tokens.
//!
//! Owns `<data>/pki`: `ca.key`, `ca.crt`, `tokens.json`, all 0600 in a 0700 directory. In: names and CSRs. Out:
//! certificates, TLS configurations and the identity that a client certificate stands for. Never: authorization
//! (that is the API's and the node service's), a token or a key in a log, an error or a Debug output.
//!
//! Serving keys live in memory alone: a new one is made at each start and well before it expires.

mod authority;
mod files;
mod identity;
mod key;
mod kubeconfig;
mod proof;
mod serving;
mod tls;
mod tokens;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

pub use authority::{Authority, ClientCertificate, NodeCertificate, Validity, is_node_name};
pub use identity::{Identity, not_after};
pub use key::{KeyRecord, key_fingerprint};
pub use kubeconfig::{kubeconfig, write_kubeconfig};
pub use proof::ProofRefusal;
pub use serving::Serving;
pub use tls::{Alpn, server_config};
pub use tokens::{Token, TokenGrant, TokenId, TokenInfo, TokenRefusal, Tokens};

/// The organisation of node certificates.
pub const NODES_GROUP: &str = "system:nodes";
/// What a node's common name starts with.
pub const NODE_USER_PREFIX: &str = "system:node:";

/// Failure of the authority.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the authority.
    #[error("cannot {operation} {path:?}")]
    File {
        /// `read`, `write`, `create`, `lock`.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A file of the authority does not hold what it should.
    #[error(
        "{path:?} is not a valid {what}: restore it from a backup, or remove the whole directory to start a new cluster"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// `CA key`, `CA certificate`, `token list`.
        what: &'static str,
    },
    /// Only one of the CA's two files is there.
    #[error("{missing:?} is missing beside {present:?}: restore both, or remove both to start a new cluster")]
    Incomplete {
        /// The file that is not there.
        missing: PathBuf,
        /// The one that is.
        present: PathBuf,
    },
    /// Key generation or signing.
    #[error("cannot {operation}")]
    Crypto {
        /// What was tried.
        operation: &'static str,
        /// Cause.
        #[source]
        source: rcgen::Error,
    },
    /// rustls refused a key or a configuration.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The CA certificate cannot be used to verify clients.
    #[error("cannot verify client certificates with the cluster CA")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// Not a name a certificate can carry.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    SubjectName(String),
    /// The CSR does not parse or its signature does not match its key.
    #[error("the certificate request is malformed or not signed by its own key")]
    Request,
    /// Not a legal node name.
    #[error("{0:?} is not a node name: a lower-case DNS subdomain of at most 253 characters is needed")]
    NodeName(String),
}
