//! The file as it is written. Only the scheduler's address has no default.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Config {
    pub(super) node: Node,
    pub(super) reserved: Reserved,
    pub(super) pressure: Pressure,
    pub(super) scheduler: Scheduler,
    pub(super) containerd: Containerd,
    pub(super) images: Images,
    pub(super) cgroup: Cgroup,
    pub(super) network: Network,
    pub(super) dataplane: Dataplane,
    pub(super) dns: Dns,
    pub(super) logs: Logs,
    pub(super) paths: Paths,
    pub(super) metrics: Metrics,
    pub(super) log: Log,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<String>,
    pub(super) addresses: Vec<String>,
    pub(super) max_pods: u32,
    pub(super) pod_pids: i64,
    pub(super) allowed_unsafe_sysctls: Vec<String>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: String::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            addresses: Vec::new(),
            max_pods: 110,
            pod_pids: 0,
            allowed_unsafe_sysctls: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reserved {
    pub(super) cpu: String,
    pub(super) memory: String,
}

impl Default for Reserved {
    fn default() -> Self {
        Self { cpu: "0".into(), memory: "0".into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Pressure {
    pub(super) memory: String,
    pub(super) disk: String,
    pub(super) pids: String,
}

impl Default for Pressure {
    fn default() -> Self {
        Self { memory: "100Mi".into(), disk: "10%".into(), pids: "5%".into() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scheduler {
    pub(super) address: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) ca_hash: Option<String>,
    pub(super) token_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Containerd {
    pub(super) socket: PathBuf,
    pub(super) namespace: String,
    pub(super) snapshotter: String,
    pub(super) default_handler: String,
    pub(super) handlers: BTreeMap<String, Handler>,
    pub(super) logger: Option<PathBuf>,
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            socket: "/run/containerd/containerd.sock".into(),
            namespace: "gantry".into(),
            snapshotter: "overlayfs".into(),
            default_handler: "runc".into(),
            handlers: BTreeMap::new(),
            logger: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Handler {
    #[serde(default = "runc_shim")]
    pub(super) runtime_type: String,
    pub(super) binary: Option<String>,
}

pub(super) fn runc_shim() -> String {
    "io.containerd.runc.v2".into()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Images {
    pub(super) aliases: BTreeMap<String, String>,
    pub(super) mirrors: BTreeMap<String, Vec<String>>,
    pub(super) plain_http: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cgroup {
    pub(super) mount: PathBuf,
    pub(super) root: Option<String>,
    pub(super) enforcement: String,
}

impl Default for Cgroup {
    fn default() -> Self {
        Self {
            mount: "/sys/fs/cgroup".into(),
            // Not the cgroup of the systemd unit: before version 254 systemd puts a restarted service into that
            // cgroup itself, which the kernel refuses once controllers are given to cgroups below it.
            root: Some("/gantry".into()),
            enforcement: "required".into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Network {
    pub(super) uplink: Option<String>,
    pub(super) mtu: Option<u32>,
    pub(super) hold_back: String,
    pub(super) masquerade: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self { uplink: None, mtu: None, hold_back: "60s".into(), masquerade: true }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Dataplane {
    pub(super) bpffs: PathBuf,
    pub(super) cgroup: Option<PathBuf>,
    pub(super) pod_sockets: bool,
    pub(super) frontends: Option<u32>,
    pub(super) backends: Option<u32>,
    pub(super) affinity: Option<u32>,
    pub(super) flows: Option<u32>,
    pub(super) pods: Option<u32>,
}

impl Default for Dataplane {
    fn default() -> Self {
        Self {
            bpffs: "/sys/fs/bpf/gantry".into(),
            cgroup: None,
            pod_sockets: true,
            frontends: None,
            backends: None,
            affinity: None,
            flows: None,
            pods: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Dns {
    pub(super) servers: Vec<String>,
    pub(super) resolv_conf: PathBuf,
    pub(super) timeout: String,
    pub(super) cache_entries: usize,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            timeout: "2s".into(),
            cache_entries: 4096,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Logs {
    pub(super) max_size: String,
    pub(super) max_files: u32,
}

impl Default for Logs {
    fn default() -> Self {
        Self { max_size: "10Mi".into(), max_files: 5 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Paths {
    pub(super) state_dir: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) log_dir: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/gantry/agent".into(),
            run_dir: "/run/gantry".into(),
            log_dir: "/var/log/pods".into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub(super) listen: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: "127.0.0.1:10250".into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) format: String,
    pub(super) filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: "human".into(), filter: "info".into() }
    }
}
