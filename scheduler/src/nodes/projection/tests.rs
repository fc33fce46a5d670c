use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{Key, Resource, Revision};

const NODES: [&str; 3] = ["n0", "n1", "n2"];

/// What the cluster holds, and beside it what a node should see by the plainest reading of it.
#[derive(Default)]
struct World {
    pods: BTreeMap<String, Value>,
    shared: BTreeMap<(SharedKind, String), Value>,
    services: BTreeMap<String, Value>,
    slices: BTreeMap<String, (String, Value)>,
    nodes: BTreeMap<String, NodeFacts>,
}

/// A node's copy: what an agent makes of the items.
#[derive(Clone, Debug, Default, PartialEq)]
struct Copy(BTreeMap<ItemKey, Body>);

impl Copy {
    fn apply(&mut self, item: &Item) {
        match &item.body {
            Body::Removed => {
                self.0.remove(&item.key);
            }
            body => {
                self.0.insert(item.key.clone(), body.clone());
            }
        }
    }

    /// Without pods' statuses, which are not sent for their own sake.
    fn comparable(&self) -> BTreeMap<ItemKey, String> {
        let text = |body: &Body| match body {
            Body::Json(json) => {
                let mut value: Value = serde_json::from_slice(json).unwrap();
                value.as_object_mut().unwrap().remove("status");
                value.to_string()
            }
            other => format!("{other:?}"),
        };
        self.0.iter().map(|(k, b)| (k.clone(), text(b))).collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Pod {
        pod: u8,
        node: Option<u8>,
        secrets: BTreeSet<u8>,
        config: Option<u8>,
        label: u8,
    },
    PodStatus {
        pod: u8,
        phase: u8,
    },
    PodGone {
        pod: u8,
    },
    Shared {
        secret: bool,
        index: u8,
        value: u8,
    },
    SharedGone {
        secret: bool,
        index: u8,
    },
    Service {
        service: u8,
        port: u16,
        balanced: bool,
    },
    ServiceGone {
        service: u8,
    },
    Slice {
        slice: u8,
        service: Option<u8>,
        addresses: BTreeSet<u8>,
    },
    SliceGone {
        slice: u8,
    },
    Node {
        node: u8,
        address: u8,
        announces: bool,
    },
    NodeGone {
        node: u8,
    },
    /// The session of a node breaks: it takes up again from where it was.
    Resume {
        node: u8,
    },
    /// A flush that the other operations are batched by.
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let small = || 0..3_u8;
    prop_oneof![
        4 => (small(), prop::option::weighted(0.8, small()), prop::collection::btree_set(small(), 0..3),
            prop::option::of(small()), 0..2_u8)
            .prop_map(|(pod, node, secrets, config, label)| Op::Pod { pod, node, secrets, config, label }),
        1 => (small(), small()).prop_map(|(pod, phase)| Op::PodStatus { pod, phase }),
        2 => small().prop_map(|pod| Op::PodGone { pod }),
        3 => (any::<bool>(), small(), small())
            .prop_map(|(secret, index, value)| Op::Shared { secret, index, value }),
        1 => (any::<bool>(), small()).prop_map(|(secret, index)| Op::SharedGone { secret, index }),
        2 => (small(), 80..82_u16, any::<bool>())
            .prop_map(|(service, port, balanced)| Op::Service { service, port, balanced }),
        1 => small().prop_map(|service| Op::ServiceGone { service }),
        3 => (small(), prop::option::weighted(0.9, small()), prop::collection::btree_set(0..5_u8, 0..4))
            .prop_map(|(slice, service, addresses)| Op::Slice { slice, service, addresses }),
        1 => small().prop_map(|slice| Op::SliceGone { slice }),
        2 => (small(), 0..2_u8, any::<bool>())
            .prop_map(|(node, address, announces)| Op::Node { node, address, announces }),
        1 => small().prop_map(|node| Op::NodeGone { node }),
        2 => small().prop_map(|node| Op::Resume { node }),
        4 => Just(Op::Flush),
    ]
}

fn object(resource: Resource, name: &str, json: &Value) -> Object {
    Object {
        key: Key::namespaced(resource, "default", name),
        uid: json["metadata"]["uid"].as_str().unwrap_or("").into(),
        revision: Revision(1),
        labels: BTreeMap::new(),
        fields: BTreeMap::new(),
        owners: Vec::new(),
        deleting: false,
        json: json.to_string().into(),
    }
}

fn no_class(_: &str) -> Option<String> {
    None
}

fn name(text: &str) -> Name {
    Name::new("default", text)
}

fn kind(secret: bool) -> SharedKind {
    if secret { SharedKind::Secret } else { SharedKind::ConfigMap }
}

impl World {
    /// Carries an operation out on the cluster and tells the projection.
    fn apply(&mut self, op: &Op, uid: usize, projection: &mut Projection) {
        match op {
            Op::Pod { pod, node, secrets, config, label } => {
                let pod = format!("p{pod}");
                // A pod's node and what it refers to never change: another one is another pod.
                let same = |old: &Value| {
                    old["metadata"]["node"] == json!(node)
                        && old["metadata"]["refs"] == json!((secrets, config))
                };
                let uid = match self.pods.get(&pod) {
                    Some(old) if same(old) => old["metadata"]["uid"].as_str().unwrap().to_owned(),
                    Some(_) => {
                        projection.pod_gone(&name(&pod));
                        uid.to_string()
                    }
                    None => uid.to_string(),
                };
                let value = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod, "namespace": "default", "uid": uid,
                    "labels": {"l": label.to_string()}, "node": node, "refs": (secrets, config)},
                "spec": {
                    "nodeName": node.map(|n| NODES[usize::from(n)]),
                    "imagePullSecrets": secrets.iter().map(|s| json!({"name": format!("s{s}")})).collect::<Vec<_>>(),
                    "containers": [{"name": "c", "envFrom":
                        config.iter().map(|c| json!({"configMapRef": {"name": format!("s{c}")}})).collect::<Vec<_>>()}],
                }});
                projection.pod(&object(Resource::PODS, &pod, &value), no_class).unwrap();
                self.pods.insert(pod, value);
            }
            Op::PodStatus { pod, phase } => {
                if let Some(value) = self.pods.get_mut(&format!("p{pod}")) {
                    value["status"] = json!({"phase": phase.to_string()});
                    projection.pod(&object(Resource::PODS, &format!("p{pod}"), value), no_class).unwrap();
                }
            }
            Op::PodGone { pod } => {
                let pod = format!("p{pod}");
                self.pods.remove(&pod);
                projection.pod_gone(&name(&pod));
            }
            Op::Shared { secret, index, value } => {
                let text = format!("s{index}");
                let value = json!({"metadata": {"name": text}, "data": {"v": value.to_string()}});
                projection.shared(kind(*secret), &name(&text), &value.to_string().into());
                self.shared.insert((kind(*secret), text), value);
            }
            Op::SharedGone { secret, index } => {
                let text = format!("s{index}");
                projection.shared_gone(kind(*secret), &name(&text));
                self.shared.remove(&(kind(*secret), text));
            }
            Op::Service { service, port, balanced } => {
                let text = format!("v{service}");
                let mut value = json!({"metadata": {"name": text}, "spec": {"clusterIP": "10.0.0.1",
                    "ports": [{"port": port, "targetPort": 8080}]}});
                if *balanced {
                    value["status"] =
                        json!({"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{service}")}]}});
                }
                projection.service(&name(&text), serde_json::from_value(value.clone()).unwrap());
                self.services.insert(text, value);
            }
            Op::ServiceGone { service } => {
                let text = format!("v{service}");
                projection.service_gone(&name(&text));
                self.services.remove(&text);
            }
            Op::Slice { slice, service, addresses } => {
                let text = format!("e{slice}");
                let endpoints: Vec<_> =
                    addresses.iter().map(|a| json!({"addresses": [format!("10.1.0.{a}")]})).collect();
                let value = json!({"addressType": "IPv4", "metadata": {"name": text},
                    "ports": [{"port": 8080}], "endpoints": endpoints});
                let owner = service.map(|s| format!("v{s}"));
                projection.slice(
                    &name(&text),
                    owner.as_deref(),
                    serde_json::from_value(value.clone()).unwrap(),
                );
                match owner {
                    Some(owner) => self.slices.insert(text, (owner, value)),
                    None => self.slices.remove(&text),
                };
            }
            Op::SliceGone { slice } => {
                projection.slice_gone(&name(&format!("e{slice}")));
                self.slices.remove(&format!("e{slice}"));
            }
            Op::Node { node, address, announces } => {
                let node = NODES[usize::from(*node)];
                let facts = NodeFacts {
                    // Address 0 stands for a node that has none yet.
                    addresses: (*address > 0).then(|| format!("192.0.2.{address}")).into_iter().collect(),
                    pod_cidrs: vec!["10.1.0.0/24".to_owned()],
                    announces: *announces,
                };
                projection.node(&node.into(), facts.clone());
                self.nodes.insert(node.to_owned(), facts);
            }
            Op::NodeGone { node } => {
                let node = NODES[usize::from(*node)];
                projection.node_gone(&node.into());
                self.nodes.remove(node);
            }
            Op::Resume { .. } | Op::Flush => {}
        }
    }

    /// What `node` should have, by definition.
    fn expected(&self, node: &str) -> Copy {
        let mut copy = Copy::default();
        for (text, pod) in &self.pods {
            if pod["spec"]["nodeName"] != node {
                continue;
            }
            let uid: Arc<str> = pod["metadata"]["uid"].as_str().unwrap().into();
            copy.0.insert(ItemKey::pod(&name(text), &uid), Body::Json(pod.to_string().into()));
            let secrets = pod["spec"]["imagePullSecrets"].as_array().unwrap();
            let configs = pod["spec"]["containers"][0]["envFrom"].as_array().unwrap();
            let named = secrets
                .iter()
                .map(|s| (SharedKind::Secret, &s["name"]))
                .chain(configs.iter().map(|c| (SharedKind::ConfigMap, &c["configMapRef"]["name"])));
            for (kind, text) in named {
                let text = text.as_str().unwrap();
                if let Some(value) = self.shared.get(&(kind, text.to_owned())) {
                    let key = ItemKey::new(kind.into(), &name(text));
                    copy.0.insert(key, Body::Json(value.to_string().into()));
                }
            }
        }
        let announcers =
            self.nodes.iter().filter(|(_, f)| f.announces).map(|(n, _)| n.as_str().into()).collect();
        for (text, service) in &self.services {
            let slices: Vec<EndpointSlice> = self
                .slices
                .values()
                .filter(|(owner, _)| owner == text)
                .map(|(_, s)| serde_json::from_value(s.clone()).unwrap())
                .collect();
            let service = serde_json::from_value(service.clone()).unwrap();
            let compiled = compile::compile(&service, slices.iter(), &announcers);
            copy.0.insert(ItemKey::new(ItemKind::Service, &name(text)), Body::Service(Arc::new(compiled)));
        }
        for (other, facts) in self.nodes.iter().filter(|(n, f)| *n != node && !f.addresses.is_empty()) {
            let peer = pb::Peer { addresses: facts.addresses.clone(), pod_cidrs: facts.pod_cidrs.clone() };
            copy.0.insert(peer_key(&other.as_str().into()), Body::Peer(Arc::new(peer)));
        }
        copy
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens, in whatever batches, and however often a session breaks and resumes: a node has what
    /// it should have, and not one object more.
    #[test]
    fn every_node_has_exactly_what_it_should(ops in prop::collection::vec(op(), 1..80)) {
        let (mut world, mut projection) = (World::default(), Projection::default());
        let mut copies: BTreeMap<&str, (Copy, u64)> = NODES.iter().map(|n| (*n, Default::default())).collect();
        let mut connected: BTreeSet<&str> = NODES.into();
        for (step, op) in ops.iter().chain([&Op::Flush]).enumerate() {
            world.apply(op, step, &mut projection);
            if let Op::Resume { node } = op {
                // Broken at one Resume, taken up at the next: changes in between are missed by the stream.
                let node = NODES[usize::from(*node)];
                if !connected.remove(node) {
                    deliver(&mut projection, &connected, &mut copies)?;
                    resume(&projection, node, &mut copies)?;
                    connected.insert(node);
                }
            }
            if matches!(op, Op::Flush) {
                deliver(&mut projection, &connected, &mut copies)?;
                for node in &connected {
                    prop_assert_eq!(copies[node].0.comparable(), world.expected(node).comparable());
                }
            }
        }
        for node in NODES {
            let mut snapshot = Copy::default();
            projection.snapshot(node).iter().for_each(|i| snapshot.apply(i));
            prop_assert_eq!(snapshot.comparable(), world.expected(node).comparable());
            resume(&projection, node, &mut copies)?;
            prop_assert_eq!(copies[node].0.comparable(), world.expected(node).comparable());
        }
    }
}

fn deliver(
    projection: &mut Projection,
    connected: &BTreeSet<&'static str>,
    copies: &mut BTreeMap<&'static str, (Copy, u64)>,
) -> Result<(), TestCaseError> {
    for (audience, item) in projection.flush() {
        for (node, (copy, generation)) in copies.iter_mut() {
            if audience.includes(node) && connected.contains(node) {
                prop_assert!(item.generation > *generation, "generations must rise along a session");
                *generation = item.generation;
                copy.apply(&item);
            }
        }
    }
    Ok(())
}

fn resume(
    projection: &Projection,
    node: &'static str,
    copies: &mut BTreeMap<&'static str, (Copy, u64)>,
) -> Result<(), TestCaseError> {
    let (copy, generation) = copies.get_mut(node).unwrap();
    for item in projection.since(node, *generation).expect("nothing was forgotten") {
        prop_assert!(item.generation > *generation);
        *generation = item.generation;
        copy.apply(&item);
    }
    Ok(())
}

#[test]
fn a_resume_across_forgotten_removals_asks_for_a_snapshot() {
    let mut projection = Projection::default();
    projection.service(&name("first"), Service::default());
    projection.flush();
    let old = projection.generation();
    for i in 0..=view::TOMBSTONES {
        let service = name(&format!("s{i}"));
        projection.service(&service, Service::default());
        projection.flush();
        projection.service_gone(&service);
        projection.flush();
    }
    assert!(projection.since("n0", old).is_none());
    assert!(projection.since("n0", projection.generation()).is_some_and(|items| items.is_empty()));
    assert!(projection.since("n0", projection.generation() + 1).is_none(), "a generation from the future");
}

#[test]
fn a_secret_is_sent_before_its_pod_and_as_soon_as_it_exists() {
    let mut projection = Projection::default();
    let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": "n0", "containers": [],
        "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "late"}}]}},
            {"name": "w", "secret": {"secretName": "early"}}]}});
    projection.shared(SharedKind::Secret, &name("early"), &"{}".into());
    projection.pod(&object(Resource::PODS, "p", &pod), no_class).unwrap();
    let kinds: Vec<_> = projection.flush().into_iter().map(|(_, i)| (i.key.kind, i.key.name.name)).collect();
    assert_eq!(kinds, [(ItemKind::Secret, "early".into()), (ItemKind::Pod, "p".into())]);

    projection.shared(SharedKind::Secret, &name("late"), &"{}".into());
    let late = projection.flush();
    assert_eq!(late[0].0, Audience::One("n0".into()));
    assert_eq!(&*late[0].1.key.name.name, "late");
}

#[test]
fn a_node_is_told_the_handler_that_a_class_names() {
    let mut projection = Projection::default();
    let handler_of = |class: &str| (class == "gvisor").then(|| "runsc".to_owned());
    for (class, expected) in [("gvisor", "runsc"), ("gone", "gone")] {
        let pod = json!({"metadata": {"name": "p", "uid": class},
            "spec": {"nodeName": "n0", "containers": [], "runtimeClassName": class}});
        projection.pod(&object(Resource::PODS, "p", &pod), handler_of).unwrap();
        let sent = projection.flush();
        let Body::Json(json) = &sent.last().unwrap().1.body else { panic!("{sent:?}") };
        let sent: Value = serde_json::from_slice(json).unwrap();
        assert_eq!(sent["spec"]["runtimeClassName"], expected);
    }
}

#[test]
fn a_node_is_not_told_its_own_words() {
    let mut projection = Projection::default();
    let mut pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "1", "managedFields": [{}]},
        "spec": {"nodeName": "n0", "containers": [], "readinessGates": [{"conditionType": "example.com/up"}]}});
    projection.pod(&object(Resource::PODS, "p", &pod), no_class).unwrap();
    let sent = projection.flush();
    let Body::Json(json) = &sent[0].1.body else { panic!("{sent:?}") };
    assert!(!String::from_utf8_lossy(json).contains("managedFields"));

    pod["metadata"]["resourceVersion"] = json!("2");
    pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    projection.pod(&object(Resource::PODS, "p", &pod), no_class).unwrap();
    assert!(projection.flush().is_empty());

    // Somebody else's condition that a readiness gate waits for is news.
    pod["status"]["conditions"] = json!([{"type": "example.com/up", "status": "True"}]);
    projection.pod(&object(Resource::PODS, "p", &pod), no_class).unwrap();
    assert_eq!(projection.flush().len(), 1);
}

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
    let compiled = compile::compile(&service, slices.iter(), &nodes);
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
    let compiled = compile::compile(&service, [slice].iter(), &BTreeSet::new());
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
    let compiled = compile::compile(&service, slices.iter(), &BTreeSet::new());
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
    let compiled = |label: &str, slice: EndpointSlice| {
        compile::compile(&service(label, "10.0.0.1"), [slice].iter(), &BTreeSet::new())
    };
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
    let headless = compile::compile(&headless, [slice(json!({}))].iter(), &BTreeSet::new());
    assert_eq!(headless.ports[0].endpoints.len(), 1);
}

#[test]
fn nodes_are_told_the_health_check_port() {
    let service: Service = serde_json::from_value(json!({"spec": {"type": "LoadBalancer",
        "clusterIP": "10.0.0.5", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31_234}}))
    .unwrap();
    let compiled = compile::compile(&service, [].iter(), &BTreeSet::new());
    assert_eq!(compiled.health_check_node_port, 31_234);
}
