//! The command line: what each command does and which exit code its failure has.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Parser, Subcommand};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    app::{self, AdapterError, App, StartError},
    config::{Config, ConfigError, LogFormat},
    sys::memory,
};

/// Exit code: done.
pub const OK: u8 = 0;
/// Exit code: something failed while starting or running; systemd tries again.
pub const FAILURE: u8 = 1;
/// Exit code: wrong arguments or configuration; trying again without a change will not help.
pub const BAD_USAGE: u8 = 2;

/// How long the start waits for the scheduler and containerd before it reports ready all the same: pods of the ledger
/// must not wait for either.
const PATIENCE: Duration = Duration::from_secs(20);

/// The agent waits much and computes little: more threads would only cost memory.
const WORKERS: usize = 4;
/// Threads for file work; what is more waits its turn.
const BLOCKING: usize = 8;
/// How long such a thread outlives its work.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "\
Examples:
  Run it (usually systemd does: systemctl enable --now gantry-agent):
      gantry-agent --config /etc/gantry/agent.toml

  The least that the configuration must say, and how to get it from the scheduler's machine
  (gantry-scheduler token create):
      [scheduler]
      address = \"scheduler.example:6444\"
      ca_hash = \"sha256:...\"
      token_file = \"/etc/gantry/token\"

  See what a configuration comes to, before it is used:
      gantry-agent --config /etc/gantry/agent.toml check-config

  Look at a running agent:
      curl http://127.0.0.1:10250/readyz
      curl http://127.0.0.1:10250/metrics

SIGTERM ends the agent and leaves pods, networking and services as they are; the next start takes them over.

Exit codes: 0 done, 1 failed while starting or running, 2 wrong arguments or configuration.";

/// The Gantry agent of one worker machine: runs its pods through containerd, enforces CPU and memory with cgroups v2,
/// load-balances services in eBPF, answers cluster DNS and reports metrics.
///
/// It must run as root, on a host with cgroup v2 and Linux 5.15 or newer. It dials the scheduler; nothing needs to reach
/// it. What the scheduler wanted last is kept on disk, so that the machine starts its pods after a reboot without it.
#[derive(Debug, Parser)]
#[command(name = "gantry-agent", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "GANTRY_AGENT_CONFIG",
        default_value = "/etc/gantry/agent.toml"
    )]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks the configuration and shows what it comes to.
    CheckConfig,
    /// Removes the service datapath from the kernel: programs, maps, attachments. Services stop working on this machine
    /// until the agent is started again.
    UninstallDatapath,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The runtime did not start.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// containerd, limits, network or datapath.
    #[error("this machine cannot be used as configured")]
    Adapters(#[from] AdapterError),
    /// The agent did not start.
    #[error("cannot start")]
    Start(#[from] StartError),
    /// The datapath.
    #[error("cannot remove the datapath")]
    Uninstall(#[source] crate::dataplane::DataplaneError),
    /// What was reserved for the datapath.
    #[error("cannot give back the ports that were reserved for the datapath")]
    Ports(#[source] crate::net::NetError),
    /// Standard output.
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
}

impl CommandError {
    /// Its exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Start(StartError::Pin(_)) => BAD_USAGE,
            Self::Runtime(_)
            | Self::Adapters(_)
            | Self::Start(_)
            | Self::Uninstall(_)
            | Self::Ports(_)
            | Self::Output(_) => FAILURE,
        }
    }
}

/// Does what the arguments say.
pub fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let config = Config::load(&arguments.config)?;
    match arguments.command {
        None => serve(&config),
        Some(Command::CheckConfig) => {
            let mut out = io::stdout().lock();
            writeln!(out, "{config:#?}").and_then(|()| out.flush()).map_err(CommandError::Output)
        }
        Some(Command::UninstallDatapath) => {
            crate::dataplane::EbpfDataplane::uninstall(&config.dataplane).map_err(CommandError::Uninstall)?;
            // Last: until then a flow may use one.
            crate::net::give_back_ports(&config.network).map_err(CommandError::Ports)
        }
    }
}

fn serve(config: &Config) -> Result<(), CommandError> {
    memory::keep_small();
    start_logs(config);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, "starting");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(WORKERS))
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(KEEP_ALIVE)
        .enable_all()
        .build()
        .map_err(CommandError::Runtime)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::Runtime)?;
        let adapters = app::open(config).await?;
        let app = App::start(config, adapters).await?;
        let running = async {
            app.ready(PATIENCE).await;
            notify(&[NotifyState::Ready]);
            tracing::info!(node = %config.node.name, "started");
            watchdog().await;
        };
        // All cancel-safe: signals that are not taken are kept, and the rest only tells systemd.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = running => {}
        }
        tracing::info!("stopping; pods keep running");
        notify(&[NotifyState::Stopping]);
        app.stop().await;
        Ok(())
    })
}

/// Tells systemd twice per interval that the runtime still turns; for ever.
async fn watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut tick = tokio::time::interval(interval / 2);
    loop {
        tick.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Without systemd there is nobody to tell.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

fn start_logs(config: &Config) {
    let filter = EnvFilter::try_new(&config.log_filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for people at a terminal, not for files and the journal.
    let colours = io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr);
    match config.log_format {
        LogFormat::Human => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}
