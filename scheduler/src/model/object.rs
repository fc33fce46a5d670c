//! Objects as the store keeps them: canonical JSON bytes plus the little that selectors and owners need.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt,
    num::NonZeroU32,
    ops::Range,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// A resource as the REST path and `kubectl` name it: `pods`, `deployments.apps`. Cheap to copy and compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource(pub &'static str);

/// The names that came about while the process runs. Each is kept for good, once: there are as many as kinds were ever
/// defined, and everything that is stored bears one.
static NAMES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);

impl Resource {
    /// core/v1
    pub const NAMESPACES: Self = Self("namespaces");
    /// core/v1
    pub const NODES: Self = Self("nodes");
    /// core/v1
    pub const PODS: Self = Self("pods");
    /// core/v1
    pub const SERVICES: Self = Self("services");
    /// core/v1
    pub const ENDPOINTS: Self = Self("endpoints");
    /// core/v1
    pub const CONFIG_MAPS: Self = Self("configmaps");
    /// core/v1
    pub const SECRETS: Self = Self("secrets");
    /// core/v1
    pub const SERVICE_ACCOUNTS: Self = Self("serviceaccounts");
    /// core/v1
    pub const POD_TEMPLATES: Self = Self("podtemplates");
    /// core/v1
    pub const REPLICATION_CONTROLLERS: Self = Self("replicationcontrollers");
    /// core/v1; `events.k8s.io` shows the same objects
    pub const EVENTS: Self = Self("events");
    /// discovery.k8s.io/v1
    pub const ENDPOINT_SLICES: Self = Self("endpointslices.discovery.k8s.io");
    /// coordination.k8s.io/v1
    pub const LEASES: Self = Self("leases.coordination.k8s.io");
    /// apps/v1
    pub const DEPLOYMENTS: Self = Self("deployments.apps");
    /// apps/v1
    pub const REPLICA_SETS: Self = Self("replicasets.apps");
    /// networking.k8s.io/v1
    pub const INGRESSES: Self = Self("ingresses.networking.k8s.io");
    /// networking.k8s.io/v1
    pub const INGRESS_CLASSES: Self = Self("ingressclasses.networking.k8s.io");
    /// networking.k8s.io/v1
    pub const IP_ADDRESSES: Self = Self("ipaddresses.networking.k8s.io");
    /// networking.k8s.io/v1
    pub const SERVICE_CIDRS: Self = Self("servicecidrs.networking.k8s.io");
    /// node.k8s.io/v1
    pub const RUNTIME_CLASSES: Self = Self("runtimeclasses.node.k8s.io");

    /// The resource that is written like this: `deployments.apps`.
    pub fn parse(text: &str) -> Self {
        let (plural, group) = text.split_once('.').unwrap_or((text, ""));
        Self::named(plural, group)
    }

    /// The resource of this name in a group, which is empty for core.
    pub fn named(plural: &str, group: &str) -> Self {
        let name = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name.as_str()) {
            return Self(known);
        }
        let name: &'static str = Box::leak(name.into_boxed_str());
        names.insert(name);
        Self(name)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The store's clock: one number for the whole store, raised by every committed change. It is the
/// `resourceVersion` that clients see, as decimal text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an object lives. `namespace` is `None` for cluster-scoped resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The resource.
    pub resource: Resource,
    /// The namespace, `None` when cluster-scoped.
    pub namespace: Option<Arc<str>>,
    /// The name.
    pub name: Arc<str>,
}

impl Key {
    /// A key in `namespace`.
    pub fn namespaced(resource: Resource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: Some(namespace.into()), name: name.into() }
    }

    /// A key by the scope that the namespace tells: cluster-scoped without one.
    pub fn scoped(resource: Resource, namespace: Option<&str>, name: &str) -> Self {
        match namespace {
            Some(namespace) => Self::namespaced(resource, namespace, name),
            None => Self::cluster(resource, name),
        }
    }

    /// A key of a cluster-scoped resource.
    pub fn cluster(resource: Resource, name: &str) -> Self {
        Self { resource, namespace: None, name: name.into() }
    }

    /// The namespace or the empty string.
    pub fn namespace_str(&self) -> &str {
        self.namespace.as_deref().unwrap_or("")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}/{}", self.resource, self.name),
            None => write!(f, "{}/{}", self.resource, self.name),
        }
    }
}

/// The paths that a kind's objects are indexed by, shared by all of them.
pub type Paths = Arc<[Cow<'static, str>]>;

/// Values by the paths that they stand at. There are a few for each of many objects: they share the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    paths: Paths,
    /// The values, one behind the other: there are several in each of very many objects, most of a few letters.
    text: Box<str>,
    /// Where in the text the value of each path stands; `None` when the object has nothing there.
    places: Box<[Option<Place>]>,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u32,
    /// Its end, plus one: what is never zero needs no room for being absent.
    end: NonZeroU32,
}

impl Fields {
    /// What `value` finds at each of the paths.
    pub fn new(paths: &Paths, value: impl Fn(&str) -> Option<String>) -> Self {
        let values: Vec<Option<String>> = paths.iter().map(|path| value(path)).collect();
        Self::of(paths, &values.iter().map(Option::as_deref).collect::<Vec<_>>())
    }

    /// These values, one for each of the paths.
    pub fn of(paths: &Paths, values: &[Option<&str>]) -> Self {
        let mut text = String::with_capacity(values.iter().flatten().map(|value| value.len()).sum());
        let place = |value: &Option<&str>| {
            let value = (*value)?;
            let start = u32::try_from(text.len()).ok()?;
            let end = u32::try_from(text.len() + value.len()).ok()?.checked_add(1)?;
            text.push_str(value);
            Some(Place { start, end: NonZeroU32::new(end)? })
        };
        let places = values.iter().map(place).collect();
        Self { paths: paths.clone(), text: text.into_boxed_str(), places }
    }

    /// What they are at.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The value at each of the paths.
    pub fn values(&self) -> impl Iterator<Item = Option<&str>> {
        self.places.iter().map(|place| self.at((*place)?))
    }

    fn at(&self, Place { start, end }: Place) -> Option<&str> {
        self.text.get(start as usize..end.get() as usize - 1)
    }

    /// The value at a path; `None` when the object has none there.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.at(self.places[self.paths.iter().position(|at| at == path)?]?)
    }

    /// Whether these are the values at exactly these paths.
    pub fn are_at(&self, paths: &Paths) -> bool {
        self.paths == *paths
    }
}

/// One stored object. Immutable: a change makes a new one.
///
/// `json` is the canonical JSON in the kind's storage version, complete with `apiVersion`, `kind` and
/// `metadata.resourceVersion` equal to `revision`, so list and watch can send the bytes as they are.
#[derive(Clone, Debug)]
pub struct Object {
    /// Where it lives.
    pub key: Key,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// The revision of the change that made this state.
    pub revision: Revision,
    /// `metadata.labels`, shared with the states before that have the same.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Values of the kind's selectable fields (`spec.nodeName` -> `node-1`), besides name and namespace.
    pub fields: Fields,
    /// UIDs of `metadata.ownerReferences`.
    pub owners: Vec<Arc<str>>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// The object.
    pub json: Bytes,
}

#[cfg(test)]
impl Object {
    /// A state of which there is no more than its JSON.
    pub(crate) fn plain(key: Key, value: &serde_json::Value) -> Self {
        Self {
            key,
            uid: "".into(),
            revision: Revision(1),
            labels: Arc::default(),
            fields: Fields::default(),
            owners: Vec::new(),
            deleting: false,
            json: value.to_string().into(),
        }
    }
}

impl Object {
    /// Decodes the bytes into a type of `k8s-openapi` (or `serde_json::Value`).
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        self.decode_bytes(&self.json)
    }

    /// The same without `metadata.managedFields`: as a tree it takes more memory and more time than all the rest, and
    /// nobody who plans looks at it.
    pub fn decode_bare<T: DeserializeOwned>(&self) -> Result<T, ObjectError> {
        self.decode_bytes(&self.bare())
    }

    /// The JSON without `metadata.managedFields`.
    pub fn bare(&self) -> Cow<'_, [u8]> {
        match managers_in(&self.json) {
            Some(at) => Cow::Owned([&self.json[..at.start], b"null", &self.json[at.end..]].concat()),
            None => Cow::Borrowed(&self.json),
        }
    }

    /// The JSON of `metadata`; `None` when there is none.
    pub fn metadata_json(&self) -> Result<Option<&str>, ObjectError> {
        #[derive(Deserialize)]
        struct Outline<'a> {
            #[serde(borrow)]
            metadata: Option<&'a RawValue>,
        }
        let outline: Outline<'_> =
            serde_json::from_slice(&self.json).map_err(|source| self.undecodable(source))?;
        Ok(outline.metadata.map(RawValue::get))
    }

    /// That the object, or a part of it, does not decode.
    pub fn undecodable(&self, source: serde_json::Error) -> ObjectError {
        ObjectError { key: self.key.clone(), revision: self.revision, source }
    }

    fn decode_bytes<T: DeserializeOwned>(&self, json: &[u8]) -> Result<T, ObjectError> {
        serde_json::from_slice(json).map_err(|source| self.undecodable(source))
    }
}

/// Where the value of `metadata.managedFields` stands in an object's JSON.
fn managers_in(json: &[u8]) -> Option<Range<usize>> {
    #[derive(Deserialize)]
    struct Outline<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata<'a> {
        #[serde(borrow)]
        managed_fields: &'a RawValue,
    }
    let outline: Outline<'_> = serde_json::from_slice(json).ok()?;
    let value = outline.metadata.managed_fields.get();
    let start = value.as_ptr().addr().checked_sub(json.as_ptr().addr())?;
    Some(start..start + value.len())
}

/// A stored object that does not decode: corruption or a bug, since everything was validated on the way in.
#[derive(Debug, thiserror::Error)]
#[error("stored object {key} at revision {revision} does not decode")]
pub struct ObjectError {
    /// Which object.
    pub key: Key,
    /// Which state of it.
    pub revision: Revision,
    /// What the decoder says.
    #[source]
    pub source: serde_json::Error,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(value: &Value) -> Object {
        Object::plain(Key::namespaced(Resource("things"), "default", "a"), value)
    }

    #[test]
    fn fields_tell_what_is_empty_from_what_is_absent_and_take_no_more_than_their_letters() {
        let paths: Paths = ["a", "empty", "absent", "b"].map(Into::into).into();
        let fields = Fields::new(&paths, |path| match path {
            "absent" => None,
            "empty" => Some(String::new()),
            other => Some(format!("{other}-value")),
        });
        let all = ["a", "empty", "absent", "b", "unknown"].map(|path| fields.get(path));
        assert_eq!(all, [Some("a-value"), Some(""), None, Some("b-value"), None]);
        assert_eq!(size_of_val(&*fields.places) + fields.text.len(), 4 * 8 + 14);
        assert_eq!(Fields::of(&paths, &fields.values().collect::<Vec<_>>()), fields);
    }

    #[test]
    fn a_bare_object_is_the_same_without_its_managers() {
        let spec = json!({"managedFields": [1], "text": "\"managedFields\":["});
        for managers in
            [json!([]), json!([{"manager": "a\"]", "fieldsV1": {"f:metadata": {"f:labels": {}}}}])]
        {
            let whole =
                json!({"metadata": {"name": "a", "managedFields": managers, "uid": "u"}, "spec": spec});
            let bare: Value = object(&whole).decode_bare().unwrap();
            let expected =
                json!({"metadata": {"name": "a", "managedFields": null, "uid": "u"}, "spec": spec});
            assert_eq!(bare, expected);
        }
        for without in [json!({"metadata": {"name": "a"}, "spec": spec}), json!({"spec": spec}), json!([])] {
            assert_eq!(object(&without).decode_bare::<Value>().unwrap(), without);
        }
        assert!(object(&json!({"metadata": {"managedFields": []}})).decode_bare::<Vec<u8>>().is_err());
    }

    #[test]
    fn metadata_is_told_as_it_stands() {
        let whole = json!({"spec": {"metadata": 1}, "metadata": {"name": "a}", "labels": {"b": "{"}}});
        let object = object(&whole);
        let metadata: Value = serde_json::from_str(object.metadata_json().unwrap().unwrap()).unwrap();
        assert_eq!(metadata, whole["metadata"]);
    }
}
