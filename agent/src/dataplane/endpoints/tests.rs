//! Endpoint sets by policy.

use std::time::Duration;

use super::*;
use crate::model::ServiceType;

const HERE: &str = "here";

pub(in crate::dataplane) fn spec() -> ServiceSpec {
    ServiceSpec {
        generation: 1,
        kind: ServiceType::ClusterIp,
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        headless: false,
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        publish_not_ready: false,
        health_port: None,
        source_ranges: Vec::new(),
        ports: Vec::new(),
    }
}

pub(in crate::dataplane) fn port(endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None, endpoints }
}

pub(in crate::dataplane) fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        node: Some(node.into()),
        ready: true,
        serving: true,
        terminating: false,
        hostname: String::new(),
        pod: String::new(),
    }
}

fn terminating(address: &str, node: &str, serving: bool) -> Endpoint {
    Endpoint { ready: false, serving, terminating: true, ..endpoint(address, node) }
}

fn set(spec: &ServiceSpec, endpoints: Vec<Endpoint>, role: Role) -> (Vec<String>, u16) {
    let mut port = port(endpoints);
    port.node_port = Some(30080);
    let compiled = compile(spec, &port, &HERE.into());
    let set = &compiled.sets[&role];
    (set.targets.iter().map(|target| target.address.to_string()).collect(), set.flags)
}

fn addresses(spec: &ServiceSpec, endpoints: Vec<Endpoint>, role: Role) -> Vec<String> {
    set(spec, endpoints, role).0
}

#[test]
fn only_the_ready_are_chosen() {
    let unready = Endpoint { ready: false, ..endpoint("10.244.0.3:80", HERE) };
    let endpoints =
        vec![endpoint("10.244.0.2:80", HERE), unready.clone(), terminating("10.244.0.4:80", HERE, true)];
    assert_eq!(addresses(&spec(), endpoints, Role::Internal), ["10.244.0.2:80"]);
    assert!(addresses(&spec(), vec![unready.clone()], Role::Internal).is_empty());
    let published = ServiceSpec { publish_not_ready: true, ..spec() };
    assert_eq!(addresses(&published, vec![unready], Role::Internal), ["10.244.0.3:80"]);
}

#[test]
fn when_all_terminate_those_that_serve_stay() {
    let endpoints = vec![terminating("10.244.0.2:80", HERE, true), terminating("10.244.0.3:80", HERE, false)];
    assert_eq!(addresses(&spec(), endpoints, Role::Internal), ["10.244.0.2:80"]);
}

#[test]
fn the_fallback_is_taken_for_each_set_by_itself() {
    let local = ServiceSpec { external_local: true, ..spec() };
    let endpoints = vec![terminating("10.244.0.2:80", HERE, true), endpoint("10.244.1.2:80", "there")];
    assert_eq!(addresses(&local, endpoints.clone(), Role::ExternalFromOutside), ["10.244.0.2:80"]);
    assert_eq!(addresses(&local, endpoints.clone(), Role::ExternalFromInside), ["10.244.1.2:80"]);
    assert_eq!(addresses(&local, endpoints, Role::Internal), ["10.244.1.2:80"]);
}

#[test]
fn traffic_policies_bind_whom_they_should() {
    let endpoints = || vec![endpoint("10.244.0.2:80", HERE), endpoint("10.244.1.2:80", "there")];
    let (here, both) = (vec!["10.244.0.2:80"], vec!["10.244.0.2:80", "10.244.1.2:80"]);
    let internal = ServiceSpec { internal_local: true, ..spec() };
    let external = ServiceSpec { external_local: true, ..spec() };
    for (spec, role, expected) in [
        (&internal, Role::Internal, &here),
        (&internal, Role::ExternalFromInside, &both),
        (&internal, Role::ExternalFromOutside, &both),
        (&external, Role::Internal, &both),
        (&external, Role::ExternalFromInside, &both),
        (&external, Role::ExternalFromOutside, &here),
    ] {
        assert_eq!(&addresses(spec, endpoints(), role), expected, "{role:?}");
    }
}

#[test]
fn nothing_here_drops_and_nothing_anywhere_refuses() {
    let external = ServiceSpec { external_local: true, ..spec() };
    let elsewhere = vec![endpoint("10.244.1.2:80", "there")];
    let (targets, flags) = set(&external, elsewhere, Role::ExternalFromOutside);
    assert!(targets.is_empty());
    assert_eq!(flags, words::LOCAL_ONLY | words::EMPTY_DROP);
    assert_eq!(set(&external, Vec::new(), Role::ExternalFromOutside).1, words::LOCAL_ONLY);
    assert_eq!(set(&spec(), Vec::new(), Role::Internal).1, 0);
}

#[test]
fn the_source_is_hidden_only_from_outside_and_only_by_policy_cluster() {
    let endpoints = || vec![endpoint("10.244.1.2:80", "there")];
    assert_eq!(set(&spec(), endpoints(), Role::ExternalFromOutside).1, words::MASQUERADE);
    assert_eq!(set(&spec(), endpoints(), Role::ExternalFromInside).1, 0);
    assert_eq!(set(&spec(), endpoints(), Role::Internal).1, 0);
}

#[test]
fn every_address_is_a_frontend() {
    let service = ServiceSpec {
        external_ips: vec!["198.51.100.7".parse().unwrap()],
        load_balancer_ips: vec![("192.0.2.200".parse().unwrap(), None)],
        source_ranges: vec!["203.0.113.0/24".parse().unwrap()],
        affinity: Some(Duration::from_secs(10)),
        ..spec()
    };
    let port = ServicePort { node_port: Some(30080), ..port(vec![endpoint("10.244.0.2:80", HERE)]) };
    let compiled = compile(&service, &port, &HERE.into());
    let shown: Vec<(String, u16, u8, Role)> = compiled
        .frontends
        .iter()
        .map(|(key, role)| {
            (
                Ipv4Addr::from(key.addr_be.to_ne_bytes()).to_string(),
                u16::from_be(key.port_be),
                key.scope,
                *role,
            )
        })
        .collect();
    let entry = |address: &str, port, scope, role| (address.to_owned(), port, scope, role);
    assert_eq!(
        shown,
        [
            entry("10.96.0.10", 80, INSIDE, Role::Internal),
            entry("0.0.0.0", 30080, INSIDE, Role::ExternalFromInside),
            entry("0.0.0.0", 30080, OUTSIDE, Role::ExternalFromOutside),
            entry("198.51.100.7", 80, INSIDE, Role::ExternalFromInside),
            entry("198.51.100.7", 80, OUTSIDE, Role::ExternalFromOutside),
            entry("192.0.2.200", 80, INSIDE, Role::BalancerFromInside),
            entry("192.0.2.200", 80, OUTSIDE, Role::BalancerFromOutside),
        ]
    );
    assert_eq!(compiled.timeout, words::ticks(10));
    let ranged = |role| compiled.sets[&role].flags & words::SOURCE_RANGES != 0;
    assert!(ranged(Role::BalancerFromInside) && ranged(Role::BalancerFromOutside));
    assert!(!ranged(Role::Internal) && !ranged(Role::ExternalFromOutside), "as upstream: load balancer only");
}

#[test]
fn headless_and_sctp_have_no_frontend() {
    let headless = ServiceSpec { cluster_ips: Vec::new(), headless: true, ..spec() };
    assert_eq!(
        compile(&headless, &port(vec![endpoint("10.244.0.2:80", HERE)]), &HERE.into()),
        CompiledPort::default()
    );
    let sctp = ServicePort { protocol: Protocol::Sctp, ..port(Vec::new()) };
    assert_eq!(compile(&spec(), &sctp, &HERE.into()), CompiledPort::default());
}

#[test]
fn duplicates_are_one() {
    let endpoints = vec![endpoint("10.244.0.2:80", HERE), endpoint("10.244.0.2:80", HERE)];
    assert_eq!(addresses(&spec(), endpoints, Role::Internal).len(), 1);
}

#[test]
fn what_is_not_served_is_told() {
    let told = |change: fn(&mut ServiceSpec)| {
        let mut spec = spec();
        spec.ports.push(port(vec![endpoint("10.0.0.1:80", HERE)]));
        change(&mut spec);
        unserved(&spec)
    };
    assert_eq!(told(|_| {}), None);
    let sctp: fn(&mut ServiceSpec) = |spec| spec.ports[0].protocol = Protocol::Sctp;
    assert!(told(sctp).is_some_and(|text| text.contains("port 80")));
    assert!(told(|spec| spec.external_ips = vec!["2001:db8::1".parse().unwrap()]).is_some());
    assert!(told(|spec| spec.load_balancer_ips = vec![("2001:db8::1".parse().unwrap(), None)]).is_some());
    assert!(told(|spec| spec.ports[0].endpoints[0].address = "[2001:db8::1]:80".parse().unwrap()).is_some());
    // Names lead to it all the same.
    assert_eq!(told(|spec| (spec.headless, spec.ports[0].protocol) = (true, Protocol::Sctp)), None);
}

#[test]
fn of_two_roles_of_an_address_the_balancers_counts() {
    let mut spec = spec();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    (spec.external_ips, spec.load_balancer_ips) = (vec![address], vec![(address, None)]);
    spec.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
    let compiled = compile(&spec, &port(vec![endpoint("10.0.0.1:80", HERE)]), &HERE.into());
    let roles: Vec<Role> = compiled.frontends.iter().map(|(_, role)| *role).collect();
    assert_eq!(roles, [Role::Internal, Role::BalancerFromInside, Role::BalancerFromOutside]);
    assert!(!compiled.sets.contains_key(&Role::ExternalFromOutside), "nothing leads past the ranges");
}
