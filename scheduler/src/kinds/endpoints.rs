//! Endpoints and EndpointSlices.

use std::net::IpAddr;

use serde_json::Value;

use super::{
    json::{items, items_mut, set_default, text},
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

/// Upstream's bound on one slice.
const MAX_ENDPOINTS: usize = 1000;

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
        set_default(port, "protocol", "TCP");
    }
}

/// Endpoints.
pub(super) fn validate(endpoints: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(endpoints, names::dns_subdomain, &mut problems);
    for (index, subset) in items(&endpoints["subsets"]).iter().enumerate() {
        let path = Path::new("subsets").index(index);
        for list in ["addresses", "notReadyAddresses"] {
            for (index, address) in items(&subset[list]).iter().enumerate() {
                ip(text(address, "ip"), &path.field(list).index(index).field("ip"), &mut problems);
            }
        }
        for (index, port) in items(&subset["ports"]).iter().enumerate() {
            let path = path.field("ports").index(index);
            problems.port(&path.field("port"), port["port"].as_i64().unwrap_or_default());
            problems.one_of(&path.field("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        }
    }
    problems.into_causes()
}

/// An EndpointSlice; `old` on update.
pub(super) fn validate_slice(slice: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(slice, names::dns_subdomain, &mut problems);
    let family = text(slice, "addressType");
    problems.one_of(&Path::new("addressType"), family, &["FQDN", "IPv4", "IPv6"]);
    if let Some(old) = old {
        problems.immutable(&Path::new("addressType"), &slice["addressType"], &old["addressType"]);
    }
    let endpoints = items(&slice["endpoints"]);
    if endpoints.len() > MAX_ENDPOINTS {
        problems.invalid(
            &Path::new("endpoints"),
            endpoints.len(),
            format!("must have at most {MAX_ENDPOINTS} items"),
        );
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = Path::new("endpoints").index(index).field("addresses");
        if items(&endpoint["addresses"]).is_empty() {
            problems.required(&path, "must contain at least 1 address");
        }
        for (index, address) in items(&endpoint["addresses"]).iter().filter_map(Value::as_str).enumerate() {
            let path = path.index(index);
            match (family, address.parse::<IpAddr>()) {
                ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {}
                ("IPv4", _) => problems.invalid(&path, address, "must be a valid IPv4 address"),
                ("IPv6", _) => problems.invalid(&path, address, "must be a valid IPv6 address"),
                _ => problems.all(&path, address, names::dns_subdomain(address)),
            }
        }
    }
    for (index, port) in items(&slice["ports"]).iter().enumerate() {
        let path = Path::new("ports").index(index);
        problems.one_of(&path.field("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        let name = text(port, "name");
        if !name.is_empty() {
            problems.all(&path.field("name"), name, names::dns_label(name));
        }
    }
    problems.into_causes()
}

fn ip(address: &str, path: &Path, problems: &mut Problems) {
    if address.parse::<IpAddr>().is_err() {
        problems.invalid(path, address, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}
