//! Placement as a whole, on snapshots made by hand.

mod agree;
mod reference;

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{filter::Rejection, *};

fn node(name: &str, cpu: &str, labels: &Value) -> k8s_openapi::api::core::v1::Node {
    let mut all = json!({"kubernetes.io/hostname": name});
    for (key, value) in labels.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": all},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    }))
    .unwrap()
}

fn pod(name: &str, labels: &Value, spec: &Value) -> Arc<PodView> {
    let mut spec = spec.clone();
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
    }
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels}, "spec": spec,
    });
    view(pod)
}

fn view(pod: Value) -> Arc<PodView> {
    Snapshot::default().view(&serde_json::from_value(pod).unwrap())
}

/// One decision that remembers nothing.
fn decide(snapshot: &mut Snapshot, pod: &PodView, turn: usize) -> Result<Arc<str>, Arc<Unplaced>> {
    Placer::new(Sampling::Off, turn).decide(snapshot, pod)
}

/// The pod must go to this node.
fn pinned(node: &str, mut spec: Value) -> Value {
    spec["nodeSelector"] = json!({"kubernetes.io/hostname": node});
    spec
}

fn plain(name: &str) -> Arc<PodView> {
    pod(name, &json!({"app": "web"}), &json!({}))
}

fn cluster(nodes: usize, cpu: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..nodes {
        let zone = if n % 2 == 0 { "a" } else { "b" };
        let labels = json!({"topology.kubernetes.io/zone": zone});
        snapshot.set_node(&node(&format!("n{n}"), cpu, &labels));
    }
    snapshot
}

fn place(snapshot: &mut Snapshot, pod: &Arc<PodView>, turn: usize) -> Result<String, Arc<Unplaced>> {
    let home = decide(snapshot, pod, turn)?;
    snapshot.set_pod(pod, &home);
    Ok(home.to_string())
}

#[test]
fn a_pending_pod_says_why_in_upstreams_sentence() {
    let mut snapshot = cluster(3, "500m");
    snapshot.set_node(&node("n1", "4", &json!({"disk": "hdd"})));
    snapshot.set_node(&node("n2", "4", &json!({"disk": "hdd"})));
    let ssd = json!({"nodeSelector": {"kubernetes.io/hostname": "n0"}});
    let why = decide(&mut snapshot, &pod("p", &json!({}), &ssd), 0).unwrap_err();
    assert_eq!(
        why.to_string(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector."
    );
    let never = Rejection::Insufficient { resource: "cpu".to_owned(), never: true };
    assert_eq!(why.reasons, [(never, 1), (Rejection::NodeAffinity, 2)].into());
    let empty = decide(&mut Snapshot::default(), &plain("p"), 0).unwrap_err();
    assert_eq!(empty.to_string(), "no nodes available to schedule pods");
}

#[test]
fn nothing_is_said_of_preemption_where_nobody_looked_for_victims() {
    let mut snapshot = cluster(1, "1");
    place(&mut snapshot, &plain("a"), 0).unwrap();
    assert_eq!(
        decide(&mut snapshot, &plain("b"), 0).unwrap_err().to_string(),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
    assert!(snapshot.remove_pod("a").is_some());
    place(&mut snapshot, &plain("b"), 0).unwrap();
}

#[test]
fn taints_cordons_and_tolerations() {
    let mut snapshot = Snapshot::default();
    let mut tainted = node("n0", "4", &json!({}));
    tainted.spec =
        serde_json::from_value(json!({"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}))
            .unwrap();
    snapshot.set_node(&tainted);
    let mut cordoned = node("n1", "4", &json!({}));
    cordoned.spec = serde_json::from_value(json!({"unschedulable": true})).unwrap();
    snapshot.set_node(&cordoned);
    let why = decide(&mut snapshot, &plain("p"), 0).unwrap_err().to_string();
    assert!(
        why.contains("1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable"),
        "{why}"
    );
    let tolerant = json!({"tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes"}]});
    assert_eq!(&*decide(&mut snapshot, &pod("p", &json!({}), &tolerant), 0).unwrap(), "n0");
    let wrong = json!({"tolerations": [{"key": "gpu", "value": "no"}]});
    assert!(decide(&mut snapshot, &pod("p", &json!({}), &wrong), 0).is_err());
}

#[test]
fn node_affinity_required_and_preferred() {
    let mut snapshot = cluster(4, "4");
    let affinity = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["b"]}]},
        ]},
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n3"]}]}},
        ],
    }}});
    for turn in 0..4 {
        assert_eq!(&*decide(&mut snapshot, &pod("p", &json!({}), &affinity), turn).unwrap(), "n3");
    }
    let by_name = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]},
        ]},
    }}});
    assert_eq!(&*decide(&mut snapshot, &pod("p", &json!({}), &by_name), 0).unwrap(), "n2");
}

#[test]
fn host_ports_conflict_by_protocol_and_address() {
    let port = |ip: &str, protocol: &str| {
        json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]})
    };
    let mut snapshot = cluster(1, "4");
    place(&mut snapshot, &pod("a", &json!({}), &port("127.0.0.1", "TCP")), 0).unwrap();
    place(&mut snapshot, &pod("b", &json!({}), &port("127.0.0.2", "TCP")), 0).unwrap();
    place(&mut snapshot, &pod("c", &json!({}), &port("", "UDP")), 0).unwrap();
    let why = decide(&mut snapshot, &pod("d", &json!({}), &port("", "TCP")), 0).unwrap_err();
    assert_eq!(why.reasons, [(Rejection::HostPort, 1)].into());
    // A sidecar holds its port, an init container that ends does not.
    let init = |restart: Value| {
        let mut spec = json!({"containers": [{"name": "c"}]});
        spec["initContainers"] = port("127.0.0.1", "TCP")["containers"].clone();
        spec["initContainers"][0]["restartPolicy"] = restart;
        spec
    };
    let why = decide(&mut snapshot, &pod("e", &json!({}), &init(json!("Always"))), 0).unwrap_err();
    assert_eq!(why.reasons, [(Rejection::HostPort, 1)].into());
    assert!(decide(&mut snapshot, &pod("f", &json!({}), &init(Value::Null)), 0).is_ok());
}

fn anti(topology: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": topology, "labelSelector": {"matchLabels": {"app": "web"}}}]}}})
}

#[test]
fn anti_affinity_works_both_ways() {
    let mut snapshot = cluster(4, "16");
    let lonely = pod("lonely", &json!({"app": "db"}), &anti("topology.kubernetes.io/zone"));
    let home = place(&mut snapshot, &lonely, 0).unwrap();
    let zone = |name: &str| name.trim_start_matches('n').parse::<usize>().unwrap() % 2;
    // A pod without terms of its own is kept away by the one that is there.
    for n in 0..4 {
        let other = place(&mut snapshot, &plain(&format!("web{n}")), n).unwrap();
        assert_ne!(zone(&home), zone(&other));
    }
    snapshot.remove_pod("lonely");
    let there = if zone(&home) == 0 { "n1" } else { "n0" };
    let back = pod("lonely", &json!({"app": "db"}), &pinned(there, anti("topology.kubernetes.io/zone")));
    let why = decide(&mut snapshot, &back, 0).unwrap_err();
    assert_eq!(why.reasons, [(Rejection::NodeAffinity, 3), (Rejection::AntiAffinity, 1)].into());
}

#[test]
fn affinity_lets_the_first_of_a_group_go_anywhere_and_the_rest_follow() {
    let together = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "web"}}}]}}});
    let mut snapshot = cluster(4, "16");
    let zone = |name: &str| name.trim_start_matches('n').parse::<usize>().unwrap() % 2;
    let first = place(&mut snapshot, &pod("p0", &json!({"app": "web"}), &together), 1).unwrap();
    for n in 1..6 {
        let next = place(&mut snapshot, &pod(&format!("p{n}"), &json!({"app": "web"}), &together), n);
        assert_eq!(zone(&next.unwrap()), zone(&first));
    }
    let stranger = decide(&mut cluster(2, "4"), &pod("s", &json!({"app": "db"}), &together), 0).unwrap_err();
    assert_eq!(stranger.reasons, [(Rejection::Affinity, 2)].into());
}

#[test]
fn spread_keeps_the_skew() {
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let mut snapshot = cluster(3, "16");
    let mut zones = [0_i32; 2];
    for n in 0..9 {
        let home = place(&mut snapshot, &pod(&format!("p{n}"), &json!({"app": "web"}), &spread), n).unwrap();
        zones[home.trim_start_matches('n').parse::<usize>().unwrap() % 2] += 1;
        assert!((zones[0] - zones[1]).abs() <= 1, "{zones:?}");
    }
    snapshot.set_node(&node("bare", "16", &json!({})));
    let there = pinned("bare", spread);
    let why = decide(&mut snapshot, &pod("x", &json!({"app": "web"}), &there), 0).unwrap_err();
    assert_eq!(why.reasons, [(Rejection::NodeAffinity, 3), (Rejection::SpreadLabel, 1)].into());
}

#[test]
fn a_pod_that_is_leaving_does_not_count_in_the_spread() {
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "web"}},
        "nodeAffinityPolicy": "Ignore"}], "nodeSelector": {"kubernetes.io/hostname": "n0"}});
    let (mut snapshot, labels) = (cluster(2, "16"), json!({"app": "web"}));
    snapshot.set_pod(&plain("old"), "n0");
    let why = decide(&mut snapshot, &pod("new", &labels, &spread), 0).unwrap_err();
    assert_eq!(why.reasons.get(&Rejection::Spread), Some(&1), "{why}");
    let leaving = json!({"metadata": {"name": "old", "namespace": "default", "uid": "old", "labels": labels,
        "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"containers": []}});
    snapshot.set_pod(&view(leaving), "n0");
    assert_eq!(&*decide(&mut snapshot, &pod("new", &labels, &spread), 0).unwrap(), "n0");
}

#[test]
fn replicas_of_one_owner_spread_over_nodes_by_themselves() {
    let mut snapshot = cluster(5, "16");
    let mut homes = std::collections::BTreeSet::new();
    for n in 0..5 {
        let replica = json!({
            "metadata": {"name": "p", "namespace": "default", "uid": format!("p{n}"), "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]},
            "spec": {"containers": [{"name": "c"}]},
        });
        homes.insert(place(&mut snapshot, &view(replica), 0).unwrap());
    }
    assert_eq!(homes.len(), 5);
}

#[test]
fn preferred_anti_affinity_outweighs_a_fuller_node() {
    let prefer = json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "web"}}}}]}}});
    let mut snapshot = cluster(2, "16");
    place(&mut snapshot, &plain("first"), 0).unwrap();
    let second = place(&mut snapshot, &pod("second", &json!({"app": "web"}), &prefer), 0).unwrap();
    assert_eq!(second, "n1");
}

#[test]
fn a_node_that_left_keeps_its_pods_but_takes_none() {
    let mut snapshot = cluster(1, "4");
    place(&mut snapshot, &plain("a"), 0).unwrap();
    snapshot.remove_node("n0");
    assert_eq!(snapshot.node_count(), 0);
    assert!(decide(&mut snapshot, &plain("b"), 0).is_err());
    snapshot.set_node(&node("n0", "1", &json!({})));
    assert!(decide(&mut snapshot, &plain("b"), 0).is_err(), "the old pod still fills it");
    snapshot.remove_pod("a");
    assert!(decide(&mut snapshot, &plain("b"), 0).is_ok());
}

proptest! {
    #[test]
    fn no_node_is_ever_overcommitted(
        requests in proptest::collection::vec((1_u32..3000, 1_u32..4096), 1..80),
        drops in proptest::collection::vec(0_usize..80, 0..30),
    ) {
        let mut snapshot = cluster(4, "4");
        for (n, (cpu, memory)) in requests.iter().enumerate() {
            let containers = json!({"containers": [{"name": "c", "resources": {"requests": {
                "cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}}}]});
            let _ = place(&mut snapshot, &pod(&format!("p{n}"), &json!({}), &containers), n);
            if let Some(drop) = drops.get(n) {
                snapshot.remove_pod(&format!("p{drop}"));
            }
        }
        for node in snapshot.nodes() {
            let mut used = Amounts::default();
            for pod in node.pods.values() {
                used.add(&pod.shape.requests.said);
            }
            prop_assert_eq!(&used, &node.said, "the sums are kept right");
            prop_assert!(used.get("cpu") <= 4000 && used.get("memory") <= 8 << 30);
        }
    }

    #[test]
    fn required_anti_affinity_always_holds(kinds in proptest::collection::vec(any::<bool>(), 1..20)) {
        let mut snapshot = cluster(6, "64");
        for (n, lonely) in kinds.iter().enumerate() {
            let spec = if *lonely { anti("kubernetes.io/hostname") } else { json!({}) };
            let _ = place(&mut snapshot, &pod(&format!("p{n}"), &json!({"app": "web"}), &spec), n);
        }
        for node in snapshot.nodes() {
            let lonely = node.pods.values().any(|p| !p.shape.anti_affinity.is_empty());
            prop_assert!(!lonely || node.pods.len() == 1, "{} pods beside a lonely one", node.pods.len());
        }
    }
}

#[test]
fn of_many_nodes_enough_are_looked_at_as_upstream_counts_them() {
    // Upstream's own table for its default: all below 100, then 50 % less one for each 125 nodes, 5 % at least.
    let enough = [10, 99, 100, 250, 1000, 5000, 6000, 10_000].map(|n| Sampling::Adaptive.enough(n));
    assert_eq!(enough, [10, 99, 100, 120, 420, 500, 300, 500]);
    assert_eq!(Sampling::Off.enough(5000), 5000);
}
