//! Objects into protobuf, for the clients that accept nothing else. Everybody else gets JSON, which is what is stored.
//!
//! In: JSON as it would be sent, with its `kind` and `apiVersion`. Out: bytes in Kubernetes' envelope. Fields that are
//! absent stay absent: a decoder reads them as empty, which is what they mean.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::{
    bytes::BufMut as _,
    encoding::{WireType, encode_key, encode_varint},
};
use serde_json::{Map, Value};

use super::{MAGIC, NUMBERS, Place, message_of};
use crate::kinds::schema::{Type, schema};

/// Messages that are no part of any kind: lists, failures, discovery, watch events. `number=field`, with `:Message` for a
/// field that is one.
const META: &[(&str, &str)] = &[
    ("ListMeta", "1=selfLink 2=resourceVersion 3=continue 4=remainingItemCount"),
    ("Status", "1=metadata:ListMeta 2=status 3=message 4=reason 5=details:StatusDetails 6=code"),
    ("StatusDetails", "1=name 2=group 3=kind 4=causes:StatusCause 5=retryAfterSeconds 6=uid"),
    ("StatusCause", "1=reason 2=message 3=field"),
    ("APIVersions", "1=versions 2=serverAddressByClientCIDRs:ServerAddressByClientCIDR"),
    ("APIGroupList", "1=groups:APIGroup"),
    (
        "APIGroup",
        "1=name 2=versions:GroupVersionForDiscovery 3=preferredVersion:GroupVersionForDiscovery \
         4=serverAddressByClientCIDRs:ServerAddressByClientCIDR",
    ),
    ("GroupVersionForDiscovery", "1=groupVersion 2=version"),
    ("ServerAddressByClientCIDR", "1=clientCIDR 2=serverAddress"),
    ("APIResourceList", "1=groupVersion 2=resources:APIResource"),
    (
        "APIResource",
        "1=name 2=namespaced 3=kind 4=verbs:[] 5=shortNames 6=singularName 7=categories 8=group 9=version \
         10=storageVersionHash",
    ),
];

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// An object in its envelope; `None` when its kind has no field numbers here.
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    let map = object.as_object()?;
    let text = |field: &str| map.get(field).and_then(Value::as_str).unwrap_or("");
    // Discovery's first document has no version of its own.
    let version = if text("apiVersion").is_empty() { "v1" } else { text("apiVersion") };
    let raw = body(version, text("kind"), map)?;
    let (mut kind, mut out) = (Vec::new(), MAGIC.to_vec());
    bytes(1, version.as_bytes(), &mut kind);
    bytes(2, text("kind").as_bytes(), &mut kind);
    bytes(1, &kind, &mut out);
    bytes(2, &raw, &mut out);
    // Content encoding and type, which upstream writes though they are empty.
    bytes(3, b"", &mut out);
    bytes(4, b"", &mut out);
    Some(out)
}

/// How long the length before a frame is, in bytes.
pub const LENGTH: usize = 4;

/// A watch event as a frame: its length, then the event itself, with `object` as it would be sent alone. Only the object
/// stands in an envelope that names its type: what an event is the stream says.
pub fn frame(event: &str, object: &Value) -> Option<Vec<u8>> {
    let object = encode(object)?;
    let (mut raw, mut message) = (Vec::new(), Vec::new());
    bytes(1, &object, &mut raw);
    bytes(1, event.as_bytes(), &mut message);
    bytes(2, &raw, &mut message);
    let length = u32::try_from(message.len()).ok()?;
    Some([&length.to_be_bytes()[..], &message].concat())
}

fn body(version: &str, kind: &str, map: &Map<String, Value>) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    if META.iter().any(|(name, _)| *name == kind) {
        plain(kind, map, &mut out);
        return Some(out);
    }
    // Lists have numbers and no type of their own here: they are written below, item by item.
    if let Some(name) = message_of(version, kind).filter(|name| schema().definition(name).is_some()) {
        message(name, name, map, &mut out);
        return Some(out);
    }
    let one = |kind: &str, item: &Map<String, Value>| {
        let mut out = Vec::new();
        match kind {
            "PartialObjectMetadata" => nested(1, item.get("metadata"), OBJECT_META, &mut out),
            kind => {
                let name = message_of(version, kind)?;
                message(name, name, item, &mut out);
            }
        }
        Some(out)
    };
    if kind == "PartialObjectMetadata" {
        return one(kind, map);
    }
    let item_kind = kind.strip_suffix("List")?;
    let mut list_meta = Vec::new();
    plain("ListMeta", map.get("metadata")?.as_object()?, &mut list_meta);
    bytes(1, &list_meta, &mut out);
    for item in map.get("items")?.as_array()? {
        bytes(2, &one(item_kind, item.as_object()?)?, &mut out);
    }
    Some(out)
}

/// A message of [`META`]; the JSON itself tells the types.
fn plain(name: &str, map: &Map<String, Value>, out: &mut Vec<u8>) {
    let words = META.iter().find(|(own, _)| *own == name).map_or("", |(_, words)| words);
    for word in words.split_whitespace() {
        let Some((number, field)) = word.split_once('=') else { continue };
        let (field, inner) = field.split_once(':').unwrap_or((field, ""));
        let (Ok(number), Some(value)) = (number.parse(), map.get(field)) else { continue };
        match value {
            // A list that is a message of its own.
            Value::Array(list) if inner == "[]" => {
                let mut own = Vec::new();
                list.iter().for_each(|item| scalar(1, item, &mut own));
                bytes(number, &own, out);
            }
            Value::Array(list) => list.iter().for_each(|item| one_of(number, item, inner, out)),
            value => one_of(number, value, inner, out),
        }
    }
}

fn one_of(number: u32, value: &Value, inner: &str, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut own = Vec::new();
            plain(inner, map, &mut own);
            bytes(number, &own, out);
        }
        value => scalar(number, value, out),
    }
}

fn scalar(number: u32, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::String(text) => bytes(number, text.as_bytes(), out),
        Value::Bool(flag) => varint(number, u64::from(*flag), out),
        Value::Number(n) => varint(number, n.as_i64().unwrap_or_default().cast_unsigned(), out),
        Value::Null | Value::Array(_) | Value::Object(_) => {}
    }
}

/// The fields of a message of a kind; `definition` is the type whose JSON it is part of.
fn message(numbers: &str, definition: &str, map: &Map<String, Value>, out: &mut Vec<u8>) {
    let (Some(places), Some(fields)) = (NUMBERS.get(numbers), schema().definition(definition)) else {
        return;
    };
    for (number, place) in places {
        match place {
            Place::Inline(inner) => {
                let mut own = Vec::new();
                message(inner, definition, map, &mut own);
                bytes(*number, &own, out);
            }
            Place::Field(name) => {
                if let (Some(value), Some(field)) = (map.get(*name), fields.fields.get(*name)) {
                    typed(*number, value, &field.ty, out);
                }
            }
        }
    }
}

fn nested(number: u32, value: Option<&Value>, definition: &str, out: &mut Vec<u8>) {
    let mut own = Vec::new();
    if let Some(map) = value.and_then(Value::as_object) {
        message(definition, definition, map, &mut own);
    }
    bytes(number, &own, out);
}

fn typed(number: u32, value: &Value, ty: &Type, out: &mut Vec<u8>) {
    if value.is_null() {
        return;
    }
    match ty {
        Type::List(item) => value.as_array().into_iter().flatten().for_each(|v| typed(number, v, item, out)),
        Type::Map(item) => {
            for (key, value) in value.as_object().into_iter().flatten() {
                let mut entry = Vec::new();
                bytes(1, key.as_bytes(), &mut entry);
                match &**item {
                    // A list that is a map's value is a message of its own.
                    Type::List(_) => {
                        let mut own = Vec::new();
                        typed(1, value, item, &mut own);
                        bytes(2, &own, &mut entry);
                    }
                    item => typed(2, value, item, &mut entry),
                }
                bytes(number, &entry, out);
            }
        }
        Type::Object(of) => nested(number, Some(value), of.name(), out),
        Type::Bytes => bytes(number, &STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default(), out),
        Type::Number => {
            encode_key(number, WireType::SixtyFourBit, out);
            out.put_u64_le(value.as_f64().unwrap_or_default().to_bits());
        }
        Type::Time | Type::MicroTime => bytes(number, &time(value), out),
        Type::Quantity => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let mut own = Vec::new();
            bytes(1, text.as_bytes(), &mut own);
            bytes(number, &own, out);
        }
        Type::IntOrString => {
            let mut own = Vec::new();
            varint(1, u64::from(value.is_string()), &mut own);
            if value.is_string() {
                scalar(3, value, &mut own);
            } else {
                scalar(2, value, &mut own);
            }
            bytes(number, &own, out);
        }
        // FieldsV1 and RawExtension: one field that holds JSON.
        Type::Any => {
            let mut own = Vec::new();
            bytes(1, value.to_string().as_bytes(), &mut own);
            bytes(number, &own, out);
        }
        Type::String | Type::Boolean | Type::Int32 | Type::Int64 => scalar(number, value, out),
    }
}

fn time(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(at) = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok()) {
        varint(1, at.as_second().cast_unsigned(), &mut out);
        varint(2, i64::from(at.subsec_nanosecond()).cast_unsigned(), &mut out);
    }
    out
}

fn bytes(number: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn varint(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::wire::decode;

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b", "c": ""}, "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u", "controller": true}],
                "managedFields": [{"manager": "m", "fieldsV1": {"f:metadata": {}}, "time": "2026-01-01T00:00:01Z"}]},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"httpGet": {"port": 80}}}],
                "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert_eq!(decode(&encode(&pod).unwrap()).unwrap(), pod);
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "/wA="}});
        assert_eq!(decode(&encode(&secret).unwrap()).unwrap(), secret);
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"acquireTime": "2026-01-01T00:00:00.000123Z", "leaseDurationSeconds": 10}});
        assert_eq!(decode(&encode(&lease).unwrap()).unwrap(), lease);
    }

    #[test]
    fn lists_failures_and_metadata_have_their_numbers() {
        let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
            "items": [{"metadata": {"name": "a"}}]});
        let item = [0x12, 5, 0x0a, 3, 0x0a, 1, b'a'];
        assert!(
            encode(&list).unwrap().windows(item.len()).any(|window| window == item),
            "{:x?}",
            encode(&list)
        );
        let partial = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {},
            "items": [{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "a"}}]});
        assert!(encode(&partial).unwrap().windows(item.len()).any(|window| window == item));
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": 404, "message": "m"});
        assert!(encode(&status).unwrap().windows(3).any(|window| window == [0x30, 0x94, 0x03]));
        let resources = json!({"kind": "APIResourceList", "groupVersion": "v1",
            "resources": [{"name": "pods", "verbs": ["get"]}]});
        let verbs = [0x22, 5, 0x0a, 3, b'g', b'e', b't'];
        assert!(encode(&resources).unwrap().windows(verbs.len()).any(|window| window == verbs));
        assert_eq!(encode(&json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1"})), None);
    }
}
