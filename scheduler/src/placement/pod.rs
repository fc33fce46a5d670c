//! A pod as placement sees it: everything parsed once, nothing that does not matter for where it goes.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint,
    WeightedPodAffinityTerm,
};

use super::resources::Requests;
use crate::{
    cache::{Id, MetaExt},
    model::{LabelSelector, Requirement},
};

pub(super) type Labels = BTreeMap<String, String>;

/// A pod.
#[derive(Clone, Debug, Default)]
pub struct PodView {
    /// Namespace and name.
    pub id: Option<Id>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    pub(super) labels: Labels,
    /// The uid of its controller.
    pub(super) controller: Option<Arc<str>>,
    /// `spec.priority`.
    pub priority: i32,
    /// Whether deletion has begun: it still takes its place, and does not count for what comes after it.
    pub(super) leaving: bool,
    pub(super) requests: Requests,
    pub(super) host_ports: Vec<HostPort>,
    pub(super) node_name: Option<String>,
    pub(super) node_selector: LabelSelector,
    pub(super) node_required: Option<Vec<NodeTerm>>,
    pub(super) node_preferred: Vec<(i64, NodeTerm)>,
    pub(super) tolerations: Vec<Toleration>,
    pub(super) affinity: Vec<PodTerm>,
    pub(super) anti_affinity: Vec<PodTerm>,
    /// Negative weights are anti-affinity.
    pub(super) preferred: Vec<(i64, PodTerm)>,
    pub(super) spread: Vec<Spread>,
    pub(super) images: Vec<String>,
}

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) address: String,
    pub(super) protocol: String,
    pub(super) port: i32,
}

impl HostPort {
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        let any = |a: &str| a.is_empty() || a == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

/// One term of a node selector.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeTerm {
    labels: Vec<Requirement>,
    /// Over `metadata.name` alone.
    name: Vec<Requirement>,
}

impl NodeTerm {
    pub(super) fn matches(&self, name: &str, labels: &Labels) -> bool {
        // An empty term matches nothing, as upstream.
        if self.labels.is_empty() && self.name.is_empty() {
            return false;
        }
        let fields: Labels = [("metadata.name".to_owned(), name.to_owned())].into();
        self.labels.iter().all(|r| r.matches(labels)) && self.name.iter().all(|r| r.matches(&fields))
    }

    fn parse(term: &NodeSelectorTerm) -> Self {
        let requirements = |list: &Option<Vec<_>>| list.iter().flatten().filter_map(requirement).collect();
        Self { labels: requirements(&term.match_expressions), name: requirements(&term.match_fields) }
    }
}

fn requirement(r: &k8s_openapi::api::core::v1::NodeSelectorRequirement) -> Option<Requirement> {
    let (key, values) = (r.key.clone(), r.values.clone().unwrap_or_default());
    let bound = || values.first().and_then(|v| v.parse().ok());
    Some(match r.operator.as_str() {
        "In" => Requirement::In(key, values),
        "NotIn" => Requirement::NotIn(key, values),
        "Exists" => Requirement::Exists(key),
        "DoesNotExist" => Requirement::DoesNotExist(key),
        "Gt" => Requirement::Gt(key, bound()?),
        "Lt" => Requirement::Lt(key, bound()?),
        _ => return None,
    })
}

/// One term of pod affinity or anti-affinity.
#[derive(Clone, Debug)]
pub(super) struct PodTerm {
    pub(super) topology: String,
    /// `None` selects no pod at all.
    selector: Option<LabelSelector>,
    namespaces: Vec<String>,
    namespace_selector: Option<LabelSelector>,
}

impl PodTerm {
    fn parse(term: &PodAffinityTerm, own: &str, labels: &Labels) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own.to_owned());
        }
        let mut selector = term.label_selector.as_ref().and_then(|s| LabelSelector::from_object(s).ok());
        if let Some(selector) = &mut selector {
            for key in term.match_label_keys.iter().flatten() {
                if let Some(value) = labels.get(key) {
                    selector.requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
                }
            }
            for key in term.mismatch_label_keys.iter().flatten() {
                if let Some(value) = labels.get(key) {
                    selector.requirements.push(Requirement::NotIn(key.clone(), vec![value.clone()]));
                }
            }
        }
        let namespace_selector =
            term.namespace_selector.as_ref().and_then(|s| LabelSelector::from_object(s).ok());
        Self { topology: term.topology_key.clone(), selector, namespaces, namespace_selector }
    }

    /// Whether it speaks of pods in `namespace`, which has `labels`.
    pub(super) fn covers(&self, namespace: &str, labels: Option<&Labels>) -> bool {
        self.namespaces.iter().any(|n| n == namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| labels.map_or_else(|| s.matches(&Labels::new()), |l| s.matches(l)))
    }

    /// Whether it selects `pod`, whose namespace has `labels`.
    pub(super) fn selects(&self, pod: &PodView, labels: Option<&Labels>) -> bool {
        self.selector.as_ref().is_some_and(|s| s.matches(&pod.labels)) && self.covers(&pod.namespace, labels)
    }
}

/// One topology spread constraint.
#[derive(Clone, Debug)]
pub(super) struct Spread {
    pub(super) max_skew: i64,
    pub(super) topology: String,
    pub(super) required: bool,
    pub(super) min_domains: i64,
    pub(super) selector: LabelSelector,
    /// Whether nodes that the pod's own node affinity excludes count as domains.
    pub(super) honour_affinity: bool,
    pub(super) honour_taints: bool,
}

impl Spread {
    fn parse(c: &TopologySpreadConstraint, labels: &Labels) -> Option<Self> {
        let mut selector = LabelSelector::from_object(c.label_selector.as_ref()?).ok()?;
        for key in c.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector.requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
            }
        }
        Some(Self {
            max_skew: c.max_skew.into(),
            topology: c.topology_key.clone(),
            required: c.when_unsatisfiable != "ScheduleAnyway",
            min_domains: c.min_domains.unwrap_or(1).into(),
            selector,
            honour_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honour_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        })
    }
}

impl PodView {
    /// Parses a pod.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let labels = meta.labels.clone().unwrap_or_default();
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str().into());
        let mut view = Self {
            id: Some(Id::of(meta)),
            uid: meta.uid_str().into(),
            namespace: meta.namespace_str().into(),
            controller,
            leaving: meta.deleting(),
            ..Self::default()
        };
        if let Some(spec) = &pod.spec {
            view.read_spec(spec, &labels);
        }
        view.labels = labels;
        view
    }

    fn read_spec(&mut self, spec: &PodSpec, labels: &Labels) {
        self.priority = spec.priority.unwrap_or(0);
        self.requests = Requests::of(spec);
        self.node_name = spec.node_name.clone().filter(|n| !n.is_empty());
        self.node_selector = LabelSelector::from_map(spec.node_selector.iter().flatten());
        self.tolerations = spec.tolerations.clone().unwrap_or_default();
        let constraints = spec.topology_spread_constraints.iter().flatten();
        self.spread = constraints.filter_map(|c| Spread::parse(c, labels)).collect();
        self.images = spec.containers.iter().filter_map(|c| c.image.clone()).collect();
        // Sidecars hold their ports as long as the pod's containers do.
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports = sidecars.chain(&spec.containers).flat_map(|c| c.ports.iter().flatten());
        self.host_ports = ports
            .filter_map(|p| {
                Some(HostPort {
                    address: p.host_ip.clone().unwrap_or_default(),
                    protocol: p.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    port: p.host_port.filter(|n| *n > 0)?,
                })
            })
            .collect();
        if let Some(affinity) = &spec.affinity {
            self.read_affinity(affinity, labels);
        }
    }

    fn read_affinity(&mut self, affinity: &Affinity, labels: &Labels) {
        if let Some(node) = &affinity.node_affinity {
            let required = node.required_during_scheduling_ignored_during_execution.as_ref();
            self.node_required =
                required.map(|s| s.node_selector_terms.iter().map(NodeTerm::parse).collect());
            let preferred = node.preferred_during_scheduling_ignored_during_execution.iter().flatten();
            self.node_preferred =
                preferred.map(|p| (p.weight.into(), NodeTerm::parse(&p.preference))).collect();
        }
        let namespace = self.namespace.clone();
        let terms = |list: &Option<Vec<PodAffinityTerm>>| -> Vec<PodTerm> {
            list.iter().flatten().map(|t| PodTerm::parse(t, &namespace, labels)).collect()
        };
        let weighted = |list: &Option<Vec<WeightedPodAffinityTerm>>, sign: i64| -> Vec<(i64, PodTerm)> {
            let parse = |t: &WeightedPodAffinityTerm| {
                (sign * i64::from(t.weight), PodTerm::parse(&t.pod_affinity_term, &namespace, labels))
            };
            list.iter().flatten().map(parse).collect()
        };
        if let Some(pods) = &affinity.pod_affinity {
            self.affinity = terms(&pods.required_during_scheduling_ignored_during_execution);
            self.preferred.extend(weighted(&pods.preferred_during_scheduling_ignored_during_execution, 1));
        }
        if let Some(pods) = &affinity.pod_anti_affinity {
            self.anti_affinity = terms(&pods.required_during_scheduling_ignored_during_execution);
            self.preferred.extend(weighted(&pods.preferred_during_scheduling_ignored_during_execution, -1));
        }
    }

    /// Whether other pods' placement depends on where this one is.
    pub(super) fn has_terms(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty())
    }

    /// Whether node selector and required node affinity allow the node.
    pub(super) fn allows(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector.matches(labels)
            && self.node_required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }
}
