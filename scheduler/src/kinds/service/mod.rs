//! Services.

pub(super) mod update;
pub(super) mod validate;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::json::{ensure, is_unset, items_mut, set_default};

/// What upstream fills in for a Service.
pub(super) fn defaults(service: &mut Value) {
    let Some(service) = service.as_object_mut() else { return };
    let spec = ensure(service, "spec");
    set_default(spec, "sessionAffinity", "None");
    set_default(spec, "type", "ClusterIP");
    if spec["sessionAffinity"] == "ClientIP" {
        set_default(ensure(ensure(spec, "sessionAffinityConfig"), "clientIP"), "timeoutSeconds", 10800);
    }
    for port in items_mut(spec, "ports") {
        set_default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        if is_unset(port, "targetPort") || port["targetPort"] == json!(0) {
            port.insert("targetPort".to_owned(), number);
        }
    }
    let ty = spec["type"].as_str().unwrap_or_default().to_owned();
    if ty == "ExternalName" {
        return;
    }
    if matches!(ty.as_str(), "NodePort" | "LoadBalancer") || spec.contains_key("externalIPs") {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if ty == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    set_default(spec, "internalTrafficPolicy", "Cluster");
    address_defaults(spec);
}

/// The singular and plural address fields say the same. The cluster has one family.
fn address_defaults(spec: &mut Map<String, Value>) {
    let first = spec.get("clusterIPs").and_then(|list| list.get(0)).cloned();
    if let Some(first) = first {
        set_default(spec, "clusterIP", first);
    } else if let Some(ip) = spec.get("clusterIP").filter(|_| !is_unset(spec, "clusterIP")).cloned() {
        spec.insert("clusterIPs".to_owned(), json!([ip]));
    }
    set_default(spec, "ipFamilies", json!(["IPv4"]));
    set_default(spec, "ipFamilyPolicy", "SingleStack");
}
