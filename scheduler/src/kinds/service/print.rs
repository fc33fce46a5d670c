//! What `kubectl get services` prints.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kinds::{
    Column,
    json::{items, members, text},
    print::{AGE, NAME, UNKNOWN, age, column, integer, name, or_none, wide},
};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", "=core.v1.ServiceSpec.type"),
    column("Cluster-IP", "string", "=core.v1.ServiceSpec.clusterIP"),
    column("External-IP", "string", "=core.v1.ServiceSpec.externalIPs"),
    column("Port(s)", "string", "=core.v1.ServiceSpec.ports"),
    AGE,
    wide("Selector", "string", "=core.v1.ServiceSpec.selector"),
];

pub(super) fn cells(service: &Value, now: i64) -> Vec<Value> {
    let spec = &service["spec"];
    let internal = items(&spec["clusterIPs"]).first().and_then(Value::as_str).unwrap_or_default();
    let selector: Vec<String> =
        members(&spec["selector"]).map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    vec![
        name(service),
        json!(text(spec, "type")),
        json!(or_none(internal)),
        json!(external_ip(service)),
        json!(or_none(&ports(spec))),
        age(service, now),
        json!(or_none(&selector.join(","))),
    ]
}

/// The addresses in the status of a Service or Ingress, each once.
pub(in crate::kinds) fn balancer_addresses(object: &Value) -> BTreeSet<&str> {
    let address = |ingress| match text(ingress, "ip") {
        "" => text(ingress, "hostname"),
        ip => ip,
    };
    let all = items(&object["status"]["loadBalancer"]["ingress"]).iter().map(address);
    all.filter(|address| !address.is_empty()).collect()
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let stated = || items(&spec["externalIPs"]).iter().filter_map(Value::as_str);
    let given = balancer_addresses(service);
    match text(spec, "type") {
        "ClusterIP" | "NodePort" => or_none(&Vec::from_iter(stated()).join(",")).to_owned(),
        "LoadBalancer" => match Vec::from_iter(given.into_iter().chain(stated())).join(",").as_str() {
            "" => "<pending>".to_owned(),
            addresses => addresses.to_owned(),
        },
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => UNKNOWN.to_owned(),
    }
}

fn ports(spec: &Value) -> String {
    let one = |port: &Value| {
        let (number, protocol) = (integer(&port["port"]), text(port, "protocol"));
        match integer(&port["nodePort"]) {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    };
    items(&spec["ports"]).iter().map(one).collect::<Vec<_>>().join(",")
}
