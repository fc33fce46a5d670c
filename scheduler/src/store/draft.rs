//! An object on its way into the store: encoded once, except for the revision, which only the commit knows.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::model::{Fields, Key, Object, Paths, Revision, in_order};

/// A value that is not an object of the API.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// No `metadata` object.
    #[error("{key} has no metadata")]
    NoMetadata {
        /// Which object.
        key: Key,
    },
    /// It does not encode.
    #[error("{key} cannot be encoded")]
    Encode {
        /// Which object.
        key: Key,
        /// What the encoder says.
        #[source]
        source: serde_json::Error,
    },
}

/// The encoded object, cut where the digits of `metadata.resourceVersion` go, with its index.
#[derive(Clone, Debug)]
pub struct Draft {
    pub(super) key: Key,
    uid: Arc<str>,
    labels: Arc<BTreeMap<String, String>>,
    fields: Fields,
    owners: Vec<Arc<str>>,
    deleting: bool,
    head: Bytes,
    tail: Bytes,
}

impl Draft {
    /// Encodes `value` and indexes the `fields` (JSON paths). Any `metadata.resourceVersion` in it is ignored.
    pub fn new(key: Key, value: &Value, fields: &Paths) -> Result<Self, DraftError> {
        let Some((object, metadata)) =
            value.as_object().and_then(|o| Some((o, o.get("metadata")?.as_object()?)))
        else {
            return Err(DraftError::NoMetadata { key });
        };
        let (head, tail) = match split(object, metadata) {
            Ok(parts) => parts,
            Err(source) => return Err(DraftError::Encode { key, source }),
        };
        Ok(Self {
            uid: text(metadata.get("uid")).into(),
            labels: Arc::new(strings(metadata.get("labels"))),
            fields: Fields::new(fields, |path| field(value, path)),
            owners: owners(metadata),
            deleting: metadata.get("deletionTimestamp").is_some_and(|t| !t.is_null()),
            key,
            head,
            tail,
        })
    }

    /// The length of it, but for the digits of its revision.
    pub(super) fn bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// The object at `revision`.
    pub fn at(&self, revision: Revision) -> Object {
        let digits = revision.to_string();
        let mut json = BytesMut::with_capacity(self.head.len() + digits.len() + self.tail.len());
        json.put_slice(&self.head);
        json.put_slice(digits.as_bytes());
        json.put_slice(&self.tail);
        Object {
            key: self.key.clone(),
            uid: self.uid.clone(),
            revision,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            owners: self.owners.clone(),
            deleting: self.deleting,
            json: json.freeze(),
        }
    }
}

impl Object {
    /// The same state, indexed by other paths.
    pub(super) fn indexed(&self, paths: &Paths) -> Self {
        let value = serde_json::from_slice::<Value>(&self.json).unwrap_or_default();
        Self { fields: Fields::new(paths, |path| field(&value, path)), ..self.clone() }
    }

    /// The same state in another form, indexed by other paths; `None` when it is so already. What is no object in that
    /// form stays as it is.
    pub(super) fn renewed(&self, paths: &Paths, form: &dyn Fn(&mut Value)) -> Option<Self> {
        let indexed = || (!self.fields.are_at(paths)).then(|| self.indexed(paths));
        let Ok(old) = serde_json::from_slice::<Value>(&self.json) else { return indexed() };
        let mut new = old.clone();
        form(&mut new);
        if new == old {
            return indexed();
        }
        let Ok(draft) = Draft::new(self.key.clone(), &new, paths) else { return indexed() };
        let mut object = draft.at(self.revision);
        if object.labels == self.labels {
            object.labels = self.labels.clone();
        }
        Some(object)
    }

    /// The same state at another revision: what a watcher sees of an object that left its selection, and the
    /// last state of a deleted one.
    pub fn at_revision(&self, revision: Revision) -> Self {
        let mut copy = self.clone();
        copy.revision = revision;
        if let Ok(value) = serde_json::from_slice::<Value>(&self.json)
            && let Ok(draft) = Draft::new(self.key.clone(), &value, &Paths::default())
        {
            copy.json = draft.at(revision).json;
        }
        copy
    }
}

/// Everything before and after the digits of the resource version.
fn split(
    object: &Map<String, Value>,
    metadata: &Map<String, Value>,
) -> Result<(Bytes, Bytes), serde_json::Error> {
    let mut out = BytesMut::new();
    let mut cut = 0;
    out.put_u8(b'{');
    for (i, (name, value)) in in_order(object).enumerate() {
        if i > 0 {
            out.put_u8(b',');
        }
        write(&mut out, name)?;
        out.put_u8(b':');
        if name != "metadata" {
            write(&mut out, value)?;
            continue;
        }
        out.put_u8(b'{');
        for (name, value) in metadata.iter().filter(|(name, _)| *name != "resourceVersion") {
            write(&mut out, name)?;
            out.put_u8(b':');
            write(&mut out, value)?;
            out.put_u8(b',');
        }
        out.put_slice(b"\"resourceVersion\":\"");
        cut = out.len();
        out.put_slice(b"\"}");
    }
    out.put_u8(b'}');
    let tail = out.split_off(cut);
    Ok((out.freeze(), tail.freeze()))
}

fn write(out: &mut BytesMut, value: &(impl serde::Serialize + ?Sized)) -> Result<(), serde_json::Error> {
    serde_json::to_writer(out.writer(), value)
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or("")
}

fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn owners(metadata: &Map<String, Value>) -> Vec<Arc<str>> {
    let references = metadata.get("ownerReferences").and_then(Value::as_array);
    references.into_iter().flatten().filter_map(|r| Some(r.get("uid")?.as_str()?.into())).collect()
}

/// The value at a path; `a|b` is the first of them that is not empty.
fn field(value: &Value, path: &str) -> Option<String> {
    if let Some((first, others)) = path.split_once('|') {
        return field(value, first).filter(|text| !text.is_empty()).or_else(|| field(value, others));
    }
    let found = path.split('.').try_fold(value, |v, part| v.get(part))?;
    match found {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(found.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Resource;

    #[test]
    fn bytes_carry_the_revision_and_the_index_what_selectors_need() {
        let key = Key::namespaced(Resource::PODS, "default", "web");
        let value = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n1", "hostNetwork": true},
            "metadata": {"name": "web", "uid": "u", "labels": {"a": "b"}, "resourceVersion": "7",
                "zeta": 1, "ownerReferences": [{"uid": "o"}]},
        });
        let paths: Paths = ["spec.nodeName", "spec.hostNetwork", "status.phase"].map(Into::into).into();
        let draft = Draft::new(key, &value, &paths).unwrap();
        let object = draft.at(Revision(42));
        let mut expected = value;
        expected["metadata"]["resourceVersion"] = json!("42");
        assert_eq!(object.decode::<Value>().unwrap(), expected);
        assert_eq!(object.fields.get("spec.nodeName"), Some("n1"));
        assert_eq!(object.fields.get("spec.hostNetwork"), Some("true"));
        assert!(object.fields.get("status.phase").is_none());
        assert_eq!(object.owners, [Arc::from("o")]);
        assert!(object.json.starts_with(b"{\"kind\":\"Pod\",\"apiVersion\":\"v1\","), "{:?}", object.json);
        let moved = object.at_revision(Revision(43));
        assert_eq!(moved.decode::<Value>().unwrap()["metadata"]["resourceVersion"], "43");
        assert_eq!(moved.fields, object.fields);
    }

    #[test]
    fn a_value_without_metadata_is_refused() {
        let key = Key::cluster(Resource::NODES, "n");
        assert!(matches!(
            Draft::new(key, &json!({"kind": "Node"}), &Paths::default()),
            Err(DraftError::NoMetadata { .. })
        ));
    }
}
