//! NetworkPolicies: who may talk to whom. What one means is compiled elsewhere; here is what the API asks of it.
//!
//! Built for tests alone until nodes enforce policies: one that is served and not enforced would be worse than none.

use std::borrow::Cow;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules,
    json::{is_unset, items, items_mut, member_mut, set_default, text},
    kind::texts,
    print::{AGE, NAME, age, column, name, selector},
    validate::{
        Path, Problems,
        addresses::{legacy_range, meant_network, range_warnings},
        meta, names,
        selectors::label_selector,
    },
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["netpol"]),
        generation: true,
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<NetworkPolicy>(Policies)
    }
}

struct Policies;

impl Rules for Policies {
    fn defaults(&self, policy: &mut Value) {
        let Some(spec) = policy.as_object_mut().and_then(|policy| member_mut(policy, "spec")) else { return };
        for (rules, _) in DIRECTIONS {
            for rule in items_mut(spec, rules) {
                items_mut(rule, "ports").for_each(|port| {
                    if port.get("protocol").is_none_or(Value::is_null) {
                        port.insert("protocol".to_owned(), "TCP".into());
                    }
                });
            }
        }
        // Every policy is one of ingress, but for those that say otherwise; of egress are those with rules for it.
        if is_unset(spec, "policyTypes") || spec["policyTypes"].as_array().is_some_and(Vec::is_empty) {
            let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
            let types: &[&str] = if egress { &["Ingress", "Egress"] } else { &["Ingress"] };
            spec.remove("policyTypes");
            set_default(spec, "policyTypes", types);
        }
    }

    fn validate(&self, policy: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(policy, old)
    }

    fn warnings(&self, policy: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        each_block(policy, |block, path| {
            warnings.extend(range_warnings(&path.field("cidr"), text(block, "cidr")));
            for (index, except) in items(&block["except"]).iter().enumerate() {
                let path = path.field("except").index(index);
                warnings.extend(range_warnings(&path, except.as_str().unwrap_or_default()));
            }
        });
        warnings
    }

    fn update_warnings(&self, new: &Value, _: &Value) -> Vec<String> {
        self.warnings(new)
    }

    fn cells(&self, policy: &Value, now: i64) -> Vec<Value> {
        vec![name(policy), json!(selector(&policy["spec"]["podSelector"])), age(policy, now)]
    }
}

const COLUMNS: &[Column] =
    &[NAME, column("Pod-Selector", "string", "=networking.v1.NetworkPolicySpec.podSelector"), AGE];

/// The lists of rules of a policy, and what its rules call their peers.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

/// Every block of addresses with its path, in upstream's order.
fn each_block<'a>(policy: &'a Value, mut visit: impl FnMut(&'a Value, &Path)) {
    for (rules, peers) in DIRECTIONS {
        for (index, rule) in items(&policy["spec"][rules]).iter().enumerate() {
            let path = Path::new("spec").field(rules).index(index).field(peers);
            for (index, peer) in items(&rule[peers]).iter().enumerate() {
                if !peer["ipBlock"].is_null() {
                    visit(&peer["ipBlock"], &path.index(index).field("ipBlock"));
                }
            }
        }
    }
}

/// A NetworkPolicy; `old` on update.
fn validate(policy: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(policy, names::dns_subdomain, &mut problems);
    // What was stored in a form that nothing new may have stays legal.
    let mut before = Vec::new();
    if let Some(old) = old {
        each_block(old, |block, _| {
            before.push(text(block, "cidr"));
            before.extend(items(&block["except"]).iter().filter_map(Value::as_str));
        });
    }
    let (spec, path) = (&policy["spec"], Path::new("spec"));
    label_selector(&spec["podSelector"], &path.field("podSelector"), &mut problems);
    for (rules, peers) in DIRECTIONS {
        for (index, one) in items(&spec[rules]).iter().enumerate() {
            let path = path.field(rules).index(index);
            for (index, port) in items(&one["ports"]).iter().enumerate() {
                self::port(port, &path.field("ports").index(index), &mut problems);
            }
            for (index, peer) in items(&one[peers]).iter().enumerate() {
                self::peer(peer, &before, &path.field(peers).index(index), &mut problems);
            }
        }
    }
    types(&spec["policyTypes"], &path.field("policyTypes"), &mut problems);
    problems.into_causes()
}

fn types(types: &Value, path: &Path, problems: &mut Problems) {
    if items(types).len() > TYPES.len() {
        return problems.invalid(path, types.clone(), "may not specify more than two policyTypes");
    }
    for (index, one) in items(types).iter().enumerate() {
        let one = one.as_str().unwrap_or_default();
        if !TYPES.contains(&one) {
            problems.unsupported(&path.index(index), one, &TYPES);
        }
    }
}

fn port(port: &Value, path: &Path, problems: &mut Problems) {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let protocol = text(port, "protocol");
    if !PROTOCOLS.contains(&protocol) {
        problems.unsupported(&path.field("protocol"), protocol, &PROTOCOLS);
    }
    let (first, last, at) = (&port["port"], port["endPort"].as_i64(), path.field("endPort"));
    match (first, last) {
        (Value::Null, None) => {}
        (Value::Null, Some(last)) => {
            problems.invalid(&at, last, "may not be specified when `port` is not specified");
        }
        (first, last) => {
            problems.port_or_name(&path.field("port"), first);
            let Some(last) = last else { return };
            let Some(first) = first.as_i64() else {
                return problems.invalid(&at, last, "may not be specified when `port` is non-numeric");
            };
            if last < first {
                problems.invalid(&at, last, "must be greater than or equal to `port`");
            }
            problems.port(&at, last);
        }
    }
}

fn peer(peer: &Value, before: &[&str], path: &Path, problems: &mut Problems) {
    let mut kinds = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if !peer[field].is_null() {
            kinds += 1;
            label_selector(&peer[field], &path.field(field), problems);
        }
    }
    let block = &peer["ipBlock"];
    if !block.is_null() {
        kinds += 1;
        self::block(block, before, &path.field("ipBlock"), problems);
    }
    match kinds {
        0 => problems.required(path, "must specify a peer"),
        2.. if !block.is_null() => problems.forbidden(path, "may not specify both ipBlock and another peer"),
        _ => {}
    }
}

fn block(block: &Value, before: &[&str], path: &Path, problems: &mut Problems) {
    let (cidr, at) = (text(block, "cidr"), path.field("cidr"));
    if cidr.is_empty() {
        return problems.required(&at, "");
    }
    legacy_range(cidr, before, &at, problems);
    let Some(whole) = meant_network(cidr) else { return };
    for (index, except) in items(&block["except"]).iter().enumerate() {
        let (except, path) = (except.as_str().unwrap_or_default(), path.field("except").index(index));
        legacy_range(except, before, &path, problems);
        let Some(part) = meant_network(except) else { continue };
        if !whole.contains(&part.addr()) || whole.prefix_len() >= part.prefix_len() {
            problems.invalid(&path, except, "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests;
