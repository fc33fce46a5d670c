//! Why one node cannot take a pod, as far as the node itself tells: taints, labels, ports, room. What depends on other
//! nodes is in [`super::class`]. Pure.

use std::fmt;

use k8s_openapi::api::core::v1::Taint;

use super::{node::NodeView, pod::Shape, resources::PODS};

/// Why one node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// Cordoned.
    Unschedulable,
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

/// Everything about the node itself that keeps pods of this shape off it; empty when it has room for one. Stops at the
/// first class of reasons, as upstream's plugins do.
pub(super) fn rejections(shape: &Shape, node: &NodeView) -> Vec<Rejection> {
    match unfit(shape, node) {
        Some(rejection) => vec![rejection],
        None => shortages(shape, node),
    }
}

fn unfit(shape: &Shape, node: &NodeView) -> Option<Rejection> {
    if node.unschedulable && !tolerates_cordon(shape) {
        return Some(Rejection::Unschedulable);
    }
    if let Some(taint) = node.untolerated(shape) {
        let value = taint.value.clone().unwrap_or_default();
        return Some(Rejection::Taint { key: taint.key.clone(), value });
    }
    if !shape.allows(&node.name, &node.labels) {
        return Some(Rejection::NodeAffinity);
    }
    let taken = |port| node.host_ports.iter().any(|p| p.conflicts(port));
    shape.host_ports.iter().any(taken).then_some(Rejection::HostPort)
}

fn shortages(shape: &Shape, node: &NodeView) -> Vec<Rejection> {
    let mut short = Vec::new();
    let room = usize::try_from(node.allocatable.get(PODS)).unwrap_or(0);
    if node.pods.len() >= room {
        short.push(Rejection::TooManyPods);
    }
    for (resource, wanted) in shape.requests.said.iter().filter(|(_, wanted)| *wanted > 0) {
        let all = node.allocatable.get(resource);
        if wanted > all - node.said.get(resource) {
            short.push(Rejection::Insufficient { resource: resource.to_owned(), never: wanted > all });
        }
    }
    short
}

fn tolerates_cordon(shape: &Shape) -> bool {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    shape.tolerates(&cordon)
}
