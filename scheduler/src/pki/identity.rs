//! Who a verified client certificate stands for. Called after TLS verified the chain; decides nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{NODE_USER_PREFIX, NODES_GROUP};

/// The name in a certificate: common name as user, organisations as groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `kubernetes-admin`, `system:node:node-1`.
    pub user: String,
    /// `system:masters`, `system:nodes`.
    pub groups: Vec<String>,
}

impl Identity {
    /// Reads a leaf certificate; `None` when it has no common name or does not parse.
    pub fn of(certificate_der: &[u8]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(certificate_der).ok()?;
        let subject = cert.subject();
        let mut names = subject.iter_common_name();
        let user = names.next()?.as_str().ok()?.to_owned();
        if user.is_empty() || names.next().is_some() {
            return None;
        }
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
        Some(Self { user, groups })
    }

    /// The node this certificate belongs to, when it is a node's.
    pub fn node(&self) -> Option<&str> {
        let name = self.user.strip_prefix(NODE_USER_PREFIX).filter(|n| !n.is_empty())?;
        self.groups.iter().any(|g| g == NODES_GROUP).then_some(name)
    }
}

/// The end of a certificate's validity; `None` when it does not parse.
pub fn not_after(certificate_der: &[u8]) -> Option<SystemTime> {
    let (_, cert) = X509Certificate::from_der(certificate_der).ok()?;
    let seconds = u64::try_from(cert.validity().not_after.timestamp()).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}
