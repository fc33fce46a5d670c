//! Cluster DNS on the node: names of services, endpoints and pods answered from the very table that programs the
//! load balancer, so that the two can never disagree; everything else forwarded to the host's resolvers.
//!
//! In: packets on the cluster DNS address, which `net` puts on loopback; [`Names`], replaced as a whole by
//! `reconcile`. Out: answers. Never asks the scheduler and never waits for it: a node that lost it goes on
//! answering from what it has.

mod forward;
mod limits;
mod metrics;
mod reply;
mod resolv_conf;
mod reverse;
mod server;
mod zone;

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;

pub use metrics::Metrics;
pub use server::Server;

use crate::model::{ClusterNetwork, ServiceTable};
use reverse::Reverse;

/// Failure to serve.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address cannot be listened on.
    #[error("cannot listen for DNS on {address}: is another name server bound to it or to all addresses?")]
    Bind {
        /// UDP and TCP.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The cluster's domain is not a domain name.
    #[error("{domain:?} is not a domain name")]
    Domain {
        /// From the scheduler.
        domain: String,
        /// Cause.
        #[source]
        source: hickory_proto::ProtoError,
    },
}

/// Where names outside the cluster are asked for.
#[derive(Clone, Debug)]
pub enum Upstreams {
    /// The name servers of this file, read again when it changes.
    ResolvConf(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
}

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// Where to forward to.
    pub upstreams: Upstreams,
    /// How long one name server may take before the next is asked.
    pub timeout: Duration,
    /// Forwarded answers that are kept at most.
    pub cache_entries: usize,
}

/// What cluster names are answered from.
#[derive(Debug)]
pub struct Names {
    domain: hickory_proto::rr::Name,
    cluster: ClusterNetwork,
    services: Arc<ServiceTable>,
    /// Built by the first reverse query: most tables are replaced without one.
    reverse: OnceLock<Reverse>,
}

/// The names that are served now; empty until the cluster is known.
pub type SharedNames = Arc<ArcSwapOption<Names>>;

impl Names {
    /// The names of a service table.
    pub fn new(cluster: ClusterNetwork, services: Arc<ServiceTable>) -> Result<Self, DnsError> {
        let domain = zone::domain(&cluster.domain)
            .map_err(|source| DnsError::Domain { domain: cluster.domain.clone(), source })?;
        Ok(Self { domain, cluster, services, reverse: OnceLock::new() })
    }
}
