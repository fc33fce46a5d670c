//! What nodes are told, object by object. Whole verdicts are compared in `tests/tests/policy.rs`.
#![expect(clippy::needless_pass_by_value, reason = "objects are written down where they are used")]

use std::time::Instant;

use serde_json::{Value, json};

use super::*;

fn policy(name: &str, spec: Value) -> NetworkPolicy {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "a"}, "spec": spec})).unwrap()
}

fn pod(namespace: &str, name: &str, labels: Value, node: &str, ip: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "uid": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}, {"ip": format!("fd00::{}", &ip[5..])}]},
    }))
    .unwrap()
}

fn namespace(name: &str, labels: Value) -> Namespace {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
}

fn from(peer: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [peer]}]})
}

fn told(engine: &mut Engine) -> Vec<(String, pb::ObjectKind, String, bool)> {
    let drained = engine.drain();
    let lines = drained.iter().flat_map(|(node, updates)| {
        updates.iter().map(|u| (node.to_string(), u.kind(), format!("{}/{}", u.namespace, u.name), u.removed))
    });
    lines.collect()
}

/// A database on n1 that the web server on n2 may reach.
fn engine() -> Engine {
    let mut engine = Engine::default();
    engine.put_namespace(&namespace("a", json!({})));
    engine.put_pod(&pod("a", "db", json!({"app": "db"}), "n1", "10.0.0.1"));
    engine.put_pod(&pod("a", "web", json!({"app": "web"}), "n2", "10.0.0.2"));
    engine.put_policy(&policy("p", from(json!({"podSelector": {"matchLabels": {"app": "web"}}})))).unwrap();
    engine
}

fn line(
    node: &str,
    kind: pb::ObjectKind,
    name: &str,
    removed: bool,
) -> (String, pb::ObjectKind, String, bool) {
    (node.to_owned(), kind, name.to_owned(), removed)
}

#[test]
fn a_node_is_told_what_its_own_pods_need_in_a_safe_order() {
    let mut engine = engine();
    let expected = [
        line("n1", pb::ObjectKind::PolicyPeer, "a/web", false),
        line("n1", pb::ObjectKind::Policy, "a/p", false),
        line("n1", pb::ObjectKind::PodPolicy, "a/db", false),
        line("n2", pb::ObjectKind::PodPolicy, "a/web", false),
    ];
    assert_eq!(told(&mut engine), expected);
    assert_eq!(told(&mut engine), [], "and once");
    engine.remove_policy("a", "p");
    let expected = [
        line("n1", pb::ObjectKind::PodPolicy, "a/db", false),
        line("n1", pb::ObjectKind::PolicyPeer, "a/web", true),
        line("n1", pb::ObjectKind::Policy, "a/p", true),
    ];
    assert_eq!(told(&mut engine), expected);
}

#[test]
fn a_change_that_changes_nothing_for_a_node_tells_it_nothing() {
    let mut engine = engine();
    engine.drain();
    engine.put_pod(&pod("a", "web", json!({"app": "web", "version": "2"}), "n2", "10.0.0.2"));
    engine.put_policy(&policy("p", from(json!({"podSelector": {"matchLabels": {"app": "web"}}})))).unwrap();
    assert_eq!(told(&mut engine), []);
    // Nor one that n1 does not ask for.
    engine.put_pod(&pod("a", "other", json!({"app": "other"}), "n2", "10.0.0.3"));
    assert_eq!(told(&mut engine), [line("n2", pb::ObjectKind::PodPolicy, "a/other", false)]);
}

#[test]
fn labels_of_pods_and_namespaces_move_pods_in_and_out_of_groups() {
    let mut engine = engine();
    let peers = json!({"namespaceSelector": {"matchLabels": {"team": "x"}}});
    engine.put_policy(&policy("p", from(peers))).unwrap();
    engine.put_pod(&pod("b", "web", json!({}), "n2", "10.0.0.9"));
    engine.drain();
    let peer = |removed| [line("n1", pb::ObjectKind::PolicyPeer, "b/web", removed)];
    engine.put_namespace(&namespace("b", json!({"team": "x"})));
    assert_eq!(told(&mut engine), peer(false));
    engine.put_namespace(&namespace("b", json!({"team": "y"})));
    assert_eq!(told(&mut engine), peer(true));
    engine.put_namespace(&namespace("b", json!({"team": "x"})));
    engine.drain();
    engine.remove_namespace("b");
    assert_eq!(told(&mut engine), peer(true));
}

#[test]
fn pods_of_the_hosts_network_and_finished_ones_are_nobody() {
    let mut engine = engine();
    engine.drain();
    let mut web = pod("a", "web", json!({"app": "web"}), "n2", "10.0.0.2");
    web.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    engine.put_pod(&web);
    let gone = |kind, node| line(node, kind, "a/web", true);
    let expected = [gone(pb::ObjectKind::PolicyPeer, "n1"), gone(pb::ObjectKind::PodPolicy, "n2")];
    assert_eq!(told(&mut engine), expected);
    web.status.as_mut().unwrap().phase = Some("Running".to_owned());
    web.spec.as_mut().unwrap().host_network = Some(true);
    engine.put_pod(&web);
    assert_eq!(told(&mut engine), []);
}

#[test]
fn a_namespaces_annotation_puts_its_policies_in_audit_mode() {
    let mut engine = engine();
    engine.drain();
    let mut a = namespace("a", json!({}));
    a.metadata.annotations = Some([(AUDIT.to_owned(), "true".to_owned())].into());
    engine.put_namespace(&a);
    let updates = engine.drain().remove("n1").unwrap();
    let Some(pb::update::Body::Policy(told)) = &updates[0].body else { panic!("{updates:?}") };
    let Some(pb::update::Body::PodPolicy(pod)) = &updates[1].body else { panic!("{updates:?}") };
    assert!(told.audit);
    assert_eq!(pod.policies[0].revision, told.revision, "the pod is told of the policy as it is now");
}

#[test]
fn what_cannot_be_compiled_leaves_what_was_in_force() {
    let mut engine = engine();
    engine.drain();
    let block = |cidr: &str| from(json!({"ipBlock": {"cidr": cidr}}));
    assert!(matches!(engine.put_policy(&policy("p", block("10.0.0"))), Err(PolicyError::Cidr { .. })));
    let port = |port: Value| json!({"podSelector": {}, "ingress": [{"ports": [port]}]});
    for wrong in [
        json!({"port": 0}),
        json!({"port": 65536}),
        json!({"port": 80, "endPort": 79}),
        json!({"port": "web", "endPort": 80}),
        json!({"endPort": 80}),
        json!({"port": 80, "protocol": "ICMP"}),
    ] {
        let refused = engine.put_policy(&policy("p", port(wrong.clone())));
        assert!(matches!(refused, Err(PolicyError::Port(_))), "{wrong}");
    }
    let selector = from(json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}));
    assert!(matches!(engine.put_policy(&policy("p", selector)), Err(PolicyError::Selector(_))));
    assert_eq!(told(&mut engine), []);
}

/// Run in release: `cargo test --release -p gantry-scheduler --lib policy:: -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn what_ten_thousand_pods_and_a_thousand_policies_cost() {
    let (pods, policies, nodes, namespaces) = (10_000_u32, 1_000_u32, 100, 50);
    let pods: Vec<Pod> = (0..pods)
        .map(|n| {
            let labels = json!({"app": format!("app-{}", n / 10), "tier": format!("t{}", n % 3)});
            let ip = format!("10.1.{}.{}", n / 250, n % 250);
            pod(
                &format!("ns{}", n / 10 % namespaces),
                &format!("p{n}"),
                labels,
                &format!("n{}", n % nodes),
                &ip,
            )
        })
        .collect();
    let policy = |n: u32| {
        let peer =
            json!({"podSelector": {"matchLabels": {"app": format!("app-{}", (n + namespaces) % 1_000)}}});
        let team = json!({"namespaceSelector": {"matchLabels": {"team": format!("team-{}", n % namespaces)}},
            "podSelector": {"matchLabels": {"tier": "t1"}}});
        let spec = json!({"podSelector": {"matchLabels": {"app": format!("app-{n}")}},
            "ingress": [{"from": [peer, team], "ports": [{"port": 80}]}]});
        let meta = json!({"name": format!("p{n}"), "namespace": format!("ns{}", n % namespaces)});
        serde_json::from_value::<NetworkPolicy>(json!({"metadata": meta, "spec": spec})).unwrap()
    };
    let mut engine = Engine::default();
    let start = Instant::now();
    for n in 0..namespaces {
        engine.put_namespace(&namespace(&format!("ns{n}"), json!({"team": format!("team-{n}")})));
    }
    pods.iter().for_each(|pod| engine.put_pod(pod));
    let policies: Vec<NetworkPolicy> = (0..policies).map(policy).collect();
    let indexed = start.elapsed();
    policies.iter().for_each(|policy| engine.put_policy(policy).unwrap());
    let updates: usize = engine.drain().values().map(Vec::len).sum();
    println!("cold: {:?}, pods {indexed:?} of it, {updates} updates", start.elapsed());
    let mut each = |what: &str, change: &mut dyn FnMut(&mut Engine, usize)| {
        let mut times: Vec<_> = (0..200)
            .map(|n| {
                let start = Instant::now();
                change(&mut engine, n);
                let updates: usize = engine.drain().values().map(Vec::len).sum();
                (start.elapsed(), updates)
            })
            .collect();
        times.sort_unstable();
        println!("{what}: middle {:?}, slowest {:?}", times[100], times[199]);
    };
    each("a policy is removed and made again", &mut |engine, n| {
        engine.remove_policy(&format!("ns{}", n % 50), &format!("p{n}"));
        engine.put_policy(&policies[n]).unwrap();
    });
    each("a pod is relabelled", &mut |engine, n| {
        let mut pod = pods[n * 10].clone();
        pod.metadata.labels =
            Some([("app".to_owned(), format!("app-{n}")), ("tier".to_owned(), "t1".to_owned())].into());
        engine.put_pod(&pod);
    });
    each("a pod goes", &mut |engine, n| {
        engine.remove_pod(&format!("ns{}", n % 50), &format!("p{}", n * 10));
    });
    each("a namespace is relabelled", &mut |engine, n| {
        engine
            .put_namespace(&namespace(&format!("ns{}", n % 50), json!({"team": format!("team-{}", n % 7)})));
    });
}
