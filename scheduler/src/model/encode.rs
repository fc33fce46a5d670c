//! Objects as bytes. Upstream's begin with `kind` and `apiVersion`, and clients that show or compare them count on it;
//! `serde_json` alone would sort them among the other fields.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_json::{Map, Value};

/// The fields that an object begins with.
const FIRST: [&str; 2] = ["kind", "apiVersion"];

/// The fields of an object in the order in which they are sent.
pub fn in_order(object: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let first = FIRST.iter().filter_map(|name| object.get_key_value(*name));
    first.chain(object.iter().filter(|(name, _)| !FIRST.contains(&name.as_str())))
}

/// An object as JSON, it and the objects in it beginning with `kind`.
pub fn encode(value: &Value) -> Bytes {
    let mut out = BytesMut::new().writer();
    // Neither a map with other keys than text nor a failing writer is possible here.
    if serde_json::to_writer(&mut out, &Shown { value, top: true }).is_err() {
        tracing::error!("an object could not be encoded");
    }
    out.into_inner().freeze()
}

/// The same with line breaks, for people.
pub fn encode_pretty(value: &Value) -> Bytes {
    let mut out = BytesMut::new().writer();
    let mut serializer = serde_json::Serializer::pretty(&mut out);
    if (Shown { value, top: true }).serialize(&mut serializer).is_err() {
        tracing::error!("an object could not be encoded");
    }
    let mut out = out.into_inner();
    out.put_u8(b'\n');
    out.freeze()
}

/// A value whose objects begin with their kind. What has a kind but no metadata is a reference, where upstream has
/// another order.
struct Shown<'a> {
    value: &'a Value,
    top: bool,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner = |value| Shown { value, top: false };
        match self.value {
            Value::Object(map) => {
                let mut out = serializer.serialize_map(Some(map.len()))?;
                if self.top || map.contains_key("metadata") {
                    in_order(map).try_for_each(|(name, value)| out.serialize_entry(name, &inner(value)))?;
                } else {
                    map.iter().try_for_each(|(name, value)| out.serialize_entry(name, &inner(value)))?;
                }
                out.end()
            }
            Value::Array(list) => {
                let mut out = serializer.serialize_seq(Some(list.len()))?;
                list.iter().try_for_each(|value| out.serialize_element(&inner(value)))?;
                out.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_and_those_in_them_begin_with_their_kind() {
        let table = json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columns": [], "rows": [{"object":
            {"apiVersion": "v1", "kind": "Pod", "data": 1, "metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "X"}]}}}]});
        let text = String::from_utf8(encode(&table).to_vec()).unwrap();
        assert_eq!(
            text,
            "{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"columns\":[],\"rows\":[{\"object\":{\"kind\":\"Pod\",\
             \"apiVersion\":\"v1\",\"data\":1,\"metadata\":{\"ownerReferences\":[{\"apiVersion\":\"v1\",\"kind\":\"X\"}]}}}]}"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), table);
    }
}
