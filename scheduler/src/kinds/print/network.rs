//! Services, Endpoints, EndpointSlices, Ingresses, IngressClasses.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{AGE, NAME, NONE, age, at_most_three, column, integer, name, or_none, wide};
use crate::kinds::{
    Column, DEFAULT_CLASS,
    json::{items, members, text},
};

pub(in crate::kinds) const SERVICE_COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", "=core.v1.ServiceSpec.type"),
    column("Cluster-IP", "string", "=core.v1.ServiceSpec.clusterIP"),
    column("External-IP", "string", "=core.v1.ServiceSpec.externalIPs"),
    column("Port(s)", "string", "=core.v1.ServiceSpec.ports"),
    AGE,
    wide("Selector", "string", "=core.v1.ServiceSpec.selector"),
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

/// The addresses in the status of a Service or Ingress, each once.
fn balancer_addresses(object: &Value) -> BTreeSet<&str> {
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
    &[NAME, column("Endpoints", "string", "=core.v1.Endpoints.subsets"), AGE];

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
    column("AddressType", "string", "=discovery.v1.EndpointSlice.addressType"),
    column("Ports", "string", "=discovery.v1.EndpointSlice.ports"),
    column("Endpoints", "string", "=discovery.v1.EndpointSlice.endpoints"),
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

pub(in crate::kinds) const INGRESS_COLUMNS: &[Column] = &[
    NAME,
    column(
        "Class",
        "string",
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
    column("Address", "string", "Address is a list containing ingress points for the load-balancer"),
    column("Ports", "string", "Ports of TLS configurations that open"),
    AGE,
];

pub(in crate::kinds) fn ingress(ingress: &Value, now: i64) -> Vec<Value> {
    let spec = &ingress["spec"];
    let ports = if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        name(ingress),
        json!(spec["ingressClassName"].as_str().unwrap_or(NONE)),
        json!(hosts(items(&spec["rules"]))),
        json!(Vec::from_iter(balancer_addresses(ingress)).join(",")),
        json!(ports),
        age(ingress, now),
    ]
}

/// The first three hosts; the rules behind them are counted, also those without a host.
fn hosts(rules: &[Value]) -> String {
    const SHOWN: usize = 3;
    let mut shown = Vec::new();
    for rule in rules {
        if shown.len() == SHOWN {
            return format!("{} + {} more...", shown.join(","), rules.len() - SHOWN);
        }
        shown.extend(Some(text(rule, "host")).filter(|host| !host.is_empty()));
    }
    if shown.is_empty() { "*".to_owned() } else { shown.join(",") }
}

pub(in crate::kinds) const INGRESS_CLASS_COLUMNS: &[Column] = &[
    NAME,
    column("Controller", "string", "Controller that is responsible for handling this class"),
    column("Parameters", "string", "A reference to a resource with additional parameters"),
    AGE,
];

pub(in crate::kinds) fn ingress_class(class: &Value, now: i64) -> Vec<Value> {
    let (spec, own) = (&class["spec"], text(&class["metadata"], "name"));
    let default = class["metadata"]["annotations"][DEFAULT_CLASS] == "true";
    let parameters = &spec["parameters"];
    let shown = match (parameters.is_null(), parameters["apiGroup"].as_str()) {
        (true, _) => NONE.to_owned(),
        (_, Some(group)) => format!("{}.{group}/{}", text(parameters, "kind"), text(parameters, "name")),
        (_, None) => format!("{}/{}", text(parameters, "kind"), text(parameters, "name")),
    };
    let own = if default { format!("{own} (default)") } else { own.to_owned() };
    vec![json!(own), json!(text(spec, "controller")), json!(shown), age(class, now)]
}
