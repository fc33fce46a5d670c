//! EndpointSlices.

use std::{borrow::Cow, collections::BTreeSet};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules,
    endpoints::{PROTOCOLS, app_protocol, node_name},
    json::{items, items_mut, members, text},
    print::{AGE, NAME, age, at_most_three, column, name},
    validate::{Path, Problems, addresses, ip, meta, names},
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind { generation: true, columns: Cow::Borrowed(COLUMNS), ..Kind::published::<EndpointSlice>(Slices) }
}

struct Slices;

impl Rules for Slices {
    fn defaults(&self, slice: &mut Value) {
        defaults(slice);
    }

    fn prepare_create(&self, slice: &mut Value) {
        drop_topology(slice);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        prepare_update(new, old);
    }

    fn counts(&self, new: &Value, old: &Value) -> bool {
        changed(new, old)
    }

    fn validate(&self, slice: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(slice, old)
    }

    fn warnings(&self, slice: &Value) -> Vec<String> {
        warnings(slice)
    }

    fn update_warnings(&self, new: &Value, _: &Value) -> Vec<String> {
        address_warnings(new)
    }

    fn cells(&self, slice: &Value, now: i64) -> Vec<Value> {
        cells(slice, now)
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    column("AddressType", "string", "=discovery.v1.EndpointSlice.addressType"),
    column("Ports", "string", "=discovery.v1.EndpointSlice.ports"),
    column("Endpoints", "string", "=discovery.v1.EndpointSlice.endpoints"),
    AGE,
];

fn cells(slice: &Value, now: i64) -> Vec<Value> {
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

/// Upstream's bounds on one slice.
const MAX_ENDPOINTS: usize = 1000;

const MAX_ADDRESSES: usize = 100;

const MAX_PORTS: usize = 20_000;

const MAX_HINTS: usize = 8;

/// Who may write addresses without being warned about their form: they are made from checked ones.
const OWN_SLICES: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

/// What upstream fills in for an EndpointSlice.
fn defaults(slice: &mut Value) {
    let Some(slice) = slice.as_object_mut() else { return };
    for port in items_mut(slice, "ports") {
        port.entry("name").or_insert_with(|| "".into());
        // A pointer upstream: an empty text is a value, and a wrong one.
        port.entry("protocol").or_insert_with(|| "TCP".into());
    }
}

/// The topology of an endpoint is read-only in this version: its node and zone have fields of their own.
fn drop_topology(slice: &mut Value) {
    let Some(slice) = slice.as_object_mut() else { return };
    for endpoint in items_mut(slice, "endpoints") {
        endpoint.remove("deprecatedTopology");
    }
}

/// As [`drop_topology`], which a slice whose endpoints are as they were keeps.
fn prepare_update(new: &mut Value, old: &Value) {
    if new["endpoints"] != old["endpoints"] {
        drop_topology(new);
    }
}

/// Whether an update changes what a slice says: labels select it, so they count.
fn changed(new: &Value, old: &Value) -> bool {
    let said = |slice: &Value| {
        let fields = members(slice).filter(|(name, _)| *name != "metadata" && !is_empty(slice, name));
        fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    said(new) != said(old) || new["metadata"]["labels"] != old["metadata"]["labels"]
}

fn is_empty(slice: &Value, name: &str) -> bool {
    slice[name].is_null() || slice[name].as_array().is_some_and(Vec::is_empty)
}

/// An EndpointSlice; `old` on update.
fn validate(slice: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(slice, names::dns_subdomain, &mut problems);
    validate_ports(items(&slice["ports"]), &Path::new("ports"), &mut problems);
    let family = text(slice, "addressType");
    if old.is_none_or(|old| old["endpoints"] != slice["endpoints"]) {
        let path = Path::new("endpoints");
        validate_endpoints(items(&slice["endpoints"]), family, &path, &mut problems);
    }
    let path = Path::new("addressType");
    match old.map(|old| text(old, "addressType")) {
        Some(before) if before == family => {}
        _ if family.is_empty() => problems.required(&path, ""),
        // Upstream does not say which.
        Some(_) => problems.invalid(&path, Value::Null, "field is immutable"),
        None => problems.one_of(&path, family, &["FQDN", "IPv4", "IPv6"]),
    }
    problems.into_causes()
}

fn validate_endpoints(endpoints: &[Value], family: &str, path: &Path, problems: &mut Problems) {
    if endpoints.len() > MAX_ENDPOINTS {
        return problems.too_many(path, endpoints.len(), MAX_ENDPOINTS);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        validate_addresses(items(&endpoint["addresses"]), family, &path.field("addresses"), problems);
        node_name(endpoint, &path, problems);
        if let Some(name) = endpoint["hostname"].as_str() {
            problems.all(&path.field("hostname"), name, names::dns_label(name));
        }
        let hints = path.field("hints");
        let zones = names::label_value as fn(&str) -> Vec<String>;
        validate_hints(&endpoint["hints"]["forZones"], zones, &hints.field("forZones"), problems);
        let nodes = names::dns_subdomain as fn(&str) -> Vec<String>;
        validate_hints(&endpoint["hints"]["forNodes"], nodes, &hints.field("forNodes"), problems);
    }
}

fn validate_addresses(list: &[Value], family: &str, path: &Path, problems: &mut Problems) {
    if list.is_empty() {
        problems.required(path, "");
    } else if list.len() > MAX_ADDRESSES {
        problems.too_many(path, list.len(), MAX_ADDRESSES);
    }
    for (index, address) in list.iter().filter_map(Value::as_str).enumerate() {
        let at = path.index(index);
        let valid = match family {
            "IPv4" => addresses::legacy_ip(address, &[], &at, problems),
            "IPv6" => addresses::canonical_ip(address, &at, problems),
            "FQDN" => {
                full_name(address, &at, problems);
                continue;
            }
            _ => continue,
        };
        if valid {
            let v4 = addresses::parse(address).is_some_and(|ip| ip.is_ipv4());
            if v4 != (family == "IPv4") {
                problems.invalid(path, address, format!("must be an {family} address"));
            }
            addresses::endpoint_ip(address, &at, problems);
        }
    }
}

/// A name of at least two labels, which a dot may end.
fn full_name(name: &str, path: &Path, problems: &mut Problems) {
    if name.is_empty() {
        return problems.required(path, "");
    }
    let plain = name.strip_suffix('.').unwrap_or(name);
    let complaints = names::dns_subdomain(plain);
    if !complaints.is_empty() {
        problems.invalid(path, plain, complaints.join(","));
    } else if !plain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        problems.invalid(path, plain, why);
    } else if let Some(label) = plain.split('.').find(|label| !names::dns_label(label).is_empty()) {
        problems.invalid(path, label, names::dns_label(label).join(","));
    }
}

fn validate_hints(hints: &Value, check: fn(&str) -> Vec<String>, path: &Path, problems: &mut Problems) {
    let list = items(hints);
    if list.len() > MAX_HINTS {
        return problems.too_many(path, list.len(), MAX_HINTS);
    }
    let mut seen = BTreeSet::new();
    for (index, hint) in list.iter().enumerate() {
        let (name, path) = (text(hint, "name"), path.index(index).field("name"));
        if !seen.insert(name) {
            problems.duplicate(&path, name);
        }
        problems.all(&path, name, check(name));
    }
}

fn validate_ports(ports: &[Value], path: &Path, problems: &mut Problems) {
    if ports.len() > MAX_PORTS {
        return problems.too_many(path, ports.len(), MAX_PORTS);
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        if !name.is_empty() {
            problems.all(&path.field("name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            problems.duplicate(&path.field("name"), name);
        }
        if !PROTOCOLS.contains(&protocol) {
            problems.unsupported(&path.field("protocol"), protocol, &PROTOCOLS);
        }
        app_protocol(port, &path, problems);
    }
}

/// Warnings about an EndpointSlice.
fn warnings(slice: &Value) -> Vec<String> {
    let mut out = address_warnings(slice);
    if text(slice, "addressType") == "FQDN" {
        out.insert(0, "spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    out
}

/// Warnings about addresses in forms that should not be used.
fn address_warnings(slice: &Value) -> Vec<String> {
    let manager = &slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"];
    if manager.as_str().is_some_and(|manager| OWN_SLICES.contains(&manager)) {
        return Vec::new();
    }
    let mut out = Vec::new();
    for (index, endpoint) in items(&slice["endpoints"]).iter().enumerate() {
        let path = Path::new("endpoints").index(index).field("addresses");
        for (index, address) in items(&endpoint["addresses"]).iter().filter_map(Value::as_str).enumerate() {
            out.extend(ip::warning(address, &path.index(index)));
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

    fn slice(change: &Value) -> Value {
        let mut slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.2.3"]}]});
        for (name, value) in members(change) {
            slice[name] = value.clone();
        }
        defaults(&mut slice);
        slice
    }

    #[test]
    fn a_slice_is_of_one_family_and_of_routable_addresses() {
        assert!(validate(&slice(&json!({})), None).is_empty());
        for (change, expected) in [
            (
                json!({"addressType": "a"}),
                "addressType: Unsupported value: \"a\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
            ),
            (
                json!({"endpoints": [{"addresses": ["2001:db8::1"]}]}),
                "endpoints[0].addresses: Invalid value: \"2001:db8::1\": must be an IPv4 address",
            ),
            (
                json!({"endpoints": [{"addresses": ["127.0.0.1"]}]}),
                "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range \
                 (127.0.0.0/8, ::1/128)",
            ),
            (json!({"endpoints": [{"addresses": []}]}), "endpoints[0].addresses: Required value"),
            (json!({"ports": [{"port": 1}, {"port": 2}]}), "ports[1].name: Duplicate value: \"\""),
            (
                json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a"]}]}),
                "endpoints[0].addresses[0]: Invalid value: \"a\": should be a domain with at least two segments \
                 separated by dots",
            ),
        ] {
            assert_eq!(said(validate(&slice(&change), None)), [expected]);
        }
        let moved = slice(&json!({"addressType": "IPv6", "endpoints": []}));
        let expected = "addressType: Invalid value: null: field is immutable";
        assert_eq!(said(validate(&moved, Some(&slice(&json!({}))))), [expected]);
    }

    #[test]
    fn a_slice_counts_the_changes_of_what_it_says() {
        let old = slice(&json!({}));
        let mut new = old.clone();
        new["metadata"]["annotations"] = json!({"a": "b"});
        assert!(!changed(&new, &old));
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(changed(&new, &old));
        assert!(changed(&slice(&json!({"ports": [{"port": 1}]})), &old));
        assert!(!changed(&slice(&json!({"ports": null})), &old));
    }
}
