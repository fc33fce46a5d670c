//! Endpoints.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Endpoints;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules,
    json::{items, items_mut, set_default, text},
    kind::texts,
    print::{AGE, NAME, NONE, age, at_most_three, column, integer, name},
    validate::{Path, Problems, addresses, ip, meta, names},
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["ep"]),
        create_on_update: true,
        deprecated: Some(
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into(),
        ),
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<Endpoints>(AllEndpoints)
    }
}

struct AllEndpoints;

impl Rules for AllEndpoints {
    fn defaults(&self, endpoints: &mut Value) {
        defaults(endpoints);
    }

    fn validate(&self, endpoints: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(endpoints, old)
    }

    fn warnings(&self, endpoints: &Value) -> Vec<String> {
        warnings(endpoints)
    }

    fn update_warnings(&self, new: &Value, _: &Value) -> Vec<String> {
        warnings(new)
    }

    fn cells(&self, endpoints: &Value, now: i64) -> Vec<Value> {
        cells(endpoints, now)
    }
}

const COLUMNS: &[Column] = &[NAME, column("Endpoints", "string", "=core.v1.Endpoints.subsets"), AGE];

fn cells(endpoints: &Value, now: i64) -> Vec<Value> {
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

pub(in crate::kinds) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// What upstream fills in for Endpoints.
fn defaults(endpoints: &mut Value) {
    let Some(endpoints) = endpoints.as_object_mut() else { return };
    for subset in items_mut(endpoints, "subsets") {
        for port in items_mut(subset, "ports") {
            set_default(port, "protocol", "TCP");
        }
    }
}

/// Endpoints; `old` on update.
fn validate(endpoints: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    if let Some(old) = old {
        meta::object_meta_update(endpoints, old, &mut problems);
    }
    meta::object_meta(endpoints, names::dns_subdomain, &mut problems);
    // What was stored once stays legal as it is.
    if old.is_none_or(|old| old["subsets"] != endpoints["subsets"]) {
        for (index, subset) in items(&endpoints["subsets"]).iter().enumerate() {
            validate_subset(subset, &Path::new("subsets").index(index), &mut problems);
        }
    }
    problems.into_causes()
}

fn validate_subset(subset: &Value, path: &Path, problems: &mut Problems) {
    let lists = ["addresses", "notReadyAddresses"];
    if lists.iter().all(|list| items(&subset[*list]).is_empty()) {
        problems.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for list in lists {
        for (index, address) in items(&subset[list]).iter().enumerate() {
            validate_address(address, &path.field(list).index(index), problems);
        }
    }
    let ports = items(&subset["ports"]);
    for (index, port) in ports.iter().enumerate() {
        let path = path.field("ports").index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            problems.all(&path.field("name"), name, names::dns_label(name));
        } else if ports.len() > 1 {
            problems.required(&path.field("name"), "");
        }
        problems.port(&path.field("port"), port["port"].as_i64().unwrap_or_default());
        problems.one_of(&path.field("protocol"), text(port, "protocol"), &PROTOCOLS);
        app_protocol(port, &path, problems);
    }
}

fn validate_address(address: &Value, path: &Path, problems: &mut Problems) {
    let (ip, name) = (text(address, "ip"), text(address, "hostname"));
    addresses::legacy_ip(ip, &[], &path.field("ip"), problems);
    if !name.is_empty() {
        problems.all(&path.field("hostname"), name, names::dns_label(name));
    }
    node_name(address, path, problems);
    addresses::endpoint_ip(ip, &path.field("ip"), problems);
}

pub(in crate::kinds) fn node_name(holder: &Value, path: &Path, problems: &mut Problems) {
    if let Some(node) = holder["nodeName"].as_str() {
        problems.all(&path.field("nodeName"), node, names::dns_subdomain(node));
    }
}

pub(in crate::kinds) fn app_protocol(port: &Value, path: &Path, problems: &mut Problems) {
    if let Some(protocol) = port["appProtocol"].as_str() {
        problems.all(&path.field("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

/// Warnings about addresses in forms that should not be used.
fn warnings(endpoints: &Value) -> Vec<String> {
    let manager = &endpoints["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"];
    if manager == "endpoint-controller" {
        return Vec::new();
    }
    let mut out = Vec::new();
    for (index, subset) in items(&endpoints["subsets"]).iter().enumerate() {
        for list in ["addresses", "notReadyAddresses"] {
            let path = Path::new("subsets").index(index).field(list);
            for (index, address) in items(&subset[list]).iter().enumerate() {
                let path = path.index(index).field("ip");
                out.extend(ip::warning(text(address, "ip"), &path));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn subsets_of_endpoints_have_addresses() {
        let validated = |subset: Value| {
            let object = json!({"metadata": {"name": "e"}, "subsets": [subset]});
            said(validate(&object, None))
        };
        let port = json!({"port": 80, "protocol": "TCP"});
        assert_eq!(
            validated(json!({"ports": [port]})),
            ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]
        );
        assert_eq!(
            validated(json!({"addresses": [{"ip": "0.0.0.0"}], "ports": [port, port]})),
            [
                "subsets[0].addresses[0].ip: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[1].name: Required value",
            ]
        );
    }
}
