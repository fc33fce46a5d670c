//! Metrics, health and readiness endpoints of the scheduler, in plain text on a port of their own, so that a
//! Prometheus needs no client certificate. Bind it to loopback or to a management network.
//!
//! In: the registry that every part registered with. Out: text. Never: anything about an object's content.

mod state;

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use state::ClusterState;

/// The port is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It cannot be bound.
    #[error("cannot listen for metrics on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A bound port.
#[derive(Debug)]
pub struct Endpoints {
    listener: TcpListener,
    address: SocketAddr,
}

#[derive(Clone)]
struct Shared {
    registry: Arc<Registry>,
    ready: watch::Receiver<bool>,
}

impl Endpoints {
    /// Binds; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let wrong = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(wrong)?;
        let address = listener.local_addr().map_err(wrong)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn run(self, registry: Arc<Registry>, ready: watch::Receiver<bool>, stop: CancellationToken) {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok" }))
            .route("/livez", get(|| async { "ok" }))
            .route("/readyz", get(readiness))
            .with_state(Shared { registry, ready });
        let served = axum::serve(self.listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(error = %crate::model::Chain(&error), "the metrics port failed");
        }
    }
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    match gantry_exposition::answer(&shared.registry, accept) {
        Ok(answer) => ([(header::CONTENT_TYPE, answer.content_type)], answer.text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readiness(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if *shared.ready.borrow() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_and_readiness_are_told() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("beats", "Beats.", counter.clone());
        counter.inc();
        let (ready, is_ready) = watch::channel(false);
        let stop = CancellationToken::new();
        let endpoints = Endpoints::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = endpoints.address();
        let running = tokio::spawn(endpoints.run(Arc::new(registry), is_ready, stop.clone()));
        assert!(get(address, "/metrics").await.contains("beats_total 1"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        ready.send_replace(true);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/objects").await.starts_with("HTTP/1.1 404"));
        stop.cancel();
        running.await.unwrap();
    }
}
