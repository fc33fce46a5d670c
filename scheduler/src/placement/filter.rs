//! Which nodes could take a pod, and why the others cannot. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{
    pod::{PodTerm, PodView},
    snapshot::{NodeView, Snapshot},
    spread::SpreadCounts,
};

/// Why one node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// Cordoned.
    Unschedulable,
    /// The pod names another node.
    NodeName,
    /// A taint that the pod does not tolerate.
    Taint {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Node selector or required node affinity.
    NodeAffinity,
    /// A port of the node is taken.
    HostPort,
    /// As many pods as the node takes.
    TooManyPods,
    /// Not enough left of a resource.
    Insufficient {
        /// Which one.
        resource: String,
        /// Even an empty node would be too small.
        never: bool,
    },
    /// A required spread constraint.
    Spread,
    /// The node lacks the label that a spread constraint speaks of.
    SpreadLabel,
    /// Required pod affinity.
    Affinity,
    /// Required pod anti-affinity of the pod.
    AntiAffinity,
    /// Required pod anti-affinity of a pod that is there.
    ExistingAntiAffinity,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::NodeName => f.write_str("node(s) didn't match the requested node name"),
            Self::Taint { key, value } => write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::NodeAffinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::HostPort => f.write_str("node(s) didn't have free ports for the requested pod ports"),
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient { resource, .. } => write!(f, "Insufficient {resource}"),
            Self::Spread => f.write_str("node(s) didn't match pod topology spread constraints"),
            Self::SpreadLabel => {
                f.write_str("node(s) didn't match pod topology spread constraints (missing required label)")
            }
            Self::Affinity => f.write_str("node(s) didn't match pod affinity rules"),
            Self::AntiAffinity => f.write_str("node(s) didn't match pod anti-affinity rules"),
            Self::ExistingAntiAffinity => {
                f.write_str("node(s) didn't satisfy existing pods anti-affinity rules")
            }
        }
    }
}

impl Rejection {
    /// Whether taking other pods off the node could help.
    pub fn preemption_could_help(&self) -> bool {
        match self {
            Self::HostPort
            | Self::TooManyPods
            | Self::Spread
            | Self::AntiAffinity
            | Self::ExistingAntiAffinity => true,
            Self::Insufficient { never, .. } => !never,
            Self::Unschedulable
            | Self::NodeName
            | Self::Taint { .. }
            | Self::NodeAffinity
            | Self::SpreadLabel
            | Self::Affinity => false,
        }
    }
}

/// Whether `toleration` tolerates `taint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (if key.is_empty() { exists } else { key == taint.key })
        && (exists || text(&toleration.value) == text(&taint.value))
}

pub(super) fn untolerated<'a>(pod: &PodView, node: &'a NodeView) -> Option<&'a Taint> {
    let bars = |t: &&Taint| t.effect == "NoSchedule" || t.effect == "NoExecute";
    node.taints.iter().filter(bars).find(|taint| !pod.tolerations.iter().any(|t| tolerates(t, taint)))
}

/// How many pods that matter there are per topology domain.
type Domains<'a> = HashSet<(&'a str, &'a str)>;

/// What is worth working out once per pod rather than once per node.
pub(super) struct Filters<'a> {
    pod: &'a PodView,
    /// Domains that a pod which is there keeps the pod out of.
    barred: Domains<'a>,
    /// Domains that the pod's own anti-affinity keeps it out of.
    avoided: Domains<'a>,
    /// Domains that have a pod that all its affinity terms select.
    wanted: Domains<'a>,
    /// The first of a group that wants to be together may go anywhere.
    first_of_group: bool,
    spread: Vec<SpreadCounts<'a>>,
}

impl<'a> Filters<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, pod: &'a PodView) -> Self {
        let labels_of = |namespace: &str| snapshot.namespaces.get(namespace);
        let own = labels_of(&pod.namespace);
        let mut filters = Self {
            pod,
            barred: Domains::new(),
            avoided: Domains::new(),
            wanted: Domains::new(),
            first_of_group: false,
            spread: SpreadCounts::required(snapshot, pod),
        };
        for other in snapshot.with_terms() {
            let terms = other.anti_affinity.iter().filter(|t| t.selects(pod, own));
            mark(&mut filters.barred, snapshot, other, terms);
        }
        let covers = |term: &PodTerm, namespace: &str| term.covers(namespace, labels_of(namespace));
        for term in &pod.anti_affinity {
            for other in snapshot.in_namespaces(|n| covers(term, n)) {
                if term.selects(other, labels_of(&other.namespace)) {
                    mark(&mut filters.avoided, snapshot, other, std::iter::once(term));
                }
            }
        }
        if let Some(first) = pod.affinity.first() {
            let all = |p: &PodView| pod.affinity.iter().all(|t| t.selects(p, labels_of(&p.namespace)));
            for other in snapshot.in_namespaces(|n| covers(first, n)).filter(|p| all(p)) {
                mark(&mut filters.wanted, snapshot, other, pod.affinity.iter());
            }
            filters.first_of_group = filters.wanted.is_empty() && all(pod);
        }
        filters
    }

    /// Everything that keeps the pod off `node`; empty when it fits. Stops at the first class of reasons, as
    /// upstream's plugins do.
    pub(super) fn rejections(&self, node: &NodeView) -> Vec<Rejection> {
        match self.first_rejection(node) {
            Some(rejection) => vec![rejection],
            None => {
                let short = self.shortages(node);
                if short.is_empty() { self.topology(node).into_iter().collect() } else { short }
            }
        }
    }

    fn first_rejection(&self, node: &NodeView) -> Option<Rejection> {
        let pod = self.pod;
        if node.unschedulable && !tolerates_cordon(pod) {
            return Some(Rejection::Unschedulable);
        }
        if pod.node_name.as_deref().is_some_and(|wanted| wanted != &*node.name) {
            return Some(Rejection::NodeName);
        }
        if let Some(taint) = untolerated(pod, node) {
            let value = taint.value.clone().unwrap_or_default();
            return Some(Rejection::Taint { key: taint.key.clone(), value });
        }
        if !pod.allows(&node.name, &node.labels) {
            return Some(Rejection::NodeAffinity);
        }
        let taken = |port| node.host_ports.iter().any(|p| p.conflicts(port));
        pod.host_ports.iter().any(taken).then_some(Rejection::HostPort)
    }

    fn shortages(&self, node: &NodeView) -> Vec<Rejection> {
        let mut short = Vec::new();
        let room = usize::try_from(node.allocatable.get("pods")).unwrap_or(0);
        if node.pods.len() >= room {
            short.push(Rejection::TooManyPods);
        }
        for (resource, wanted) in self.pod.requests.said.iter().filter(|(_, wanted)| *wanted > 0) {
            let all = node.allocatable.get(resource);
            if wanted > all - node.said.get(resource) {
                short.push(Rejection::Insufficient { resource: resource.to_owned(), never: wanted > all });
            }
        }
        short
    }

    fn topology(&self, node: &NodeView) -> Option<Rejection> {
        if let Some(rejection) = self.spread.iter().find_map(|s| s.rejection(self.pod, node)) {
            return Some(rejection);
        }
        for term in &self.pod.affinity {
            match node.domain(&term.topology) {
                None => return Some(Rejection::Affinity),
                Some(domain) => {
                    let here = self.wanted.contains(&(term.topology.as_str(), domain));
                    if !here && !self.first_of_group {
                        return Some(Rejection::Affinity);
                    }
                }
            }
        }
        let in_any = |domains: &Domains<'_>| {
            domains.iter().any(|(topology, domain)| node.domain(topology) == Some(domain))
        };
        if self.hits(&self.avoided, node, &in_any) {
            return Some(Rejection::AntiAffinity);
        }
        self.hits(&self.barred, node, &in_any).then_some(Rejection::ExistingAntiAffinity)
    }

    /// A domain set is looked up by the node's labels when it is larger than they are.
    fn hits(&self, domains: &Domains<'_>, node: &NodeView, scan: &dyn Fn(&Domains<'_>) -> bool) -> bool {
        if domains.len() <= node.labels.len() {
            return scan(domains);
        }
        node.labels.iter().any(|(topology, domain)| domains.contains(&(topology.as_str(), domain.as_str())))
    }
}

fn mark<'a>(
    domains: &mut Domains<'a>,
    snapshot: &'a Snapshot,
    pod: &PodView,
    terms: impl Iterator<Item = &'a PodTerm>,
) {
    let Some(node) = snapshot.node_of(pod) else { return };
    for term in terms {
        if let Some(domain) = node.domain(&term.topology) {
            domains.insert((term.topology.as_str(), domain));
        }
    }
}

fn tolerates_cordon(pod: &PodView) -> bool {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    pod.tolerations.iter().any(|t| tolerates(t, &cordon))
}

/// Rejections by node: the whole answer to "why is it pending".
pub type Rejections = BTreeMap<std::sync::Arc<str>, Vec<Rejection>>;

/// Counts per domain, for scoring and spreading.
pub(super) type Counts<'a> = HashMap<&'a str, i64>;
