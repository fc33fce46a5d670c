//! The composition root: builds every part, hands out channels, owns start and stop order.
//!
//! Start: store, objects, first objects, controllers and sessions, API last, so that whoever gets an answer
//! gets it from a whole scheduler. Stop: API first, the store last, so that nothing acknowledged is lost.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::{
        DefaultIngressClass, NodeTaints, PodDefaults, Promises, RuntimeClasses, ServiceAddresses,
        ServiceRanges,
    },
    api::{self, Api, InFlight, Server, ServerError, metrics_api::ResourceMetrics, streams::PodStreams},
    bootstrap,
    cache::Cache,
    config::{Config, ConnectionLimits},
    connections::{self, Limits, Places},
    controllers::{
        self,
        runner::{RunnerMetrics, Runtime},
    },
    events::Recorder,
    kinds,
    model::{ApiError, Resource},
    nodes::{ClusterFacts, Nodes, NodesConfig, NodesError, NodesParts},
    objects::{Admission, Objects},
    pki::{self, Alpn, Authority, PkiError, Serving, Tokens},
    placement,
    serve::{ClusterState, Endpoints, ServeError},
    store::{Condition, Keyring, Layout, OpenError, SealError, SqliteOptions, SqliteStore},
    tasks::{Ended, Tasks},
};

/// Lifetime of the serving certificate, which is replaced long before.
const SERVING_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Lifetime of node certificates; agents renew them over their session after two thirds.
const NODE_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long tasks may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Why the scheduler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The keys of sealed secrets.
    #[error("cannot load the keys of stored secrets")]
    Keys(#[from] SealError),
    /// The database.
    #[error("cannot open the store")]
    Store(#[from] OpenError),
    /// The CA or the serving certificate.
    #[error("cannot set up the cluster's certificates")]
    Pki(#[from] PkiError),
    /// The API's listener.
    #[error("cannot serve the API")]
    Server(#[from] ServerError),
    /// The metrics listener.
    #[error("cannot serve metrics")]
    Metrics(#[from] ServeError),
    /// The listener for agents.
    #[error("cannot listen for agents on {address}")]
    NodePort {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The first objects.
    #[error("cannot create the system's own objects")]
    Bootstrap(#[source] ApiError),
}

/// What ended a running scheduler.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The node port.
    #[error("the port for agents failed")]
    Nodes(#[from] NodesError),
    /// The store.
    #[error("the store takes no more writes: what is on its disk is known after a restart")]
    Store,
    /// A task without which the scheduler is none.
    #[error("the task {name:?} {}", if *panicked { "panicked" } else { "ended" })]
    Task {
        /// Which one.
        name: &'static str,
        /// Whether it panicked; else it returned.
        panicked: bool,
    },
}

impl From<Ended> for Failure {
    fn from(Ended { task, panicked }: Ended) -> Self {
        Self::Task { name: task, panicked }
    }
}

/// A running scheduler.
pub struct App {
    objects: Objects,
    api_address: SocketAddr,
    tasks: Tasks,
    ready: watch::Sender<bool>,
    failures: mpsc::Receiver<Failure>,
    ended: mpsc::UnboundedReceiver<Ended>,
    store: watch::Receiver<Condition>,
}

/// The resources and fields that the store indexes, from the kind table.
pub fn layout() -> Layout {
    Layout(kinds::builtin().stored().map(|kind| (kind.resource, kind.fields.clone())).collect())
}

impl App {
    /// Starts everything.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let (tasks, ended) = Tasks::new(CancellationToken::new());
        let started = Self::assemble(config, &tasks, ended).await;
        if started.is_err() {
            // What runs already must not outlive the failure.
            tasks.stop.cancel();
            tasks.tracker.close();
            tasks.tracker.wait().await;
        }
        started
    }

    async fn assemble(
        config: &Config,
        tasks: &Tasks,
        ended: mpsc::UnboundedReceiver<Ended>,
    ) -> Result<Self, StartError> {
        bootstrap::data_dir(&config.data_dir)?;
        let now = SystemTime::now();
        let authority = Arc::new(Authority::open(&config.pki_dir(), now)?);
        let mut registry = Registry::default();
        let cache = Cache::default();
        let (chain, promises) = admission(config, &cache);
        let objects = Objects::new(Arc::new(open_store(config)?), chain);
        for (resource, count) in objects.unserved(None) {
            tracing::warn!(%resource, count, "objects of a kind that is not served are kept: serve the kind again, or start the version that stored them, to read or delete them");
        }
        bootstrap::service_addresses(&objects, config).await.map_err(StartError::Bootstrap)?;
        let recorder = Recorder::start(&objects, tasks);
        placement::start(placement::Dependencies {
            objects: objects.clone(),
            cache: cache.clone(),
            recorder: recorder.clone(),
            metrics: placement::Metrics::new(&mut registry),
            tasks: tasks.clone(),
        });
        controllers::start(controllers::Dependencies {
            objects: objects.clone(),
            cache: cache.clone(),
            recorder: recorder.clone(),
            promises,
            runtime: Runtime {
                cache: cache.clone(),
                tasks: tasks.clone(),
                metrics: RunnerMetrics::new(&mut registry),
            },
            settings: controllers::Settings {
                pod_range: config.cluster.pod_cidr,
                node_prefix: config.cluster.node_mask,
                ca_pem: authority.ca_pem().into(),
                load_balancer_pool: config.cluster.load_balancer_pool.clone(),
                lease: config.timing.lease,
            },
        });
        cache.start(&objects, tasks);
        bootstrap::first_objects(&objects, config).await.map_err(StartError::Bootstrap)?;
        tasks.essential("API service", bootstrap::keep_api_service(objects.clone(), config.clone()));

        let serving = Serving::issue(authority.clone(), config.serving_names(), SERVING_LIFETIME, now)?;
        tasks.draining("serving certificate", serving.clone().keep_fresh(tasks.stop.clone()));
        let connected = connections::Metrics::new(&mut registry);
        let parts = NodesParts {
            objects: objects.clone(),
            authority: authority.clone(),
            serving: serving.clone(),
            tokens: Tokens::open(&config.pki_dir())?,
            recorder,
            places: Places::nodes(limits(config.nodes_connections), &connected),
            config: nodes_config(config),
        };
        let nodes = Nodes::start(parts, &mut registry, tasks);
        let failures = serve_nodes(config.nodes_listen, nodes.clone(), tasks).await?;

        let (ready, is_ready) = watch::channel(false);
        let measures = Arc::new(OnceLock::new());
        let parts = api::Parts {
            objects: objects.clone(),
            connect: Some(Arc::new(PodStreams::new(nodes.clone(), objects.clone()).map_err(PkiError::Tls)?)),
            computed: vec![Arc::new(ResourceMetrics::new(objects.clone(), nodes))],
            server: config.api.advertise.to_string(),
            ready: is_ready.clone(),
            measures: measures.clone(),
            in_flight: InFlight { reads: config.api.reads_in_flight, writes: config.api.writes_in_flight },
            stop: tasks.stop.clone(),
        };
        let api = Api::new(parts, &mut registry);
        registry.register_collector(Box::new(ClusterState::new(&cache, &objects)));
        let registry = Arc::new(registry);
        let _ = measures.set(registry.clone());
        if let Some(address) = config.metrics_listen {
            let endpoints = Endpoints::bind(address).await?;
            tasks.draining("metrics port", endpoints.run(registry, is_ready, tasks.stop.clone()));
        }
        cache.synced().await;
        let server = Server::bind(config.api.listen).await?;
        let api_address = server.address();
        let places = Places::api(limits(config.api.connections), &connected);
        let tls = pki::server_config(&authority, serving, Alpn::Http)?;
        tasks.draining("API port", server.run(api, tls, places, tasks.stop.clone()));
        let store = objects.store_condition();
        ready.send_replace(*store.borrow() == Condition::Good);
        tasks.essential("readiness", follow_store(ready.clone(), store.clone()));
        let data = config.data_dir.display();
        tracing::info!(api = %api_address, nodes = %config.nodes_listen, %data, "scheduler started");
        Ok(Self { objects, api_address, tasks: tasks.clone(), ready, failures, ended, store })
    }

    /// Returns when a part that everything depends on has ended. Cancel-safe.
    pub async fn failed(&mut self) -> Failure {
        // Cancel-safe: two channel receives, and a state. The first of them knows more than the second.
        tokio::select! {
            biased;
            Some(failure) = self.failures.recv() => failure,
            Ok(_) = self.store.wait_for(|c| *c == Condition::Broken) => Failure::Store,
            Some(ended) = self.ended.recv() => ended.into(),
            // All parts ended well, which they only do when they are told to.
            else => std::future::pending().await,
        }
    }

    /// Where the API listens.
    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// The object machine, for tests that look inside.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Stops everything and waits for it.
    pub async fn stop(self) {
        self.ready.send_replace(false);
        let Tasks { stop, tracker, .. } = &self.tasks;
        stop.cancel();
        tracker.close();
        if tokio::time::timeout(STOP_DEADLINE, tracker.wait()).await.is_err() {
            tracing::warn!(tasks = tracker.len(), "tasks did not end in time");
        }
        tracing::info!("scheduler stopped");
    }
}

fn open_store(config: &Config) -> Result<SqliteStore, StartError> {
    let (path, sealed) = (config.database(), vec![Resource::SECRETS]);
    let keys = Keyring::open(&config.secrets_key(), SqliteStore::holds(&path, &sealed)?)?;
    Ok(SqliteStore::open(SqliteOptions {
        path: &path,
        layout: layout(),
        seldom: vec![Resource::EVENTS],
        sealed,
        keys,
        upgrade: kinds::upgrade,
    })?)
}

/// The admission chain, and what it has promised. What it follows in `cache` must not be started yet.
fn admission(config: &Config, cache: &Cache) -> (Vec<Arc<dyn Admission>>, Promises) {
    let cluster = &config.cluster;
    let ranges = ServiceRanges {
        addresses: cluster.service_cidr,
        ports: cluster.node_ports.clone(),
        dns: cluster.dns_ip,
    };
    let addresses = ServiceAddresses::new(ranges, cache);
    let promises = addresses.promises();
    let chain: Vec<Arc<dyn Admission>> = vec![
        Arc::new(PodDefaults { eviction: config.timing.eviction }),
        // After the tolerations that every pod gets, as upstream.
        Arc::new(RuntimeClasses),
        Arc::new(DefaultIngressClass),
        Arc::new(NodeTaints),
        Arc::new(addresses),
    ];
    (chain, promises)
}

fn limits(ConnectionLimits { total, each }: ConnectionLimits) -> Limits {
    Limits { total, per_user: each }
}

fn nodes_config(config: &Config) -> NodesConfig {
    let cluster = &config.cluster;
    NodesConfig {
        heartbeat: config.timing.heartbeat,
        lease: config.timing.lease,
        certificate_lifetime: NODE_CERTIFICATE_LIFETIME,
        cluster: ClusterFacts {
            domain: cluster.domain.clone(),
            service_cidr: cluster.service_cidr.into(),
            pod_cidr: cluster.pod_cidr.into(),
            dns_ip: cluster.dns_ip.into(),
            node_ports: (*cluster.node_ports.start(), *cluster.node_ports.end()),
        },
    }
}

/// Serves agents; the receiver gets what ends it.
async fn serve_nodes(
    address: SocketAddr,
    nodes: Nodes,
    tasks: &Tasks,
) -> Result<mpsc::Receiver<Failure>, StartError> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| StartError::NodePort { address, source })?;
    let (failed, failures) = mpsc::channel(1);
    tasks.draining("node port", async move {
        if let Err(error) = nodes.serve(listener).await {
            // Nobody listens any more only when the scheduler is ending anyway.
            drop(failed.send(error.into()).await);
        }
    });
    Ok(failures)
}

/// Ready is who can write: a scheduler that only reads starts nothing and stops nothing.
async fn follow_store(ready: watch::Sender<bool>, mut store: watch::Receiver<Condition>) {
    loop {
        let condition = *store.borrow_and_update();
        match condition {
            Condition::Good => {}
            Condition::Full => tracing::error!("the store's disk is full: not ready until a write succeeds"),
            Condition::Broken => tracing::error!("the store takes no more writes"),
        }
        let good = condition == Condition::Good;
        ready.send_if_modified(|now| std::mem::replace(now, good) != good);
        if store.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn app(dir: &tempfile::TempDir) -> App {
        let text = format!(
            "data_dir = {:?}\n[api]\nlisten = \"127.0.0.1:0\"\nadvertise = \"127.0.0.1:6443\"\n[nodes]\nlisten = \"127.0.0.1:0\"\n[metrics]\n\
             listen = \"\"\n",
            dir.path().join("data")
        );
        App::start(&Config::parse(&text, "test".as_ref()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn an_essential_task_that_panics_ends_the_app() {
        let dir = tempfile::tempdir().unwrap();
        let mut app = app(&dir).await;
        app.tasks.essential("placement", async { panic!("on purpose") });
        let failure = app.failed().await;
        assert_eq!(failure.to_string(), "the task \"placement\" panicked");
        app.stop().await;
    }

    #[tokio::test]
    async fn readiness_follows_the_store() {
        let (ready, mut is_ready) = watch::channel(false);
        let (condition, store) = watch::channel(Condition::Good);
        let following = tokio::spawn(follow_store(ready, store));
        for (now, expected) in [
            (Condition::Good, true),
            (Condition::Full, false),
            (Condition::Good, true),
            (Condition::Broken, false),
        ] {
            condition.send_replace(now);
            is_ready.wait_for(|r| *r == expected).await.unwrap();
        }
        following.abort();
    }
}
