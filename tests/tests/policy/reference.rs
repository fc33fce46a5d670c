//! The reference: what NetworkPolicy means, read from the objects for one packet at a time. Slow, and without a line of
//! what is tested.

use std::{collections::BTreeMap, net::IpAddr};

use gantry_agent::policy::Name;
use serde_json::{Value, json};

use crate::world::World;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ask {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) egress: bool,
    pub(crate) peer: IpAddr,
    pub(crate) proto: u8,
    /// 0: none, or nobody knows.
    pub(crate) port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Says {
    Pass,
    Audit,
    Deny,
}

impl Says {
    pub(crate) fn passes(self) -> bool {
        self != Self::Deny
    }
}

fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && items(selector, "matchExpressions").all(|e| {
            let label = labels.get(e["key"].as_str().unwrap());
            let listed = label.is_some_and(|label| items(e, "values").any(|value| value == label));
            match e["operator"].as_str().unwrap() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                other => panic!("{other}"),
            }
        })
}

/// Bits, one by one.
fn contains(cidr: &str, address: IpAddr) -> bool {
    let (net, length) = cidr.split_once('/').unwrap();
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (4, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (6, v6.to_bits()),
    };
    let ((family, net), (other, address)) = (bits(net.parse().unwrap()), bits(address));
    let length: u32 = length.parse().unwrap();
    family == other && (0..length).all(|bit| (net ^ address) >> (127 - bit) & 1 == 0)
}

/// The pods that an address is of.
fn owners(world: &World, address: IpAddr) -> Vec<&Value> {
    let counts = |pod: &&Value| {
        pod["spec"]["hostNetwork"] != json!(true)
            && !["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str().unwrap())
    };
    let has = |pod: &&Value| items(&pod["status"], "podIPs").any(|ip| ip["ip"] == json!(address.to_string()));
    world.pods.values().filter(counts).filter(has).collect()
}

fn peer_matches(world: &World, namespace: &str, peer: &Value, address: IpAddr) -> bool {
    if let Some(block) = peer.get("ipBlock") {
        return contains(block["cidr"].as_str().unwrap(), address)
            && !items(block, "except").any(|except| contains(except.as_str().unwrap(), address));
    }
    owners(world, address).into_iter().any(|pod| {
        let of = pod["metadata"]["namespace"].as_str().unwrap();
        let within = match peer.get("namespaceSelector") {
            None => of == namespace,
            Some(selector) => {
                world.namespaces.get(of).is_some_and(|ns| selects(selector, &ns["metadata"]["labels"]))
            }
        };
        within && peer.get("podSelector").is_none_or(|selector| selects(selector, &pod["metadata"]["labels"]))
    })
}

fn port_matches(port: &Value, ask: &Ask, destinations: &[&Value]) -> bool {
    let number = |name: &str| BTreeMap::from([("TCP", 6), ("UDP", 17), ("SCTP", 132)])[name];
    if number(port["protocol"].as_str().unwrap_or("TCP")) != ask.proto {
        return false;
    }
    match &port["port"] {
        Value::Null => true,
        Value::Number(first) => {
            let first = first.as_u64().unwrap();
            ask.port != 0
                && (first..=port["endPort"].as_u64().unwrap_or(first)).contains(&u64::from(ask.port))
        }
        name => destinations.iter().any(|pod| {
            let ports = items(&pod["spec"], "containers").flat_map(|container| items(container, "ports"));
            let mut named = ports.filter(|p| {
                &p["name"] == name && number(p["protocol"].as_str().unwrap_or("TCP")) == ask.proto
            });
            named.next().is_some_and(|p| ask.port != 0 && p["containerPort"] == json!(ask.port))
        }),
    }
}

fn rule_matches(world: &World, policy: &Value, rule: &Value, ask: &Ask) -> bool {
    let peers: Vec<&Value> = items(rule, if ask.egress { "to" } else { "from" }).collect();
    let namespace = policy["metadata"]["namespace"].as_str().unwrap();
    let own = [&world.pods[&(ask.namespace.clone(), ask.pod.clone())]];
    let theirs = owners(world, ask.peer);
    let destinations: &[&Value] = if ask.egress { &theirs } else { &own };
    let ports: Vec<&Value> = items(rule, "ports").collect();
    (peers.is_empty() || peers.iter().any(|peer| peer_matches(world, namespace, peer, ask.peer)))
        && (ports.is_empty() || ports.iter().any(|port| port_matches(port, ask, destinations)))
}

fn rules(policy: &Value, egress: bool) -> impl Iterator<Item = &Value> {
    items(&policy["spec"], if egress { "egress" } else { "ingress" })
}

pub(crate) fn rule_allows(world: &World, ask: &Ask, policy: &Name, number: usize) -> bool {
    let policy = &world.policies[&(policy.0.to_string(), policy.1.to_string())];
    rule_matches(world, policy, rules(policy, ask.egress).nth(number).unwrap(), ask)
}

fn isolates(policy: &Value, egress: bool) -> bool {
    let types: Vec<&str> = items(&policy["spec"], "policyTypes").map(|kind| kind.as_str().unwrap()).collect();
    match (types.is_empty(), egress) {
        (true, false) => true,
        (true, true) => rules(policy, true).next().is_some(),
        (false, false) => types.contains(&"Ingress"),
        (false, true) => types.contains(&"Egress"),
    }
}

pub(crate) fn judge(world: &World, ask: &Ask) -> Says {
    let pod = &world.pods[&(ask.namespace.clone(), ask.pod.clone())];
    let selecting = world.policies.values().filter(|policy| {
        policy["metadata"]["namespace"] == json!(ask.namespace)
            && selects(&policy["spec"]["podSelector"], &pod["metadata"]["labels"])
            && isolates(policy, ask.egress)
    });
    let selecting: Vec<&Value> = selecting.collect();
    let allows =
        |policy: &&Value| rules(policy, ask.egress).any(|rule| rule_matches(world, policy, rule, ask));
    if selecting.is_empty() || selecting.iter().any(allows) {
        return Says::Pass;
    }
    let audits =
        |object: &Value| object["metadata"]["annotations"]["gantry.dev/policy-audit"] == json!("true");
    let namespace = world.namespaces.get(&ask.namespace).is_some_and(audits);
    if namespace || selecting.iter().all(|policy| audits(policy)) { Says::Audit } else { Says::Deny }
}
