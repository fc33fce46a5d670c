//! The configuration file of the agent: raw TOML in, a [`Config`] that cannot be invalid out. Nothing below the
//! composition root reads files, environment or defaults of its own.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    dataplane::DataplaneConfig,
    model::{Layout, NodeName, NodeTaint},
    net::NetSettings,
    observe::Thresholds,
};

mod check;
mod raw;
#[cfg(test)]
mod tests;

/// Everything the agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who it is.
    pub node: NodeConfig,
    /// Whom it serves.
    pub scheduler: SchedulerConfig,
    /// What runs containers.
    pub containerd: ContainerdConfig,
    /// Where images come from.
    pub images: ImagesConfig,
    /// Limits.
    pub cgroup: CgroupConfig,
    /// Pod networking.
    pub network: NetSettings,
    /// The service datapath.
    pub dataplane: DataplaneConfig,
    /// Name service of pods.
    pub dns: DnsConfig,
    /// Container logs.
    pub logs: LogsConfig,
    /// Directories.
    pub layout: Layout,
    /// Where metrics and health are served; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Which logs are written, in tracing's filter syntax.
    pub log_filter: String,
}

/// Who the node is.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// Its name in the cluster.
    pub name: NodeName,
    /// Labels besides those that every node has.
    pub labels: BTreeMap<String, String>,
    /// Taints of a new node.
    pub taints: Vec<NodeTaint>,
    /// Internal addresses; empty: those of the uplink.
    pub addresses: Vec<IpAddr>,
    /// Most pods.
    pub max_pods: u32,
    /// Most processes of one pod; `None`: no limit.
    pub pod_pids: Option<i64>,
    /// Kernel parameters that pods may set besides the safe ones: names, or their beginnings with a `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// CPU kept for the machine itself, in millicores.
    pub reserved_cpu_milli: i64,
    /// Memory kept for the machine itself, in bytes.
    pub reserved_memory: i64,
    /// What must be free, or no new pods come.
    pub pressure: Thresholds,
}

/// Whom the node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// `host:port` of the scheduler's node port.
    pub address: String,
    /// The cluster CA, brought here by other means.
    pub ca_file: Option<PathBuf>,
    /// Or the hash of its public key: `sha256:...`.
    pub ca_hash: Option<String>,
    /// Holds the bootstrap token for the first join.
    pub token_file: Option<PathBuf>,
}

/// What runs containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerdConfig {
    /// Its socket.
    pub socket: PathBuf,
    /// Our namespace in it: one per agent.
    pub namespace: String,
    /// Where root file systems come from.
    pub snapshotter: String,
    /// Handler of pods without a RuntimeClass.
    pub default_handler: String,
    /// Handlers by the name a RuntimeClass has for them.
    pub handlers: BTreeMap<String, HandlerConfig>,
    /// The program that writes container logs; `None`: `gantry-logger` beside the agent.
    pub logger: Option<PathBuf>,
}

/// A runtime handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerConfig {
    /// The shim: `io.containerd.runc.v2`.
    pub runtime_type: String,
    /// The OCI runtime it calls; `None`: the shim's default.
    pub binary: Option<String>,
}

/// Where images come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagesConfig {
    /// Image names that are served under another one: `repository` or `repository:tag` to the same.
    pub aliases: BTreeMap<String, String>,
    /// Registry host to the hosts that are asked before it.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts (`host:port`) that speak HTTP without TLS.
    pub plain_http: Vec<String>,
}

/// Limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupConfig {
    /// Where cgroup v2 is mounted.
    pub mount: PathBuf,
    /// The agent's own directory below the mount; `None`: the cgroup the agent was started in.
    pub root: Option<String>,
    /// Refuse to run where limits cannot be enforced.
    pub required: bool,
}

/// Name service of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Servers for names outside the cluster; empty: those of `resolv_conf`.
    pub servers: Vec<SocketAddr>,
    /// The node's own resolver configuration.
    pub resolv_conf: PathBuf,
    /// How long one server may take.
    pub timeout: Duration,
    /// Forwarded answers that are kept at most.
    pub cache_entries: usize,
}

/// Container logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogsConfig {
    /// A file is rotated when it is so large.
    pub max_bytes: u64,
    /// Files kept per container.
    pub max_files: u32,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// For machines.
    Json,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not TOML, or has keys that are not known.
    #[error("{path} is not a valid configuration")]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Why and where.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Values that cannot be.
    #[error("{path} has wrong values:{problems}")]
    Values {
        /// Which file.
        path: PathBuf,
        /// All of them.
        problems: Problems,
    },
}

/// Everything that is wrong, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Notes a problem of a value.
    fn add(&mut self, path: &str, value: impl fmt::Display, why: impl fmt::Display) {
        self.0.push(format!("{path} = {value}: {why}"));
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl Config {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// From the text of a file; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: raw::Config = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: source.into() })?;
        check::check(raw).map_err(|problems| ConfigError::Values { path: path.to_owned(), problems })
    }
}
