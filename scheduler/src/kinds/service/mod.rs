//! Services.

pub(crate) mod families;
mod print;
mod row;
pub(crate) mod rules;
pub(super) mod update;
pub(super) mod validate;
pub(super) mod warnings;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

pub(super) use print::balancer_addresses;
pub(super) use row::kind;

use super::json::{ensure, is_unset, items_mut, set_default};

/// How long a client stays with an endpoint when the service does not say.
const AFFINITY_SECONDS: i64 = 10_800;

/// What upstream fills in for a Service.
pub(super) fn defaults(service: &mut Value) {
    let Some(service) = service.as_object_mut() else { return };
    let spec = ensure(service, "spec");
    set_default(spec, "sessionAffinity", "None");
    affinity_defaults(spec);
    set_default(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        set_default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        if is_unset(port, "targetPort") || port["targetPort"] == json!(0) {
            port.insert("targetPort".to_owned(), number);
        }
        drop_zero(port, "nodePort");
    }
    drop_zero(spec, "healthCheckNodePort");
    let view = Value::Object(spec.clone());
    if rules::externally_accessible(&view) {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if rules::kind_of(&view) == "LoadBalancer" && !spec.contains_key("allocateLoadBalancerNodePorts") {
        spec.insert("allocateLoadBalancerNodePorts".to_owned(), true.into());
    }
    if matches!(rules::kind_of(&view), "ClusterIP" | "NodePort" | "LoadBalancer")
        && !spec.contains_key("internalTrafficPolicy")
    {
        spec.insert("internalTrafficPolicy".to_owned(), "Cluster".into());
    }
    if rules::kind_of(&view) == "LoadBalancer" {
        ingress_defaults(service);
    }
}

/// The configuration of an affinity that the service does not have is not kept.
fn affinity_defaults(spec: &mut Map<String, Value>) {
    match spec["sessionAffinity"].as_str() {
        Some("None") => drop(spec.remove("sessionAffinityConfig")),
        Some("ClientIP") => {
            let given = spec.get("sessionAffinityConfig").and_then(|c| c.pointer("/clientIP/timeoutSeconds"));
            if given.is_none_or(Value::is_null) {
                let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
                spec.insert("sessionAffinityConfig".to_owned(), config);
            }
        }
        _ => {}
    }
}

/// A number of which 0 means none.
fn drop_zero(map: &mut Map<String, Value>, field: &str) {
    if map.get(field).and_then(Value::as_i64) == Some(0) {
        map.remove(field);
    }
}

fn ingress_defaults(service: &mut Map<String, Value>) {
    let status = service.get_mut("status").and_then(|status| status.pointer_mut("/loadBalancer/ingress"));
    for one in status.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        if !is_unset(one, "ip") && !one.contains_key("ipMode") {
            one.insert("ipMode".to_owned(), "VIP".into());
        }
    }
}

/// A new Service: the address goes into both fields that hold it, and nobody has balanced its load yet.
pub(super) fn prepare_create(service: &mut Value) {
    service["status"] = json!({"loadBalancer": {}});
    let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if !is_unset(spec, "clusterIP") && !spec.contains_key("clusterIPs") {
        let ip = spec["clusterIP"].clone();
        spec.insert("clusterIPs".to_owned(), json!([ip]));
    }
}

/// A changed Service, as [`update::prepare`] has it.
pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    defaults(new);
    update::prepare(new, old);
    let balanced = rules::kind_of(&new["spec"]) == "LoadBalancer";
    if !balanced && let Some(service) = new.as_object_mut() {
        service.insert("status".to_owned(), json!({"loadBalancer": {}}));
    }
}
