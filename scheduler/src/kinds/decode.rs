//! Strict decoding: JSON of a client against the type of its kind. Finds duplicate and unknown fields, refuses
//! values of a wrong type in the words of Go's decoder (kubectl users know them), and brings what it accepts
//! into the form the store keeps: nothing that says no more than absence, canonical quantities.

mod duplicates;
mod embedded;
mod findings;
mod names;
mod order;

use serde_json::{Map, Value};

use super::{
    Kind,
    quantity::Quantity,
    schema::{Definition, ObjectType, Type},
};
use crate::model::{ApiError, Reason, go::json_type};

pub use duplicates::parse;
pub use findings::findings;

/// A value that its field cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Misfit {
    at: Vec<Step>,
    why: String,
    /// Whether the type reads itself: Go's decoder ends at the first such value, and goes on behind all others.
    own: bool,
}

/// The values that their fields cannot hold. Upstream tells one of them, and so does this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.told(None))]
pub struct DecodeError(Vec<Misfit>);

impl DecodeError {
    /// What is told of a body whose text is known: the first misfit in it. Without the text the fields go by name, as in
    /// what upstream makes of YAML and of patches.
    pub fn told(&self, source: Option<&[u8]>) -> &str {
        let place = |misfit: &Misfit| source.map(|source| order::offset(source, &misfit.at));
        let first = match self.0.as_slice() {
            [only] => Some(only),
            several => several.iter().min_by_key(|misfit| (!misfit.own, place(misfit))),
        };
        first.map_or("", |misfit| &misfit.why)
    }
}

/// One step from an object to a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

/// Decodes `object` in place as `kind` and returns the unknown fields that were dropped, as upstream words
/// them: `unknown field "spec.replicsa"`.
pub fn decode(kind: &Kind, object: &mut Value) -> Result<Vec<String>, DecodeError> {
    decode_as(&kind.ty, object)
}

/// As [`decode`], for the body of a subresource, which is no kind that is stored.
pub fn decode_as(root: &ObjectType, object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let holder = String::new();
    let mut decoder =
        Decoder { root, at: Vec::new(), holder, depth: 0, unknown: Vec::new(), misfits: Vec::new() };
    decoder.value(&Type::Object(root.clone()), object);
    if decoder.misfits.is_empty() { Ok(decoder.unknown) } else { Err(DecodeError(decoder.misfits)) }
}

/// The refusal of a body that does not decode: `Pod in version "v1" cannot be handled as a Pod: why`.
pub fn refusal(kind: &Kind, why: &str) -> ApiError {
    refusal_of(&kind.kind, &kind.version, why)
}

/// As [`refusal`], for a type by name.
pub fn refusal_of(name: &str, version: &str, why: &str) -> ApiError {
    let message = format!("{name} in version {version:?} cannot be handled as a {name}: {why}");
    ApiError::new(Reason::BadRequest, message)
}

/// The refusal of strict validation, with all findings of [`parse`] and [`decode`].
pub fn strict_refusal(kind: &Kind, findings: &[String]) -> ApiError {
    refusal(kind, &format!("strict decoding error: {}", findings.join(", ")))
}

struct Decoder<'a> {
    /// The type of the whole object.
    root: &'a ObjectType,
    /// From the object to the value at hand.
    at: Vec<Step>,
    /// The type that holds the field at hand.
    holder: String,
    /// Where its name is in `at`.
    depth: usize,
    unknown: Vec<String>,
    misfits: Vec<Misfit>,
}

impl Decoder<'_> {
    fn value(&mut self, ty: &Type, value: &mut Value) {
        match (ty, &mut *value) {
            (Type::Any, _) | (Type::Boolean, Value::Bool(_)) | (Type::String, Value::String(_)) => {}
            (Type::Number, Value::Number(_)) | (Type::IntOrString, Value::String(_)) => {}
            (Type::Object(of), Value::Object(map)) => {
                if let Some(definition) = of.definition() {
                    self.object(of.name(), definition, map);
                }
            }
            (Type::Map(values), Value::Object(map)) => self.map(values, map),
            (Type::List(item), Value::Array(list)) => self.list(item, list),
            (Type::Int32 | Type::Int64, Value::Number(number)) => {
                let fits = match ty {
                    Type::Int32 => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                    _ => number.is_i64(),
                };
                if !fits {
                    self.mismatch(&format!("number {number}"), ty);
                }
            }
            (Type::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
            }
            (Type::IntOrString, other) => {
                let what = match &*other {
                    Value::Number(number) => format!("number {number}"),
                    other => json_type(other).to_owned(),
                };
                self.mismatch_of(&what, "int32", true);
            }
            (Type::Quantity, _) => self.own(quantity(value, |quantity| quantity)),
            (Type::Bytes, Value::String(text)) => {
                if let Err(why) = base64(text) {
                    self.misfit(why, false);
                }
            }
            (Type::Time | Type::MicroTime, Value::String(text)) => self.own(time(text, ty)),
            (Type::Time | Type::MicroTime, other) => self.mismatch_of(json_type(other), "string", true),
            (_, other) => {
                let found = json_type(other);
                self.mismatch(found, ty);
            }
        }
    }

    fn object(&mut self, name: &str, definition: &Definition, map: &mut Map<String, Value>) {
        let outer = std::mem::replace(&mut self.holder, name.to_owned());
        let depth = std::mem::replace(&mut self.depth, self.at.len());
        let names: Vec<String> = map.keys().cloned().collect();
        for name in names {
            match (definition.fields.get(&name), map.get_mut(&name)) {
                (Some(field), Some(value)) if !value.is_null() => {
                    self.at.push(Step::Field(name.clone()));
                    self.value(&field.ty, value);
                    self.at.pop();
                }
                (None, _) => {
                    self.unknown.push(format!("unknown field {:?}", self.path(&name)));
                    map.remove(&name);
                }
                _ => {}
            }
            if let (Some(field), Some(value)) = (definition.fields.get(&name), map.get(&name))
                && field.says_nothing(value)
            {
                map.remove(&name);
            }
        }
        (self.holder, self.depth) = (outer, depth);
    }

    fn map(&mut self, values: &Type, map: &mut Map<String, Value>) {
        for (name, value) in map {
            self.at.push(Step::Field(name.clone()));
            replace_null(values, value);
            match values {
                // Upstream rounds the quantities of a list of resources, and of nothing else.
                Type::Quantity => self.own(quantity(value, Quantity::in_milli)),
                values => self.value(values, value),
            }
            self.at.pop();
        }
    }

    fn list(&mut self, item: &Type, list: &mut [Value]) {
        for (index, value) in list.iter_mut().enumerate() {
            self.at.push(Step::Item(index));
            replace_null(item, value);
            self.value(item, value);
            self.at.pop();
        }
    }

    /// The path of a field of the object at hand, with list indices.
    fn path(&self, name: &str) -> String {
        let mut out = String::new();
        for step in &self.at {
            match step {
                Step::Field(name) if out.is_empty() => out.push_str(name),
                Step::Field(name) => out.extend([".", name]),
                Step::Item(index) => out.push_str(&format!("[{index}]")),
            }
        }
        if !out.is_empty() {
            out.push('.');
        }
        out + name
    }

    fn mismatch(&mut self, found: &str, ty: &Type) {
        let field = match self.at.get(self.depth) {
            Some(Step::Field(name)) => name,
            _ => "",
        };
        let ty = names::go_type(&self.holder, field, ty);
        self.mismatch_of(found, &ty, false);
    }

    /// As [`Misfit::own`] says for types that read themselves: they name what they are in Go.
    fn mismatch_of(&mut self, found: &str, ty: &str, own: bool) {
        // Names only, as Go's decoder gives it.
        let names: Vec<&str> = self
            .at
            .iter()
            .filter_map(|step| match step {
                Step::Field(name) => Some(name.as_str()),
                Step::Item(_) => None,
            })
            .collect();
        let holder = self.holder.rsplit('.').next().unwrap_or_default();
        let field = format!("{holder}.{}", embedded::path(self.root, &names));
        let why = if names.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {ty}")
        } else {
            format!("json: cannot unmarshal {found} into Go struct field {field} of type {ty}")
        };
        self.misfit(why, own);
    }

    /// The outcome of a type that reads itself.
    fn own(&mut self, outcome: Result<(), String>) {
        if let Err(why) = outcome {
            self.misfit(why, true);
        }
    }

    fn misfit(&mut self, why: String, own: bool) {
        self.misfits.push(Misfit { at: self.at.clone(), why, own });
    }
}

/// A null that stands for an item of a list or map is the zero value of its type.
fn replace_null(ty: &Type, value: &mut Value) {
    if !value.is_null() {
        return;
    }
    *value = match ty {
        Type::String | Type::Bytes => "".into(),
        Type::Quantity => "0".into(),
        Type::Boolean => false.into(),
        Type::Int32 | Type::Int64 | Type::Number | Type::IntOrString => 0.into(),
        _ => Value::Object(Map::new()),
    };
}

fn quantity(value: &mut Value, rounded: fn(Quantity) -> Quantity) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        other => other.to_string(),
    };
    let quantity: Quantity = text.parse().map_err(|e| format!("{e}"))?;
    *value = Value::from(rounded(quantity).to_string());
    Ok(())
}

fn base64(text: &mut String) -> Result<(), String> {
    use ::base64::{DecodeError as Base64Error, Engine, engine::general_purpose::STANDARD};
    // Go skips line breaks in base64; manifests have them in folded scalars.
    let packed: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let result = STANDARD.decode(&packed).map(|_| ()).map_err(|e| {
        let at = match e {
            Base64Error::InvalidByte(at, _) | Base64Error::InvalidLastSymbol(at, _) => at,
            Base64Error::InvalidLength(_) | Base64Error::InvalidPadding => packed.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    });
    *text = packed;
    result
}

/// Go reads exactly six digits of a second where its layout has six.
fn micro(text: &str) -> Result<(), String> {
    let at = text.len().min("2006-01-02T15:04:05".len());
    let rest = text.get(at..).unwrap_or_default();
    let digits = rest.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
    match digits {
        6 => Ok(()),
        0..6 => Err(format!("cannot parse {rest:?} as \".000000\"")),
        _ => Err(format!("cannot parse {:?} as \"Z07:00\"", rest.get(7..).unwrap_or_default())),
    }
}

fn time(text: &mut String, ty: &Type) -> Result<(), String> {
    let layout =
        if *ty == Type::Time { "2006-01-02T15:04:05Z07:00" } else { "2006-01-02T15:04:05.000000Z07:00" };
    let parsed: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""))?;
    if *ty == Type::MicroTime {
        micro(text).map_err(|why| format!("parsing time {text:?} as {layout:?}: {why}"))?;
    }
    *text = match ty {
        Type::Time => parsed.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        _ => parsed.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
    };
    Ok(())
}

#[cfg(test)]
mod tests;
