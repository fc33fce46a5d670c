//! What the fields of a Service say together.

use serde_json::Value;

use crate::kinds::json::{items, text};

/// The type, `ClusterIP` when none is given.
pub(crate) fn kind_of(spec: &Value) -> &str {
    match text(spec, "type") {
        "" => "ClusterIP",
        given => given,
    }
}

/// Whether it has an address of its own, or none by wish.
pub(crate) fn has_cluster_ip(spec: &Value) -> bool {
    kind_of(spec) != "ExternalName"
}

/// Whether its type has ports on the nodes.
pub(crate) fn has_node_ports(spec: &Value) -> bool {
    matches!(kind_of(spec), "NodePort" | "LoadBalancer")
}

/// Whether each of its ports is to get a port on the nodes.
pub(crate) fn wants_node_ports(spec: &Value) -> bool {
    match kind_of(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// Whether load balancers ask the nodes which of them have endpoints.
pub(crate) fn health_checked(spec: &Value) -> bool {
    kind_of(spec) == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

/// Whether it can be reached from outside of the cluster.
pub(crate) fn externally_accessible(spec: &Value) -> bool {
    has_node_ports(spec) || (kind_of(spec) == "ClusterIP" && !items(&spec["externalIPs"]).is_empty())
}

/// Whether clients are to find the endpoints by themselves.
pub(crate) fn is_headless(spec: &Value) -> bool {
    matches!(items(&spec["clusterIPs"]), [Value::String(only)] if only == "None")
}
