//! Objects in protobuf, decoded to the JSON they mean. kubectl sends what its typed commands make (`create
//! namespace`, `create deployment`, ...) in protobuf and does not fall back.
//!
//! In: bytes in Kubernetes' envelope, the types in [`super::schema`], the field numbers in `schema/wire-facts.txt`
//! (see `schema/gosource.py`). Out: JSON as if the client had sent that. The other way, for clients that accept nothing
//! else, is in [`encode`].
//!
//! The Go encoder writes fields that are no pointers even when they are empty. Which those are is not on the wire, but
//! in the types ([`super::schema::Presence`]): there an empty value says nothing, everywhere else it is what the client chose.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::{Map, Value, json};

use super::schema::{Field, Type, schema};

mod encode;

pub use encode::{LENGTH, encode, frame};

const MAGIC: &[u8] = b"k8s\0";
const WIRE_FACTS: &str = include_str!("../../schema/wire-facts.txt");
/// Deeper nesting than any type has: an attack, not an object.
const MAX_DEPTH: u32 = 64;

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// No Kubernetes envelope.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// A kind without field numbers.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    UnknownKind {
        /// `apiVersion`.
        version: String,
        /// `kind`.
        kind: String,
    },
    /// Cut off, or not protobuf.
    #[error("the protobuf message is malformed: {0}")]
    Malformed(&'static str),
}

/// Where a field's value goes.
enum Place {
    /// Into this JSON field.
    Field(&'static str),
    /// Its own fields, read by this message's numbers, go into the same JSON object.
    Inline(&'static str),
}

/// Field numbers by message.
static NUMBERS: LazyLock<HashMap<&'static str, BTreeMap<u32, Place>>> = LazyLock::new(|| {
    let lines = WIRE_FACTS.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).map(|(name, words)| (name, places(words))).collect()
});

fn places(words: &'static str) -> BTreeMap<u32, Place> {
    let place = |word: &'static str| {
        let (number, place) = match word.split_once('=') {
            Some((number, field)) => (number, Place::Field(field)),
            None => word.split_once('>').map(|(number, message)| (number, Place::Inline(message)))?,
        };
        Some((number.parse().ok()?, place))
    };
    words.split(' ').filter_map(place).collect()
}

/// The fields that Go's types have from structures they embed: type and field, and the structure's name.
pub(super) fn embedded_fields() -> impl Iterator<Item = ((&'static str, &'static str), &'static str)> {
    let inlined = NUMBERS.iter().flat_map(|(holder, places)| {
        places.values().filter_map(move |place| match place {
            Place::Inline(message) => Some((*holder, *message)),
            Place::Field(_) => None,
        })
    });
    inlined.flat_map(|(holder, message)| {
        let name = message.rsplit('.').next().unwrap_or(message);
        NUMBERS.get(message).into_iter().flat_map(BTreeMap::values).filter_map(move |place| match place {
            Place::Field(field) => Some(((holder, *field), name)),
            Place::Inline(_) => None,
        })
    })
}

/// Decodes an object.
pub fn decode(bytes: &[u8]) -> Result<Value, WireError> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(WireError::Prefix)?;
    let (mut meta, mut raw) = (&[][..], &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Raw::Bytes(bytes)) => meta = bytes,
            (2, Raw::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let (mut version, mut kind) = (String::new(), String::new());
    for field in Fields(meta) {
        match field? {
            (1, Raw::Bytes(bytes)) => version = text(bytes)?,
            (2, Raw::Bytes(bytes)) => kind = text(bytes)?,
            _ => {}
        }
    }
    let Some(name) = message_of(&version, &kind) else {
        return Err(WireError::UnknownKind { version, kind });
    };
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), version.into());
    object.insert("kind".to_owned(), kind.into());
    message(name, name, raw, &mut object, 0)?;
    Ok(object.into())
}

/// The message of a kind: `apps/v1` `Deployment` is `io.k8s.api.apps.v1.Deployment`.
fn message_of(version: &str, kind: &str) -> Option<&'static str> {
    let (group, version) = version.split_once('/').unwrap_or(("core", version));
    let package = group.split('.').next().unwrap_or(group);
    let own = format!("io.k8s.api.{package}.{version}.{kind}");
    let meta = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
    [own, meta].iter().find_map(|name| NUMBERS.get_key_value(name.as_str()).map(|(name, _)| *name))
}

/// Adds the fields of one message to `object`; `definition` is the type whose JSON it is part of.
fn message(
    numbers: &str,
    definition: &str,
    bytes: &[u8],
    object: &mut Map<String, Value>,
    depth: u32,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Malformed("nested too deeply"));
    }
    let (Some(places), Some(fields)) = (NUMBERS.get(numbers), schema().definition(definition)) else {
        return Ok(());
    };
    for field in Fields(bytes) {
        let (number, raw) = field?;
        match places.get(&number) {
            Some(Place::Inline(inner)) => message(inner, definition, raw.bytes()?, object, depth + 1)?,
            Some(Place::Field(name)) => {
                // A field that our version of the type does not have is dropped, as protobuf does.
                if let Some(field) = fields.fields.get(*name) {
                    insert(object, name, field, raw, depth)?;
                }
            }
            None => {}
        }
    }
    Ok(())
}

fn insert(
    object: &mut Map<String, Value>,
    name: &str,
    field: &Field,
    raw: Raw<'_>,
    depth: u32,
) -> Result<(), WireError> {
    let ty = &field.ty;
    match ty {
        Type::List(item) => {
            let list = object.entry(name).or_insert_with(|| json!([]));
            let list = list.as_array_mut().ok_or(WireError::Malformed("a list beside a value"))?;
            list.push(value(item, raw, depth)?);
        }
        Type::Map(item) => {
            let (mut key, mut entry) = (String::new(), None);
            for field in Fields(raw.bytes()?) {
                match field? {
                    (1, Raw::Bytes(bytes)) => key = text(bytes)?,
                    (2, raw) => entry = Some(value(item, raw, depth)?),
                    _ => {}
                }
            }
            let map = object.entry(name).or_insert_with(|| json!({}));
            let map = map.as_object_mut().ok_or(WireError::Malformed("a map beside a value"))?;
            map.insert(key, entry.unwrap_or_else(|| json!("")));
        }
        _ => {
            let value = value(ty, raw, depth)?;
            // Bytes are a list in Go: none of them is none.
            let none = *ty == Type::Bytes && value == "";
            if !none && !field.says_nothing(&value) {
                object.insert(name.to_owned(), value);
            }
        }
    }
    Ok(())
}

fn value(ty: &Type, raw: Raw<'_>, depth: u32) -> Result<Value, WireError> {
    Ok(match ty {
        Type::String => text(raw.bytes()?)?.into(),
        Type::Bytes => STANDARD.encode(raw.bytes()?).into(),
        Type::Boolean => (raw.number()? != 0).into(),
        Type::Int32 | Type::Int64 => raw.number()?.cast_signed().into(),
        Type::Number => f64::from_bits(raw.number()?).into(),
        Type::Time | Type::MicroTime => time(ty, raw.bytes()?)?,
        Type::Quantity => first_text(raw.bytes()?)?.into(),
        Type::IntOrString => int_or_string(raw.bytes()?)?,
        Type::Object(of) => {
            let mut object = Map::new();
            message(of.name(), of.name(), raw.bytes()?, &mut object, depth + 1)?;
            object.into()
        }
        // FieldsV1 and RawExtension: one field that holds JSON.
        Type::Any => serde_json::from_str(&first_text(raw.bytes()?)?).unwrap_or(Value::Null),
        // As a map's value it is a message of its own, whose first field holds the items.
        Type::List(item) => {
            let items = Fields(raw.bytes()?).map(|field| value(item, field?.1, depth));
            items.collect::<Result<Vec<_>, _>>()?.into()
        }
        Type::Map(_) => return Err(WireError::Malformed("a map in a list")),
    })
}

fn time(ty: &Type, bytes: &[u8]) -> Result<Value, WireError> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, raw) => seconds = raw.number()?.cast_signed(),
            (2, raw) => nanos = i32::try_from(raw.number()?.cast_signed()).unwrap_or(0),
            _ => {}
        }
    }
    // Go's zero time is written as nothing at all.
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let time =
        jiff::Timestamp::new(seconds, nanos).map_err(|_| WireError::Malformed("a time out of range"))?;
    let layout = if *ty == Type::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    Ok(time.strftime(layout).to_string().into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value, WireError> {
    let (mut is_text, mut number, mut string) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, raw) => is_text = raw.number()? == 1,
            (2, raw) => number = raw.number()?.cast_signed(),
            (3, raw) => string = text(raw.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_text { string.into() } else { number.into() })
}

/// Field 1 as text: Quantity, FieldsV1, RawExtension.
fn first_text(bytes: &[u8]) -> Result<String, WireError> {
    let first = Fields(bytes).find(|field| matches!(field, Ok((1, _)) | Err(_)));
    first.map_or(Ok(String::new()), |field| text(field?.1.bytes()?))
}

fn text(bytes: &[u8]) -> Result<String, WireError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Malformed("text that is not UTF-8"))
}

/// A field's value as the wire has it.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(WireError::Malformed("a number where bytes belong")),
        }
    }

    fn number(self) -> Result<u64, WireError> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(WireError::Malformed("bytes where a number belongs")),
        }
    }
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            // Nothing behind a fault can be read.
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u32, Raw<'a>), WireError> {
        let bad = |_| WireError::Malformed("a bad key or number");
        let (number, wire_type) = decode_key(&mut self.0).map_err(bad)?;
        let raw = match wire_type {
            WireType::Varint => Raw::Number(decode_varint(&mut self.0).map_err(bad)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0).map_err(bad)?;
                Raw::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            WireType::SixtyFourBit => Raw::Number(little_endian(self.take(8)?)),
            WireType::ThirtyTwoBit => Raw::Number(little_endian(self.take(4)?)),
            WireType::StartGroup | WireType::EndGroup => return Err(WireError::Malformed("a group")),
        };
        Ok((number, raw))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Malformed("cut off"))?;
        self.0 = rest;
        Ok(taken)
    }
}

fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
