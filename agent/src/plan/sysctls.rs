//! Kernel parameters of a pod. Only those of a namespace of its own: others would be the whole node's. Upstream's safe
//! ones are for everybody; further ones only where the node's configuration allows them.

use std::collections::BTreeMap;

use crate::model::spec::host_network;
use k8s_openapi::api::core::v1::{Pod, Sysctl};

/// Parameters that a pod may set without harm to others: upstream's list, for the kernels that the agent runs on.
const SAFE: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

/// Which namespace a parameter is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Net,
    Ipc,
}

impl Namespace {
    fn of(name: &str) -> Option<Self> {
        if name.starts_with("net.") {
            return Some(Self::Net);
        }
        let ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        ipc.iter().any(|prefix| name.starts_with(prefix)).then_some(Self::Ipc)
    }

    /// As upstream writes it.
    fn name(self) -> &'static str {
        match self {
            Self::Net => "Net",
            Self::Ipc => "IPC",
        }
    }
}

/// Whether a pattern of the configuration (`net.core.*`, or a whole name) is about parameters that have a namespace.
pub fn is_namespaced(pattern: &str) -> bool {
    Namespace::of(&dotted(pattern)).is_some()
}

/// Why the pod may not have its parameters, in upstream's words. `allowed` are the patterns of the configuration.
pub(super) fn check(pod: &Pod, allowed: &[String]) -> Result<(), String> {
    let host_ipc = pod.spec.as_ref().and_then(|spec| spec.host_ipc) == Some(true);
    for sysctl in wanted(pod) {
        let name = dotted(&sysctl.name);
        let allows = |pattern: &String| match dotted(pattern).strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => dotted(pattern) == name,
        };
        let known = SAFE.contains(&name.as_str()) || allowed.iter().any(allows);
        let Some(namespace) = Namespace::of(&name).filter(|_| known) else {
            return Err(format!("{name:?} not allowlisted"));
        };
        let shared = match namespace {
            Namespace::Net => host_network(pod),
            Namespace::Ipc => host_ipc,
        };
        if shared {
            return Err(format!("{name:?} not allowed with host {} enabled", namespace.name()));
        }
    }
    Ok(())
}

/// Name (with dots) to value.
pub(super) fn values(pod: &Pod) -> BTreeMap<String, String> {
    wanted(pod).map(|sysctl| (dotted(&sysctl.name), sysctl.value.clone())).collect()
}

fn wanted(pod: &Pod) -> impl Iterator<Item = &Sysctl> {
    let list = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.sysctls.as_ref());
    list.into_iter().flatten()
}

/// `net/ipv4/ip_forward` and `net.ipv4.ip_forward` are the same; where a slash comes first, dots are part of names.
fn dotted(name: &str) -> String {
    let separator = name.find(['.', '/']).and_then(|at| name[at..].chars().next());
    if separator != Some('/') {
        return name.to_owned();
    }
    let swapped = |c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    name.chars().map(swapped).collect()
}
