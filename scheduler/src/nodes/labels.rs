//! Which labels a node may give itself, and when.
//!
//! As upstream's NodeRestriction, a node sets those of `kubernetes.io` and `k8s.io` that describe the machine, and no
//! others of these domains: who gets hold of one node must not be able to attract the pods that are meant for others.
//! What is refused is left out, and said. All other labels are set when the Node is created. In later sessions a
//! label belongs to whoever wrote its value last: the agent's own earlier value is replaced, and what an
//! administrator changed or took away stays as it is. The values that the agent gave last are kept in an annotation.

use std::collections::{BTreeMap, HashMap};

/// What the agent gave last, as JSON.
pub(super) const GIVEN: &str = "node.gantry.dev/agent-labels";
/// Upstream's list (`kubelet --node-labels`).
const MACHINE: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];
/// Domains that are a node's own, as upstream.
const OWN: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) type Labels = BTreeMap<String, String>;

fn is_allowed(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let reserved = within("kubernetes.io") || within("k8s.io");
    // `node-restriction.kubernetes.io` is reserved like the rest, for exactly this purpose.
    !reserved || MACHINE.contains(&key) || OWN.iter().any(|own| within(own))
}

/// The labels that a node may give itself, and the keys of those that it may not.
pub(super) fn sorted_out(sent: &HashMap<String, String>) -> (Labels, Vec<String>) {
    let (mut allowed, mut refused) = (Labels::new(), Vec::new());
    for (key, value) in sent {
        if is_allowed(key) {
            allowed.insert(key.clone(), value.clone());
        } else {
            refused.push(key.clone());
        }
    }
    refused.sort();
    (allowed, refused)
}

/// Which of the labels that the agent gives now are written over the `present` ones, when it `gave` those before.
pub(super) fn changes(present: &Labels, gave: &Labels, gives: &Labels) -> Labels {
    let ours = |key: &String, value: &String| match (present.get(key), gave.get(key)) {
        (Some(present), _) if present == value => false,
        // Changed by others, unless it is what the agent itself wrote.
        (Some(present), before) => before == Some(present),
        // Taken away by others, unless it is new.
        (None, before) => before != Some(value),
    };
    gives.iter().filter(|(key, value)| ours(key, value)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_node_describes_its_machine_and_nothing_else_in_the_clusters_domains() {
        for (key, allowed) in [
            ("disk", true),
            ("example.com/rack", true),
            ("notkubernetes.io/x", true),
            ("kubernetes.io/hostname", true),
            ("topology.kubernetes.io/zone", true),
            ("node.kubernetes.io/anything", true),
            ("node-role.kubernetes.io/control-plane", false),
            ("node-restriction.kubernetes.io/team", false),
            ("kubernetes.io/other", false),
            ("app.k8s.io/x", false),
            ("k8s.io/x", false),
        ] {
            let sent = HashMap::from([(key.to_owned(), "v".to_owned())]);
            let (kept, refused) = sorted_out(&sent);
            assert_eq!((kept.len(), refused.len()), if allowed { (1, 0) } else { (0, 1) }, "{key}");
        }
    }

    #[test]
    fn what_an_administrator_changed_stays() {
        let gave = labels(&[("disk", "ssd"), ("rack", "1"), ("gone", "x")]);
        let present = labels(&[("disk", "ssd"), ("rack", "by-hand"), ("same", "s")]);
        let gives = labels(&[("disk", "nvme"), ("rack", "2"), ("gone", "x"), ("same", "s"), ("new", "n")]);
        assert_eq!(changes(&present, &gave, &gives), labels(&[("disk", "nvme"), ("new", "n")]));
        let foreign = changes(&labels(&[("disk", "by-hand")]), &Labels::new(), &labels(&[("disk", "ssd")]));
        assert!(foreign.is_empty(), "a value that never was the agent's");
    }
}
