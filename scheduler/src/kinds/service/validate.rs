//! Validation of Services.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Value, json};

use crate::{
    kinds::{
        json::{items, text},
        validate::{Path, Problems, meta, names},
    },
    model::Cause,
};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const MAX_AFFINITY_SECONDS: i64 = 86_400;

/// A Service; `old` on update.
pub(in crate::kinds) fn service(service: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(service, names::dns_1035_label, &mut problems);
    let (spec, path) = (&service["spec"], Path::new("spec"));
    problems.one_of(&path.field("type"), text(spec, "type"), &TYPES);
    by_type(spec, &path, &mut problems);
    ports(spec, &path.field("ports"), &mut problems);
    meta::labels(&spec["selector"], &path.field("selector"), &mut problems);
    affinity(spec, &path, &mut problems);
    addresses(spec, &path, &mut problems);
    families(spec, &path, &mut problems);
    policies(spec, &path, &mut problems);
    if let Some(old) = old {
        cluster_ip_stays(spec, &old["spec"], &path, &mut problems);
    }
    problems.into_causes()
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None"
}

fn by_type(spec: &Value, path: &Path, problems: &mut Problems) {
    let kind = text(spec, "type");
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let why = format!("may not be set to 'None' for {kind} services");
            problems.invalid(&path.field("clusterIPs").index(0), "None", why);
        }
        "ExternalName" => {
            let name = text(spec, "externalName");
            if name.is_empty() {
                problems.required(&path.field("externalName"), "");
            } else {
                let plain = name.strip_suffix('.').unwrap_or(name);
                problems.all(&path.field("externalName"), name, names::dns_subdomain(plain));
            }
            if !text(spec, "clusterIP").is_empty() {
                let why = "may not be set for ExternalName services";
                problems.forbidden(&path.field("clusterIPs").index(0), why);
            }
        }
        _ => {}
    }
}

fn ports(spec: &Value, path: &Path, problems: &mut Problems) {
    let list = items(&spec["ports"]);
    if list.is_empty() && !is_headless(spec) && text(spec, "type") != "ExternalName" {
        problems.required(path, "");
    }
    let (mut names_seen, mut seen, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in list.iter().enumerate() {
        let path = path.index(index);
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        let (number, node) =
            (port["port"].as_i64().unwrap_or_default(), port["nodePort"].as_i64().unwrap_or(0));
        if name.is_empty() && list.len() > 1 {
            problems.required(&path.field("name"), "");
        } else if !name.is_empty() {
            problems.all(&path.field("name"), name, names::dns_label(name));
            if !names_seen.insert(name) {
                problems.duplicate(&path.field("name"), name);
            }
        }
        problems.port(&path.field("port"), number);
        problems.one_of(&path.field("protocol"), protocol, &["SCTP", "TCP", "UDP"]);
        if protocol == "SCTP" {
            let why = "SCTP is not served by this version: use TCP or UDP";
            problems.invalid(&path.field("protocol"), protocol, why);
        }
        problems.port_or_name(&path.field("targetPort"), &port["targetPort"]);
        if !seen.insert((protocol, number)) {
            problems.duplicate(&path, json!({"protocol": protocol, "port": number}));
        }
        if node != 0 && text(spec, "type") == "ClusterIP" {
            let why = "may not be used when `type` is 'ClusterIP'";
            problems.forbidden(&path.field("nodePort"), why);
        } else if node != 0 {
            problems.port(&path.field("nodePort"), node);
            if !node_ports.insert((protocol, node)) {
                problems.duplicate(&path.field("nodePort"), node);
            }
        }
    }
}

fn affinity(spec: &Value, path: &Path, problems: &mut Problems) {
    let affinity = text(spec, "sessionAffinity");
    problems.one_of(&path.field("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let (config, path) = (&spec["sessionAffinityConfig"], path.field("sessionAffinityConfig"));
    match affinity {
        "ClientIP" => {
            let seconds = config["clientIP"]["timeoutSeconds"].as_i64().unwrap_or_default();
            if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
                let why = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                problems.invalid(&path.field("clientIP").field("timeoutSeconds"), seconds, why);
            }
        }
        "None" if !config.is_null() => {
            problems.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn addresses(spec: &Value, path: &Path, problems: &mut Problems) {
    let ips = items(&spec["clusterIPs"]);
    for (index, ip) in ips.iter().filter_map(Value::as_str).enumerate() {
        let path = path.field("clusterIPs").index(index);
        if ip == "None" && ips.len() > 1 {
            problems.invalid(&path, ip, "may only be set to 'None' as the only address");
        } else if ip != "None" && ip.parse::<IpAddr>().is_err() {
            problems.invalid(&path, ip, BAD_IP);
        }
    }
    let (one, first) = (text(spec, "clusterIP"), ips.first().and_then(Value::as_str).unwrap_or_default());
    if !ips.is_empty() && one != first {
        let why = "first value must match `clusterIP`";
        problems.invalid(&path.field("clusterIPs"), spec["clusterIPs"].clone(), why);
    }
    for (index, ip) in items(&spec["externalIPs"]).iter().filter_map(Value::as_str).enumerate() {
        let path = path.field("externalIPs").index(index);
        match ip.parse::<IpAddr>() {
            Err(_) => problems.invalid(&path, ip, BAD_IP),
            Ok(ip) if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() => {
                problems.invalid(
                    &path,
                    ip.to_string(),
                    "may not be a loopback, unspecified or multicast address",
                );
            }
            Ok(_) => {}
        }
    }
    for (index, range) in
        items(&spec["loadBalancerSourceRanges"]).iter().filter_map(Value::as_str).enumerate()
    {
        let path = path.field("loadBalancerSourceRanges").index(index);
        if range.trim().parse::<ipnet::IpNet>().is_err() {
            problems.invalid(&path, range, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }
}

/// The cluster has IPv4 alone.
fn families(spec: &Value, path: &Path, problems: &mut Problems) {
    let (list, policy) = (items(&spec["ipFamilies"]), text(spec, "ipFamilyPolicy"));
    if text(spec, "type") == "ExternalName" {
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !spec[field].is_null() {
                problems.forbidden(&path.field(field), "may not be set for ExternalName services");
            }
        }
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, family) in list.iter().filter_map(Value::as_str).enumerate() {
        let path = path.field("ipFamilies").index(index);
        match family {
            "IPv4" if seen.insert(family) => {}
            "IPv6" if seen.insert(family) => {
                problems.invalid(&path, family, "not configured on this cluster");
            }
            "IPv4" | "IPv6" => problems.duplicate(&path, family),
            other => problems.unsupported(&path, other, &["IPv4", "IPv6"]),
        }
    }
    let path_of_policy = path.field("ipFamilyPolicy");
    match policy {
        "RequireDualStack" => {
            let why = "this cluster is not configured for dual-stack services";
            problems.invalid(&path_of_policy, policy, why);
        }
        "SingleStack" if list.len() > 1 => {
            let why = "must be RequireDualStack or PreferDualStack when multiple IP families are specified";
            problems.invalid(&path_of_policy, policy, why);
        }
        "" => {}
        _ => {
            problems.one_of(&path_of_policy, policy, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
        }
    }
    for (index, ip) in items(&spec["clusterIPs"]).iter().filter_map(Value::as_str).enumerate() {
        if ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) && !list.contains(&json!("IPv6")) {
            problems.invalid(&path.field("clusterIPs").index(index), ip, "not configured on this cluster");
        }
    }
}

fn policies(spec: &Value, path: &Path, problems: &mut Problems) {
    let kind = text(spec, "type");
    for field in ["internalTrafficPolicy", "externalTrafficPolicy"] {
        if let Some(policy) = spec[field].as_str() {
            problems.one_of(&path.field(field), policy, &["Cluster", "Local"]);
        }
    }
    let external = matches!(kind, "LoadBalancer" | "NodePort") || !items(&spec["externalIPs"]).is_empty();
    if !external && let Some(policy) = spec["externalTrafficPolicy"].as_str() {
        let why = "may only be set for externally-accessible services";
        problems.invalid(&path.field("externalTrafficPolicy"), policy, why);
    }
    for (field, what) in [
        ("allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'"),
        ("loadBalancerClass", "may only be used when `type` is 'LoadBalancer'"),
        ("loadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'"),
    ] {
        if kind != "LoadBalancer" && !spec[field].is_null() {
            problems.forbidden(&path.field(field), what);
        }
    }
}

/// The address of a service is a promise to its clients.
fn cluster_ip_stays(new: &Value, old: &Value, path: &Path, problems: &mut Problems) {
    if text(new, "type") == "ExternalName" || text(old, "type") == "ExternalName" {
        return;
    }
    let (was, is) = (text(old, "clusterIP"), text(new, "clusterIP"));
    if !was.is_empty() && was != is {
        problems.invalid(&path.field("clusterIPs").index(0), json!([is]), "may not change once set");
    }
}
