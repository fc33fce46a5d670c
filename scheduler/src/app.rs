//! The composition root: builds every part, hands out channels, owns start and stop order.
//!
//! Start: store, objects, first objects, controllers and sessions, API last, so that whoever gets an answer
//! gets it from a whole scheduler. Stop: API first, the store last, so that nothing acknowledged is lost.

use std::{net::SocketAddr, sync::Arc, time::Duration, time::SystemTime};

use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{self, Api, Server, ServerError},
    bootstrap,
    config::Config,
    kinds,
    model::{ApiError, Resource},
    objects::{Admission, Objects},
    pki::{self, Alpn, Authority, PkiError, Serving},
    store::{Keyring, Layout, OpenError, SealError, SqliteOptions, SqliteStore},
};

/// Lifetime of the serving certificate, which is replaced long before.
const SERVING_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
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
    /// A listener.
    #[error("cannot serve")]
    Server(#[from] ServerError),
    /// The first objects.
    #[error("cannot create the system's own objects")]
    Bootstrap(#[source] ApiError),
}

/// A running scheduler.
pub struct App {
    objects: Objects,
    api_address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    ready: watch::Sender<bool>,
}

/// The resources and fields that the store indexes, from the kind table.
pub fn layout() -> Layout {
    Layout(kinds::all().iter().filter(|k| k.view.is_none()).map(|k| (k.resource, k.fields)).collect())
}

impl App {
    /// Starts everything.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let mut registry = Registry::default();
        let objects = Objects::new(Arc::new(open_store(config)?), admission(config));
        bootstrap::first_objects(&objects, config).await.map_err(StartError::Bootstrap)?;

        let authority = Arc::new(Authority::open(&config.pki_dir(), SystemTime::now())?);
        let serving =
            Serving::issue(authority.clone(), config.serving_names(), SERVING_LIFETIME, SystemTime::now())?;
        tasks.spawn(serving.clone().keep_fresh(stop.clone()));

        let (ready, is_ready) = watch::channel(false);
        let parts = api::Parts {
            objects: objects.clone(),
            connect: None,
            computed: Vec::new(),
            server: config.api.advertise.to_string(),
            ready: is_ready,
            stop: stop.clone(),
        };
        let api = Api::new(parts, &mut registry);
        let server = Server::bind(config.api.listen).await?;
        let api_address = server.address();
        let tls = pki::server_config(&authority, serving, Alpn::Http)?;
        tasks.spawn(server.run(api, tls, stop.clone()));
        ready.send_replace(true);
        tracing::info!(api = %api_address, data = %config.data_dir.display(), "scheduler started");
        Ok(Self { objects, api_address, stop, tasks, ready })
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
    bootstrap::data_dir(&config.data_dir)?;
    let keys = Keyring::open(&config.secrets_key())?;
    let path = config.database();
    Ok(SqliteStore::open(SqliteOptions {
        path: &path,
        layout: layout(),
        sealed: vec![Resource::SECRETS],
        keys,
    })?)
}

/// The admission chain.
fn admission(_config: &Config) -> Vec<Arc<dyn Admission>> {
    Vec::new()
}
