//! What happened, and which waiting pods it could help: others would find the same as before, and are not tried again for it.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    filter::Rejection,
    index::Namespaces,
    pod::{PodTerm, Shape},
};

/// Something that may let a waiting pod in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// A node came.
    NodeCame,
    /// A node changed.
    NodeChanged(NodeChange),
    /// A node went: topologies may be even again.
    NodeLeft,
    /// A pod's deletion began: it still takes up its place, but no longer counts in spreading.
    PodLeaving(Arc<Shape>),
    /// A pod left a node or ended there, was not bound after all, or is no longer what it was: its labels changed.
    PodLeft(Arc<Shape>),
    /// A pod came onto a node, be it by a decision that is not bound yet, or is another than it was: its labels changed.
    PodCame(Arc<Shape>),
    /// Namespaces changed: terms may select others.
    Namespace,
}

/// What is another thing about a node than before; a heartbeat changes none of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeChange {
    /// Its labels.
    pub(super) labels: bool,
    /// Its taints, or whether it is cordoned.
    pub(super) taints: bool,
    /// Resources that there are more of.
    pub(super) more: BTreeSet<String>,
    /// Whether there is less of some resource: that helps nobody, and the snapshot has to know.
    pub(super) less: bool,
}

impl NodeChange {
    fn could_help(&self, reason: &Rejection) -> bool {
        match reason {
            Rejection::Unschedulable | Rejection::Taint { .. } => self.taints,
            Rejection::NodeAffinity => self.labels,
            Rejection::HostPort => false,
            Rejection::TooManyPods => self.more.contains("pods"),
            Rejection::Insufficient { resource, .. } => self.more.contains(resource),
            Rejection::Spread
            | Rejection::SpreadLabel
            | Rejection::Affinity
            | Rejection::AntiAffinity
            | Rejection::ExistingAntiAffinity => self.labels || self.taints,
        }
    }
}

/// The kind of a reason: what waiting pods are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    Room,
    Spread,
    Affinity,
    AntiAffinity,
    /// No reason at all: there were no nodes.
    Nothing,
}

impl Kind {
    pub(super) fn of(reason: &Rejection) -> Self {
        match reason {
            Rejection::Unschedulable
            | Rejection::Taint { .. }
            | Rejection::NodeAffinity
            | Rejection::SpreadLabel => Self::Node,
            Rejection::HostPort | Rejection::TooManyPods | Rejection::Insufficient { .. } => Self::Room,
            Rejection::Spread => Self::Spread,
            Rejection::Affinity => Self::Affinity,
            Rejection::AntiAffinity | Rejection::ExistingAntiAffinity => Self::AntiAffinity,
        }
    }
}

impl Hint {
    /// Kinds of reasons of which it could help at least some.
    pub(super) fn kinds(&self) -> &'static [Kind] {
        use Kind::{Affinity, AntiAffinity, Node, Nothing, Room, Spread};
        match self {
            Self::NodeCame => &[Node, Room, Spread, Affinity, AntiAffinity, Nothing],
            Self::NodeChanged(_) => &[Node, Room, Spread, Affinity, AntiAffinity],
            Self::NodeLeft | Self::PodLeaving(_) => &[Spread],
            Self::PodLeft(_) => &[Room, Spread, AntiAffinity],
            Self::PodCame(_) => &[Spread, Affinity],
            Self::Namespace => &[Affinity, AntiAffinity],
        }
    }

    /// Whether it could let in pods of the shape `waiting`, which `reasons` kept out.
    pub(super) fn could_help(
        &self,
        waiting: &Shape,
        reasons: &BTreeSet<Rejection>,
        namespaces: &Namespaces,
    ) -> bool {
        if reasons.is_empty() {
            return *self == Self::NodeCame;
        }
        reasons.iter().any(|reason| match self {
            Self::NodeCame => true,
            Self::NodeChanged(change) => change.could_help(reason),
            Self::NodeLeft => *reason == Rejection::Spread,
            Self::PodLeaving(pod) => *reason == Rejection::Spread && counts(waiting, pod),
            Self::PodLeft(pod) => left_could_help(waiting, reason, pod, namespaces),
            Self::PodCame(pod) => match reason {
                Rejection::Spread => counts(waiting, pod),
                Rejection::Affinity => selects(&waiting.affinity, pod, namespaces),
                _ => false,
            },
            Self::Namespace => matches!(
                reason,
                Rejection::Affinity | Rejection::AntiAffinity | Rejection::ExistingAntiAffinity
            ),
        })
    }
}

fn left_could_help(waiting: &Shape, reason: &Rejection, left: &Shape, namespaces: &Namespaces) -> bool {
    match reason {
        Rejection::TooManyPods => true,
        // More than the whole node has: no pod that leaves makes room for it.
        Rejection::Insufficient { resource, never } => !never && left.requests.said.get(resource) > 0,
        Rejection::HostPort => {
            waiting.host_ports.iter().any(|port| left.host_ports.iter().any(|p| p.conflicts(port)))
        }
        Rejection::Spread => counts(waiting, left),
        Rejection::AntiAffinity => selects(&waiting.anti_affinity, left, namespaces),
        Rejection::ExistingAntiAffinity => selects(&left.anti_affinity, waiting, namespaces),
        Rejection::Unschedulable
        | Rejection::Taint { .. }
        | Rejection::NodeAffinity
        | Rejection::SpreadLabel
        | Rejection::Affinity => false,
    }
}

/// Whether a required spread constraint of `waiting` counts `pod`.
fn counts(waiting: &Shape, pod: &Shape) -> bool {
    let required = waiting.spread.iter().filter(|s| s.required);
    waiting.namespace == pod.namespace && required.into_iter().any(|s| s.selector.matches(&pod.labels))
}

fn selects(terms: &[Arc<PodTerm>], pod: &Shape, namespaces: &Namespaces) -> bool {
    terms.iter().any(|term| term.selects(pod, namespaces.get(&pod.namespace)))
}
