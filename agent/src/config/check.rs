//! From what is written to what can be: every value parsed and compared with the others.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{
    CgroupConfig, Config, ContainerdConfig, DnsConfig, HandlerConfig, ImagesConfig, LogFormat, LogsConfig,
    NodeConfig, Problems, SchedulerConfig, raw,
};
use crate::{
    dataplane::{DataplaneConfig, TableSizes, TcAttachment},
    model::{Layout, NodeName, NodeTaint},
    net::NetSettings,
    observe::{Threshold, Thresholds},
    plan::{quantity, sysctls},
};

/// RFC 1123, as the API server checks it.
const MAX_NAME: usize = 253;

pub(super) fn check(raw: raw::Config) -> Result<Config, Problems> {
    let mut problems = Problems::default();
    let p = &mut problems;
    let raw::Config {
        node,
        reserved,
        pressure,
        scheduler,
        containerd,
        images,
        cgroup,
        network,
        dataplane,
        dns,
        logs,
        paths,
        metrics,
        log,
    } = raw;
    let layout = layout(p, paths);
    let config = Config {
        node: check_node(p, node, &reserved, &pressure),
        scheduler: check_scheduler(p, scheduler),
        containerd: check_containerd(p, containerd),
        images: ImagesConfig {
            aliases: images.aliases,
            mirrors: images.mirrors,
            plain_http: images.plain_http,
        },
        dataplane: check_dataplane(p, dataplane, &cgroup.mount, network.uplink.as_ref()),
        cgroup: check_cgroup(p, cgroup),
        network: check_network(p, network, &layout),
        dns: check_dns(p, dns),
        logs: check_logs(p, &logs),
        layout,
        metrics_listen: (!metrics.listen.is_empty())
            .then(|| parsed(p, "metrics.listen", &metrics.listen))
            .flatten(),
        log_format: check_log(p, &log),
        log_filter: log.filter,
    };
    if problems == Problems::default() { Ok(config) } else { Err(problems) }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

fn parsed<T>(p: &mut Problems, path: &str, text: &str) -> Option<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text.parse().inspect_err(|error| p.add(path, quoted(text), error)).ok()
}

fn absolute(p: &mut Problems, path: &str, value: &Path) {
    if !value.is_absolute() {
        p.add(path, quoted(&value.display().to_string()), "must be an absolute path");
    }
}

fn duration(p: &mut Problems, path: &str, text: &str) -> Duration {
    let parsed: Option<SignedDuration> = parsed(p, path, text);
    let Some(parsed) = parsed else { return Duration::ZERO };
    Duration::try_from(parsed).unwrap_or_else(|_| {
        p.add(path, quoted(text), "must not be negative");
        Duration::ZERO
    })
}

fn layout(p: &mut Problems, paths: raw::Paths) -> Layout {
    absolute(p, "paths.state_dir", &paths.state_dir);
    absolute(p, "paths.run_dir", &paths.run_dir);
    absolute(p, "paths.log_dir", &paths.log_dir);
    Layout { state_dir: paths.state_dir, run_dir: paths.run_dir, log_dir: paths.log_dir }
}

fn check_node(
    p: &mut Problems,
    node: raw::Node,
    reserved: &raw::Reserved,
    pressure: &raw::Pressure,
) -> NodeConfig {
    let name = if node.name.is_empty() { host_name(p) } else { node.name };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.len() > MAX_NAME
        || !name.chars().all(allowed)
        || !edge(name.chars().next())
        || !edge(name.chars().last())
    {
        let why = "must be a DNS name in lower case: letters, digits, '-' and '.', beginning and ending with a letter or digit";
        p.add("node.name", quoted(&name), why);
    }
    for pattern in &node.allowed_unsafe_sysctls {
        if !sysctls::is_namespaced(pattern) {
            let why = "must be the name or the beginning (\"net.core.*\") of parameters that pods have of their own: \
                       net., kernel.shm, kernel.msg, kernel.sem, fs.mqueue.";
            p.add("node.allowed_unsafe_sysctls", quoted(pattern), why);
        }
    }
    let taints = node.taints.iter().filter_map(|text| taint(p, text)).collect();
    let addresses =
        node.addresses.iter().filter_map(|text| parsed::<IpAddr>(p, "node.addresses", text)).collect();
    let default = Thresholds::default();
    let pressure = Thresholds {
        memory: threshold(p, "pressure.memory", &pressure.memory).unwrap_or(default.memory),
        disk: threshold(p, "pressure.disk", &pressure.disk).unwrap_or(default.disk),
        pids: threshold(p, "pressure.pids", &pressure.pids).unwrap_or(default.pids),
    };
    let mut amount = |path: &str, text: &str, read: fn(&Quantity) -> Option<i64>| {
        read(&Quantity(text.to_owned())).filter(|amount| *amount >= 0).unwrap_or_else(|| {
            p.add(path, quoted(text), "must be a quantity such as \"500m\" or \"1Gi\"");
            0
        })
    };
    NodeConfig {
        pressure,
        reserved_cpu_milli: amount("reserved.cpu", &reserved.cpu, quantity::milli),
        reserved_memory: amount("reserved.memory", &reserved.memory, quantity::value),
        name: NodeName::new(name),
        labels: node.labels,
        taints,
        addresses,
        max_pods: node.max_pods,
        pod_pids: (node.pod_pids > 0).then_some(node.pod_pids),
        allowed_unsafe_sysctls: node.allowed_unsafe_sysctls,
    }
}

/// How little may be free: a quantity, or a share of all there is.
fn threshold(p: &mut Problems, path: &str, text: &str) -> Option<Threshold> {
    let read = if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
        percent.map(|percent: f64| Threshold::Share(percent / 100.0))
    } else {
        let amount = quantity::value(&Quantity(text.to_owned()));
        amount.and_then(|amount| u64::try_from(amount).ok()).map(Threshold::Amount)
    };
    if read.is_none() {
        let why = "must be a quantity such as \"1Gi\", or a share from \"0%\" to \"100%\"";
        p.add(path, quoted(text), why);
    }
    read
}

/// The machine's own name in lower case, when the file gives none.
fn host_name(p: &mut Problems) -> String {
    match nix::unistd::gethostname() {
        Ok(name) => name.to_string_lossy().to_lowercase(),
        Err(errno) => {
            p.add("node.name", quoted(""), format!("the host name cannot be read ({errno}): set it"));
            String::new()
        }
    }
}

/// `key=value:Effect` or `key:Effect`, as kubectl writes taints.
fn taint(p: &mut Problems, text: &str) -> Option<NodeTaint> {
    let parts = text
        .rsplit_once(':')
        .filter(|(_, effect)| matches!(*effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute"));
    let Some((pair, effect)) = parts else {
        p.add("node.taints", quoted(text), "must be key=value:NoSchedule, :PreferNoSchedule or :NoExecute");
        return None;
    };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    Some(NodeTaint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
}

fn check_scheduler(p: &mut Problems, scheduler: raw::Scheduler) -> SchedulerConfig {
    let port = scheduler.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        let why = "must be host:port of the scheduler's node port, for example \"scheduler.example:6444\"";
        p.add("scheduler.address", quoted(&scheduler.address), why);
    }
    if scheduler.ca_file.is_none() && scheduler.ca_hash.is_none() {
        let why = "the scheduler must be known before it is trusted: set ca_file, or ca_hash as `gantry-scheduler token create` prints it";
        p.add("scheduler.ca_file", "unset", why);
    }
    SchedulerConfig {
        address: scheduler.address,
        ca_file: scheduler.ca_file,
        ca_hash: scheduler.ca_hash,
        token_file: scheduler.token_file,
    }
}

fn check_containerd(p: &mut Problems, containerd: raw::Containerd) -> ContainerdConfig {
    absolute(p, "containerd.socket", &containerd.socket);
    let mut handlers: BTreeMap<String, HandlerConfig> = containerd
        .handlers
        .into_iter()
        .map(|(name, handler)| {
            (name, HandlerConfig { runtime_type: handler.runtime_type, binary: handler.binary })
        })
        .collect();
    handlers
        .entry("runc".to_owned())
        .or_insert_with(|| HandlerConfig { runtime_type: raw::runc_shim(), binary: None });
    if !handlers.contains_key(&containerd.default_handler) {
        let known: Vec<_> = handlers.keys().map(String::as_str).collect();
        let why = format!("is none of the handlers: {}", known.join(", "));
        p.add("containerd.default_handler", quoted(&containerd.default_handler), why);
    }
    ContainerdConfig {
        socket: containerd.socket,
        namespace: containerd.namespace,
        snapshotter: containerd.snapshotter,
        default_handler: containerd.default_handler,
        handlers,
        logger: containerd.logger,
    }
}

fn check_cgroup(p: &mut Problems, cgroup: raw::Cgroup) -> CgroupConfig {
    absolute(p, "cgroup.mount", &cgroup.mount);
    let required = match cgroup.enforcement.as_str() {
        "required" => true,
        "best-effort" => false,
        other => {
            p.add("cgroup.enforcement", quoted(other), "must be \"required\" or \"best-effort\"");
            true
        }
    };
    if let Some(root) = cgroup.root.as_ref().filter(|root| !root.starts_with('/')) {
        p.add("cgroup.root", quoted(root), "must begin with '/': it is a path below cgroup.mount");
    }
    CgroupConfig { mount: cgroup.mount, root: cgroup.root, required }
}

fn check_network(p: &mut Problems, network: raw::Network, layout: &Layout) -> NetSettings {
    if let Some(mtu) = network.mtu.filter(|mtu| !(1280..=65535).contains(mtu)) {
        p.add("network.mtu", mtu, "must be from 1280 to 65535");
    }
    NetSettings {
        namespaces_dir: layout.namespaces_dir(),
        addresses_file: layout.addresses_file(),
        uplink: network.uplink,
        mtu: network.mtu,
        hold_back: duration(p, "network.hold_back", &network.hold_back),
        masquerade: network.masquerade,
        reserved_file: layout.reserved_ports_file(),
    }
}

fn check_dataplane(
    p: &mut Problems,
    dataplane: raw::Dataplane,
    cgroup_mount: &Path,
    uplink: Option<&String>,
) -> DataplaneConfig {
    absolute(p, "dataplane.bpffs", &dataplane.bpffs);
    let cgroup: PathBuf = dataplane.cgroup.unwrap_or_else(|| cgroup_mount.to_owned());
    absolute(p, "dataplane.cgroup", &cgroup);
    let default = TableSizes::default();
    let mut size = |path: &str, value: Option<u32>, default: u32| match value {
        Some(0) => {
            p.add(path, 0, "must be at least 1");
            default
        }
        value => value.unwrap_or(default),
    };
    DataplaneConfig {
        sizes: TableSizes {
            frontends: size("dataplane.frontends", dataplane.frontends, default.frontends),
            backends: size("dataplane.backends", dataplane.backends, default.backends),
            affinity: size("dataplane.affinity", dataplane.affinity, default.affinity),
            flows: size("dataplane.flows", dataplane.flows, default.flows),
            pods: size("dataplane.pods", dataplane.pods, default.pods),
        },
        pins: dataplane.bpffs,
        cgroup,
        uplink: uplink.cloned(),
        pod_sockets: dataplane.pod_sockets,
        tc: TcAttachment::Newest,
    }
}

fn check_dns(p: &mut Problems, dns: raw::Dns) -> DnsConfig {
    absolute(p, "dns.resolv_conf", &dns.resolv_conf);
    let mut server = |text: &String| {
        // The port is the usual one unless it is written.
        let bare = text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 53));
        bare.or_else(|| parsed(p, "dns.servers", text))
    };
    let servers = dns.servers.iter().filter_map(&mut server).collect();
    DnsConfig {
        servers,
        resolv_conf: dns.resolv_conf,
        timeout: duration(p, "dns.timeout", &dns.timeout),
        cache_entries: dns.cache_entries,
    }
}

fn check_logs(p: &mut Problems, logs: &raw::Logs) -> LogsConfig {
    let size = quantity::value(&Quantity(logs.max_size.clone())).and_then(|size| u64::try_from(size).ok());
    let size = size.filter(|size| *size >= 4096).unwrap_or_else(|| {
        p.add("logs.max_size", quoted(&logs.max_size), "must be a quantity of at least 4Ki");
        0
    });
    if logs.max_files == 0 {
        p.add("logs.max_files", 0, "must be at least 1");
    }
    LogsConfig { max_bytes: size, max_files: logs.max_files }
}

fn check_log(p: &mut Problems, log: &raw::Log) -> LogFormat {
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&log.filter) {
        p.add("log.filter", quoted(&log.filter), error);
    }
    match log.format.as_str() {
        "human" => LogFormat::Human,
        "json" => LogFormat::Json,
        other => {
            p.add("log.format", quoted(other), "must be \"human\" or \"json\"");
            LogFormat::Human
        }
    }
}
