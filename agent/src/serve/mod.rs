//! The agent's HTTP endpoints: for machines that watch it (metrics, health, what it knows of its pods), and for who comes
//! by way of the API's proxy to nodes (what a kubelet would answer).
//!
//! In: what the other parts already keep (registry, desired state, records, cgroup counters), read when somebody
//! asks. Nothing here changes anything, and nothing that is served on a port can hold a secret: there pods are shown by
//! their status, never by their specification.

mod containers;
mod datapath;
mod files;
mod kubelet;
mod metrics;
mod pods;
mod service_health;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    cgroup::Cgroups,
    control::StreamHandler,
    dataplane::Snapshot,
    model::{Desired, NodeView},
    records::Records,
};

pub use pods::PodDebug;
pub use service_health::service_health;

/// Failure to serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen for metrics and health on {address}")]
    Bind {
        /// From the configuration.
        address: SocketAddr,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
}

/// What must be true before the agent is of use.
pub trait Readiness: Send + Sync {
    /// Every gate by name, and whether it is open.
    fn gates(&self) -> Vec<(String, bool)>;
}

/// What the endpoints read.
pub struct Sources {
    /// The agent's own metrics.
    pub registry: Registry,
    /// Desired state as the reconcile loop sees it.
    pub desired: watch::Receiver<Option<Arc<Desired>>>,
    /// Statuses as last reported.
    pub records: Arc<Records>,
    /// Usage.
    pub cgroups: Arc<dyn Cgroups>,
    /// The node.
    pub node: watch::Receiver<Arc<NodeView>>,
    /// Gates.
    pub readiness: Arc<dyn Readiness>,
    /// Figures of the datapath.
    pub dataplane: Arc<dyn Fn() -> Option<Snapshot> + Send + Sync>,
}

struct Served {
    everything: Registry,
    resources: Registry,
    readiness: Arc<dyn Readiness>,
    pods: pods::Pods,
}

/// What is answered to whom.
pub struct Answers {
    served: Arc<Served>,
}

impl Answers {
    /// From these.
    pub fn new(sources: Sources) -> Self {
        Self { served: Arc::new(served(sources)) }
    }

    /// To who comes by way of the API; `streams` read the logs of containers.
    pub fn kubelet(&self, streams: Arc<dyn StreamHandler>) -> Router {
        kubelet::router(self.served.clone(), streams)
    }
}

/// The endpoints for everybody who reaches the node, bound and not yet serving.
pub struct Endpoints {
    listener: TcpListener,
    router: Router,
}

impl Endpoints {
    /// Listens on `address`.
    pub async fn bind(address: SocketAddr, answers: &Answers) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(Self { listener, router: router(answers.served.clone()) })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`; requests under way are answered before it returns.
    pub async fn serve(self, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

fn served(sources: Sources) -> Served {
    let Sources { registry: mut everything, desired, records, cgroups, node, readiness, dataplane } = sources;
    let pods = pods::Pods { desired, records, cgroups, node };
    let mut resources = Registry::default();
    everything.register_collector(Box::new(containers::Everything(pods.clone())));
    everything.register_collector(Box::new(datapath::Figures(dataplane)));
    resources.register_collector(Box::new(containers::Resources(pods.clone())));
    Served { everything, resources, readiness, pods }
}

fn router(served: Arc<Served>) -> Router {
    Router::new()
        .route("/metrics", figures(|served: &Arc<Served>| &served.everything))
        .route("/metrics/resource", figures(|served: &Arc<Served>| &served.resources))
        .route("/healthz", get(alive))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .route("/debug/pods", get(debug_pods))
        .with_state(served)
}

/// Answers with one of the registries of what is served.
fn figures<S: Clone + Send + Sync + 'static>(of: fn(&S) -> &Registry) -> MethodRouter<S> {
    get(async move |State(served): State<S>, headers: HeaderMap| {
        let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        match gantry_exposition::answer(of(&served), accept) {
            Ok(answer) => ([(header::CONTENT_TYPE, answer.content_type)], answer.text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    })
}

/// That this is answered at all is the answer.
async fn alive() -> &'static str {
    "ok"
}

/// In the form of the Kubernetes components: one line for each check.
async fn ready(State(served): State<Arc<Served>>) -> Response {
    let gates = served.readiness.gates();
    let open = gates.iter().all(|(_, open)| *open);
    let mut text = String::new();
    for (name, open) in gates {
        text.push_str(&if open { format!("[+]{name} ok\n") } else { format!("[-]{name} not yet\n") });
    }
    text.push_str(if open { "readyz check passed\n" } else { "readyz check failed\n" });
    let code = if open { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, text).into_response()
}

async fn debug_pods(State(served): State<Arc<Served>>) -> Json<Vec<PodDebug>> {
    Json(served.pods.debug())
}
