//! The first contact: a bootstrap token and a certificate request become the node's credentials.

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
    /// No certificate and no token to get one with.
    #[error(
        "this node has no valid certificate and no bootstrap token is configured: set `token` or `token_file`"
    )]
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

/// Joins and stores the credentials.
pub(super) async fn join(
    address: &str,
    node: &NodeName,
    token: &str,
    trust: &Trust,
    store: &CredentialStore,
) -> Result<Credentials, JoinError> {
    let channel = channel::connect(address, tls::client_config(trust, None)?).await?;
    let request = Request::new(node)?;
    let join = pb::JoinRequest {
        token: token.to_owned(),
        node_name: node.to_string(),
        csr_der: request.csr_der.clone().into(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let answer = BootstrapClient::new(channel).join(join).await;
    let joined = answer.map_err(|status| JoinError::Refused(Box::new(status)))?.into_inner();
    let credentials = store.install(&request, &joined.certificate_pem, &joined.ca_pem)?;
    tracing::info!(%node, "joined the cluster");
    Ok(credentials)
}
