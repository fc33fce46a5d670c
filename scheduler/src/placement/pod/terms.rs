//! What a pod says of nodes and of other pods.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, TopologySpreadConstraint,
};

use super::{Labels, Shape};
use crate::model::{LabelSelector, Requirement};

/// A port of the node that a pod takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::placement) struct HostPort {
    pub(in crate::placement) address: String,
    pub(in crate::placement) protocol: String,
    pub(in crate::placement) port: i32,
}

impl HostPort {
    pub(in crate::placement) fn conflicts(&self, other: &Self) -> bool {
        let any = |a: &str| a.is_empty() || a == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

/// One term of a node selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::placement) struct NodeTerm {
    labels: Vec<Requirement>,
    /// Over `metadata.name` alone.
    name: Vec<Requirement>,
}

impl NodeTerm {
    pub(in crate::placement) fn matches(&self, name: &str, labels: &Labels) -> bool {
        // An empty term matches nothing, as upstream.
        if self.labels.is_empty() && self.name.is_empty() {
            return false;
        }
        self.labels.iter().all(|r| r.matches(labels)) && (self.name.is_empty() || self.names(name))
    }

    fn names(&self, name: &str) -> bool {
        let fields: Labels = [("metadata.name".to_owned(), name.to_owned())].into();
        self.name.iter().all(|r| r.matches(&fields))
    }

    pub(super) fn parse(term: &NodeSelectorTerm) -> Self {
        let requirements = |list: &Option<Vec<_>>| list.iter().flatten().filter_map(requirement).collect();
        Self { labels: requirements(&term.match_expressions), name: requirements(&term.match_fields) }
    }
}

fn requirement(r: &NodeSelectorRequirement) -> Option<Requirement> {
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::placement) struct PodTerm {
    pub(in crate::placement) topology: String,
    /// `None` selects no pod at all.
    pub(in crate::placement) selector: Option<LabelSelector>,
    pub(in crate::placement) namespaces: Vec<String>,
    pub(in crate::placement) namespace_selector: Option<LabelSelector>,
}

impl PodTerm {
    pub(super) fn parse(term: &PodAffinityTerm, own: &str, labels: &Labels) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(own.to_owned());
        }
        let mut selector = term.label_selector.as_ref().and_then(|s| LabelSelector::from_object(s).ok());
        if let Some(selector) = &mut selector {
            add_own(selector, &term.match_label_keys, labels);
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
    pub(in crate::placement) fn covers(&self, namespace: &str, labels: Option<&Labels>) -> bool {
        self.namespaces.iter().any(|n| n == namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| labels.map_or_else(|| s.matches(&Labels::new()), |l| s.matches(l)))
    }

    /// Whether it selects a pod of this shape, whose namespace has `labels`.
    pub(in crate::placement) fn selects(&self, pod: &Shape, labels: Option<&Labels>) -> bool {
        self.selector.as_ref().is_some_and(|s| s.matches(&pod.labels)) && self.covers(&pod.namespace, labels)
    }
}

/// The values that the pod itself has for these keys are wanted of the others too.
fn add_own(selector: &mut LabelSelector, keys: &Option<Vec<String>>, labels: &Labels) {
    for key in keys.iter().flatten() {
        if let Some(value) = labels.get(key) {
            selector.requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
        }
    }
}

/// One topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::placement) struct Spread {
    pub(in crate::placement) max_skew: i64,
    pub(in crate::placement) topology: String,
    pub(in crate::placement) required: bool,
    pub(in crate::placement) min_domains: i64,
    pub(in crate::placement) selector: LabelSelector,
    /// Whether nodes that the pod's own node affinity excludes count as domains.
    pub(in crate::placement) honour_affinity: bool,
    pub(in crate::placement) honour_taints: bool,
}

impl Spread {
    pub(super) fn parse(c: &TopologySpreadConstraint, labels: &Labels) -> Option<Arc<Self>> {
        let mut selector = LabelSelector::from_object(c.label_selector.as_ref()?).ok()?;
        add_own(&mut selector, &c.match_label_keys, labels);
        Some(Arc::new(Self {
            max_skew: c.max_skew.into(),
            topology: c.topology_key.clone(),
            required: c.when_unsatisfiable != "ScheduleAnyway",
            min_domains: c.min_domains.unwrap_or(1).into(),
            selector,
            honour_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honour_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }))
    }
}
