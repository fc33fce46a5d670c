//! Joining: a bootstrap token and a CSR become a node's certificate. Every refusal is logged, none with the token.
//!
//! A token lets a machine have a name that no machine has. The name of a node that is known goes to who proves that they
//! have the key of its last certificate, or by an operator's word: a token for that very node, or the deletion of the Node.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use gantry_proto::node::v1 as pb;
use tonic::{Request, Response, Status};

use super::{
    Shared,
    keys::{self, Standing},
    listener::Arrived,
};
use crate::{
    model::{ApiError, Chain},
    objects::{Objects, WriteOptions},
    pki::{Authority, KeyRecord, NodeCertificate, PkiError, TokenGrant, TokenId, Tokens, Validity},
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

/// Why somebody may have a name, and with which key they had it before.
struct Grant {
    token: Option<TokenId>,
    held: Option<KeyRecord>,
}

impl Gate {
    async fn join(&self, from: Applicant<'_>, request: &pb::JoinRequest) -> Result<NodeCertificate, Denied> {
        self.try_join(from, request).await.map_err(|denied| {
            // What is wrong on our side is not the caller's failure.
            let counts = !matches!(denied, Denied::Failed(_) | Denied::Unrecorded(_));
            if counts && self.limit.failed(Instant::now()) {
                Denied::TooMany(Box::new(denied))
            } else {
                denied
            }
        })
    }

    async fn try_join(
        &self,
        from: Applicant<'_>,
        request: &pb::JoinRequest,
    ) -> Result<NodeCertificate, Denied> {
        let Applicant { authority, objects } = from;
        let (now, node) = (SystemTime::now(), &*request.node_name);
        let standing = Standing::of_name(objects, node);
        let Grant { token, held } = self.grant(authority, &standing, request, now)?;
        let validity = Validity::starting(now, self.lifetime);
        let signed = authority.sign_node(&request.csr_der, node, validity).map_err(Denied::Signing)?;
        if standing != Standing::Free {
            // Before it is handed out: who has the certificate is not refused for want of a record.
            let options = WriteOptions::controller("gantry-scheduler");
            keys::given(objects, &options, node, held.as_ref(), &signed.key)
                .await
                .map_err(Denied::Unrecorded)?;
        }
        let token = token.map(|token| token.to_string());
        let agent = &request.agent_version;
        tracing::info!(
            node,
            token,
            proved = held.is_some(),
            key = signed.key.fingerprint,
            agent,
            "node joined"
        );
        Ok(signed)
    }

    /// Whether a machine may have the name.
    fn grant(
        &self,
        authority: &Authority,
        standing: &Standing,
        request: &pb::JoinRequest,
        now: SystemTime,
    ) -> Result<Grant, Denied> {
        let node = &*request.node_name;
        let known = *standing != Standing::Free;
        let proof = (!request.last_certificate_der.is_empty()).then(|| {
            let message = gantry_proto::signed_in_join(node, &request.csr_der);
            authority.proven_key(&request.last_certificate_der, node, &message, &request.proof)
        });
        if let Some(Ok(key)) = &proof
            && known
            && standing.admits(key)
        {
            return Ok(Grant { token: None, held: Some(key.clone()) });
        }
        // Who has a key of the node, though not the last one, may know how the name stands; others need a token.
        let was = matches!(proof, Some(Ok(_)));
        if request.token.is_empty() && was {
            return Err(if known { Denied::Known(Some(Outdated)) } else { Denied::Removed });
        }
        let token =
            self.tokens.verify(&request.token, now).map_err(Denied::Failed)?.map_err(Denied::Token)?;
        let TokenGrant { id, node: only } = token;
        match only {
            Some(only) if only != node => Err(Denied::OtherNode { token: id, only }),
            None if known => Err(Denied::Known(was.then_some(Outdated))),
            _ => Ok(Grant { token: Some(id), held: None }),
        }
    }
}

/// What a join is judged by, besides the request.
#[derive(Clone, Copy)]
struct Applicant<'a> {
    authority: &'a Authority,
    objects: &'a Objects,
}

/// The proof is one, but of a key that the node has no longer.
#[derive(Debug, thiserror::Error)]
#[error("the key that was proved is not that of its last certificate")]
struct Outdated;

#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("too many join requests that fail")]
    TooMany(#[source] Box<Denied>),
    #[error("bootstrap token refused")]
    Token(#[source] crate::pki::TokenRefusal),
    #[error("the name is taken, and the machine did not prove that it is that node")]
    Known(#[source] Option<Outdated>),
    #[error("the node proved its key and its Node was deleted: a token is needed")]
    Removed,
    #[error("token {token} is for node {only} alone")]
    OtherNode { token: TokenId, only: String },
    #[error("the new key cannot be recorded")]
    Unrecorded(#[source] ApiError),
    #[error("certificate request refused")]
    Signing(#[source] PkiError),
    #[error("the token list cannot be read")]
    Failed(#[source] PkiError),
}

impl Denied {
    /// What the caller learns: enough to correct an honest mistake, nothing to guess by.
    fn status(&self, node: &str) -> Status {
        match self {
            Self::TooMany(_) => Status::resource_exhausted("too many join requests, try again later"),
            Self::Token(_) => Status::unauthenticated(
                "the bootstrap token is not valid: it is mistyped, has expired or was removed; make a new one \
                 on the scheduler with `gantry-scheduler token create`",
            ),
            Self::Known(outdated) => {
                let why = match outdated {
                    None => {
                        "this machine showed no proof that it is that node, as one whose state directory is gone"
                    }
                    Some(_) => {
                        "the key of this machine is not that of the node's last certificate: another has \
                                taken its place since"
                    }
                };
                Status::failed_precondition(format!(
                    "node {node} is known already, and {why}. If this machine is to be {node}, make a token for it on \
                     the scheduler with `gantry-scheduler token create --node {node}`, or delete the node with \
                     `kubectl delete node {node}`; if not, give it another name"
                ))
            }
            Self::Removed => Status::failed_precondition(format!(
                "node {node} was deleted: to let this machine in again, make a token on the scheduler with \
                 `gantry-scheduler token create`"
            )),
            Self::OtherNode { only, .. } => Status::permission_denied(format!(
                "the bootstrap token is for node {only} alone, not for {node}"
            )),
            Self::Unrecorded(_) => Status::unavailable("the scheduler cannot record certificates now"),
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
        let arrived = request.extensions().get::<Arrived>();
        let peer = arrived.and_then(Arrived::peer);
        if let Some(refusal) = arrived.and_then(|arrived| arrived.refusal.as_ref()) {
            return Err(Status::resource_exhausted(refusal.to_string()));
        }
        let request = request.into_inner();
        let from = Applicant { authority: &self.0.authority, objects: &self.0.objects };
        match self.0.gate.join(from, &request).await {
            Ok(signed) => Ok(Response::new(pb::JoinResponse {
                certificate_pem: signed.certificate_pem.into(),
                ca_pem: self.0.authority.ca_pem().to_owned().into(),
                not_after: signed.validity.until_unix(),
            })),
            Err(denied) => {
                self.0.metrics.joins_refused.inc();
                tracing::warn!(node = request.node_name, ?peer, error = %Chain(&denied), "join refused");
                Err(denied.status(&request.node_name))
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

    #[tokio::test]
    async fn junk_does_not_keep_a_machine_with_a_valid_token_out() {
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
        let objects = Objects::in_memory(Vec::new()).await.unwrap();
        let from = Applicant { authority: &authority, objects: &objects };
        let mut limited = false;
        for _ in 0..1000 {
            let junk = request("abcdef.0123456789abcdef".to_owned());
            let denied = gate.join(from, &junk).await.unwrap_err();
            limited |= matches!(denied, Denied::TooMany(_));
        }
        assert!(limited, "the guesser is");
        assert!(gate.join(from, &request(token.reveal())).await.is_ok());
    }
}
