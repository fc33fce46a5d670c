//! Defaults, validation and updates of Services.

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": "web", "namespace": "default"}});
    service["spec"] = spec;
    defaults(&mut service);
    service
}

fn problems(spec: Value) -> Vec<String> {
    let causes = validate::service(&service(spec), None);
    causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

#[test]
fn defaults_are_upstreams() {
    let expected = json!({
        "type": "LoadBalancer", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
        "allocateLoadBalancerNodePorts": true, "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
    });
    let spec = json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]});
    assert_eq!(service(spec)["spec"], expected);
    let external = json!({"type": "ExternalName", "externalName": "db.example.com"});
    assert_eq!(service(external)["spec"]["ipFamilies"], Value::Null);
}

#[test]
fn wrong_services_are_refused_as_upstream_refuses_them() {
    for (spec, expected) in [
        (json!({}), vec!["spec.ports: Required value"]),
        (
            json!({"ports": [{"port": 70000}]}),
            vec![
                "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            json!({"ports": [{"port": 80}, {"name": "b", "port": 81}]}),
            vec!["spec.ports[0].name: Required value"],
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}),
            vec!["spec.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({"ports": [{"port": 80, "nodePort": 30080}]}),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({"type": "Balanced", "ports": [{"port": 80}]}),
            vec![
                "spec.type: Unsupported value: \"Balanced\": supported values: \"ClusterIP\", \"ExternalName\", \
                 \"LoadBalancer\", \"NodePort\"",
            ],
        ),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90000}},
                "ports": [{"port": 80}]}),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 90000: must be greater than 0 \
                 and less than 86400",
            ],
        ),
        (
            json!({"clusterIP": "10.1", "ports": [{"port": 80}]}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"10.1\": must be a valid IP address, (e.g. 10.9.8.7 or \
                 2001:db8::ffff)",
            ],
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "SCTP"}]}),
            vec![
                "spec.ports[0].protocol: Invalid value: \"SCTP\": SCTP is not served by this version: use TCP or UDP",
            ],
        ),
        (
            json!({"ipFamilies": ["IPv6"], "ports": [{"port": 80}]}),
            vec!["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"],
        ),
        (
            json!({"ipFamilies": ["IPv5"], "ports": [{"port": 80}]}),
            vec!["spec.ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\""],
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}),
            vec![
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for \
                 dual-stack services",
            ],
        ),
        (
            json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}),
            vec!["spec.clusterIPs[0]: Invalid value: \"fd00::1\": not configured on this cluster"],
        ),
        (json!({"type": "ExternalName"}), vec!["spec.externalName: Required value"]),
        (
            json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}),
            vec![
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ],
        ),
    ] {
        assert_eq!(problems(spec), expected);
    }
    assert!(problems(json!({"clusterIP": "None"})).is_empty());
    let preferred = json!({"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": 80}]});
    assert!(problems(preferred.clone()).is_empty());
    assert_eq!(service(preferred)["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[test]
fn an_update_keeps_addresses_and_node_ports() {
    let old = service(
        json!({"type": "NodePort", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    let mut new = service(json!({"type": "NodePort", "ports": [{"port": 80}]}));
    update::prepare(&mut new, &old);
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);
    assert!(validate::service(&new, Some(&old)).is_empty());

    let mut moved = old.clone();
    moved["spec"]["clusterIP"] = json!("10.96.0.10");
    update::prepare(&mut moved, &old);
    defaults(&mut moved);
    let causes = validate::service(&moved, Some(&old));
    assert_eq!(causes[0].message, "Invalid value: [\"10.96.0.10\"]: may not change once set");
}

#[test]
fn what_belongs_to_the_old_type_goes_with_it() {
    let old = service(
        json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "ports": [{"port": 80, "nodePort": 30080}]}),
    );
    let mut new = old.clone();
    new["spec"]["type"] = json!("ClusterIP");
    update::prepare(&mut new, &old);
    defaults(&mut new);
    assert!(validate::service(&new, Some(&old)).is_empty());
    let spec = new["spec"].as_object().unwrap();
    assert!(
        !spec.contains_key("allocateLoadBalancerNodePorts") && !spec.contains_key("externalTrafficPolicy")
    );
    assert!(spec["ports"][0].get("nodePort").is_none());
}
