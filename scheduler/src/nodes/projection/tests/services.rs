//! What a node is told of a Service and its endpoints.

use super::*;

#[test]
fn ports_are_matched_by_name_and_the_better_of_two_states_counts() {
    let service: Service = serde_json::from_value(json!({"spec": {"clusterIPs": ["10.0.0.1"],
        "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}}))
    .unwrap();
    let slice = |ready: bool| -> EndpointSlice {
        serde_json::from_value(json!({"addressType": "IPv4", "metadata": {},
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
            "endpoints": [{"addresses": ["10.1.0.2"], "nodeName": "n1", "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "uid": "u2"}},
                {"addresses": ["10.1.0.10"], "nodeName": "n0", "conditions": {"ready": false, "serving": true, "terminating": true}}]}))
        .unwrap()
    };
    let slices = [slice(false), slice(true)];
    let nodes: BTreeSet<NodeName> = ["n0".into(), "n1".into(), "n2".into()].into();
    let compiled = whole(&service, &slices, &nodes);
    assert_eq!(compiled.affinity_seconds, 10_800);
    assert_eq!(compiled.announcers, ["n1"], "the only node with a ready endpoint");
    let http = &compiled.ports[0];
    assert_eq!((http.port, http.node_port), (80, 30080));
    let ends: Vec<_> =
        http.endpoints.iter().map(|e| (e.address.as_str(), e.port, e.ready, e.serving)).collect();
    assert_eq!(ends, [("10.1.0.2", 8080, true, true), ("10.1.0.10", 8080, false, true)]);
    assert_eq!(compiled.ports[1].protocol(), pb::Protocol::Udp);
    assert_eq!(compiled.ports[1].endpoints[0].port, 5353);
}

#[test]
fn a_headless_service_without_ports_still_has_its_endpoints() {
    let service: Service =
        serde_json::from_value(json!({"spec": {"clusterIP": "None", "selector": {"a": "b"}}})).unwrap();
    let slice: EndpointSlice = serde_json::from_value(json!({"addressType": "IPv4", "metadata": {},
        "endpoints": [{"addresses": ["10.1.0.2"], "hostname": "web-0"}]}))
    .unwrap();
    let compiled = whole(&service, &[slice], &BTreeSet::new());
    assert!(compiled.headless && compiled.cluster_ips.is_empty());
    assert_eq!(compiled.ports[0].endpoints[0].hostname, "web-0");
}

#[test]
fn pods_without_the_port_that_a_headless_service_names_are_found_by_name() {
    let service: Service = serde_json::from_value(json!({"spec": {"clusterIP": "None",
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}))
    .unwrap();
    let slice = |ports: Value, address: &str| -> EndpointSlice {
        serde_json::from_value(json!({"addressType": "IPv4", "metadata": {}, "ports": ports,
            "endpoints": [{"addresses": [address]}]}))
        .unwrap()
    };
    let slices = [slice(json!([{"name": "http", "port": 8080}]), "10.1.0.2"), slice(json!(null), "10.1.0.3")];
    let compiled = whole(&service, &slices, &BTreeSet::new());
    let found: Vec<_> = compiled
        .ports
        .iter()
        .flat_map(|p| p.endpoints.iter().map(|e| (p.name.as_str(), e.address.as_str(), e.port)))
        .collect();
    assert_eq!(found, [("http", "10.1.0.2", 8080), ("", "10.1.0.3", 0)]);
}

#[test]
fn what_others_serve_has_a_name_and_no_ports() {
    let service = |label: &str, ip: &str| -> Service {
        serde_json::from_value(json!({"metadata": {"labels": {label: "x"}},
            "spec": {"clusterIPs": [ip], "type": "LoadBalancer", "externalIPs": ["192.0.2.1"],
                "ports": [{"port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}}}))
        .unwrap()
    };
    let slice = |labels: Value| -> EndpointSlice {
        serde_json::from_value(json!({"addressType": "IPv4", "metadata": {"labels": labels},
            "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.1.0.2"]}]}))
        .unwrap()
    };
    let compiled =
        |label: &str, slice: EndpointSlice| whole(&service(label, "10.0.0.1"), &[slice], &BTreeSet::new());
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        let theirs = compiled(label, slice(json!({})));
        assert_eq!(theirs.cluster_ips, ["10.0.0.1"]);
        assert!(
            theirs.ports.is_empty() && theirs.external_ips.is_empty() && theirs.load_balancer_ips.is_empty()
        );
    }
    assert_eq!(compiled("team", slice(json!({}))).ports[0].endpoints.len(), 1);
    let hidden = compiled("team", slice(json!({"service.kubernetes.io/headless": ""})));
    assert!(hidden.ports[0].endpoints.is_empty());
    let headless = service("service.kubernetes.io/headless", "None");
    let headless = whole(&headless, &[slice(json!({}))], &BTreeSet::new());
    assert_eq!(headless.ports[0].endpoints.len(), 1);
}

#[test]
fn nodes_are_told_the_health_check_port() {
    let service: Service = serde_json::from_value(json!({"spec": {"type": "LoadBalancer",
        "clusterIP": "10.0.0.5", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31_234}}))
    .unwrap();
    let compiled = whole(&service, &[], &BTreeSet::new());
    assert_eq!(compiled.health_check_node_port, 31_234);
}

#[test]
fn ranges_and_addresses_go_out_in_the_form_that_they_are_meant_in() {
    let service: Service = serde_json::from_value(json!({"spec": {"type": "LoadBalancer",
        "clusterIPs": ["10.0.0.1", "FD00::1"], "externalIPs": ["192.0.2.010"],
        "loadBalancerSourceRanges": [" 10.1.2.3/16", "2001:DB8::/32 ", "nonsense"],
        "ports": [{"port": 80, "protocol": "QUIC"}, {"port": 81}]}}))
    .unwrap();
    let slice: EndpointSlice = serde_json::from_value(json!({"addressType": "IPv4", "metadata": {},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.1.0.02"]}, {"addresses": ["a.example"]}]}))
    .unwrap();
    let compiled = whole(&service, &[slice], &BTreeSet::new());
    // What means nothing is not left out, which might leave a list that is open to all: nodes refuse it.
    assert_eq!(compiled.source_ranges, ["10.1.0.0/16", "2001:db8::/32", "nonsense"]);
    assert_eq!(compiled.cluster_ips, ["10.0.0.1", "fd00::1"]);
    assert_eq!(compiled.external_ips, ["192.0.2.10"]);
    let protocols: Vec<_> = compiled.ports.iter().map(pb::ServicePort::protocol).collect();
    assert_eq!(protocols, [pb::Protocol::Unspecified, pb::Protocol::Tcp], "not TCP for want of a better one");
    let endpoints: Vec<_> = compiled.ports[1].endpoints.iter().map(|e| e.address.as_str()).collect();
    assert_eq!(endpoints, ["10.1.0.2"]);
}
