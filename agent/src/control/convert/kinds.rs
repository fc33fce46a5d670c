//! The kinds of objects that this agent knows: one entry each, which says what an update does to the desired state. A
//! kind is added by its function and its line in [`KINDS`]; the ledger, acks and snapshots follow from it.

use std::sync::Arc;

use gantry_proto::node::v1 as pb;
use k8s_openapi::api::core::v1 as core;
use serde::de::DeserializeOwned;

use super::{ConvertError, service};
use crate::{
    control::ledger::Section,
    model::{Desired, DesiredPod, FailedKind, NodeName, OwnNode, PodName, PodUid, ServiceId, SharedObject},
};

/// Which object an update is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::control) struct Identity {
    /// As it is on the wire: an agent may not know it.
    pub(in crate::control) kind: i32,
    pub(in crate::control) namespace: Arc<str>,
    pub(in crate::control) name: Arc<str>,
    pub(in crate::control) uid: Arc<str>,
}

impl Identity {
    pub(in crate::control) fn of(update: &pb::Update) -> Self {
        Self {
            kind: update.kind,
            namespace: update.namespace.as_str().into(),
            name: update.name.as_str().into(),
            uid: update.uid.as_str().into(),
        }
    }

    /// The object of that name, whichever it is.
    pub(in crate::control) fn named(&self) -> Self {
        Self { uid: "".into(), ..self.clone() }
    }

    /// Namespace and name.
    fn key(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.namespace), Arc::clone(&self.name))
    }

    /// The service that this is a part of: itself, or that of a slice, which is named `service/slice`.
    pub(in crate::control) fn whole(&self) -> Option<Self> {
        const SERVICE: i32 = pb::ObjectKind::Service as i32;
        const SLICE: i32 = pb::ObjectKind::EndpointSlice as i32;
        match self.kind {
            SERVICE => Some(self.named()),
            SLICE => {
                let (service, _) = self.name.split_once('/')?;
                Some(Self { kind: SERVICE, name: service.into(), ..self.named() })
            }
            _ => None,
        }
    }

    /// Before the first of the slices of this service: the names of all of them begin with this one's.
    pub(in crate::control) fn first_slice(&self) -> Self {
        let name = format!("{}/", self.name).into();
        Self { kind: pb::ObjectKind::EndpointSlice.into(), name, ..self.named() }
    }

    fn service(&self) -> ServiceId {
        let (namespace, name) = self.key();
        ServiceId { namespace, name }
    }

    fn pod(&self) -> PodUid {
        PodUid::new(Arc::clone(&self.uid))
    }
}

/// What an update does to the desired state.
pub(in crate::control) type Put = Box<dyn FnOnce(&mut Desired) + Send>;

/// What is read: the body, and the generation that brought it.
pub(in crate::control) struct Content {
    generation: u64,
    body: Option<pb::update::Body>,
}

/// A kind that this agent knows.
#[derive(Clone, Copy)]
pub(in crate::control) struct Kind {
    pub(in crate::control) wire: i32,
    pub(in crate::control) told: FailedKind,
    pub(in crate::control) section: Section,
    /// Objects of one name are told apart by uid.
    pub(in crate::control) by_uid: bool,
    pub(in crate::control) read: fn(&Identity, Content) -> Result<Put, ConvertError>,
    pub(in crate::control) remove: fn(&Identity, &mut Desired),
}

impl Kind {
    /// What an update that is no removal does.
    pub(in crate::control) fn read(
        &self,
        identity: &Identity,
        update: pb::Update,
    ) -> Result<Put, ConvertError> {
        (self.read)(identity, Content { generation: update.generation, body: update.body })
    }

    /// The object is gone.
    pub(in crate::control) fn remove(&self, identity: &Identity, desired: &mut Desired) {
        (self.remove)(identity, desired);
    }
}

/// Every kind that this agent knows.
pub(in crate::control) const KINDS: [Kind; 7] = [
    Kind {
        wire: pb::ObjectKind::Pod as i32,
        told: FailedKind::Pod,
        section: Section::Work,
        by_uid: true,
        read: pod,
        remove: |id, desired| drop(desired.pods.remove(&id.pod())),
    },
    Kind {
        wire: pb::ObjectKind::Secret as i32,
        told: FailedKind::Secret,
        section: Section::Work,
        by_uid: false,
        read: secret,
        remove: |id, desired| drop(desired.secrets.remove(&id.key())),
    },
    Kind {
        wire: pb::ObjectKind::ConfigMap as i32,
        told: FailedKind::ConfigMap,
        section: Section::Work,
        by_uid: false,
        read: config_map,
        remove: |id, desired| drop(desired.config_maps.remove(&id.key())),
    },
    Kind {
        wire: pb::ObjectKind::Service as i32,
        told: FailedKind::Service,
        section: Section::Table,
        by_uid: false,
        read: service,
        remove: |id, desired| drop(desired.table_mut().services.remove(&id.service())),
    },
    Kind {
        wire: pb::ObjectKind::Peer as i32,
        told: FailedKind::Peer,
        section: Section::Table,
        by_uid: false,
        read: peer,
        remove: |id, desired| drop(desired.table_mut().peers.remove(&NodeName::new(Arc::clone(&id.name)))),
    },
    Kind {
        wire: pb::ObjectKind::EndpointSlice as i32,
        told: FailedKind::EndpointSlice,
        section: Section::Table,
        by_uid: false,
        read: slice,
        // The service that it is a part of is put together anew.
        remove: |_, _| (),
    },
    Kind {
        wire: pb::ObjectKind::Node as i32,
        told: FailedKind::Node,
        section: Section::Work,
        by_uid: false,
        read: node,
        remove: |_, desired| desired.node = None,
    },
];

fn pod(id: &Identity, content: Content) -> Result<Put, ConvertError> {
    let generation = content.generation;
    let pod = json(content, "Pod", id)?;
    let (uid, (namespace, name)) = (id.pod(), id.key());
    let name = PodName { namespace, name };
    let pod = Arc::new(DesiredPod { uid: uid.clone(), name, generation, pod });
    Ok(Box::new(move |desired| drop(desired.pods.insert(uid, pod))))
}

fn secret(id: &Identity, content: Content) -> Result<Put, ConvertError> {
    let generation = content.generation;
    // The decoder's message may quote what it stumbled over: not out of a secret.
    let secret = json(content, "Secret", id).map_err(|_| ConvertError::Field("secret"))?;
    let (key, object) = (id.key(), SharedObject { generation, object: Arc::new(secret) });
    Ok(Box::new(move |desired| drop(desired.secrets.insert(key, object))))
}

fn config_map(id: &Identity, content: Content) -> Result<Put, ConvertError> {
    let generation = content.generation;
    let map = json(content, "ConfigMap", id)?;
    let (key, object) = (id.key(), SharedObject { generation, object: Arc::new(map) });
    Ok(Box::new(move |desired| drop(desired.config_maps.insert(key, object))))
}

fn service(id: &Identity, content: Content) -> Result<Put, ConvertError> {
    let Some(pb::update::Body::Service(service)) = content.body else {
        return Err(ConvertError::Field("service"));
    };
    let (id, sliced) = (id.service(), service.sliced);
    let spec = Arc::new(service::service(service, content.generation)?);
    Ok(Box::new(move |desired| {
        // Without its endpoints it is nothing to be shown: it is put together with them.
        if !sliced {
            desired.table_mut().services.insert(id, spec);
        }
    }))
}

fn slice(id: &Identity, content: Content) -> Result<Put, ConvertError> {
    let Some(pb::update::Body::EndpointSlice(slice)) = content.body else {
        return Err(ConvertError::Field("endpoint_slice"));
    };
    id.whole().ok_or(ConvertError::Field("name"))?;
    service::slice(slice)?;
    Ok(Box::new(|_| ()))
}

fn peer(id: &Identity, content: Content) -> Result<Put, ConvertError> {
    let Some(pb::update::Body::Peer(peer)) = content.body else { return Err(ConvertError::Field("peer")) };
    let (node, peer) = (NodeName::new(Arc::clone(&id.name)), service::peer(&peer)?);
    Ok(Box::new(move |desired| drop(desired.table_mut().peers.insert(node, peer))))
}

fn node(id: &Identity, content: Content) -> Result<Put, ConvertError> {
    let node: core::Node = json(content, "Node", id)?;
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let own = OwnNode { labels: node.metadata.labels.unwrap_or_default(), taints };
    Ok(Box::new(move |desired| desired.node = Some(Arc::new(own))))
}

fn json<T: DeserializeOwned>(content: Content, kind: &'static str, id: &Identity) -> Result<T, ConvertError> {
    let Some(pb::update::Body::Json(bytes)) = content.body else { return Err(ConvertError::Field("json")) };
    serde_json::from_slice(&bytes).map_err(|source| ConvertError::Json {
        kind,
        name: format!("{}/{}", id.namespace, id.name),
        source,
    })
}
