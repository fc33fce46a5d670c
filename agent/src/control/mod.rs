//! The scheduler session: join, handshake, updates in, acks and status out, certificate renewal, the ledger on disk.
//!
//! In: what the scheduler wants of this node. Out: [`Desired`] on a watch channel, from the ledger at once and
//! from the session as it changes; reports of the other modules up the session. Never: a decision about what to
//! do with any of it. Without a scheduler everything goes on with what the ledger has, and reports wait.

mod backoff;
mod channel;
mod convert;
mod credentials;
mod dial;
mod files;
mod join;
mod ledger;
mod metrics;
mod objects;
mod outbox;
mod session;
mod state;
mod tls;

use std::{
    convert::Infallible,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::model::{
    Chain, ClusterNetwork, Desired, NodeFacts, NodeName, StreamEnd, StreamInput, StreamOutput, StreamRefusal,
    StreamRequest, Upstream, Vitals,
};
use backoff::Backoff;
pub use channel::ConnectError;
pub use convert::{ConvertError, policy_update};
pub use credentials::CredentialError;
use credentials::{CredentialStore, Credentials};
use dial::Dialer;
pub use files::FileError;
pub use join::JoinError;
use ledger::Ledger;
pub use ledger::LedgerError;
use metrics::Metrics;
use outbox::Outbox;
pub use session::SessionError;
use state::State;
use tls::Trust;
pub use tls::{CaPin, TlsError};

/// What the node says of itself.
#[async_trait]
pub trait NodeReporter: Send + Sync {
    /// Asked at the start of each session.
    async fn facts(&self) -> NodeFacts;
    /// Asked for each heartbeat; should answer within a second.
    async fn vitals(&self) -> Vitals;
    /// Returns once the node has other addresses than these, which its facts told. Cancel-safe.
    async fn readdressed(&self, told: &[(String, String)]);
}

/// Both directions of one stream. Bounded: `output.send` waits while the client is slow and fails when it has
/// gone; `input` ends when the client has gone.
#[derive(Debug)]
pub struct StreamChannel {
    /// From the client.
    pub input: mpsc::Receiver<StreamInput>,
    /// To the client.
    pub output: mpsc::Sender<StreamOutput>,
}

/// A stream that was accepted and waits for its channel.
pub type OpenStream = Box<dyn FnOnce(StreamChannel) -> BoxFuture<'static, StreamEnd> + Send>;

/// Serves exec, attach, logs and port-forward.
#[async_trait]
pub trait StreamHandler: Send + Sync {
    /// Checks that the request can be served and prepares it: a refusal here becomes the client's HTTP status.
    /// The returned closure runs once the scheduler was dialled, and is dropped unrun when that fails.
    async fn open(&self, request: StreamRequest) -> Result<OpenStream, StreamRefusal>;
}

/// A bootstrap token. Debug hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken(String);

impl JoinToken {
    /// Wraps the text as it is in the configuration.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(<hidden>)")
    }
}

/// How to reach the scheduler, and who we are.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// `host:port` of the scheduler's node port.
    pub scheduler: String,
    /// This node.
    pub node: NodeName,
    /// Where credentials and ledger are kept (0700).
    pub dir: PathBuf,
    /// The cluster CA, when it was brought here by other means.
    pub ca_file: Option<PathBuf>,
    /// Or the hash of its public key, for the first join.
    pub ca_hash: Option<CaPin>,
    /// For the first join.
    pub token: Option<JoinToken>,
}

/// What the session is made of.
pub struct ControlParts {
    /// Settings.
    pub config: ControlConfig,
    /// Speaks for the node.
    pub reporter: Arc<dyn NodeReporter>,
    /// Serves streams.
    pub streams: Arc<dyn StreamHandler>,
}

/// The agent's side of the protocol.
#[derive(Clone)]
pub struct Control {
    /// What the scheduler wants; at the start what the ledger has.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// The cluster's ranges; `None` before the first session of all.
    pub network: watch::Receiver<Option<ClusterNetwork>>,
    /// Whether a session is open.
    pub connected: watch::Receiver<bool>,
    /// Where reports go.
    pub upstream: Arc<dyn Upstream>,
}

impl Control {
    /// Reads the ledger and starts the session loop, which runs until `stop`.
    pub fn start(
        parts: ControlParts,
        registry: &mut Registry,
        stop: &CancellationToken,
        tracker: &TaskTracker,
    ) -> Result<Self, ControlError> {
        let ControlParts { config, reporter, streams } = parts;
        let metrics = Metrics::new(registry);
        let store = CredentialStore::open(&config.dir)?;
        let state = State::load(Arc::new(Ledger::open(&config.dir)?))?;
        let outbox = Arc::new(Outbox::new(config.node.clone(), metrics.events_dropped.clone()));
        let (connected, is_connected) = watch::channel(false);
        let control = Self {
            desired: state.desired(),
            network: state.networks(),
            connected: is_connected,
            upstream: outbox.clone(),
        };
        let instance = format!("{:032x}", rand::random::<u128>());
        let tracker_of_streams = tracker.clone();
        let client = Client {
            config,
            store,
            reporter,
            streams,
            outbox,
            metrics,
            instance,
            connected,
            tracker: tracker_of_streams,
            stop: stop.clone(),
        };
        tracker.spawn(client.run(state, stop.clone()));
        Ok(control)
    }
}

/// The session cannot be begun at all.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Key or certificate files.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// The loop that keeps a session open.
struct Client {
    config: ControlConfig,
    store: CredentialStore,
    reporter: Arc<dyn NodeReporter>,
    streams: Arc<dyn StreamHandler>,
    outbox: Arc<Outbox>,
    metrics: Metrics,
    instance: String,
    connected: watch::Sender<bool>,
    tracker: TaskTracker,
    /// Ends streams.
    stop: CancellationToken,
}

impl Client {
    async fn run(self, mut state: State, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            // Cancel-safe: updates are durable before they are shown, reports stay in the outbox.
            let Some(ended) = stop.run_until_cancelled(self.attempt(&mut state, &mut backoff)).await else {
                state.flush_table().await;
                break;
            };
            self.connected.send_replace(false);
            self.metrics.connected.set(0);
            let Err(error) = ended;
            let wait = backoff.next();
            if matches!(error, AttemptError::Session(SessionError::Readdressed)) {
                tracing::info!("{error}");
            } else {
                self.metrics.failures.inc();
                let scheduler = &self.config.scheduler;
                tracing::warn!(scheduler, error = %Chain(&error), retry_ms = wait.as_millis(), "no session");
            }
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
        }
        self.connected.send_replace(false);
    }

    async fn attempt(&self, state: &mut State, backoff: &mut Backoff) -> Result<Infallible, AttemptError> {
        let credentials = self.credentials().await?;
        self.note_expiry(&credentials);
        let tls = tls::client_config(&self.trust()?, Some(&credentials))?;
        let dialer = Dialer::new(&self.config.scheduler, tls);
        let channel = dialer.connect().await?;
        let opened = || {
            backoff.reset();
            self.metrics.sessions.inc();
            self.metrics.connected.set(1);
            self.connected.send_replace(true);
        };
        Ok(session::run(self, state, &credentials, &dialer, channel, opened).await?)
    }

    /// The stored credentials while they hold; else new ones.
    async fn credentials(&self) -> Result<Credentials, JoinError> {
        match self.store.load() {
            Ok(Some(credentials)) if !credentials.expired(SystemTime::now()) => Ok(credentials),
            Ok(Some(expired)) => {
                tracing::warn!("the node's certificate has expired, joining again with its key");
                self.join(Some(&expired)).await
            }
            Ok(None) => self.join(None).await,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "credentials not usable, joining again");
                self.join(None).await
            }
        }
    }

    async fn join(&self, last: Option<&Credentials>) -> Result<Credentials, JoinError> {
        let token = self.config.token.as_ref().map(|token| &*token.0);
        let trust = match last {
            // It was in the cluster: the CA that it learned there is still on its disk.
            Some(_) => self.trust()?,
            None => self.join_trust()?,
        };
        let shown = join::Shown { token, last };
        join::join(&self.config.scheduler, &self.config.node, shown, &trust, &self.store).await
    }

    /// How the scheduler is known before there is a CA from it: the file if there is one, else the pin.
    fn join_trust(&self) -> Result<Trust, JoinError> {
        match (self.ca_file()?, self.config.ca_hash) {
            (Some(trust), _) => Ok(trust),
            (None, Some(pin)) => Ok(Trust::Pin(pin)),
            (None, None) => Err(JoinError::NoTrust),
        }
    }

    /// How the scheduler is known from then on.
    fn trust(&self) -> Result<Trust, CredentialError> {
        match self.ca_file()? {
            Some(trust) => Ok(trust),
            None => self.store.ca().map(|(file, pem)| Trust::Ca { file, pem }),
        }
    }

    fn ca_file(&self) -> Result<Option<Trust>, CredentialError> {
        let Some(file) = self.config.ca_file.clone() else { return Ok(None) };
        let pem = files::read_present(&file)?;
        Ok(Some(Trust::Ca { file, pem }))
    }

    fn note_expiry(&self, credentials: &Credentials) {
        let until = credentials.until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.metrics.certificate_expiry.set(i64::try_from(until).unwrap_or(i64::MAX));
    }
}
