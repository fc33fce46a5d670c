//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    json::{items, items_mut, members, set_default, text},
    validate::{Path, Problems, addresses, ip, meta, names},
};
use crate::model::Cause;

/// Upstream's bounds on one slice.
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// Who may write addresses without being warned about their form: they are made from checked ones.
const OWN_SLICES: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];

/// What upstream fills in for Endpoints.
pub(super) fn defaults(endpoints: &mut Value) {
    let Some(endpoints) = endpoints.as_object_mut() else { return };
    for subset in items_mut(endpoints, "subsets") {
        for port in items_mut(subset, "ports") {
            set_default(port, "protocol", "TCP");
        }
    }
}

/// What upstream fills in for an EndpointSlice.
pub(super) fn slice_defaults(slice: &mut Value) {
    let Some(slice) = slice.as_object_mut() else { return };
    for port in items_mut(slice, "ports") {
        port.entry("name").or_insert_with(|| "".into());
        // A pointer upstream: an empty text is a value, and a wrong one.
        port.entry("protocol").or_insert_with(|| "TCP".into());
    }
}

/// The topology of an endpoint is read-only in this version: its node and zone have fields of their own.
pub(super) fn drop_topology(slice: &mut Value) {
    let Some(slice) = slice.as_object_mut() else { return };
    for endpoint in items_mut(slice, "endpoints") {
        endpoint.remove("deprecatedTopology");
    }
}

/// As [`drop_topology`], which a slice whose endpoints are as they were keeps.
pub(super) fn prepare_slice_update(new: &mut Value, old: &Value) {
    if new["endpoints"] != old["endpoints"] {
        drop_topology(new);
    }
}

/// Whether an update changes what a slice says: labels select it, so they count.
pub(super) fn slice_changed(new: &Value, old: &Value) -> bool {
    let said = |slice: &Value| {
        let fields = members(slice).filter(|(name, _)| *name != "metadata" && !is_empty(slice, name));
        fields.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    said(new) != said(old) || new["metadata"]["labels"] != old["metadata"]["labels"]
}

fn is_empty(slice: &Value, name: &str) -> bool {
    slice[name].is_null() || slice[name].as_array().is_some_and(Vec::is_empty)
}

/// Endpoints; `old` on update.
pub(super) fn validate(endpoints: &Value, old: Option<&Value>) -> Vec<Cause> {
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

fn node_name(holder: &Value, path: &Path, problems: &mut Problems) {
    if let Some(node) = holder["nodeName"].as_str() {
        problems.all(&path.field("nodeName"), node, names::dns_subdomain(node));
    }
}

fn app_protocol(port: &Value, path: &Path, problems: &mut Problems) {
    if let Some(protocol) = port["appProtocol"].as_str() {
        problems.all(&path.field("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

/// Warnings about addresses in forms that should not be used.
pub(super) fn warnings(endpoints: &Value) -> Vec<String> {
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

/// An EndpointSlice; `old` on update.
pub(super) fn validate_slice(slice: &Value, old: Option<&Value>) -> Vec<Cause> {
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
pub(super) fn slice_warnings(slice: &Value) -> Vec<String> {
    let mut out = slice_update_warnings(slice, slice);
    if text(slice, "addressType") == "FQDN" {
        out.insert(0, "spec.addressType: FQDN endpoints are deprecated".to_owned());
    }
    out
}

/// Warnings about an EndpointSlice that was there before.
pub(super) fn slice_update_warnings(slice: &Value, _old: &Value) -> Vec<String> {
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
    use serde_json::json;

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
        slice_defaults(&mut slice);
        slice
    }

    #[test]
    fn a_slice_is_of_one_family_and_of_routable_addresses() {
        assert!(validate_slice(&slice(&json!({})), None).is_empty());
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
            assert_eq!(said(validate_slice(&slice(&change), None)), [expected]);
        }
        let moved = slice(&json!({"addressType": "IPv6", "endpoints": []}));
        let expected = "addressType: Invalid value: null: field is immutable";
        assert_eq!(said(validate_slice(&moved, Some(&slice(&json!({}))))), [expected]);
    }

    #[test]
    fn a_slice_counts_the_changes_of_what_it_says() {
        let old = slice(&json!({}));
        let mut new = old.clone();
        new["metadata"]["annotations"] = json!({"a": "b"});
        assert!(!slice_changed(&new, &old));
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(slice_changed(&new, &old));
        assert!(slice_changed(&slice(&json!({"ports": [{"port": 1}]})), &old));
        assert!(!slice_changed(&slice(&json!({"ports": null})), &old));
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
