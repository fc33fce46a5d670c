//! What the projection needs to know of a pod: its node, what it refers to, and whether a change concerns its
//! node at all. A node that reports a pod's status is not sent its own words back.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EphemeralContainer, Pod, PodSpec, Volume,
};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::item::{Name, NodeName, Reference, SharedKind};
use crate::model::{Chain, Object, ObjectError};

/// A pod as the projection keeps it.
#[derive(Clone, Debug)]
pub(super) struct PodFacts {
    pub(super) uid: Arc<str>,
    /// `None` until it is bound.
    pub(super) node: Option<NodeName>,
    pub(super) references: BTreeSet<Reference>,
    /// What a node is sent is made of this when it is sent.
    object: Option<Arc<Object>>,
    /// That of the runtime class.
    handler: Option<String>,
    /// Of everything but the status.
    fingerprint: [u8; 32],
}

/// As much of a pod as tells whether a node has it.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    spec: SpecOutline,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecOutline {
    node_name: Option<String>,
}

impl PodFacts {
    /// Reads a stored pod. Its node knows handlers, not classes: the handler takes the place of the class that names it.
    /// A class that is gone leaves its name there, which the node then says it does not know.
    pub(super) fn read(
        object: &Arc<Object>,
        handler: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ObjectError> {
        let uid = object.uid.clone();
        let outline: Outline = object.decode()?;
        let Some(node) = outline.spec.node_name.filter(|name| !name.is_empty()) else {
            let (references, fingerprint) = (BTreeSet::new(), [0; 32]);
            return Ok(Self { uid, node: None, references, object: None, handler: None, fingerprint });
        };
        let pod: Pod = object.decode_bare()?;
        let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        let handler = class.and_then(handler);
        let fingerprint = fingerprint(shown(object, handler.as_deref())?, &pod);
        let references = references(object.key.namespace_str(), &pod.spec.unwrap_or_default());
        let node = Some(node.as_str().into());
        Ok(Self { uid, node, references, object: Some(Arc::clone(object)), handler, fingerprint })
    }

    /// What its node is sent; nothing before it has one.
    pub(super) fn json(&self) -> Option<Bytes> {
        match shown(self.object.as_ref()?, self.handler.as_deref()) {
            Ok(value) => Some(Bytes::from(value.to_string())),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "pod not sent to its node");
                None
            }
        }
    }

    /// Whether the node would see the same pod: the change was to its status alone.
    pub(super) fn same_for_node(&self, other: &Self) -> bool {
        self.uid == other.uid && self.fingerprint == other.fingerprint
    }
}

/// A pod as nodes see it: without `managedFields`, which they have no use for, and with the handler of its runtime class.
fn shown(object: &Object, handler: Option<&str>) -> Result<Value, ObjectError> {
    let mut value: Value = object.decode_bare()?;
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    if let Some(handler) = handler {
        value["spec"]["runtimeClassName"] = handler.into();
    }
    Ok(value)
}

/// A hash of what the node acts on: metadata without bookkeeping, spec, and the conditions that others set and
/// its readiness gates wait for.
fn fingerprint(mut value: Value, pod: &Pod) -> [u8; 32] {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("resourceVersion");
        meta.remove("generation");
    }
    if let Some(map) = value.as_object_mut() {
        map.remove("status");
    }
    let mut hash = Sha256::new();
    hash.update(value.to_string());
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let conditions = || pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    for gate in gates {
        let status = conditions().find(|c| c.type_ == gate.condition_type).map(|c| c.status.as_str());
        hash.update(status.unwrap_or_default());
        hash.update([0]);
    }
    hash.finalize().into()
}

/// Every Secret and ConfigMap that the pod names.
fn references(namespace: &str, spec: &PodSpec) -> BTreeSet<Reference> {
    let mut found = References { namespace, found: BTreeSet::new() };
    for c in spec.init_containers.iter().flatten().chain(&spec.containers) {
        found.container(c);
    }
    for c in spec.ephemeral_containers.iter().flatten() {
        found.ephemeral(c);
    }
    for volume in spec.volumes.iter().flatten() {
        found.volume(volume);
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        found.secret(Some(&secret.name));
    }
    found.found
}

struct References<'a> {
    namespace: &'a str,
    found: BTreeSet<Reference>,
}

impl References<'_> {
    fn secret(&mut self, name: Option<&str>) {
        self.add(SharedKind::Secret, name);
    }

    fn config_map(&mut self, name: Option<&str>) {
        self.add(SharedKind::ConfigMap, name);
    }

    fn add(&mut self, kind: SharedKind, name: Option<&str>) {
        if let Some(name) = name.filter(|n| !n.is_empty()) {
            self.found.insert((kind, Name::new(self.namespace, name)));
        }
    }

    fn container(&mut self, c: &Container) {
        self.environment(c.env.as_deref(), c.env_from.as_deref());
    }

    fn ephemeral(&mut self, c: &EphemeralContainer) {
        self.environment(c.env.as_deref(), c.env_from.as_deref());
    }

    fn environment(&mut self, env: Option<&[EnvVar]>, env_from: Option<&[EnvFromSource]>) {
        for source in env.unwrap_or_default().iter().filter_map(|e| e.value_from.as_ref()) {
            self.secret(source.secret_key_ref.as_ref().map(|r| r.name.as_str()));
            self.config_map(source.config_map_key_ref.as_ref().map(|r| r.name.as_str()));
        }
        for source in env_from.unwrap_or_default() {
            self.secret(source.secret_ref.as_ref().map(|r| r.name.as_str()));
            self.config_map(source.config_map_ref.as_ref().map(|r| r.name.as_str()));
        }
    }

    fn volume(&mut self, volume: &Volume) {
        self.secret(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
        self.config_map(volume.config_map.as_ref().map(|c| c.name.as_str()));
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in projected {
            self.secret(source.secret.as_ref().map(|s| s.name.as_str()));
            self.config_map(source.config_map.as_ref().map(|c| c.name.as_str()));
        }
        // Drivers that mount with credentials name them here.
        let csi = volume.csi.as_ref().and_then(|c| c.node_publish_secret_ref.as_ref());
        self.secret(csi.map(|s| s.name.as_str()));
    }
}
