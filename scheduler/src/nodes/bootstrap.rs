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

/// Failures in a row, and how fast they come back: a mistyped token in a whole rack is forgiven, a guesser does not
/// get far.
const BURST: f64 = 64.0;
const PER_SECOND: f64 = 8.0;

/// A token bucket over the failures of all callers, because addresses are cheap to change. It says when the answer
/// may no longer tell a wrong token from a right one that came too soon. A caller with a valid token is never
/// limited: junk from others must not keep machines out.
#[derive(Debug)]
pub(super) struct RateLimit(Mutex<(f64, Instant)>);

impl RateLimit {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new((BURST, now)))
    }

    /// Counts a failure; whether it is one too many.
    fn failed(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refill = now.saturating_duration_since(state.1).as_secs_f64() * PER_SECOND;
        *state = ((state.0 + refill).min(BURST), now);
        let allowed = state.0 >= 1.0;
        if allowed {
            state.0 -= 1.0;
        }
        !allowed
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
        self.try_join(authority, request).map_err(|denied| {
            // What is wrong on our side is not the caller's failure.
            let counts = !matches!(denied, Denied::Failed(_));
            if counts && self.limit.failed(Instant::now()) {
                Denied::TooMany(Box::new(denied))
            } else {
                denied
            }
        })
    }

    fn try_join(&self, authority: &Authority, request: &pb::JoinRequest) -> Result<NodeCertificate, Denied> {
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
    #[error("too many join requests that fail")]
    TooMany(#[source] Box<Denied>),
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
            Self::TooMany(_) => Status::resource_exhausted("too many join requests, try again later"),
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
    fn failures_are_limited_and_forgiven_in_time() {
        let start = Instant::now();
        let limit = RateLimit::new(start);
        let refused = (0..1000).filter(|_| limit.failed(start)).count();
        assert_eq!(refused, 1000 - 64);
        assert!(!limit.failed(start + Duration::from_secs(1)));
    }

    #[test]
    fn junk_does_not_keep_a_machine_with_a_valid_token_out() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), SystemTime::now()).unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let token = crate::pki::Token::generate();
        tokens.add(&token, None, "", SystemTime::now()).unwrap();
        let gate = Gate { tokens, limit: RateLimit::new(Instant::now()), lifetime: Duration::from_secs(60) };
        let key = rcgen::KeyPair::generate().unwrap();
        let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let request = |token: String| pb::JoinRequest {
            token,
            node_name: "n1".to_owned(),
            csr_der: csr.der().to_vec().into(),
            ..pb::JoinRequest::default()
        };
        let mut limited = false;
        for _ in 0..1000 {
            let denied = gate.join(&authority, &request("abcdef.0123456789abcdef".to_owned())).unwrap_err();
            limited |= matches!(denied, Denied::TooMany(_));
        }
        assert!(limited, "the guesser is");
        assert!(gate.join(&authority, &request(token.reveal())).is_ok());
    }
}
