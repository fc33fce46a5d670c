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
    pki::{Authority, PkiError, Token, Tokens, Validity, is_node_name, kubeconfig},
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
        #[arg(long, default_value = "24h", value_name = "TIME", value_parser = lifetime)]
        ttl: Duration,
        /// What it is for, shown in lists.
        #[arg(long, default_value = "", value_parser = one_line)]
        description: String,
        /// The one node that it lets in. Needed for a name that is taken: for a machine that lost its state directory, or
        /// that takes another's place.
        #[arg(long, value_name = "NAME", value_parser = node_name)]
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
    #[arg(long, value_name = "URL", value_parser = server_url)]
    server: Option<String>,
    /// The user's name in the certificate.
    #[arg(long, default_value = "kubernetes-admin", value_parser = user_name)]
    user: String,
    /// How long the certificate is valid.
    #[arg(long, default_value = "8760h", value_name = "TIME", value_parser = validity)]
    ttl: Duration,
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
            Self::Config(_) => BAD_USAGE,
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
            let token = Token::generate();
            let now = SystemTime::now();
            let lifetime = (!ttl.is_zero()).then_some(*ttl);
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
    let validity = Validity::starting(now, options.ttl);
    let client = authority.client(&options.user, &["system:masters"], validity)?;
    let server = options.server.clone().unwrap_or_else(|| format!("https://{}", config.api.advertise));
    print(&kubeconfig(&server, &authority, &options.user, &client))
}

/// An address that clients can reach the API at.
fn server_url(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "give an https URL with a host, such as https://scheduler.example.com:6443";
    let url: http::Uri = text.parse().map_err(|why| format!("{why}: {EXAMPLE}"))?;
    let wrong = match (url.scheme_str(), url.authority()) {
        (Some("https"), Some(authority)) => {
            let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
            match (authority.host(), port, authority.port_u16()) {
                _ if authority.as_str().contains('@') => "it names a user",
                ("", ..) => "it has no host",
                (_, "", _) | (_, _, Some(1..)) if url.query().is_none() => return Ok(text.to_owned()),
                (_, "", _) | (_, _, Some(1..)) => "it has a query",
                _ => "its port is none from 1 to 65535",
            }
        }
        (Some("http"), _) => "the API is served over TLS alone",
        _ => "it does not begin with https://",
    };
    Err(format!("{wrong}: {EXAMPLE}"))
}

/// A user as a certificate names one.
fn user_name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("a certificate must name somebody: give a name, such as kubernetes-admin".to_owned());
    }
    one_line(text)
}

/// What is shown in a line of a list.
fn one_line(text: &str) -> Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("it must be one line without control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// A node's name.
fn node_name(text: &str) -> Result<String, String> {
    if is_node_name(text) {
        return Ok(text.to_owned());
    }
    Err("a node's name has lower-case letters, digits, `-` and `.`, begins and ends with a letter or digit, and is not \
         longer than 253: give the one that `kubectl get nodes` shows"
        .to_owned())
}

/// No clock goes further than a certificate can say; a hundred years are enough for anybody.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A time from now on, or none.
fn lifetime(text: &str) -> Result<Duration, String> {
    let wanted: SignedDuration =
        text.parse().map_err(|why| format!("{why}: give a time such as 24h or 30m"))?;
    match Duration::try_from(wanted) {
        Err(_) => Err("it must not be negative".to_owned()),
        Ok(wanted) if wanted > LONGEST => Err("it must not be longer than a hundred years".to_owned()),
        Ok(wanted) => Ok(wanted),
    }
}

/// A time from now on.
fn validity(text: &str) -> Result<Duration, String> {
    match lifetime(text)? {
        Duration::ZERO => {
            Err("a certificate without a validity is of no use: give a time such as 24h".to_owned())
        }
        wanted => Ok(wanted),
    }
}

fn print(text: &str) -> Result<(), CommandError> {
    io::stdout().write_all(text.as_bytes()).map_err(CommandError::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &[&str]) -> Option<String> {
        let arguments = Arguments::try_parse_from([&["gantry-scheduler"], line].concat());
        arguments.err().map(|error| error.to_string())
    }

    #[test]
    fn a_server_is_an_https_url_with_a_host() {
        for url in [
            "https://127.0.0.1:6443",
            "https://[::1]:6443",
            "https://api.example.com",
            "https://api.example.com/",
            "https://api.example.com:443/cluster",
        ] {
            assert_eq!(refused(&["kubeconfig", "--server", url]), None, "{url}");
        }
        for (url, why) in [
            ("bogus", "it does not begin with https://"),
            ("10.0.0.1:6443", "it does not begin with https://"),
            ("http://10.0.0.1:6443", "the API is served over TLS alone"),
            ("https://", ""),
            ("https://:6443", ""),
            ("https://me@10.0.0.1", "it names a user"),
            ("https://10.0.0.1:99999", "its port is none"),
            ("https://10.0.0.1:", ""),
            ("https://10.0.0.1:0", "its port is none"),
            ("https://10.0.0.1/?x=1", "it has a query"),
            ("https://a b", ""),
            ("", ""),
        ] {
            let said = refused(&["kubeconfig", "--server", url]).unwrap_or_default();
            assert!(said.contains(why) && said.contains("give an https URL with a host"), "{url}: {said}");
        }
    }

    #[test]
    fn what_a_command_cannot_use_is_refused_with_what_to_do() {
        for (line, why) in [
            (&["kubeconfig", "--user", ""][..], "give a name"),
            (&["kubeconfig", "--user", "a\nb"], "one line"),
            (&["kubeconfig", "--ttl", "0s"], "give a time"),
            (&["kubeconfig", "--ttl", "soon"], "give a time"),
            (&["kubeconfig", "--ttl=-1h"], "must not be negative"),
            (&["kubeconfig", "--ttl", "99999999h"], "a hundred years"),
            (&["token", "create", "--ttl=-1h"], "must not be negative"),
            (&["token", "create", "--ttl", "99999999h"], "a hundred years"),
            (&["token", "create", "--node", "Worker_1"], "kubectl get nodes"),
            (&["token", "create", "--description", "a\tb"], "one line"),
        ] {
            let said = refused(line).unwrap_or_default();
            assert!(said.contains(why), "{line:?}: {said}");
        }
        assert_eq!(refused(&["token", "create", "--ttl", "0s", "--node", "worker-1"]), None);
    }
}
