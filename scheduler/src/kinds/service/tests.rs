//! Defaults, validation and updates of Services.

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": "web", "namespace": "default"}});
    service["spec"] = spec;
    defaults(&mut service);
    prepare_create(&mut service);
    service
}

fn problems(spec: Value) -> Vec<String> {
    let mut service = service(spec);
    let filled = families::fill(&mut service["spec"], None);
    let causes = filled.err().unwrap_or_else(|| validate::service(&service, None));
    causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

#[test]
fn defaults_are_upstreams() {
    let expected = json!({
        "type": "LoadBalancer", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
        "allocateLoadBalancerNodePorts": true,
    });
    let spec = json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]});
    assert_eq!(service(spec)["spec"], expected);
    let external = json!({"type": "ExternalName", "externalName": "db.example.com"});
    assert_eq!(service(external)["spec"]["internalTrafficPolicy"], Value::Null);
    let plain =
        json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}, "ports": [{"port": 80}]});
    assert!(service(plain)["spec"].get("sessionAffinityConfig").is_none());
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
            json!({"ports": [{"port": 80, "appProtocol": "a b"}]}),
            vec![
                "spec.ports[0].appProtocol: Invalid value: \"a b\": name part must consist of alphanumeric characters, \
                 '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or \
                 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ],
        ),
        (
            json!({"healthCheckNodePort": 7, "ports": [{"port": 80}]}),
            vec![
                "spec.healthCheckNodePort: Invalid value: 7: may only be set when `type` is 'LoadBalancer' and \
                 `externalTrafficPolicy` is 'Local'",
            ],
        ),
        (
            json!({"trafficDistribution": "a", "ports": [{"port": 80}]}),
            vec![
                "spec.trafficDistribution: Unsupported value: \"a\": supported values: \"PreferClose\", \
                 \"PreferSameZone\", \"PreferSameNode\"",
            ],
        ),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.1/8"], "ports": [{"port": 80}]}),
            vec![
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the \
                 prefix length",
            ],
        ),
        (
            json!({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}),
            vec![
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\
                 \"TargetPort\":0,\"NodePort\":0}",
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
            vec!["spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster"],
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
    assert!(problems(preferred).is_empty());
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

#[test]
fn a_status_names_addresses_that_are_some() {
    let with = |ingress: Value| {
        let mut service = service(json!({"type": "LoadBalancer", "ports": [{"port": 80}]}));
        service["status"] = json!({"loadBalancer": {"ingress": [ingress]}});
        defaults(&mut service);
        service
    };
    let causes = |ingress: Value| validate::status(&with(ingress), &service(json!({"type": "LoadBalancer"})));
    assert!(causes(json!({"ip": "192.0.2.1"})).is_empty(), "the mode has a default");
    assert_eq!(causes(json!({"ip": "a"}))[0].field, "status.loadBalancer.ingress[0].ip");
    assert_eq!(
        causes(json!({"hostname": "192.0.2.1"}))[0].message,
        "Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address"
    );
}

#[test]
fn what_a_service_does_not_do_is_told() {
    let told = |spec: Value| warnings::warnings(&service(spec));
    assert!(told(json!({"ports": [{"port": 80}]})).is_empty());
    assert_eq!(
        told(
            json!({"externalName": "a", "externalIPs": ["192.0.2.1"], "trafficDistribution": "PreferClose"})
        ),
        [
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ]
    );
    let sctp = told(json!({"ports": [{"port": 80, "protocol": "SCTP"}]}));
    assert_eq!(
        sctp,
        ["spec.ports[0].protocol: SCTP is not served by this version: nothing answers at this port"]
    );
}
