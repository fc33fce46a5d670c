//! What an update of a Service keeps although the client left it out, and what goes with a change of type.
//!
//! A field that only the old type needs goes when the client did not touch it; one that was changed together with the
//! type is left for validation to refuse.

use serde_json::{Map, Value};

use super::rules::{
    externally_accessible, has_cluster_ip, has_node_ports, health_checked, kind_of, wants_node_ports,
};
use crate::kinds::json::{is_unset, items, items_mut, member_mut, text};

/// Prepares the spec of `new`, which has its defaults, for replacing that of `old`.
pub(in crate::kinds) fn prepare(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let wanted = new["spec"].clone();
    let Some(spec) = new.as_object_mut().and_then(|service| member_mut(service, "spec")) else { return };
    keep_allocated(spec, &wanted, old);
    follow_address(spec, old);
    drop_dependent(spec, &wanted, old);
}

/// What was given out before stays with a client that does not name it.
fn keep_allocated(spec: &mut Map<String, Value>, wanted: &Value, old: &Value) {
    if has_cluster_ip(wanted) && has_cluster_ip(old) {
        keep(spec, old, "clusterIP");
        if items(&wanted["clusterIPs"]).is_empty()
            && let Some(ips) = old.get("clusterIPs")
        {
            spec.insert("clusterIPs".to_owned(), ips.clone());
        }
    }
    if wants_node_ports(wanted) && wants_node_ports(old) {
        keep_node_ports(spec, old);
    }
    if health_checked(wanted) && health_checked(old) && number(&wanted["healthCheckNodePort"]) == 0 {
        spec.remove("healthCheckNodePort");
        keep(spec, old, "healthCheckNodePort");
    }
}

fn keep(spec: &mut Map<String, Value>, old: &Value, field: &str) {
    if let (true, Some(value)) = (is_unset(spec, field), old.get(field)) {
        spec.insert(field.to_owned(), value.clone());
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn node_ports(spec: &Value) -> Vec<i64> {
    items(&spec["ports"]).iter().map(|port| number(&port["nodePort"])).filter(|port| *port != 0).collect()
}

/// Ports are known by their names; a number that another port of the service took over is not given twice.
fn keep_node_ports(spec: &mut Map<String, Value>, old: &Value) {
    let had = node_ports(old);
    let taken: Vec<i64> = items_mut(spec, "ports")
        .map(|port| port.get("nodePort").map_or(0, number))
        .filter(|port| had.contains(port))
        .collect();
    let name = |port: &Value| text(port, "name").to_owned();
    for port in items_mut(spec, "ports").filter(|port| port.get("nodePort").map_or(0, number) == 0) {
        let own = port.get("name").and_then(Value::as_str).unwrap_or_default();
        let same = items(&old["ports"]).iter().rev().find(|port| name(port) == own);
        let known = same.map_or(0, |port| number(&port["nodePort"]));
        if known != 0 && !taken.contains(&known) {
            port.insert("nodePort".to_owned(), known.into());
        }
    }
}

/// The singular and the plural address are one: where only one of them was changed, the other follows.
fn follow_address(spec: &mut Map<String, Value>, old: &Value) {
    let same = |spec: &Map<String, Value>, field: &str| spec.get(field) == old.get(field);
    if same(spec, "clusterIP") {
        if spec.get("clusterIPs").is_none_or(|ips| items(ips).is_empty())
            && let Some(ips) = old.get("clusterIPs")
        {
            spec.insert("clusterIPs".to_owned(), ips.clone());
        }
    } else if same(spec, "clusterIPs") {
        if is_unset(spec, "clusterIP") {
            spec.remove("clusterIPs");
        } else if let Some(ip) = spec.get("clusterIP").cloned() {
            spec.insert("clusterIPs".to_owned(), Value::from(vec![ip]));
        }
    }
}

/// Drops what the new type has no use for and the client did not change.
fn drop_dependent(spec: &mut Map<String, Value>, wanted: &Value, old: &Value) {
    let balanced = |spec: &Value| kind_of(spec) == "LoadBalancer";
    if has_cluster_ip(old) && !has_cluster_ip(wanted) {
        if ["clusterIP", "clusterIPs"].iter().all(|field| spec.get(*field) == old.get(*field)) {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        drop_same(spec, old, "ipFamilies");
        drop_same(spec, old, "ipFamilyPolicy");
    }
    let had = node_ports(old);
    if has_node_ports(old)
        && !has_node_ports(wanted)
        && node_ports(wanted).iter().all(|port| had.contains(port))
    {
        for port in items_mut(spec, "ports") {
            port.remove("nodePort");
        }
    }
    if health_checked(old) && !health_checked(wanted) {
        drop_same(spec, old, "healthCheckNodePort");
    }
    if balanced(old) && !balanced(wanted) {
        drop_same(spec, old, "allocateLoadBalancerNodePorts");
        drop_same(spec, old, "loadBalancerClass");
    }
    if externally_accessible(old) && !externally_accessible(wanted) {
        drop_same(spec, old, "externalTrafficPolicy");
    }
    if !has_cluster_ip(wanted) {
        // It was filled in for every type once; a service without an address has no use for it.
        drop_same(spec, old, "internalTrafficPolicy");
    }
}

fn drop_same(spec: &mut Map<String, Value>, old: &Value, field: &str) {
    if spec.get(field) == old.get(field) {
        spec.remove(field);
    }
}
