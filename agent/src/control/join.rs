//! The first contact: a bootstrap token and a certificate request become the node's credentials. A node whose certificate
//! has expired needs no token: it proves that it has the key of that one.

use gantry_proto::node::v1::{self as pb, bootstrap_client::BootstrapClient};
use tonic::Status;

use super::{
    channel::{self, ConnectError},
    credentials::{CredentialError, CredentialStore, Credentials, Request},
    tls::{self, TlsError, Trust},
};
use crate::model::NodeName;

/// Joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No certificate, not even one that has expired, and no token to get one with.
    #[error("this node has no certificate and no bootstrap token is configured: set `token` or `token_file`")]
    NoToken,
    /// No way to know the scheduler.
    #[error("neither `ca_file` nor `ca_hash` is configured: the scheduler cannot be verified")]
    NoTrust,
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The scheduler refused; its message says why.
    #[error("the scheduler refused the join: {}", .0.message())]
    Refused(Box<Status>),
    /// Keys and files.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// What a machine can show for itself.
pub(super) struct Shown<'a> {
    /// The bootstrap token, if one is configured.
    pub(super) token: Option<&'a str>,
    /// The certificate that has expired, with its key.
    pub(super) last: Option<&'a Credentials>,
}

/// Joins and stores the credentials.
pub(super) async fn join(
    address: &str,
    node: &NodeName,
    shown: Shown<'_>,
    trust: &Trust,
    store: &CredentialStore,
) -> Result<Credentials, JoinError> {
    if shown.token.is_none() && shown.last.is_none() {
        return Err(JoinError::NoToken);
    }
    let channel = channel::connect(address, tls::client_config(trust, None)?).await?;
    let request = Request::new(node)?;
    let proof =
        shown.last.map(|last| last.prove(&gantry_proto::signed_in_join(node.as_str(), &request.csr_der)));
    let (last_certificate, proof) = proof.transpose()?.unwrap_or_default();
    let join = pb::JoinRequest {
        token: shown.token.unwrap_or_default().to_owned(),
        node_name: node.to_string(),
        csr_der: request.csr_der.clone().into(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        last_certificate_der: last_certificate.into(),
        proof: proof.into(),
    };
    let answer = BootstrapClient::new(channel).join(join).await;
    let joined = answer.map_err(|status| JoinError::Refused(Box::new(status)))?.into_inner();
    let credentials = store.install(&request, &joined.certificate_pem, &joined.ca_pem)?;
    tracing::info!(%node, "joined the cluster");
    Ok(credentials)
}
