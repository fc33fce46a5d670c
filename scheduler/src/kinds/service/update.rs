//! What an update of a Service keeps although the client left it out, and what goes with a change of type.

use serde_json::{Map, Value};

use crate::kinds::json::{is_unset, items, items_mut, member_mut, text};

fn has_cluster_ip(kind: &str) -> bool {
    kind != "ExternalName"
}

fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

/// Prepares the spec of `new` for replacing that of `old`.
pub(in crate::kinds) fn prepare(new: &mut Value, old: &Value) {
    let old = &old["spec"];
    let Some(spec) = new.as_object_mut().and_then(|s| member_mut(s, "spec")) else { return };
    let after = spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP").to_owned();
    let before = text(old, "type").to_owned();
    if has_cluster_ip(&before) && has_cluster_ip(&after) {
        keep_addresses(spec, old);
    } else if has_cluster_ip(&before) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            drop_same(spec, old, field);
        }
    }
    if has_node_ports(&before) && has_node_ports(&after) {
        keep_node_ports(spec, old);
    } else if has_node_ports(&before) {
        drop_node_ports(spec, old);
        drop_same(spec, old, "externalTrafficPolicy");
    }
    if before == "LoadBalancer" && after != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            drop_same(spec, old, field);
        }
    }
    if before == "ExternalName" && after != "ExternalName" {
        drop_same(spec, old, "externalName");
    }
}

/// Drops a field that only the old type needs, unless the client changed it on purpose.
fn drop_same(spec: &mut Map<String, Value>, old: &Value, field: &str) {
    if spec.get(field) == old.get(field) {
        spec.remove(field);
    }
}

fn keep_addresses(spec: &mut Map<String, Value>, old: &Value) {
    let unset = is_unset(spec, "clusterIP") && spec.get("clusterIPs").is_none_or(|ips| items(ips).is_empty());
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        keep(spec, old, field);
    }
    if unset {
        keep(spec, old, "clusterIP");
        keep(spec, old, "clusterIPs");
    } else if spec.get("clusterIP") != old.get("clusterIP") && spec.get("clusterIPs") == old.get("clusterIPs")
    {
        // Only one of the two was changed: the other follows.
        spec.remove("clusterIPs");
    }
    keep(spec, old, "healthCheckNodePort");
}

fn keep(spec: &mut Map<String, Value>, old: &Value, field: &str) {
    if let (true, Some(value)) = (is_unset(spec, field), old.get(field)) {
        spec.insert(field.to_owned(), value.clone());
    }
}

fn node_port(port: &Map<String, Value>) -> i64 {
    port.get("nodePort").and_then(Value::as_i64).unwrap_or_default()
}

fn keep_node_ports(spec: &mut Map<String, Value>, old: &Value) {
    let taken: Vec<i64> = items_mut(spec, "ports").map(|port| node_port(port)).collect();
    for port in items_mut(spec, "ports").filter(|port| node_port(port) == 0) {
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
        let same = items(&old["ports"])
            .iter()
            .find(|o| text(o, "protocol") == protocol && port.get("port") == o.get("port"));
        if let Some(number) = same.and_then(|o| o["nodePort"].as_i64()).filter(|n| !taken.contains(n)) {
            port.insert("nodePort".to_owned(), number.into());
        }
    }
}

fn drop_node_ports(spec: &mut Map<String, Value>, old: &Value) {
    let held: Vec<i64> = items(&old["ports"]).iter().filter_map(|port| port["nodePort"].as_i64()).collect();
    for port in items_mut(spec, "ports") {
        if held.contains(&node_port(port)) {
            port.remove("nodePort");
        }
    }
}
