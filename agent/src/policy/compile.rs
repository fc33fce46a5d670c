//! From what the node was told to what each pod and each address should be. Pure; costs what the node's policies hold, not
//! what the cluster does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Name, NamedPort, PodPolicy, Policy, Ports, Predicate, Rule, RuleName, Wanted,
    classes::{Asked, Signature},
    sets::{Content, Entry},
};

/// A pod's two sets; none in a direction in which no policy isolates it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Sets {
    pub(super) ingress: Option<Arc<Content>>,
    pub(super) egress: Option<Arc<Content>>,
}

impl Sets {
    pub(super) fn both(&self) -> impl Iterator<Item = &Arc<Content>> {
        self.ingress.iter().chain(&self.egress)
    }
}

/// Why a pod's policies cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unready {
    /// The node was told that a policy selects the pod, and not yet, or no longer, of that policy.
    #[error("policy {}/{} is not known in the revision that selects the pod", .0.0, .0.1)]
    Policy(Name),
    /// The maps have no room for it.
    #[error("the policies of the pod do not fit into the node's maps")]
    Full,
}

/// What should stand.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub(super) pods: BTreeMap<Name, Sets>,
    /// Pods whose policies cannot be compiled: they keep what they have, and are not started while they have nothing.
    pub(super) unready: BTreeMap<Name, Unready>,
    pub(super) wanted: Wanted,
}

/// The addresses, told apart by what is asked for.
pub(super) struct Addresses {
    pub(super) peers: BTreeMap<IpAddr, Signature>,
    pub(super) prefixes: BTreeMap<IpNet, Signature>,
}

/// Makes of what the node was told what should stand.
pub fn compile(wanted: &Wanted) -> Compiled {
    let mut out = Compiled { wanted: wanted.clone(), ..Compiled::default() };
    let mut known: BTreeMap<Content, Arc<Content>> = BTreeMap::new();
    for (name, pod) in &wanted.pods {
        match policies(wanted, pod) {
            Err(policy) => drop(out.unready.insert(name.clone(), Unready::Policy(policy))),
            Ok(policies) => {
                let mut shared = |content: Option<Content>| {
                    content.map(|content| {
                        known.entry(content).or_insert_with_key(|content| Arc::new(content.clone())).clone()
                    })
                };
                let ingress = shared(content(&policies, pod, false));
                let egress = shared(content(&policies, pod, true));
                out.pods.insert(name.clone(), Sets { ingress, egress });
            }
        }
    }
    out
}

impl Compiled {
    /// What tells addresses apart for these sets.
    pub(super) fn addresses<'a>(&'a self, contents: impl Iterator<Item = &'a Arc<Content>>) -> Addresses {
        let ports: BTreeSet<Predicate> =
            self.wanted.peers.values().flat_map(|peer| &peer.ports).cloned().map(Predicate::Port).collect();
        let asked = Asked(contents.flat_map(|content| content.asks(ports.iter())).collect());
        Addresses { peers: asked.peers(&self.wanted.peers), prefixes: asked.prefixes() }
    }
}

fn policies<'a>(wanted: &'a Wanted, pod: &'a PodPolicy) -> Result<Vec<(&'a Name, &'a Policy)>, Name> {
    let found = pod.policies.iter().map(|(name, revision)| {
        let policy = wanted.policies.get(name).filter(|policy| policy.revision == *revision);
        policy.map(|policy| (name, policy)).ok_or_else(|| name.clone())
    });
    found.collect()
}

/// All rules of a direction, or none when no policy isolates it.
fn content(policies: &[(&Name, &Policy)], pod: &PodPolicy, egress: bool) -> Option<Content> {
    let mut content = Content { audit: true, egress, entries: Vec::new() };
    let mut isolated = false;
    for (name, policy) in policies {
        let Some(rules) = (if egress { &policy.egress } else { &policy.ingress }) else { continue };
        isolated = true;
        content.audit &= policy.audit;
        for (number, rule) in rules.iter().enumerate() {
            let rule_name = RuleName { policy: (*name).clone(), number };
            content.entries.extend(entries(rule, &rule_name, (!egress).then_some(&pod.ports)));
        }
    }
    content.entries.sort();
    content.entries.dedup();
    isolated.then_some(content)
}

/// `own`: the ports by whose names are meant; else it is the peer's.
fn entries(rule: &Rule, name: &RuleName, own: Option<&Vec<NamedPort>>) -> Vec<Entry> {
    let peers: Option<BTreeSet<Predicate>> = rule.peers.as_ref().map(|peers| peers.iter().cloned().collect());
    let entry = |ports| Entry { rule: name.clone(), peers: peers.clone(), ports };
    let Some(ports) = &rule.ports else { return vec![entry(None)] };
    let resolved = ports.iter().flat_map(|ports| match (ports, own) {
        (Ports::Named(proto, name), Some(own)) => {
            let port = own.iter().find(|port| port.proto == *proto && port.name == *name);
            port.map(|port| Ports::Range(*proto, port.port, port.port))
        }
        (ports, _) => Some(ports.clone()),
    });
    resolved.map(|ports| entry(Some(ports))).collect()
}
