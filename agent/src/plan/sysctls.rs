//! Kernel parameters of a pod. Only those of a namespace of its own: others would be the whole node's.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::pod::host_network;

/// Parameters of the IPC namespace; those of the network namespace are everything below `net.`.
const IPC: [&str; 4] = ["kernel.shm", "kernel.msg", "fs.mqueue.", "kernel.sem"];

/// Name (with dots) to value, or what cannot be set.
pub(super) fn sysctls(pod: &Pod) -> Result<BTreeMap<String, String>, String> {
    let spec = pod.spec.as_ref();
    let host_ipc = spec.and_then(|spec| spec.host_ipc) == Some(true);
    let list = spec.and_then(|spec| spec.security_context.as_ref()?.sysctls.as_ref());
    let mut all = BTreeMap::new();
    for sysctl in list.into_iter().flatten() {
        let name = dotted(&sysctl.name);
        let of_network = name.starts_with("net.");
        let of_ipc = IPC.iter().any(|prefix| name.starts_with(prefix));
        let plain = name.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/".contains(&b))
        });
        if !plain || !(of_network || of_ipc) {
            return Err(format!(
                "sysctl {:?} is not supported by this node: it has no namespace",
                sysctl.name
            ));
        }
        let shared = if of_network && host_network(pod) {
            Some("hostNetwork")
        } else if of_ipc && host_ipc {
            Some("hostIPC")
        } else {
            None
        };
        if let Some(field) = shared {
            return Err(format!(
                "sysctl {:?} is not allowed with {field}: it would be the node's",
                sysctl.name
            ));
        }
        all.insert(name, sysctl.value.clone());
    }
    Ok(all)
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
