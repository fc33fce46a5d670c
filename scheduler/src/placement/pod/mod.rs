//! A pod as placement sees it: everything parsed once, nothing that does not matter for where it goes. Pods of one
//! template share one [`Shape`], by which they are filtered and scored once.

mod parse;
mod terms;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Taint, Toleration};

pub(super) use terms::{HostPort, NodeTerm, PodTerm, Spread};

use super::resources::Requests;
use crate::{
    cache::{Id, MetaExt, Pod},
    model::{LabelSelector, Shared},
};

pub(super) type Labels = BTreeMap<String, String>;

/// Everything about a pod that decides where it can go, and how it weighs on others. Equal shapes go to equal places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Its namespace.
    pub namespace: Arc<str>,
    pub(super) labels: Labels,
    /// The uid of its controller.
    pub(super) controller: Option<Arc<str>>,
    pub(super) requests: Requests,
    pub(super) host_ports: Vec<HostPort>,
    pub(super) node_selector: LabelSelector,
    pub(super) node_required: Option<Vec<NodeTerm>>,
    pub(super) node_preferred: Vec<(i64, NodeTerm)>,
    pub(super) tolerations: Vec<Tolerance>,
    pub(super) affinity: Vec<Arc<PodTerm>>,
    pub(super) anti_affinity: Vec<Arc<PodTerm>>,
    /// Negative weights are anti-affinity.
    pub(super) preferred: Vec<(i64, Arc<PodTerm>)>,
    pub(super) spread: Vec<Arc<Spread>>,
    pub(super) images: Vec<String>,
}

impl Shape {
    /// Of a pod.
    pub fn of(pod: &Pod) -> Self {
        parse::shape(pod)
    }

    /// Whether node selector and required node affinity allow the node.
    pub(super) fn allows(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector.matches(labels)
            && self.node_required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }

    pub(super) fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|t| t.tolerates(taint))
    }
}

/// A pod.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Namespace and name.
    pub id: Id,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Whether deletion has begun: it still takes its place, and does not count for what comes after it.
    pub(super) leaving: bool,
    pub(super) shape: Arc<Shape>,
}

/// A toleration, compared as the API means it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tolerance {
    effect: String,
    key: String,
    value: String,
    exists: bool,
}

impl Tolerance {
    pub(super) fn of(toleration: &Toleration) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            effect: text(&toleration.effect),
            key: text(&toleration.key),
            value: text(&toleration.value),
            exists: toleration.operator.as_deref() == Some("Exists"),
        }
    }

    pub(super) fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (if self.key.is_empty() { self.exists } else { self.key == taint.key })
            && (self.exists || self.value == taint.value.as_deref().unwrap_or(""))
    }
}

/// Whether `toleration` tolerates `taint`.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    Tolerance::of(toleration).tolerates(taint)
}

/// The shapes in use, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes(Shared<Shape>);

impl Shapes {
    /// A pod as placement sees it.
    pub(super) fn view(&mut self, pod: &Pod) -> PodView {
        let meta = &pod.metadata;
        let shape = self.one(Shape::of(pod));
        PodView { id: Id::of(meta), uid: meta.uid_str().into(), leaving: meta.deleting(), shape }
    }

    /// The one shape that is equal to this.
    pub(super) fn one(&mut self, shape: Shape) -> Arc<Shape> {
        self.0.one(shape)
    }
}
