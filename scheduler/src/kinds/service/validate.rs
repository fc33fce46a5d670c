//! Validation of Services: each rule, in upstream's order and words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    families,
    rules::{externally_accessible, health_checked, is_headless, kind_of},
};
use crate::{
    kinds::{
        json::{items, text},
        validate::{Path, Problems, addresses, meta, names},
    },
    model::Cause,
};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const MAX_AFFINITY_SECONDS: i64 = 86_400;
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// A Service; `old` on update.
pub(in crate::kinds) fn service(service: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    let path = Path::new("spec");
    match old {
        None => meta::object_meta(service, names::dns_label, &mut problems),
        Some(old) => {
            meta::object_meta_update(service, old, &mut problems);
            let (spec, before) = (&service["spec"], &old["spec"]);
            families::address_stays(spec, before, &path, &mut problems);
            families::families_stay(spec, before, &path, &mut problems);
            class_stays(spec, before, &path.field("loadBalancerClass"), &mut problems);
            let port = "healthCheckNodePort";
            if health_checked(before) && health_checked(spec) && spec[port] != before[port] {
                problems.forbidden(&path.field(port), "field is immutable");
            }
        }
    }
    topology(service, &mut problems);
    let (spec, before) = (&service["spec"], old.map(|old| &old["spec"]));
    by_type(spec, &path, &mut problems);
    ports(spec, &path.field("ports"), &mut problems);
    meta::labels(&spec["selector"], &path.field("selector"), &mut problems);
    affinity(spec, &path, &mut problems);
    families::related(spec, before, &path, &mut problems);
    external_ips(spec, before, &path.field("externalIPs"), &mut problems);
    problems.one_of(&path.field("type"), text(spec, "type"), &TYPES);
    port_numbers(spec, &path.field("ports"), &mut problems);
    source_ranges(service, old, &mut problems);
    load_balancer(spec, &path, &mut problems);
    policies(spec, &path, &mut problems);
    problems.into_causes()
}

/// The status of a Service, written by whoever runs its load balancer.
pub(in crate::kinds) fn status(service: &Value, old: &Value) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta_update(service, old, &mut problems);
    let ingress = |service: &'_ Value| items(&service["status"]["loadBalancer"]["ingress"]).to_vec();
    let (path, list, before) = (Path::new("status.loadBalancer.ingress"), ingress(service), ingress(old));
    if kind_of(&service["spec"]) != "LoadBalancer" {
        if !list.is_empty() {
            problems.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        }
        return problems.into_causes();
    }
    let known: Vec<&str> = before.iter().map(|one| text(one, "ip")).filter(|ip| !ip.is_empty()).collect();
    for (index, one) in list.iter().enumerate() {
        let path = path.index(index);
        let (ip, name, mode) = (text(one, "ip"), text(one, "hostname"), &path.field("ipMode"));
        if !ip.is_empty() {
            addresses::legacy_ip(ip, &known, &path.field("ip"), &mut problems);
        }
        match one["ipMode"].as_str() {
            None if !ip.is_empty() => problems.required(mode, "must be specified when `ip` is set"),
            None => {}
            Some(_) if ip.is_empty() => problems.forbidden(mode, "may not be specified when `ip` is not set"),
            Some("VIP" | "Proxy") => {}
            Some(other) => problems.unsupported(mode, other, &["Proxy", "VIP"]),
        }
        if !name.is_empty() {
            let path = path.field("hostname");
            problems.all(&path, name, names::dns_subdomain(name));
            if addresses::parse(name).is_some() {
                problems.invalid(&path, name, "must be a DNS name, not an IP address");
            }
        }
    }
    problems.into_causes()
}

fn topology(service: &Value, problems: &mut Problems) {
    let annotations = &service["metadata"]["annotations"];
    if let (Some(hints), Some(mode)) = (annotations[HINTS].as_str(), annotations[MODE].as_str())
        && hints != mode
    {
        let why = format!("must match annotations[{HINTS}] when both are specified");
        problems.invalid(&Path::new("metadata.annotations").key(MODE), mode, why);
    }
}

fn by_type(spec: &Value, path: &Path, problems: &mut Problems) {
    let kind = kind_of(spec);
    if items(&spec["ports"]).is_empty() && !is_headless(spec) && kind != "ExternalName" {
        problems.required(&path.field("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let why = format!("may not be set to 'None' for {kind} services");
            problems.invalid(&path.field("clusterIPs").index(0), "None", why);
        }
        "ExternalName" => external_name(spec, path, problems),
        _ => {}
    }
}

fn external_name(spec: &Value, path: &Path, problems: &mut Problems) {
    let why = "may not be set for ExternalName services";
    for field in ["clusterIPs", "ipFamilies"] {
        if !items(&spec[field]).is_empty() {
            problems.forbidden(&path.field(field), why);
        }
    }
    if !spec["ipFamilyPolicy"].is_null() {
        problems.forbidden(&path.field("ipFamilyPolicy"), why);
    }
    let (name, path) = (text(spec, "externalName"), path.field("externalName"));
    // A trailing dot says that the name is complete.
    match name.strip_suffix('.').unwrap_or(name) {
        "" => problems.required(&path, ""),
        plain => problems.all(&path, plain, names::dns_subdomain(plain)),
    }
}

fn ports(spec: &Value, path: &Path, problems: &mut Problems) {
    let list = items(&spec["ports"]);
    let mut known = BTreeSet::new();
    for (index, port) in list.iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if name.is_empty() && list.len() > 1 {
            problems.required(&path.field("name"), "");
        } else if !name.is_empty() {
            problems.all(&path.field("name"), name, names::dns_label(name));
            if !known.insert(name) {
                problems.duplicate(&path.field("name"), name);
            }
        }
        problems.port(&path.field("port"), port["port"].as_i64().unwrap_or_default());
        problems.one_of(&path.field("protocol"), text(port, "protocol"), &PROTOCOLS);
        problems.port_or_name(&path.field("targetPort"), &port["targetPort"]);
        if let Some(protocol) = port["appProtocol"].as_str() {
            problems.all(&path.field("appProtocol"), protocol, names::qualified_name(protocol));
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

fn texts(list: &Value) -> Vec<&str> {
    items(list).iter().filter_map(Value::as_str).collect()
}

fn external_ips(spec: &Value, before: Option<&Value>, path: &Path, problems: &mut Problems) {
    let known = before.map(|old| texts(&old["externalIPs"])).unwrap_or_default();
    for (index, ip) in texts(&spec["externalIPs"]).into_iter().enumerate() {
        let path = path.index(index);
        if addresses::legacy_ip(ip, &known, &path, problems) {
            addresses::endpoint_ip(ip, &path, problems);
        }
    }
}

/// What holds for the ports together: none of the nodes for a ClusterIP, and no two alike.
fn port_numbers(spec: &Value, path: &Path, problems: &mut Problems) {
    let list = items(&spec["ports"]);
    let node = |port: &Value| port["nodePort"].as_i64().unwrap_or_default();
    for (index, _) in list.iter().enumerate().filter(|(_, port)| node(port) != 0) {
        if kind_of(spec) == "ClusterIP" {
            let path = path.index(index).field("nodePort");
            problems.forbidden(&path, "may not be used when `type` is 'ClusterIP'");
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in list.iter().enumerate().filter(|(_, port)| node(port) != 0) {
        if !seen.insert((text(port, "protocol"), node(port))) {
            problems.duplicate(&path.index(index).field("nodePort"), node(port));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, port) in list.iter().enumerate() {
        let (protocol, number) = (text(port, "protocol"), port["port"].as_i64().unwrap_or_default());
        if !seen.insert((protocol, number)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            problems.duplicate_shown(&path.index(index), &shown, "");
        }
    }
}

fn source_ranges(service: &Value, old: Option<&Value>, problems: &mut Problems) {
    let spec = &service["spec"];
    let balanced = kind_of(spec) == "LoadBalancer";
    let ranges = |service: &'_ Value| -> Vec<String> {
        texts(&service["spec"]["loadBalancerSourceRanges"]).into_iter().map(|r| r.trim().to_owned()).collect()
    };
    let list = ranges(service);
    if !list.is_empty() {
        // Upstream's own spelling.
        let path = Path::new("spec.LoadBalancerSourceRanges");
        if !balanced {
            problems.forbidden(&path, BALANCER_ONLY);
        }
        let before = old.map(ranges).unwrap_or_default();
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        for (index, range) in list.iter().enumerate() {
            addresses::legacy_range(range, &before, &path.index(index), problems);
        }
    } else if let Some(annotation) = service["metadata"]["annotations"][RANGES].as_str() {
        let path = Path::new("metadata.annotations").key(RANGES);
        if !balanced {
            problems.forbidden(&path, BALANCER_ONLY);
        }
        let changed = old.is_none_or(|old| old["metadata"]["annotations"][RANGES] != annotation);
        if changed && !annotation.trim().is_empty() {
            for range in annotation.trim().split(',') {
                addresses::legacy_range(range.trim(), &[], &path, problems);
            }
        }
    }
}

fn load_balancer(spec: &Value, path: &Path, problems: &mut Problems) {
    let balanced = kind_of(spec) == "LoadBalancer";
    if !balanced && !spec["allocateLoadBalancerNodePorts"].is_null() {
        problems.forbidden(&path.field("allocateLoadBalancerNodePorts"), BALANCER_ONLY);
    }
    class(spec, &path.field("loadBalancerClass"), problems);
}

fn class(spec: &Value, path: &Path, problems: &mut Problems) {
    let Some(class) = spec["loadBalancerClass"].as_str() else { return };
    if kind_of(spec) == "LoadBalancer" {
        problems.all(path, class, names::qualified_name(class));
    } else {
        problems.forbidden(path, BALANCER_ONLY);
    }
}

fn class_stays(spec: &Value, before: &Value, path: &Path, problems: &mut Problems) {
    let balanced = |spec: &Value| kind_of(spec) == "LoadBalancer";
    if balanced(spec) && balanced(before) && spec["loadBalancerClass"] != before["loadBalancerClass"] {
        problems.invalid(path, spec["loadBalancerClass"].clone(), "may not change once set");
    }
    class(spec, path, problems);
}

fn policies(spec: &Value, path: &Path, problems: &mut Problems) {
    let (policy, external) = (text(spec, "externalTrafficPolicy"), path.field("externalTrafficPolicy"));
    if externally_accessible(spec) {
        problems.one_of(&external, policy, &POLICIES);
    } else if !policy.is_empty() {
        problems.invalid(&external, policy, "may only be set for externally-accessible services");
    }
    let (port, path_of_port) =
        (spec["healthCheckNodePort"].as_i64().unwrap_or_default(), path.field("healthCheckNodePort"));
    match (health_checked(spec), port) {
        (false, 0) => {}
        (false, port) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            problems.invalid(&path_of_port, port, why);
        }
        (true, 0) => problems.required(&path_of_port, ""),
        (true, port) => problems.port(&path_of_port, port),
    }
    let internal = path.field("internalTrafficPolicy");
    match spec["internalTrafficPolicy"].as_str() {
        None if matches!(kind_of(spec), "ClusterIP" | "NodePort" | "LoadBalancer") => {
            problems.required(&internal, "");
        }
        Some(policy) if !POLICIES.contains(&policy) => problems.unsupported(&internal, policy, &POLICIES),
        _ => {}
    }
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(wish) = spec["trafficDistribution"].as_str().filter(|wish| !known.contains(wish)) {
        problems.unsupported(&path.field("trafficDistribution"), wish, &known);
    }
}
