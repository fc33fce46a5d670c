//! Who a request comes from: a chain of authenticators, each of which knows one kind of credential.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, Method, Uri};
use sha2::{Digest, Sha256};

use super::AUTHENTICATED;
use crate::{
    objects::{Actor, Extra},
    pki::{Identity, not_after},
};

/// Under which name upstream tells which credential was shown.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// A verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Whom it names.
    pub actor: Actor,
    /// Its end, with which everything ends that it opened.
    pub until: SystemTime,
}

impl Certified {
    /// Of a leaf that TLS verified; `None` when it names nobody.
    pub fn of(leaf: &[u8]) -> Option<Self> {
        let (identity, until) = (Identity::of(leaf)?, not_after(leaf)?);
        let groups = identity.groups.iter().map(String::as_str);
        // Who writes a group into a certificate is in it once.
        let further = (!identity.groups.iter().any(|g| g == AUTHENTICATED)).then_some(AUTHENTICATED);
        let mut actor = Actor::new(&identity.user, groups.chain(further));
        let credential = format!("X509SHA256={:x}", Sha256::digest(leaf));
        actor.extra = Some(Arc::new(Extra::from([(CREDENTIAL.to_owned(), vec![credential])])));
        Some(Self { actor, until })
    }
}

/// What is known of a connection before its first request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The other end.
    pub peer: SocketAddr,
    /// What TLS verified.
    pub certificate: Option<Certified>,
}

/// All that is known of a request before its body.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path and query as they came.
    pub uri: &'a Uri,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// What it came over.
    pub connection: &'a Connection,
}

/// A credential was shown that does not hold. The client learns only that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// Knows one kind of credential. Does not wait: what it needs it has in memory.
pub trait Authenticator: Send + Sync {
    /// Who shows it; `None` when nothing of its kind was shown.
    fn authenticate(&self, head: &Head<'_>) -> Result<Option<Actor>, Invalid>;
}

/// Takes the certificate of the connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientCertificates;

impl Authenticator for ClientCertificates {
    fn authenticate(&self, head: &Head<'_>) -> Result<Option<Actor>, Invalid> {
        Ok(head.connection.certificate.as_ref().map(|certified| certified.actor.clone()))
    }
}

/// The first of a chain that knows who it is. What was shown and does not hold counts only when nothing else does, as
/// upstream: `None` is who showed nothing.
pub fn authenticate(chain: &[Box<dyn Authenticator>], head: &Head<'_>) -> Result<Option<Actor>, Invalid> {
    let mut invalid = None;
    for authenticator in chain {
        match authenticator.authenticate(head) {
            Ok(None) => {}
            Ok(known) => return Ok(known),
            Err(error) => invalid = invalid.or(Some(error)),
        }
    }
    invalid.map_or(Ok(None), Err)
}
