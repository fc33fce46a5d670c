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
    config::{Config, DnsConfig},
    control::{CaPin, Control, ControlConfig, ControlError, ControlParts, JoinToken, TlsError},
    dataplane::Snapshot,
    dns::{self, DnsSettings, SharedNames, Upstreams},
    lifecycle::{Drain, Gates},
    observe::{Clock, Heard, Host, Observer, Ports, Pulse, TerminationMessages},
    probes::Prober,
    reconcile::{
        Metrics, NameServer, NodeConditions, NodeNetworker, NodeNetworking, Pods, Programmer, TableNetwork,
        Tools, known, programming,
    },
    records::Records,
    runtime::Timed,
    serve::{Answers, Endpoints, ServeError, Sources, service_health},
    streams::NodeStreams,
};

mod adapters;
mod reporter;
mod view;

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
        let (view, node) = watch::channel(Arc::new(view::view(config, &host, &machine, &*ports.cgroups)));
        let (runtime, network) = (ports.runtime.clone(), ports.network.clone());
        let streams = Arc::new(NodeStreams::new(runtime, network, records.clone(), node.clone()));
        let (health, unhealthy) = watch::channel(None);
        let (hearing, heard) = watch::channel(Heard::default());
        let (runtime, images) = (ports.runtime.clone(), ports.images.clone());
        let pulse = Pulse { runtime, images, health, heard: hearing };
        let conditions = NodeConditions {
            host: host.clone(),
            thresholds: config.node.pressure,
            cgroups: ports.cgroups.clone(),
            view: node.clone(),
            health: unhealthy.clone(),
        };
        let reporter = Arc::new(reporter::Reporter {
            node: config.node.clone(),
            port: config.metrics_listen.map(|address| address.port()),
            host,
            machine,
            view: node.clone(),
            heard,
            cgroups: ports.cgroups.clone(),
            records: records.clone(),
            conditions,
            clock: clock.clone(),
        });
        let control = Control::start(
            ControlParts { config: control_config(config)?, reporter, streams: streams.clone() },
            &mut registry,
            &drain.stop,
            &drain.tasks,
        )?;
        let desired = known(control.desired.clone(), gates.register("desired state"), &drain);
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
        let table_network = TableNetwork::default();
        let networking = NodeNetworking {
            network: ports.network.clone(),
            dataplane: ports.dataplane.clone(),
            ranges: control.network.clone(),
            table: table_network.clone(),
            view,
            fixed_addresses: !config.node.addresses.is_empty(),
            configured: gates.register("network"),
        };
        // Ranges from the ledger take effect before the first pod is looked at.
        let networker = NodeNetworker::start(networking).await;
        drain.spawn(networker.run(drain.stop.clone()));
        let name_server = NameServer {
            view: node.clone(),
            settings: dns_settings(&config.dns),
            names: names.clone(),
            metrics: dns_metrics,
            served: gates.register("dns"),
            drain: drain.clone(),
        };
        drain.spawn(name_server.run());
        let programmer = Programmer {
            dataplane: ports.dataplane.clone(),
            network: ports.network.clone(),
            table_network,
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
        let runtime = gates.register("runtime");
        drain.spawn(runtime.follow(unhealthy, Option::is_none, drain.stop.clone()));
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

fn dns_settings(config: &DnsConfig) -> DnsSettings {
    let upstreams = if config.servers.is_empty() {
        Upstreams::ResolvConf(config.resolv_conf.clone())
    } else {
        Upstreams::Servers(config.servers.clone())
    };
    DnsSettings { upstreams, timeout: config.timeout, cache_entries: config.cache_entries }
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
