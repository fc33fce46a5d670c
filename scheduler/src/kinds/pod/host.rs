//! The pod's place on its host and in the network: names, DNS, host aliases, and what excludes sharing the host's
//! namespaces.

use serde_json::Value;

use super::each_container;
use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems, ip, names},
};

const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// All search paths with a space between them.
const MAX_SEARCH_LIST: usize = 2048;
/// What a host may be called: upstream's bound of `hostnameOverride`.
const MAX_HOSTNAME: usize = 64;

/// Ports of containers that share the host's network are the host's.
pub(super) fn ports(spec: &Value, is_pod: bool, path: &Path, problems: &mut Problems) {
    if spec["hostNetwork"] != true {
        return;
    }
    for (index, container) in items(&spec["containers"]).iter().enumerate() {
        let path = path.field("containers").index(index).field("ports");
        for (index, port) in items(&container["ports"]).iter().enumerate() {
            let number = |field: &str| port[field].as_i64().unwrap_or_default();
            let (host, own) = (number("hostPort"), number("containerPort"));
            if (is_pod || host != 0) && host != own {
                let why = "must match `containerPort` when `hostNetwork` is true";
                problems.invalid(&path.index(index).field("hostPort"), host, why);
            }
        }
    }
}

/// `dnsPolicy`.
pub(super) fn dns_policy(spec: &Value, path: &Path, problems: &mut Problems) {
    problems.one_of(&path.field("dnsPolicy"), text(spec, "dnsPolicy"), &DNS_POLICIES);
}

/// `dnsConfig`.
pub(super) fn dns(spec: &Value, path: &Path, problems: &mut Problems) {
    let (config, path) = (&spec["dnsConfig"], path.field("dnsConfig"));
    let servers = path.field("nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if !config.is_object() {
            return problems.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if items(&config["nameservers"]).is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return problems.required(&servers, why);
        }
    }
    let texts = |field: &str| items(&config[field]).iter().filter_map(Value::as_str);
    if texts("nameservers").count() > MAX_SERVERS {
        let why = format!("must not have more than {MAX_SERVERS} nameservers");
        problems.invalid(&servers, config["nameservers"].clone(), why);
    }
    for (index, server) in texts("nameservers").enumerate() {
        ip::check(server, &servers.index(index), problems);
    }
    let searches = path.field("searches");
    if texts("searches").count() > MAX_SEARCHES {
        let why = format!("must not have more than {MAX_SEARCHES} search paths");
        problems.invalid(&searches, config["searches"].clone(), why);
    }
    let length = texts("searches").map(|search| search.len() + 1).sum::<usize>();
    if length > MAX_SEARCH_LIST + 1 {
        let why = format!(
            "must not have more than {MAX_SEARCH_LIST} characters (including spaces) in the search list"
        );
        problems.invalid(&searches, config["searches"].clone(), why);
    }
    for (index, search) in texts("searches").enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        problems.all(&searches.index(index), search, names::dns_search(search));
    }
    for (index, option) in items(&config["options"]).iter().enumerate() {
        if text(option, "name").is_empty() {
            problems.required(&path.field("options").index(index), "must not be empty");
        }
    }
}

/// `hostAliases`.
pub(super) fn aliases(aliases: &Value, path: &Path, problems: &mut Problems) {
    for (index, alias) in items(aliases).iter().enumerate() {
        let path = path.index(index);
        ip::check(text(alias, "ip"), &path.field("ip"), problems);
        for (index, name) in items(&alias["hostnames"]).iter().filter_map(Value::as_str).enumerate() {
            problems.all(&path.field("hostnames").index(index), name, names::dns_subdomain(name));
        }
    }
}

/// A pod with users of its own shares nothing else with the host, and no block devices.
pub(super) fn users(spec: &Value, path: &Path, problems: &mut Problems) {
    const WHY: &str = "when `hostUsers` is false";
    if spec["hostUsers"] != false {
        return;
    }
    // Upstream spells two of the paths so.
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec[field] == true {
            problems.forbidden(&path.field(shown), WHY);
        }
    }
    each_container(spec, path, |container, path| {
        if !items(&container["volumeDevices"]).is_empty() {
            problems.forbidden(&path.field("volumeDevices"), WHY);
        }
    });
}

/// `hostnameOverride`.
pub(super) fn hostname_override(spec: &Value, path: &Path, problems: &mut Problems) {
    let Some(name) = spec["hostnameOverride"].as_str() else { return };
    let path = path.field("hostnameOverride");
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec[field] == true {
            problems.forbidden(&path, format!("may not be specified when {field} is true"));
        }
    }
    if name.len() > MAX_HOSTNAME {
        problems.too_long(&path, MAX_HOSTNAME);
    }
    problems.all(&path, name, names::dns_subdomain(name));
}
