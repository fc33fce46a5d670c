//! With sampling off the placer, which remembers and corrects, chooses what the reference chooses, whatever happened.

use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value, json};

use super::{Placer, Sampling, Snapshot, reference};
use crate::model::LabelSelector;

const NAMESPACES: [&str; 2] = ["default", "other"];
const APPS: [&str; 3] = ["web", "db", "cache"];
const TOPOLOGIES: [&str; 3] = ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "rack"];

#[derive(Clone, Debug)]
enum Step {
    /// The node of this number is so, or is so now.
    Node(usize, Value),
    NodeGone(usize),
    /// So many pods of the template of this number want a place.
    Place(usize, usize),
    /// A pod of the template of this number is on a node already.
    There(usize, usize),
    /// One of the pods, counted from the latest, begins to leave.
    Leaving(usize),
    Gone(usize),
    Namespace(usize, bool),
    Service(usize, usize, bool),
}

fn node() -> impl Strategy<Value = Value> {
    let label = |key: &'static str, values: &'static [&'static str]| {
        proptest::option::weighted(0.85, proptest::sample::select(values)).prop_map(move |v| (key, v))
    };
    let taint = proptest::sample::select(&["NoSchedule", "PreferNoSchedule", "NoExecute"][..]);
    (
        label("topology.kubernetes.io/zone", &["a", "b", "c"]),
        label("rack", &["r1", "r2"]),
        label("disk", &["ssd"]),
        proptest::option::weighted(0.25, taint),
        proptest::bool::weighted(0.1),
        1_u32..9,
        1_u32..7,
        proptest::option::weighted(0.3, 100_i64..1200),
    )
        .prop_map(|(zone, rack, disk, taint, cordoned, cpu, pods, image)| {
            let mut labels = Map::new();
            for (key, value) in [zone, rack, disk] {
                if let Some(value) = value {
                    labels.insert(key.to_owned(), value.into());
                }
            }
            let taints: Vec<Value> =
                taint.iter().map(|effect| json!({"key": "gpu", "effect": effect})).collect();
            let images: Vec<Value> =
                image.iter().map(|mb| json!({"names": ["big"], "sizeBytes": mb << 20})).collect();
            json!({
                "metadata": {"labels": labels}, "spec": {"taints": taints, "unschedulable": cordoned},
                "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": pods.to_string()}, "images": images},
            })
        })
}

fn selector() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => proptest::sample::select(&APPS[..]).prop_map(|app| json!({"matchLabels": {"app": app}})),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]})),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]})),
        1 => Just(json!({})),
    ]
}

fn term() -> impl Strategy<Value = Value> {
    let namespaces = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!({"namespaces": ["default", "other"]})),
        1 => Just(json!({"namespaceSelector": {"matchLabels": {"team": "a"}}})),
    ];
    (selector(), proptest::sample::select(&TOPOLOGIES[..]), namespaces).prop_map(
        |(selector, topology, namespaces)| {
            let mut term = namespaces;
            term["labelSelector"] = selector;
            term["topologyKey"] = topology.into();
            term
        },
    )
}

fn affinity() -> impl Strategy<Value = Value> {
    let required = || vec(term(), 0..3);
    let preferred = || vec((1..100, term()), 0..3);
    let both = |(required, preferred): (Vec<Value>, Vec<(i32, Value)>)| {
        let preferred: Vec<Value> =
            preferred.into_iter().map(|(w, t)| json!({"weight": w, "podAffinityTerm": t})).collect();
        json!({"requiredDuringSchedulingIgnoredDuringExecution": required,
            "preferredDuringSchedulingIgnoredDuringExecution": preferred})
    };
    let disk = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]});
    let wanted = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [disk]}});
    let liked =
        json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "preference": disk}]});
    let node = prop_oneof![4 => Just(json!({})), 1 => Just(wanted), 1 => Just(liked)];
    let pods = proptest::option::weighted(0.4, (required(), preferred()).prop_map(both));
    let anti = proptest::option::weighted(0.5, (required(), preferred()).prop_map(both));
    (node, pods, anti).prop_map(|(node, pods, anti)| {
        let mut affinity = json!({"nodeAffinity": node});
        if let Some(pods) = pods {
            affinity["podAffinity"] = pods;
        }
        if let Some(anti) = anti {
            affinity["podAntiAffinity"] = anti;
        }
        affinity
    })
}

fn spread() -> impl Strategy<Value = Value> {
    let policy = || proptest::sample::select(&["Honor", "Ignore"][..]);
    let when = proptest::sample::select(&["DoNotSchedule", "ScheduleAnyway"][..]);
    let topology = proptest::sample::select(&TOPOLOGIES[..]);
    (1..3, topology, when, selector(), policy(), policy(), proptest::option::weighted(0.2, 1..5)).prop_map(
        |(skew, topology, when, selector, affinity, taints, domains)| {
            json!({"maxSkew": skew, "topologyKey": topology, "whenUnsatisfiable": when,
                "labelSelector": selector, "nodeAffinityPolicy": affinity, "nodeTaintsPolicy": taints,
                "minDomains": domains})
        },
    )
}

fn template() -> impl Strategy<Value = Value> {
    (
        proptest::sample::select(&NAMESPACES[..]),
        proptest::sample::select(&APPS[..]),
        proptest::option::weighted(0.3, proptest::sample::select(&["rs1", "rs2"][..])),
        proptest::option::weighted(0.5, affinity()),
        vec(spread(), 0..3),
        proptest::bool::weighted(0.3),
        proptest::option::weighted(0.15, 8000..8002),
        proptest::option::weighted(0.5, 100..3000),
    )
        .prop_map(|(namespace, app, owner, affinity, spread, tolerant, port, cpu)| {
            let owners: Vec<Value> = owner
                .iter()
                .map(|uid| json!({"apiVersion": "v1", "kind": "R", "name": uid, "uid": uid, "controller": true}))
                .collect();
            let ports: Vec<Value> =
                port.iter().map(|port| json!({"containerPort": 80, "hostPort": port})).collect();
            let requests: Value = cpu.map_or(json!({}), |cpu| json!({"cpu": format!("{cpu}m")}));
            let tolerations = if tolerant { json!([{"operator": "Exists"}]) } else { json!([]) };
            let mut spec = json!({
                "containers": [{"name": "c", "image": "big", "ports": ports, "resources": {"requests": requests}}],
                "tolerations": tolerations, "topologySpreadConstraints": spread,
            });
            if let Some(affinity) = affinity {
                spec["affinity"] = affinity;
            }
            json!({"metadata": {"namespace": namespace, "labels": {"app": app}, "ownerReferences": owners},
                "spec": spec})
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_usize..9, node()).prop_map(|(n, node)| Step::Node(n, node)),
        1 => (0_usize..9).prop_map(Step::NodeGone),
        8 => (0_usize..4, 1_usize..5).prop_map(|(t, n)| Step::Place(t, n)),
        2 => (0_usize..4, 0_usize..9).prop_map(|(t, n)| Step::There(t, n)),
        1 => (0_usize..9).prop_map(Step::Leaving),
        2 => (0_usize..9).prop_map(Step::Gone),
        1 => (0_usize..2, any::<bool>()).prop_map(|(n, team)| Step::Namespace(n, team)),
        1 => (0_usize..2, 0_usize..3, any::<bool>()).prop_map(|(n, a, there)| Step::Service(n, a, there)),
    ]
}

struct Cluster {
    snapshot: Snapshot,
    placer: Placer,
    pods: Vec<(Value, String)>,
    made: usize,
    turn: usize,
}

impl Cluster {
    fn node(&mut self, number: usize, node: &Value) {
        let mut node = node.clone();
        let name = format!("n{number}");
        node["metadata"]["name"] = name.clone().into();
        node["metadata"]["labels"]["kubernetes.io/hostname"] = name.into();
        self.snapshot.set_node(&serde_json::from_value(node).unwrap());
    }

    fn pod(&mut self, template: &Value) -> Value {
        let mut pod = template.clone();
        self.made += 1;
        pod["metadata"]["name"] = format!("p{}", self.made).into();
        pod["metadata"]["uid"] = format!("p{}", self.made).into();
        pod
    }

    fn set(&mut self, pod: Value, node: &str) {
        let view = self.snapshot.view(&serde_json::from_value(pod.clone()).unwrap());
        self.snapshot.set_pod(&view, node);
        self.pods.retain(|(other, _)| other["metadata"]["uid"] != pod["metadata"]["uid"]);
        self.pods.push((pod, node.to_owned()));
    }

    fn place(&mut self, template: &Value) -> Result<(), TestCaseError> {
        let pod = self.pod(template);
        let view = self.snapshot.view(&serde_json::from_value(pod.clone()).unwrap());
        let expected = reference::decide(&self.snapshot, &view.shape, self.turn);
        let chosen = self.placer.decide(&mut self.snapshot, &view);
        let chosen = chosen.map(|node| node.to_string()).map_err(|why| (*why).clone());
        prop_assert_eq!(&chosen, &expected, "{}", template);
        if let Ok(node) = chosen {
            let number = self.snapshot.numbered().find(|(_, n)| *n.name == *node).unwrap().0;
            self.turn = self.snapshot.position(number) + 1;
            self.set(pod, &node);
        }
        Ok(())
    }

    fn nth(&self, back: usize) -> Option<(Value, String)> {
        self.pods.iter().rev().nth(back).cloned()
    }

    fn take(&mut self, step: Step, templates: &[Value]) -> Result<(), TestCaseError> {
        match step {
            Step::Node(number, node) => self.node(number, &node),
            Step::NodeGone(number) => self.snapshot.remove_node(&format!("n{number}")),
            Step::Place(template, count) => {
                for _ in 0..count {
                    self.place(&templates[template % templates.len()])?;
                }
            }
            Step::There(template, node) => {
                let pod = self.pod(&templates[template % templates.len()]);
                self.set(pod, &format!("n{node}"));
            }
            Step::Leaving(back) => {
                if let Some((mut pod, node)) = self.nth(back) {
                    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                    self.set(pod, &node);
                }
            }
            Step::Gone(back) => {
                if let Some((pod, _)) = self.nth(back) {
                    let uid = pod["metadata"]["uid"].as_str().unwrap();
                    prop_assert!(self.snapshot.remove_pod(uid).is_some());
                    self.pods.retain(|(other, _)| other["metadata"]["uid"] != uid);
                }
            }
            Step::Namespace(number, team) => {
                let label = ("team".to_owned(), if team { "a" } else { "b" }.to_owned());
                self.snapshot.set_namespace(NAMESPACES[number], [label].into());
            }
            Step::Service(namespace, app, there) => {
                let labels = std::collections::BTreeMap::from([("app".to_owned(), APPS[app].to_owned())]);
                let selector = there.then(|| LabelSelector::from_map(&labels));
                self.snapshot.set_service(NAMESPACES[namespace], APPS[app], selector);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_placer_chooses_what_the_reference_chooses(
        nodes in vec(node(), 2..9),
        templates in vec(template(), 1..5),
        steps in vec(step(), 1..30),
    ) {
        let mut cluster = Cluster {
            snapshot: Snapshot::default(),
            placer: Placer::new(Sampling::Off, 0),
            pods: Vec::new(),
            made: 0,
            turn: 0,
        };
        for (number, node) in nodes.iter().enumerate() {
            cluster.node(number, node);
        }
        for step in steps {
            cluster.take(step, &templates)?;
        }
    }

}

proptest! {
    // The reference takes long over so many nodes.
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Of many nodes only some are looked at: what is chosen fits all the same, pods that find no node are those for
    /// which there is none, and the same again leads to the same.
    #[test]
    fn a_sample_chooses_a_node_that_fits_and_misses_none(
        templates in vec(template(), 1..4),
        counts in vec(1_usize..6, 3),
        shapes in vec(node(), 3..6),
    ) {
        let run = || -> Result<Vec<Result<String, String>>, TestCaseError> {
            let mut cluster = Cluster {
                snapshot: Snapshot::default(),
                placer: Placer::new(Sampling::Adaptive, 0),
                pods: Vec::new(),
                made: 0,
                turn: 0,
            };
            for number in 0..120 {
                cluster.node(number, &shapes[number % shapes.len()]);
            }
            let mut chosen = Vec::new();
            for (template, count) in templates.iter().zip(&counts) {
                for _ in 0..*count {
                    let pod = cluster.pod(template);
                    let view = cluster.snapshot.view(&serde_json::from_value(pod.clone()).unwrap());
                    let fitting = reference::fitting(&cluster.snapshot, &view.shape);
                    match cluster.placer.decide(&mut cluster.snapshot, &view) {
                        Ok(node) => {
                            prop_assert!(fitting.contains(&*node), "{} on {}", template, node);
                            cluster.set(pod, &node);
                            chosen.push(Ok(node.to_string()));
                        }
                        Err(why) => {
                            prop_assert!(fitting.is_empty(), "{}: {:?}", why, fitting);
                            chosen.push(Err(why.to_string()));
                        }
                    }
                }
            }
            Ok(chosen)
        };
        prop_assert_eq!(run()?, run()?);
    }
}
