//! The composition root: builds every part, hands out channels, owns start and stop order.
//!
//! Start: what must not fail (directories, limits, datapath, network) first; then the ledger's desired state and
//! the cluster's ranges in it; reconcilers last, so that the first plan sees a whole node. A node that lost its
//! scheduler starts its pods all the same. Stop: reconcilers finish the steps under way and everything stays as it
//! is: containers, namespaces, datapath.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::{
    apply::{Apply, Events, Wires},
    config::Config,
    control::{CaPin, Control, ControlConfig, ControlError, ControlParts, JoinToken, TlsError},
    dataplane::Snapshot,
    dns::{self, SharedNames},
    lifecycle::{Drain, Gates},
    model::Desired,
    observe::{Clock, Host, Observer, Ports, Records, TerminationMessages},
    probes::Prober,
    reconcile::{Metrics, Pods, Programmer, Tools, programming},
    runtime::Timed,
    serve::{Answers, Endpoints, ServeError, Sources, service_health},
    streams::NodeStreams,
};

mod adapters;
mod cluster;
mod pulse;
mod reporter;

pub use adapters::{AdapterError, open};

/// How long steps under way may take when the agent is asked to stop; systemd waits longer.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// The real world of one agent, or a test's.
pub struct Adapters {
    /// What the reconcilers work with.
    pub ports: Ports,
    /// Figures of the datapath.
    pub figures: Arc<dyn Fn() -> Option<Snapshot> + Send + Sync>,
}

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory of the configuration.
    #[error("cannot use the directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The token file.
    #[error("cannot read scheduler.token_file {path}")]
    Token {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The pinned hash of the CA.
    #[error("cannot use scheduler.ca_hash")]
    Pin(#[source] TlsError),
    /// Credentials or ledger.
    #[error("cannot prepare the session with the scheduler")]
    Control(#[from] ControlError),
    /// Metrics and health.
    #[error("cannot serve metrics and health")]
    Serve(#[from] ServeError),
}

/// A running agent.
pub struct App {
    drain: Drain,
    gates: Gates,
    /// Whether a session with the scheduler is open.
    pub connected: watch::Receiver<bool>,
}

impl App {
    /// Starts everything. Must be called within a tokio runtime.
    pub async fn start(config: &Config, adapters: Adapters) -> Result<Self, StartError> {
        let (drain, gates) = (Drain::default(), Gates::default());
        let mut registry = Registry::default();
        for dir in [&config.layout.state_dir, &config.layout.run_dir, &config.layout.log_dir] {
            private_directory(dir)?;
        }
        let Adapters { ports, figures } = adapters;
        let ports = Ports { runtime: Arc::new(Timed::new(ports.runtime, &mut registry)), ..ports };
        let clock: Clock = Arc::new(now_ms);
        let host = Host::new();
        let machine = host.machine();
        let records = Records::open(config.layout.records_dir(), &machine.boot_id)
            .map_err(|source| StartError::Directory { path: config.layout.records_dir(), source })?;
        let records = Arc::new(records);
        let (view, node) = watch::channel(Arc::new(cluster::view(config, &host, &machine, &*ports.cgroups)));
        let (runtime, network) = (ports.runtime.clone(), ports.network.clone());
        let streams = Arc::new(NodeStreams::new(runtime, network, records.clone(), node.clone()));
        let (health, unhealthy) = watch::channel(None);
        let (hearing, heard) = watch::channel(pulse::Heard::default());
        let (runtime, images) = (ports.runtime.clone(), ports.images.clone());
        let pulse = pulse::Pulse { runtime, images, health, heard: hearing };
        let reporter = Arc::new(reporter::Reporter {
            node: config.node.clone(),
            port: config.metrics_listen.map(|address| address.port()),
            host,
            machine,
            view: node.clone(),
            heard,
            cgroups: ports.cgroups.clone(),
            records: records.clone(),
            health: unhealthy.clone(),
            clock: clock.clone(),
        });
        let control = Control::start(
            ControlParts { config: control_config(config)?, reporter, streams: streams.clone() },
            &mut registry,
            &drain.stop,
            &drain.tasks,
        )?;
        let desired = known(&control, &gates, &drain);
        let metrics = Arc::new(Metrics::new(&mut registry));
        let wires = Wires::default();
        let names = SharedNames::default();
        let dns_metrics = dns::Metrics::new(&mut registry);

        let events = Events::new(control.upstream.clone(), clock.clone());
        let prober = Prober::new(ports.runtime.clone(), records.clone(), events.clone(), clock.clone());
        let words = TerminationMessages::new(config.layout.clone());
        let tools = Tools {
            observer: Observer::new(ports.clone(), records.clone(), clock.clone(), words),
            apply: Apply::new(
                ports.clone(),
                records.clone(),
                events.clone(),
                clock,
                config.layout.clone(),
                wires.clone(),
            ),
            prober: prober.clone(),
            records: records.clone(),
            upstream: control.upstream.clone(),
            events,
            node: node.clone(),
            metrics: metrics.clone(),
        };
        let cluster = cluster::Cluster {
            networks: control.network.clone(),
            network: ports.network.clone(),
            addresses: config.node.addresses.clone(),
            dns: config.dns.clone(),
            names: names.clone(),
            dns_metrics,
            view,
            configured: gates.register("network"),
            named: gates.register("dns"),
            drain: drain.clone(),
        };
        // Ranges from the ledger take effect before the first pod is looked at.
        let cluster = cluster.first().await;
        drain.spawn(cluster.run());
        let programmer = Programmer {
            dataplane: ports.dataplane.clone(),
            network: ports.network.clone(),
            upstream: control.upstream.clone(),
            node: node.clone(),
            names,
            wires,
            programmed: gates.register("services"),
            metrics,
        };
        drain.spawn(programming(programmer, desired.clone(), drain.stop.clone()));
        drain.spawn(service_health(desired.clone(), node.clone(), drain.stop.clone()));
        drain.spawn(prober.run(drain.stop.clone()));
        drain.spawn(pulse.run(drain.stop.clone()));
        drain.spawn(cluster::watch_runtime(unhealthy, gates.register("runtime"), drain.stop.clone()));
        let pods = Pods::new(tools, ports.runtime.clone(), desired.clone(), drain.stop.clone());
        drain.spawn(pods.run());
        let answers = Answers::new(Sources {
            registry,
            desired,
            records,
            cgroups: ports.cgroups.clone(),
            node,
            readiness: Arc::new(gates.clone()),
            dataplane: figures,
        });
        streams.answer_with(answers.kubelet(streams.clone()));
        if let Some(address) = config.metrics_listen {
            serve(address, &answers, &drain).await?;
        }
        Ok(Self { drain, gates, connected: control.connected })
    }

    /// Waits until all parts are in service, or for as long as `patience`: without a scheduler some never are.
    pub async fn ready(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.gates.all_open()).await.is_err() {
            tracing::warn!(waiting_for = ?self.gates.closed(), "running, but not all parts are in service yet");
        }
    }

    /// Ends all tasks; pods go on running.
    pub async fn stop(self) {
        if !self.drain.finish(STOP_DEADLINE).await {
            tracing::warn!("some steps did not end in time and are left to the next start");
        }
    }
}

async fn serve(address: std::net::SocketAddr, answers: &Answers, drain: &Drain) -> Result<(), StartError> {
    let endpoints = Endpoints::bind(address, answers).await?;
    let stop = drain.stop.clone();
    drain.spawn(async move {
        if let Err(error) = endpoints.serve(stop).await {
            tracing::error!(%error, "metrics and health are no longer served");
        }
    });
    Ok(())
}

/// The desired state, once there is one: from the ledger or a whole snapshot. Until then nothing on the node may be
/// taken for an orphan.
fn known(control: &Control, gates: &Gates, drain: &Drain) -> watch::Receiver<Option<Arc<Desired>>> {
    let is_known = |desired: &Arc<Desired>| desired.epoch != 0 || !desired.pods.is_empty();
    let mut from = control.desired.clone();
    let gate = gates.register("desired state");
    let first = from.borrow_and_update().clone();
    let (to, known) = watch::channel(Some(first).filter(is_known));
    let stop = drain.stop.clone();
    drain.spawn(async move {
        loop {
            if to.borrow().is_some() {
                gate.open();
            }
            // Both cancel-safe: a watch and a flag.
            tokio::select! {
                changed = from.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
            let now = from.borrow_and_update().clone();
            if is_known(&now) || to.borrow().is_some() {
                to.send_replace(Some(now));
            }
        }
    });
    known
}

fn control_config(config: &Config) -> Result<ControlConfig, StartError> {
    let scheduler = &config.scheduler;
    let token = match &scheduler.token_file {
        // Only the first join needs it: afterwards the file may be gone.
        Some(path) => match fs::read_to_string(path) {
            Ok(text) => Some(JoinToken::new(text.trim())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(StartError::Token { path: path.clone(), source }),
        },
        None => None,
    };
    let ca_hash = scheduler.ca_hash.as_deref().map(CaPin::parse).transpose().map_err(StartError::Pin)?;
    Ok(ControlConfig {
        scheduler: scheduler.address.clone(),
        node: config.node.name.clone(),
        dir: config.layout.state_dir.join("session"),
        ca_file: scheduler.ca_file.clone(),
        ca_hash,
        token,
    })
}

fn private_directory(path: &Path) -> Result<(), StartError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::Directory { path: path.to_owned(), source })
}

/// Unix milliseconds.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
