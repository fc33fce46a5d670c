//! A pod as the control loops know it. There are more pods than of all other kinds together, and most of a pod is its
//! specification, nearly all of it absent fields of containers: pods of one specification share it, and the labels
//! with the stored object.
//!
//! In: stored pods. Out: [`Pod`]. Never: a specification for each pod; one text is decoded once, or twice when two meet.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use k8s_openapi::{
    Metadata, Resource,
    api::core::v1::{Pod as Whole, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Found, Kept, Written};
use crate::model::{FEW, Fingerprint, Fingerprints, Object, ObjectError};

/// A pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(from = "Whole")]
pub struct Pod {
    /// All but the labels, which are in `labels`, and the managers.
    pub metadata: ObjectMeta,
    /// `metadata.labels`.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `spec.nodeName`.
    pub node_name: Option<Box<str>>,
    /// All but the name of the node, which is in `node_name`.
    pub spec: Option<Arc<PodSpec>>,
    /// The status.
    pub status: Option<Box<PodStatus>>,
}

impl Pod {
    /// The node that it is bound to.
    pub fn node(&self) -> Option<&str> {
        self.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Whether it has ended for good.
    pub fn is_finished(&self) -> bool {
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Whether both have one specification, the node set aside.
    pub fn same_spec(&self, other: &Self) -> bool {
        match (&self.spec, &other.spec) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two) || one == two,
            (one, two) => one.is_none() && two.is_none(),
        }
    }
}

impl From<Whole> for Pod {
    fn from(Whole { mut metadata, spec, status }: Whole) -> Self {
        let labels = Arc::new(metadata.labels.take().unwrap_or_default());
        let (spec, node_name) = spec.map(without_node).unzip();
        let status = status.map(Box::new);
        Self { metadata, labels, node_name: node_name.flatten(), spec: spec.map(Arc::new), status }
    }
}

fn without_node(mut spec: PodSpec) -> (PodSpec, Option<Box<str>>) {
    let node = spec.node_name.take().map(String::into_boxed_str);
    (spec, node)
}

impl Resource for Pod {
    const API_VERSION: &'static str = Whole::API_VERSION;
    const GROUP: &'static str = Whole::GROUP;
    const KIND: &'static str = Whole::KIND;
    const VERSION: &'static str = Whole::VERSION;
    const URL_PATH_SEGMENT: &'static str = Whole::URL_PATH_SEGMENT;
    type Scope = <Whole as Resource>::Scope;
}

impl Metadata for Pod {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Kept for Pod {
    type Shared = Specs;

    fn read(object: &Object, specs: &Specs) -> Result<Self, ObjectError> {
        specs.read(object)
    }

    fn found_by(&self) -> Found<'_> {
        let finished = self.is_finished();
        Found { node: self.node(), labels: Some(&self.labels), finished, ..Found::default() }
    }
}

impl Written for Whole {
    type Kept = Pod;
}

#[derive(Deserialize)]
struct Outline<'a> {
    metadata: ObjectMeta,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
struct Place<'a> {
    #[serde(borrow, rename = "nodeName")]
    node_name: Option<&'a RawValue>,
}

/// The specifications in use, each once.
#[derive(Default)]
pub struct Specs {
    known: Mutex<Known>,
    fingerprints: Fingerprints,
}

#[derive(Default)]
struct Known {
    specs: HashMap<Fingerprint, Weak<PodSpec>>,
    /// So many may be known before those that nobody uses are looked for.
    bound: usize,
    #[cfg(test)]
    decoded: usize,
}

impl Specs {
    /// Reads a stored pod.
    fn read(&self, object: &Object) -> Result<Pod, ObjectError> {
        let json = object.bare();
        let Outline { metadata, spec, status } = parsed(object, &json)?;
        let (spec, node_name) = match spec {
            Some(text) => {
                let (spec, node) = self.spec(object, text.get())?;
                (Some(spec), node)
            }
            None => (None, None),
        };
        let metadata = exact(&ObjectMeta { labels: None, ..metadata });
        let status = status.map(|status| Box::new(exact(&status)));
        Ok(Pod { metadata, labels: object.labels.clone(), node_name, spec, status })
    }

    fn spec(&self, object: &Object, text: &str) -> Result<(Arc<PodSpec>, Option<Box<str>>), ObjectError> {
        let node = parsed::<Place<'_>>(object, text.as_bytes())?.node_name.map(RawValue::get);
        let at = node.map_or(text.len()..text.len(), |node| place_of(node, text));
        let rest = (&text[..at.start], &text[at.end..]);
        let name = node.map(|node| parsed::<String>(object, node.as_bytes())).transpose()?;
        let name = name.map(String::into_boxed_str);
        let key = self.fingerprints.of(&rest);
        if let Some(spec) = self.known(|known| known.specs.get(&key)?.upgrade()) {
            return Ok((spec, name));
        }
        let (spec, _) = without_node(parsed(object, text.as_bytes())?);
        let spec = Arc::new(exact(&spec));
        self.known(|known| known.add(key, &spec));
        Ok((spec, name))
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn known<T>(&self, with: impl FnOnce(&mut Known) -> T) -> T {
        with(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Known {
    fn add(&mut self, key: Fingerprint, spec: &Arc<PodSpec>) {
        #[cfg(test)]
        {
            self.decoded += 1;
        }
        if self.specs.len() >= self.bound.max(FEW) {
            self.specs.retain(|_, spec| spec.strong_count() > 0);
            self.bound = self.specs.len() * 2;
        }
        self.specs.insert(key, Arc::downgrade(spec));
    }
}

fn parsed<'a, T: Deserialize<'a>>(object: &Object, json: &'a [u8]) -> Result<T, ObjectError> {
    serde_json::from_slice(json).map_err(|source| object.undecodable(source))
}

/// A copy has the room that it needs; the decoder leaves more in lists.
fn exact<T: Clone>(value: &T) -> T {
    value.clone()
}

/// Where a part of a text stands in it.
fn place_of(part: &str, text: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - text.as_ptr().addr();
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        model::{Key, Paths, Revision},
        store::Draft,
    };

    fn stored(value: &Value) -> Object {
        let name = value["metadata"]["name"].as_str().unwrap();
        let key = Key::namespaced(crate::model::Resource::PODS, "default", name);
        Draft::new(key, value, &Paths::default()).unwrap().at(Revision(1))
    }

    fn pod(name: &str, image: &str, node: Option<&str>) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
                "managedFields": [{"manager": "a", "fieldsV1": {}}]},
            "spec": {"containers": [{"name": "c", "image": image}], "hostname": "nodeName"},
            "status": {"phase": "Running", "podIP": "10.1.0.2"}});
        if let Some(node) = node {
            pod["spec"]["nodeName"] = json!(node);
        }
        pod
    }

    #[test]
    fn pods_of_one_specification_share_it_wherever_they_are_and_it_is_decoded_once() {
        let specs = Specs::default();
        let read = |name: &str, image: &str, node| specs.read(&stored(&pod(name, image, node))).unwrap();
        let first = read("a", "web:1", Some("n1"));
        let decoded = || specs.known(|known| known.decoded);
        for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "a\"b"), ("d", "")] {
            let other = read(name, "web:1", Some(node));
            assert!(Arc::ptr_eq(first.spec.as_ref().unwrap(), other.spec.as_ref().unwrap()), "{name}");
            assert_eq!(other.node_name.as_deref(), Some(node));
            assert_eq!(other.node(), Some(node).filter(|node| !node.is_empty()));
        }
        assert_eq!(decoded(), 1);
        let unbound = read("e", "web:1", None);
        assert!(unbound.same_spec(&first) && unbound.node().is_none());
        assert!(!read("f", "web:2", Some("n1")).same_spec(&first));
        assert_eq!(decoded(), 3);
    }

    #[test]
    fn a_pod_is_the_same_however_it_is_read() {
        let specs = Specs::default();
        for node in [Some("n1"), None] {
            let object = stored(&pod("a", "web:1", node));
            let whole: Whole = object.decode_bare().unwrap();
            assert_eq!(specs.read(&object).unwrap(), Pod::from(whole));
        }
        let object = stored(&json!({"metadata": {"name": "a"}, "spec": null}));
        assert_eq!(specs.read(&object).unwrap().spec, None);
        let wrong = stored(&json!({"metadata": {"name": "a"}, "spec": {"containers": 1}}));
        assert!(specs.read(&wrong).is_err());
        let wrong = stored(&json!({"metadata": {"name": "a"}, "spec": {"containers": [], "nodeName": 1}}));
        assert!(specs.read(&wrong).is_err());
    }

    #[test]
    fn specifications_that_nobody_uses_are_forgotten() {
        let specs = Specs::default();
        for n in 0..10 * FEW {
            specs.read(&stored(&pod("a", &n.to_string(), None))).unwrap();
        }
        assert!(specs.known(|known| known.specs.len()) <= FEW);
    }
}
