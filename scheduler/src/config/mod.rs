//! The configuration file of the scheduler: raw TOML in, a [`Config`] that cannot be invalid out.
//!
//! Unknown keys are refused, and all wrong values are reported at once, each with its path and the value.
//! Nothing below this module reads the file or the environment.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::Ipv4Net;

mod check;
mod raw;

#[cfg(test)]
mod tests;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where state is kept, mode 0700.
    pub data_dir: PathBuf,
    /// The Kubernetes API.
    pub api: ApiConfig,
    /// Where agents connect.
    pub nodes_listen: SocketAddr,
    /// Connections of agents, in total and of one node.
    pub nodes_connections: ConnectionLimits,
    /// Prometheus metrics and health, in plain text; `None`: not served.
    pub metrics_listen: Option<SocketAddr>,
    /// Names and addresses of the cluster.
    pub cluster: ClusterConfig,
    /// Times.
    pub timing: Timing,
    /// How log lines look.
    pub log_format: LogFormat,
    /// A filter as `tracing` takes it: `info`, `gantry_scheduler=debug,info`.
    pub log_filter: String,
}

/// The Kubernetes API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where clients and pods reach it: the endpoint of the Service `kubernetes`.
    pub advertise: SocketAddr,
    /// Further DNS names and IP addresses in the serving certificate.
    pub names: Vec<String>,
    /// Connections in total and of one user.
    pub connections: ConnectionLimits,
    /// Requests that only read, worked on at a time; 0: any number.
    pub reads_in_flight: usize,
    /// Those that write.
    pub writes_in_flight: usize,
}

/// How many connections a port takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In total.
    pub total: usize,
    /// Of one user, or one node.
    pub each: usize,
}

/// Names and addresses of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// DNS domain: `cluster.local`.
    pub domain: String,
    /// ClusterIPs are taken from here.
    pub service_cidr: Ipv4Net,
    /// Where pods find DNS: inside `service_cidr`.
    pub dns_ip: Ipv4Addr,
    /// Nodes' pod ranges are cut from here.
    pub pod_cidr: Ipv4Net,
    /// Prefix length of one node's range.
    pub node_mask: u8,
    /// NodePorts are taken from here.
    pub node_ports: RangeInclusive<u16>,
    /// Load balancer addresses are taken from here; empty: none are given.
    pub load_balancer_pool: Vec<Ipv4Net>,
}

impl ClusterConfig {
    /// The address of the Service `kubernetes`: the first of the range, as upstream.
    pub fn api_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.service_cidr.network()).saturating_add(1))
    }
}

/// Times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Agents send a heartbeat this often.
    pub heartbeat: Duration,
    /// A node without a heartbeat for so long counts as lost.
    pub lease: Duration,
    /// Pods of a lost node are evicted after this, unless they tolerate it for another time.
    pub eviction: Duration,
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

    /// Every name and address in the serving certificate.
    pub fn serving_names(&self) -> Vec<String> {
        let domain = &self.cluster.domain;
        let mut names: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
                .map(str::to_owned)
                .to_vec();
        names.push(format!("kubernetes.default.svc.{domain}"));
        names.push(self.cluster.api_ip().to_string());
        names.extend(["127.0.0.1".to_owned(), "::1".to_owned()]);
        for address in [self.api.listen, self.api.advertise, self.nodes_listen] {
            if !address.ip().is_unspecified() {
                names.push(address.ip().to_string());
            }
        }
        names.extend(self.api.names.iter().cloned());
        let mut seen = std::collections::HashSet::new();
        names.retain(|n| seen.insert(n.clone()));
        names
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("gantry.db")
    }

    /// Where the keys that seal secrets are.
    pub fn secrets_key(&self) -> PathBuf {
        self.data_dir.join("secrets.key")
    }

    /// Where the CA and the bootstrap tokens are.
    pub fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }
}

/// An address to tell others when we listen on all: the first that is not loopback would be a guess, so
/// loopback, which is right on one machine and visibly wrong elsewhere.
fn advertised(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        ip if !ip.is_unspecified() => listen,
        _ => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port()),
    }
}
