//! The command line: what each command does and which exit code its failure has.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser, Subcommand};
use jiff::SignedDuration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    app::{App, Failure, StartError},
    config::{Config, ConfigError, LogFormat},
    pki::{Authority, PkiError, Token, Tokens, Validity, kubeconfig},
    supervisor,
};

/// Exit code: done.
pub const OK: u8 = 0;
/// Exit code: something failed while running.
pub const FAILURE: u8 = 1;
/// Exit code: wrong arguments or configuration; trying again without a change will not help.
pub const BAD_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  Run it (usually systemd does: systemctl enable --now gantry-scheduler):
      gantry-scheduler --config /etc/gantry/scheduler.toml

  Use the cluster from this machine:
      gantry-scheduler kubeconfig --server https://127.0.0.1:6443 > ~/.kube/config
      kubectl get nodes

  Add a machine: make a token, carry it and the CA's hash there, start the agent:
      gantry-scheduler token create

  Let a machine that lost its state directory, or another in its place, have the name of a node that is known:
      gantry-scheduler token create --node worker-1

Exit codes: 0 done, 1 failed while running, 2 wrong arguments or configuration.";

/// The centre of a Gantry cluster: Kubernetes API, controllers, placement and node sessions in one process.
///
/// kubectl talks to it over HTTPS with a client certificate; agents connect to it over gRPC. State is kept in
/// one directory (`data_dir` in the configuration). Back up the database and the keys in it, apart from each other: whoever
/// has the CA's key owns the cluster.
#[derive(Debug, Parser)]
#[command(name = "gantry-scheduler", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// The configuration file. Without it the defaults are used: a cluster on one machine with its state in
    /// /var/lib/gantry/scheduler.
    #[arg(long, global = true, value_name = "FILE", env = "GANTRY_SCHEDULER_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tokens by which new machines join.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Writes a kubeconfig with an administrator's certificate.
    Kubeconfig(Kubeconfig),
    /// Checks the configuration and shows what it comes to.
    CheckConfig,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Makes a token and prints it. It is shown this once; only its hash is kept.
    Create {
        /// How long it may be used: `1h`, `30m`; `0s` means for ever.
        #[arg(long, default_value = "24h", value_name = "TIME")]
        ttl: SignedDuration,
        /// What it is for, shown in lists.
        #[arg(long, default_value = "")]
        description: String,
        /// The one node that it lets in. Needed for a name that is taken: for a machine that lost its state directory, or
        /// that takes another's place.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Lists tokens, without their secrets.
    List,
    /// Forgets a token.
    Delete {
        /// The part before the dot.
        id: String,
    },
}

#[derive(Debug, Args)]
struct Kubeconfig {
    /// The API's address as the client reaches it. Default: `api.advertise` of the configuration.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The user's name in the certificate.
    #[arg(long, default_value = "kubernetes-admin")]
    user: String,
    /// How long the certificate is valid.
    #[arg(long, default_value = "8760h", value_name = "TIME")]
    ttl: SignedDuration,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A time that is negative.
    #[error("--ttl {0} must not be negative")]
    Ttl(SignedDuration),
    /// The runtime did not start.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The scheduler did not start.
    #[error("cannot start")]
    Start(#[from] StartError),
    /// The scheduler ended by itself.
    #[error("stopped")]
    Failed(#[from] Failure),
    /// Certificates and tokens.
    #[error("cannot use the cluster's certificates or tokens")]
    Pki(#[from] PkiError),
    /// There is no such token.
    #[error("there is no token {0:?}")]
    NoToken(String),
    /// Standard output.
    #[error("cannot write the answer")]
    Output(#[source] io::Error),
}

impl CommandError {
    /// Its exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Ttl(_) => BAD_USAGE,
            Self::Runtime(_)
            | Self::Start(_)
            | Self::Failed(_)
            | Self::Pki(_)
            | Self::NoToken(_)
            | Self::Output(_) => FAILURE,
        }
    }
}

/// Does what the arguments say.
pub fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let config = match &arguments.config {
        Some(path) => Config::load(path)?,
        None => Config::parse("", "the default configuration".as_ref())?,
    };
    match &arguments.command {
        None => serve(&config),
        Some(Command::Token { command }) => token(&config, command),
        Some(Command::Kubeconfig(options)) => write_kubeconfig(&config, options),
        Some(Command::CheckConfig) => print(&format!("{config:#?}\n")),
    }
}

fn serve(config: &Config) -> Result<(), CommandError> {
    start_logs(config);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Runtime)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::Runtime)?;
        let mut app = App::start(config).await?;
        supervisor::ready();
        let watchdog = supervisor::watchdog();
        // All are cancel-safe: a signal or failure that is not taken is kept, the watchdog keeps nothing.
        let failure = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            () = watchdog => None,
            failure = app.failed() => Some(failure),
        };
        supervisor::stopping();
        app.stop().await;
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    })
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

fn token(config: &Config, command: &TokenCommand) -> Result<(), CommandError> {
    let tokens = Tokens::open(&config.pki_dir())?;
    match command {
        TokenCommand::Create { ttl, description, node } => {
            let lifetime = lifetime(*ttl)?;
            let token = Token::generate();
            let now = SystemTime::now();
            let lifetime = (!lifetime.is_zero()).then_some(lifetime);
            tokens.add_for(&token, lifetime, description, node.as_deref(), now)?;
            // Standard output is the token alone, for scripts; what to do with it goes beside it.
            let hash = Authority::open(&config.pki_dir(), now)?.ca_hash();
            eprint!("{}", joining(&hash, config.nodes_listen.port()));
            print(&format!("{}\n", token.reveal()))
        }
        TokenCommand::List => {
            let mut text = String::from("ID      EXPIRES               NODE             DESCRIPTION\n");
            for token in tokens.list()? {
                let expires = token.expires.and_then(|at| jiff::Timestamp::try_from(at).ok());
                let expires = expires.map_or_else(|| "never".to_owned(), |at| at.to_string());
                let (id, node) = (token.id.to_string(), token.node.as_deref().unwrap_or("any new one"));
                text.push_str(&format!("{id:<7} {expires:<21} {node:<16} {}\n", token.description));
            }
            print(&text)
        }
        TokenCommand::Delete { id } => {
            let id = id.split('.').next().unwrap_or(id);
            if tokens.remove(id)? { Ok(()) } else { Err(CommandError::NoToken(id.to_owned())) }
        }
    }
}

/// What the new machine's configuration must say.
fn joining(ca_hash: &str, port: u16) -> String {
    format!(
        "On the new machine, write the token below into /etc/gantry/bootstrap-token (mode 0600), and into\n\
         /etc/gantry/agent.toml, with this machine's name or address:\n\n\
         [scheduler]\n\
         address = \"SCHEDULER:{port}\"\n\
         ca_hash = \"{ca_hash}\"\n\
         token_file = \"/etc/gantry/bootstrap-token\"\n\n"
    )
}

fn write_kubeconfig(config: &Config, options: &Kubeconfig) -> Result<(), CommandError> {
    let now = SystemTime::now();
    let authority = Authority::open(&config.pki_dir(), now)?;
    let validity = Validity::starting(now, lifetime(options.ttl)?);
    let client = authority.client(&options.user, &["system:masters"], validity)?;
    let server = options.server.clone().unwrap_or_else(|| format!("https://{}", config.api.advertise));
    print(&kubeconfig(&server, &authority, &options.user, &client))
}

fn lifetime(ttl: SignedDuration) -> Result<Duration, CommandError> {
    Duration::try_from(ttl).map_err(|_| CommandError::Ttl(ttl))
}

fn print(text: &str) -> Result<(), CommandError> {
    io::stdout().write_all(text.as_bytes()).map_err(CommandError::Output)
}
