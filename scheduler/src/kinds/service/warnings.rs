//! Warnings about Services that are legal and yet not what their author wants.

use serde_json::Value;

use super::rules::kind_of;
use crate::kinds::{
    json::{items, text},
    validate::{Path, addresses, ip},
};

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";

/// Warnings about a Service.
pub(in crate::kinds) fn warnings(service: &Value) -> Vec<String> {
    let (spec, path, mut out) = (&service["spec"], Path::new("spec"), Vec::new());
    let mut add = |text: String| out.push(text);
    if !service["metadata"]["annotations"][HINTS].is_null() {
        add(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let texts = |field: &str| items(&spec[field]).iter().filter_map(Value::as_str);
    for (index, ip) in texts("clusterIPs").filter(|ip| *ip != "None").enumerate() {
        ip::warning(ip, &path.field("clusterIPs").index(index)).into_iter().for_each(&mut add);
    }
    let headless = kind_of(spec) == "ClusterIP" && text(spec, "clusterIP") == "None";
    let external = items(&spec["externalIPs"]);
    let (balancer_ip, nameless) = (text(spec, "loadBalancerIP"), kind_of(spec) != "ExternalName");
    if headless {
        for (given, field) in [
            (!balancer_ip.is_empty(), "loadBalancerIP"),
            (!external.is_empty(), "externalIPs"),
            (text(spec, "sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if given {
                add(format!("spec.{field} is ignored for headless services"));
            }
        }
    }
    for (index, ip) in texts("externalIPs").enumerate() {
        ip::warning(ip, &path.field("externalIPs").index(index)).into_iter().for_each(&mut add);
    }
    if !external.is_empty() && !headless && nameless {
        add("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    ip::warning(balancer_ip, &path.field("loadBalancerIP")).into_iter().for_each(&mut add);
    for (index, range) in texts("loadBalancerSourceRanges").enumerate() {
        let path = path.field("loadBalancerSourceRanges").index(index);
        addresses::range_warnings(&path, range).into_iter().for_each(&mut add);
    }
    if !nameless && !external.is_empty() {
        add("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if nameless && !text(spec, "externalName").is_empty() {
        add("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        let why = "is deprecated; use \"PreferSameZone\"";
        add(format!("spec.trafficDistribution: \"PreferClose\" {why}"));
    }
    for (index, _) in items(&spec["ports"]).iter().enumerate().filter(|(_, port)| port["protocol"] == "SCTP")
    {
        let path = path.field("ports").index(index).field("protocol");
        add(format!("{path}: SCTP is not served by this version: nothing answers at this port"));
    }
    out
}

/// Warnings about the addresses of a load balancer in a status.
pub(in crate::kinds) fn ingress_addresses(object: &Value) -> Vec<String> {
    let path = Path::new("status").field("loadBalancer").field("ingress");
    let all = items(&object["status"]["loadBalancer"]["ingress"]).iter().enumerate();
    all.filter_map(|(index, ingress)| ip::warning(text(ingress, "ip"), &path.index(index))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn oddly_written_addresses_of_balancers_are_warned_about() {
        let service = json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"ip": "FE80::1"}, {"hostname": "h"}]}}});
        assert_eq!(
            ingress_addresses(&service),
            [
                "status.loadBalancer.ingress[1]: IPv6 address \"FE80::1\" should be in RFC 5952 canonical format (\"fe80::1\")"
            ]
        );
    }
}
