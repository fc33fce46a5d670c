//! Joining: a bootstrap token and a CSR become a node's certificate. Every refusal is logged, none with the token.
//!
//! A name that exists already is joined again like a new one, with a valid token: that is how a machine that
//! lost its certificate comes back. Whoever holds a token can therefore take the place of a node that is not
//! connected; tokens are short-lived for that reason.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use gantry_proto::node::v1 as pb;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    model::Chain,
    pki::{Authority, NodeCertificate, PkiError, Tokens, Validity},
};

/// Joins in a row, and how fast they come back: a rack that boots gets in at once, a guesser does not get far.
const BURST: f64 = 64.0;
const PER_SECOND: f64 = 8.0;

/// A token bucket over all callers: addresses are cheap to change.
#[derive(Debug)]
pub(super) struct RateLimit(Mutex<(f64, Instant)>);

impl RateLimit {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new((BURST, now)))
    }

    fn allow(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refill = now.saturating_duration_since(state.1).as_secs_f64() * PER_SECOND;
        *state = ((state.0 + refill).min(BURST), now);
        let allowed = state.0 >= 1.0;
        if allowed {
            state.0 -= 1.0;
        }
        allowed
    }
}

/// Who may join, and what a joined node gets.
pub(super) struct Gate {
    pub(super) tokens: Tokens,
    pub(super) limit: RateLimit,
    pub(super) lifetime: Duration,
}

impl Gate {
    fn join(&self, authority: &Authority, request: &pb::JoinRequest) -> Result<NodeCertificate, Denied> {
        if !self.limit.allow(Instant::now()) {
            return Err(Denied::TooMany);
        }
        let now = SystemTime::now();
        let token =
            self.tokens.verify(&request.token, now).map_err(Denied::Failed)?.map_err(Denied::Token)?;
        let validity = Validity::starting(now, self.lifetime);
        let signed =
            authority.sign_node(&request.csr_der, &request.node_name, validity).map_err(Denied::Signing)?;
        tracing::info!(node = request.node_name, %token, agent = request.agent_version, "node joined");
        Ok(signed)
    }
}

#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("too many join requests")]
    TooMany,
    #[error("bootstrap token refused")]
    Token(#[source] crate::pki::TokenRefusal),
    #[error("certificate request refused")]
    Signing(#[source] PkiError),
    #[error("the token list cannot be read")]
    Failed(#[source] PkiError),
}

impl Denied {
    /// What the caller learns: enough to correct an honest mistake, nothing to guess by.
    fn status(&self) -> Status {
        match self {
            Self::TooMany => Status::resource_exhausted("too many join requests, try again later"),
            Self::Token(_) => Status::unauthenticated(
                "the bootstrap token is not valid: it is mistyped, has expired or was removed; make a new one \
                 on the scheduler with `gantry-scheduler token create`",
            ),
            Self::Signing(error @ (PkiError::NodeName(_) | PkiError::Request)) => {
                Status::invalid_argument(error.to_string())
            }
            Self::Signing(_) | Self::Failed(_) => {
                Status::internal("the scheduler cannot sign certificates now")
            }
        }
    }
}

/// The Bootstrap service: the only call that is open without a client certificate.
#[derive(Clone)]
pub(super) struct Bootstrap(pub(super) Shared);

#[tonic::async_trait]
impl pb::bootstrap_server::Bootstrap for Bootstrap {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        let peer = request.remote_addr();
        let request = request.into_inner();
        match self.0.gate.join(&self.0.authority, &request) {
            Ok(signed) => Ok(Response::new(pb::JoinResponse {
                certificate_pem: signed.certificate_pem.into(),
                ca_pem: self.0.authority.ca_pem().to_owned().into(),
                not_after: signed.validity.until_unix(),
            })),
            Err(denied) => {
                self.0.metrics.joins_refused.inc();
                tracing::warn!(node = request.node_name, ?peer, error = %Chain(&denied), "join refused");
                Err(denied.status())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_are_limited_and_recover() {
        let start = Instant::now();
        let limit = RateLimit::new(start);
        let allowed = (0..1000).filter(|_| limit.allow(start)).count();
        assert_eq!(allowed, 64);
        assert!(limit.allow(start + Duration::from_secs(1)));
    }
}
