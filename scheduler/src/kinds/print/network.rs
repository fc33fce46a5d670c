//! Services, Endpoints, EndpointSlices.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{AGE, NAME, NONE, age, at_most_three, column, integer, name, or_none, wide};
use crate::kinds::{
    Column,
    json::{items, members, text},
};

pub(in crate::kinds) const SERVICE_COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", "type determines how the Service is exposed."),
    column("Cluster-IP", "string", "clusterIP is the IP address of the service."),
    column("External-IP", "string", "Addresses at which the service is reached from outside the cluster."),
    column("Port(s)", "string", "The list of ports that are exposed by this service."),
    AGE,
    wide(
        "Selector",
        "string",
        "Route service traffic to pods with label keys and values matching this selector.",
    ),
];

pub(in crate::kinds) fn service(service: &Value, now: i64) -> Vec<Value> {
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

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let stated = || items(&spec["externalIPs"]).iter().filter_map(Value::as_str);
    let given: BTreeSet<&str> = items(&service["status"]["loadBalancer"]["ingress"])
        .iter()
        .map(|ingress| match text(ingress, "ip") {
            "" => text(ingress, "hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    match text(spec, "type") {
        "ClusterIP" | "NodePort" => or_none(&Vec::from_iter(stated()).join(",")).to_owned(),
        "LoadBalancer" => match Vec::from_iter(given.into_iter().chain(stated())).join(",").as_str() {
            "" => "<pending>".to_owned(),
            addresses => addresses.to_owned(),
        },
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => super::UNKNOWN.to_owned(),
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

pub(in crate::kinds) const ENDPOINTS_COLUMNS: &[Column] =
    &[NAME, column("Endpoints", "string", "The set of all endpoints is the union of all subsets."), AGE];

pub(in crate::kinds) fn endpoints(endpoints: &Value, now: i64) -> Vec<Value> {
    let mut list = Vec::new();
    for subset in items(&endpoints["subsets"]) {
        let addresses = || items(&subset["addresses"]).iter().map(|a| text(a, "ip"));
        if items(&subset["ports"]).is_empty() {
            list.extend(addresses().map(str::to_owned));
        }
        for port in items(&subset["ports"]) {
            list.extend(addresses().map(|ip| host_port(ip, integer(&port["port"]))));
        }
    }
    vec![name(endpoints), json!(at_most_three(&list, NONE)), age(endpoints, now)]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(in crate::kinds) const ENDPOINT_SLICE_COLUMNS: &[Column] = &[
    NAME,
    column(
        "AddressType",
        "string",
        "addressType specifies the type of address carried by this EndpointSlice.",
    ),
    column("Ports", "string", "ports exposed by each endpoint in this slice."),
    column("Endpoints", "string", "endpoints is a list of unique endpoints in this slice."),
    AGE,
];

pub(in crate::kinds) fn endpoint_slice(slice: &Value, now: i64) -> Vec<Value> {
    let port = |port: &Value| match (port["port"].as_i64(), text(port, "name")) {
        (Some(number), _) => number.to_string(),
        (None, "") => "*".to_owned(),
        (None, name) => name.to_owned(),
    };
    let ports: Vec<String> = items(&slice["ports"]).iter().map(port).collect();
    let addresses: Vec<String> = items(&slice["endpoints"])
        .iter()
        .flat_map(|endpoint| items(&endpoint["addresses"]))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        name(slice),
        json!(text(slice, "addressType")),
        json!(at_most_three(&ports, "<unset>")),
        json!(at_most_three(&addresses, "<unset>")),
        age(slice, now),
    ]
}
