//! Random objects, and random changes of them, told to the engine as they happen.

use std::{collections::BTreeMap, net::IpAddr};

use gantry_scheduler::policy::Engine;
use serde_json::{Value, json};

use crate::reference::Ask;

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) namespaces: BTreeMap<String, Value>,
    pub(crate) pods: BTreeMap<(String, String), Value>,
    pub(crate) policies: BTreeMap<(String, String), Value>,
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: usize = 9;
const V4_BLOCKS: [&str; 6] =
    ["10.0.0.0/8", "10.0.0.0/30", "10.0.0.4/30", "10.0.0.2/32", "0.0.0.0/0", "192.168.0.0/24"];
const V6_BLOCKS: [&str; 5] = ["fd00::/64", "fd00::/126", "fd00::4/126", "::/0", "2001:db8::/32"];

fn labels(random: &mut Random) -> Value {
    let mut out = json!({});
    for key in ["app", "tier"] {
        if !random.one_in(3) {
            out[key] = json!(random.of(&["a", "b"]));
        }
    }
    out
}

fn selector(random: &mut Random) -> Value {
    let key = random.of(&["app", "tier"]);
    let values = json!([random.of(&["a", "b"])]);
    match random.below(7) {
        0 => json!({}),
        1 | 2 => json!({"matchLabels": labels(random)}),
        3 => json!({"matchExpressions": [{"key": key, "operator": "In", "values": values}]}),
        4 => json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": values}]}),
        5 => json!({"matchExpressions": [{"key": key, "operator": "Exists"}], "matchLabels": labels(random)}),
        _ => json!({"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]}),
    }
}

fn peer(random: &mut Random) -> Value {
    match random.below(5) {
        0 => json!({"podSelector": selector(random)}),
        1 => json!({"namespaceSelector": selector(random)}),
        2 => json!({"podSelector": selector(random), "namespaceSelector": selector(random)}),
        kind => {
            let blocks: &[&str] = if kind == 3 { &V4_BLOCKS } else { &V6_BLOCKS };
            let mut block = json!({"cidr": random.of(blocks)});
            if random.one_in(2) {
                block["except"] = json!([random.of(blocks)]);
            }
            json!({"ipBlock": block})
        }
    }
}

fn port(random: &mut Random) -> Value {
    let mut out = match random.below(5) {
        0 => json!({}),
        1 => json!({"port": 80}),
        2 => json!({"port": random.of(&["web", "dns", "nobody"])}),
        3 => json!({"port": 79, "endPort": 82}),
        _ => json!({"port": 8080, "endPort": 65535}),
    };
    if random.one_in(2) {
        out["protocol"] = json!(random.of(&["TCP", "UDP", "SCTP"]));
    }
    out
}

fn some(random: &mut Random, one: impl Fn(&mut Random) -> Value) -> Value {
    let count = random.below(3);
    (0..count).map(|_| one(random)).collect()
}

/// Absent, empty, or up to two rules of peers and ports that are absent, empty or not.
fn rules(random: &mut Random, peers: &str) -> Value {
    some(random, |random| {
        let mut rule = json!({});
        if !random.one_in(4) {
            rule[peers] = some(random, peer);
        }
        if !random.one_in(3) {
            rule["ports"] = some(random, port);
        }
        rule
    })
}

fn audit(random: &mut Random, meta: &mut Value) {
    if random.one_in(5) {
        meta["annotations"] = json!({"gantry.dev/policy-audit": random.of(&["true", "true", "false"])});
    }
}

impl World {
    pub(crate) fn change(&mut self, random: &mut Random, engine: &mut Engine) {
        let namespace = random.of(&NAMESPACES).to_owned();
        match random.below(10) {
            0 | 1 => {
                let mut meta = json!({"name": namespace, "labels": labels(random)});
                if random.one_in(2) {
                    audit(random, &mut meta);
                }
                let object = json!({"metadata": meta});
                engine.put_namespace(&serde_json::from_value(object.clone()).unwrap());
                self.namespaces.insert(namespace, object);
            }
            2..=5 => self.change_pod(random, engine),
            6 if !self.policies.is_empty() => {
                let name = self.policies.keys().nth(random.below(self.policies.len())).unwrap().clone();
                engine.remove_policy(&name.0, &name.1);
                self.policies.remove(&name);
            }
            _ => {
                let name = format!("p{}", random.below(3));
                let mut meta = json!({"name": name, "namespace": namespace});
                audit(random, &mut meta);
                let mut spec = json!({"podSelector": selector(random)});
                for (field, peers) in [("ingress", "from"), ("egress", "to")] {
                    if !random.one_in(3) {
                        spec[field] = rules(random, peers);
                    }
                }
                match random.below(4) {
                    0 => spec["policyTypes"] = json!(["Ingress"]),
                    1 => spec["policyTypes"] = json!(["Egress"]),
                    2 => spec["policyTypes"] = json!(["Ingress", "Egress"]),
                    _ => {}
                }
                let object = json!({"metadata": meta, "spec": spec});
                engine.put_policy(&serde_json::from_value(object.clone()).unwrap()).unwrap();
                self.policies.insert((namespace, name), object);
            }
        }
    }

    fn change_pod(&mut self, random: &mut Random, engine: &mut Engine) {
        let number = random.below(PODS);
        let key = (NAMESPACES[number % 3].to_owned(), format!("pod{number}"));
        if self.pods.contains_key(&key) && random.one_in(4) {
            engine.remove_pod(&key.0, &key.1);
            self.pods.remove(&key);
            return;
        }
        let host = random.one_in(8);
        let ips = [format!("10.0.0.{}", number + 1), format!("fd00::{:x}", number + 1)];
        let ips = if host { [format!("192.168.0.{}", number % 2 + 1), "fd01::1".to_owned()] } else { ips };
        // None yet, of one family, or of both.
        let known: Vec<Value> =
            ips.iter().skip(random.below(2)).take(random.below(4)).map(|ip| json!({"ip": ip})).collect();
        let ports: Vec<Value> = ["web", "dns", "web"]
            .into_iter()
            .skip(random.below(3))
            .map(|name| {
                let number = [80, 81, 9000][random.below(3)];
                json!({"name": name, "containerPort": number, "protocol": random.of(&["TCP", "UDP"])})
            })
            .collect();
        let object = json!({
            "metadata": {"name": key.1, "namespace": key.0, "uid": key.1, "labels": labels(random)},
            "spec": {
                "nodeName": if number.is_multiple_of(2) { "n1" } else { "n2" },
                "hostNetwork": host,
                "containers": [{"name": "c", "ports": ports}],
            },
            "status": {"phase": random.of(&["Running", "Running", "Running", "Pending", "Failed"]), "podIPs": known},
        });
        engine.put_pod(&serde_json::from_value(object.clone()).unwrap());
        self.pods.insert(key, object);
    }

    /// Every question about the node's own pods that makes a difference.
    pub(crate) fn asks(&self, node: &str) -> Vec<Ask> {
        let mut peers: Vec<IpAddr> = Vec::new();
        for number in 1..=PODS {
            peers.push(format!("10.0.0.{number}").parse().unwrap());
            peers.push(format!("fd00::{number:x}").parse().unwrap());
        }
        peers.extend(
            ["10.9.9.9", "192.168.0.1", "8.8.8.8", "fd00::99", "fd01::1", "2001:db8::1"]
                .map(|ip| ip.parse::<IpAddr>().unwrap()),
        );
        let own = self.pods.iter().filter(|(_, pod)| {
            let finished = ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap());
            pod["spec"]["nodeName"] == json!(node) && pod["spec"]["hostNetwork"] != json!(true) && !finished
        });
        let mut out = Vec::new();
        for ((namespace, pod), _) in own {
            for egress in [false, true] {
                for peer in &peers {
                    for (proto, port) in
                        [(6, 80), (6, 82), (6, 9000), (17, 80), (17, 81), (132, 65535), (6, 0), (1, 0)]
                    {
                        let (namespace, pod, peer) = (namespace.clone(), pod.clone(), *peer);
                        out.push(Ask { namespace, pod, egress, peer, proto, port });
                    }
                }
            }
        }
        out
    }
}
