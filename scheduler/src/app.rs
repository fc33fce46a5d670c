//! The composition root: builds every part, hands out channels, owns start and stop order.
//!
//! Start: store, objects, first objects, controllers and sessions, API last, so that whoever gets an answer
//! gets it from a whole scheduler. Stop: API first, the store last, so that nothing acknowledged is lost.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{PodDefaults, ServiceAddresses, ServiceRanges},
    api::{self, Api, Server, ServerError, metrics_api::ResourceMetrics, streams::PodStreams},
    bootstrap,
    cache::Cache,
    config::Config,
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
    store::{Keyring, Layout, OpenError, SealError, SqliteOptions, SqliteStore},
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
}

/// A running scheduler.
pub struct App {
    objects: Objects,
    api_address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    ready: watch::Sender<bool>,
    failures: mpsc::Receiver<Failure>,
}

/// The resources and fields that the store indexes, from the kind table.
pub fn layout() -> Layout {
    Layout(kinds::all().iter().filter(|k| k.view.is_none()).map(|k| (k.resource, k.fields)).collect())
}

impl App {
    /// Starts everything.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let started = Self::assemble(config, stop.clone(), tasks.clone()).await;
        if started.is_err() {
            // What runs already must not outlive the failure.
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
        started
    }

    async fn assemble(
        config: &Config,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Result<Self, StartError> {
        bootstrap::data_dir(&config.data_dir)?;
        let now = SystemTime::now();
        let authority = Arc::new(Authority::open(&config.pki_dir(), now)?);
        let mut registry = Registry::default();
        let cache = Cache::default();
        let objects = Objects::new(Arc::new(open_store(config)?), admission(config, &cache));
        let recorder = Recorder::start(&objects, &stop, &tasks);
        placement::start(placement::Dependencies {
            objects: objects.clone(),
            cache: cache.clone(),
            recorder: recorder.clone(),
            metrics: placement::Metrics::new(&mut registry),
            stop: stop.clone(),
            tracker: tasks.clone(),
        });
        controllers::start(controllers::Dependencies {
            objects: objects.clone(),
            cache: cache.clone(),
            recorder: recorder.clone(),
            runtime: Runtime {
                cache: cache.clone(),
                stop: stop.clone(),
                tracker: tasks.clone(),
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
        cache.start(&objects, &stop, &tasks);
        bootstrap::first_objects(&objects, config).await.map_err(StartError::Bootstrap)?;

        let serving = Serving::issue(authority.clone(), config.serving_names(), SERVING_LIFETIME, now)?;
        tasks.spawn(serving.clone().keep_fresh(stop.clone()));
        let parts = NodesParts {
            objects: objects.clone(),
            authority: authority.clone(),
            serving: serving.clone(),
            tokens: Tokens::open(&config.pki_dir())?,
            recorder,
            config: nodes_config(config),
        };
        let nodes = Nodes::start(parts, &mut registry, &stop, &tasks);
        let failures = serve_nodes(config.nodes_listen, nodes.clone(), &tasks).await?;

        let (ready, is_ready) = watch::channel(false);
        let parts = api::Parts {
            objects: objects.clone(),
            connect: Some(Arc::new(PodStreams::new(nodes.clone()))),
            computed: vec![Arc::new(ResourceMetrics::new(objects.clone(), nodes))],
            server: config.api.advertise.to_string(),
            ready: is_ready.clone(),
            stop: stop.clone(),
        };
        let api = Api::new(parts, &mut registry);
        registry.register_collector(Box::new(ClusterState::new(&cache)));
        if let Some(address) = config.metrics_listen {
            let endpoints = Endpoints::bind(address).await?;
            tasks.spawn(endpoints.run(registry, is_ready, stop.clone()));
        }
        cache.synced().await;
        let server = Server::bind(config.api.listen).await?;
        let api_address = server.address();
        let tls = pki::server_config(&authority, serving, Alpn::Http)?;
        tasks.spawn(server.run(api, tls, stop.clone()));
        ready.send_replace(true);
        let data = config.data_dir.display();
        tracing::info!(api = %api_address, nodes = %config.nodes_listen, %data, "scheduler started");
        Ok(Self { objects, api_address, stop, tasks, ready, failures })
    }

    /// Returns when a part that everything depends on has ended. Cancel-safe.
    pub async fn failed(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            // All parts ended well, which they only do when they are told to.
            None => std::future::pending().await,
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
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "tasks did not end in time");
        }
        tracing::info!("scheduler stopped");
    }
}

fn open_store(config: &Config) -> Result<SqliteStore, StartError> {
    let keys = Keyring::open(&config.secrets_key())?;
    let path = config.database();
    Ok(SqliteStore::open(SqliteOptions {
        path: &path,
        layout: layout(),
        sealed: vec![Resource::SECRETS],
        keys,
    })?)
}

/// The admission chain. What it follows in `cache` must not be started yet.
fn admission(config: &Config, cache: &Cache) -> Vec<Arc<dyn Admission>> {
    let cluster = &config.cluster;
    let ranges = ServiceRanges {
        addresses: cluster.service_cidr,
        ports: cluster.node_ports.clone(),
        dns: cluster.dns_ip,
    };
    vec![Arc::new(PodDefaults), Arc::new(ServiceAddresses::new(ranges, cache))]
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
    tasks: &TaskTracker,
) -> Result<mpsc::Receiver<Failure>, StartError> {
    let listener =
        TcpListener::bind(address).await.map_err(|source| StartError::NodePort { address, source })?;
    let (failed, failures) = mpsc::channel(1);
    tasks.spawn(async move {
        if let Err(error) = nodes.serve(listener).await {
            // Nobody listens any more only when the scheduler is ending anyway.
            drop(failed.send(error.into()).await);
        }
    });
    Ok(failures)
}
