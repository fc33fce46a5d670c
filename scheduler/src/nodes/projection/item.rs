//! What travels to nodes: one object's latest state, or its absence, with the generation that made it so.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use gantry_proto::node::v1 as pb;

/// A node's name.
pub(crate) type NodeName = Arc<str>;

/// Namespace (empty when there is none) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Name {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// The kinds a node is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ItemKind {
    Node,
    Peer,
    Service,
    Slice,
    ConfigMap,
    Secret,
    Pod,
}

/// A Secret or ConfigMap that pods may refer to.
pub(crate) type Reference = (SharedKind, Name);

/// Kinds that reach a node only when one of its pods refers to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SharedKind {
    ConfigMap,
    Secret,
}

impl From<SharedKind> for ItemKind {
    fn from(kind: SharedKind) -> Self {
        match kind {
            SharedKind::ConfigMap => Self::ConfigMap,
            SharedKind::Secret => Self::Secret,
        }
    }
}

/// Which object. The uid tells a pod from a later one of its name; other kinds leave it empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ItemKey {
    pub(crate) kind: ItemKind,
    pub(crate) name: Name,
    pub(crate) uid: Arc<str>,
}

impl ItemKey {
    pub(crate) fn new(kind: ItemKind, name: &Name) -> Self {
        Self { kind, name: name.clone(), uid: "".into() }
    }

    pub(crate) fn pod(name: &Name, uid: &Arc<str>) -> Self {
        Self { kind: ItemKind::Pod, name: name.clone(), uid: uid.clone() }
    }
}

/// What all nodes are told alike, at one generation, and encoded once for all of them.
#[derive(Debug)]
pub(crate) struct ToAll<T> {
    pub(crate) told: T,
    encoded: OnceLock<Bytes>,
}

impl<T> ToAll<T> {
    pub(crate) fn new(told: T) -> Arc<Self> {
        Arc::new(Self { told, encoded: OnceLock::new() })
    }

    /// The update that tells it; `encode` makes the first one.
    pub(crate) fn encoded(&self, encode: impl FnOnce(&T) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(&self.told)).clone()
    }
}

impl<T: PartialEq> PartialEq for ToAll<T> {
    fn eq(&self, other: &Self) -> bool {
        self.told == other.told
    }
}

/// An object's state. Cheap to clone: all nodes share it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// The node needs it no longer.
    Removed,
    /// Pod, Secret, ConfigMap as canonical JSON; of the node itself what it is told.
    Json(Bytes),
    /// Compiled once for all nodes, without its endpoints.
    Service(Arc<ToAll<pb::Service>>),
    /// A part of a service's endpoints.
    Slice(Arc<ToAll<pb::EndpointSlice>>),
    /// A service with its endpoints, for agents that do not put them together.
    Whole(Arc<ToAll<Parts>>),
    /// Another node.
    Peer(Arc<ToAll<pb::Peer>>),
}

/// A service and its slices.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parts {
    pub(crate) service: Arc<ToAll<pb::Service>>,
    pub(crate) slices: Vec<Arc<ToAll<pb::EndpointSlice>>>,
}

impl Parts {
    /// What they are together.
    pub(crate) fn joined(&self) -> pb::Service {
        gantry_proto::joined(self.service.told.clone(), self.slices.iter().map(|slice| &slice.told))
    }
}

/// How a node is told services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Each with its endpoints, again at each change of one.
    Whole,
    /// Services and slices, each when it changes.
    Apart,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) generation: u64,
    pub(crate) key: ItemKey,
    pub(crate) body: Body,
}

impl Item {
    /// Whether nodes that are told services in this form are told this.
    pub(crate) fn is_for(&self, form: Form) -> bool {
        match (&self.body, self.key.kind) {
            (Body::Whole(_), _) => form == Form::Whole,
            (Body::Service(_), _) | (_, ItemKind::Slice) => form == Form::Apart,
            _ => true,
        }
    }
}

/// Who is sent a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Every node.
    All,
    /// Every node but this one: it is no peer of itself.
    AllBut(NodeName),
    /// The one node whose pods need it.
    One(NodeName),
}

impl Audience {
    pub(crate) fn includes(&self, node: &str) -> bool {
        match self {
            Self::All => true,
            Self::AllBut(not) => &**not != node,
            Self::One(only) => &**only == node,
        }
    }
}
