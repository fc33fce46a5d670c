//! Node sessions over gRPC: bootstrap, per-node projection with generations, heartbeats, streams.
//!
//! In: stored objects, through one watch per kind, and what agents say. Out: to each agent what its node needs;
//! pod statuses, leases, node conditions and events into the store, written as the node. The certificate of a
//! connection decides whose session it is. Never: a decision about where a pod runs or what becomes of it.

mod acks;
mod bootstrap;
mod convert;
mod feed;
mod handshake;
mod hub;
mod keys;
mod labels;
mod listener;
mod metrics;
mod pod_status;
mod projection;
mod registration;
mod registry;
mod service;
mod session;
mod status_queue;
mod usage;

#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use gantry_proto::node::v1 as pb;
use ipnet::IpNet;
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use usage::{Usage, UsageTable};

use crate::{
    connections::Places,
    events::Recorder,
    objects::Objects,
    pki::{Alpn, Authority, PkiError, Serving, Tokens, server_config},
    streams::{NodeStream, StreamError, Streams, patience},
    tasks::Tasks,
};
use bootstrap::{Bootstrap, Gate, RateLimit};
use hub::Hub;
use metrics::{Generations, Metrics};
use registry::Registry;

/// The largest message either way: a Secret or ConfigMap may be 1 MiB, a service thousands of endpoints.
const MAX_MESSAGE: usize = 16 << 20;

/// The largest join: two certificates' worth, from anybody who can reach the port.
const MAX_JOIN: usize = 64 << 10;

/// What agents are told of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// `cluster.local`
    pub domain: String,
    /// ClusterIPs.
    pub service_cidr: IpNet,
    /// What all nodes' pod ranges are cut from.
    pub pod_cidr: IpNet,
    /// What pods have in resolv.conf.
    pub dns_ip: IpAddr,
    /// NodePort range, inclusive.
    pub node_ports: (u16, u16),
}

impl ClusterFacts {
    fn to_wire(&self) -> pb::ClusterInfo {
        pb::ClusterInfo {
            domain: self.domain.clone(),
            service_cidr: self.service_cidr.to_string(),
            pod_cidr: self.pod_cidr.to_string(),
            dns_ip: self.dns_ip.to_string(),
            node_port_first: self.node_ports.0.into(),
            node_port_last: self.node_ports.1.into(),
        }
    }
}

/// Settings of the node sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodesConfig {
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Without a heartbeat for so long a node counts as lost.
    pub lease: Duration,
    /// Lifetime of node certificates.
    pub certificate_lifetime: Duration,
    /// What agents are told.
    pub cluster: ClusterFacts,
}

/// What the sessions are made of.
pub struct NodesParts {
    /// The object machine.
    pub objects: Objects,
    /// Signs node certificates.
    pub authority: Arc<Authority>,
    /// The certificate of the node port.
    pub serving: Arc<Serving>,
    /// Who may join.
    pub tokens: Tokens,
    /// Takes the agents' events.
    pub recorder: Recorder,
    /// The connections that there may be.
    pub places: Places,
    /// Settings.
    pub config: NodesConfig,
}

/// How many nodes have a generation in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Convergence {
    /// Nodes that have it.
    pub programmed: usize,
    /// Nodes with a session.
    pub connected: usize,
}

struct Inner {
    objects: Objects,
    authority: Arc<Authority>,
    serving: Arc<Serving>,
    recorder: Recorder,
    places: Places,
    config: NodesConfig,
    gate: Gate,
    hub: Hub,
    registry: Registry,
    streams: Streams,
    usage: UsageTable,
    metrics: Metrics,
    stop: CancellationToken,
    tracker: TaskTracker,
}

type Shared = Arc<Inner>;

/// The node sessions. Cheap to clone.
#[derive(Clone)]
pub struct Nodes(Shared);

impl Nodes {
    /// Starts following the stored objects. Sessions begin with [`Nodes::serve`]; everything ends with the stop of `tasks`.
    pub fn start(parts: NodesParts, metrics: &mut MetricsRegistry, tasks: &Tasks) -> Self {
        let NodesParts { objects, authority, serving, tokens, recorder, places, config } = parts;
        let hub = Hub::start(&objects, tasks);
        let limit = RateLimit::new(Instant::now());
        let registry = Registry::default();
        metrics.register_collector(Box::new(Generations(registry.clone())));
        let gate = Gate { tokens, limit, lifetime: config.certificate_lifetime };
        Self(Arc::new(Inner {
            objects,
            authority,
            serving,
            recorder,
            places,
            config,
            gate,
            hub,
            registry,
            streams: Streams::default(),
            usage: UsageTable::default(),
            metrics: Metrics::new(metrics),
            stop: tasks.stop.clone(),
            tracker: tasks.tracker.clone(),
        }))
    }

    /// Serves agents on `listener` until the stop.
    pub async fn serve(&self, listener: TcpListener) -> Result<(), NodesError> {
        let tls = server_config(&self.0.authority, self.0.serving.clone(), Alpn::Grpc)?;
        let node = pb::node_server::NodeServer::new(service::NodeService(self.0.clone()))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let bootstrap = pb::bootstrap_server::BootstrapServer::new(Bootstrap(self.0.clone()))
            .max_decoding_message_size(MAX_JOIN);
        let stop = self.0.stop.clone();
        tonic::transport::Server::builder()
            // A peer that vanished without a word is noticed within a heartbeat or two.
            .http2_keepalive_interval(Some(self.0.config.heartbeat))
            .http2_keepalive_timeout(Some(self.0.config.heartbeat))
            .add_service(node)
            .add_service(bootstrap)
            .serve_with_incoming_shutdown(
                listener::connections(listener, tls, self.0.places.clone(), stop.clone()),
                stop.cancelled_owned(),
            )
            .await
            .map_err(NodesError::Serve)
    }

    /// Usage from heartbeats.
    pub fn usage(&self) -> &UsageTable {
        &self.0.usage
    }

    /// On how many connected nodes everything up to `generation` is in force. The end-to-end suites wait for it; what
    /// each node has is in the metrics.
    pub fn programmed(&self, generation: u64) -> Convergence {
        let progress = self.0.registry.progress();
        let programmed = progress.iter().filter(|node| node.programmed >= generation).count();
        Convergence { programmed, connected: progress.len() }
    }

    /// Asks `node` for a stream and waits until its agent has dialled back.
    pub async fn open_stream(
        &self,
        node: &str,
        kind: pb::stream_request::Kind,
    ) -> Result<NodeStream, StreamError> {
        let not_connected = || StreamError::NotConnected(node.to_owned());
        let session = self.0.registry.get(node).ok_or_else(not_connected)?;
        let expected = self.0.streams.expect(node);
        let within = patience(&kind);
        let request = pb::StreamRequest { id: expected.id.clone(), kind: Some(kind) };
        let message = convert::message(pb::scheduler_message::Kind::Stream(request));
        session.outbound.send(message).await.map_err(|_| not_connected())?;
        expected.arrived(within).await
    }
}

/// The node port failed.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] PkiError),
    /// The server ended with an error.
    #[error("the node port cannot be served")]
    Serve(#[source] tonic::transport::Error),
}
