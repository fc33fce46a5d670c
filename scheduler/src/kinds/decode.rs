//! Strict decoding: JSON of a client against the type of its kind. Finds duplicate and unknown fields, refuses
//! values of a wrong type in the words of Go's decoder (kubectl users know them), and brings what it accepts
//! into the form the store keeps: nothing that says no more than absence, canonical quantities.

mod duplicates;
mod embedded;
mod findings;

use serde_json::{Map, Value};

use super::{
    Kind,
    quantity::Quantity,
    schema::{Definition, Type, schema},
};
use crate::model::{ApiError, Reason};

pub use duplicates::parse;
pub use findings::findings;

/// A value that its field cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(String);

/// Decodes `object` in place as `kind` and returns the unknown fields that were dropped, as upstream words
/// them: `unknown field "spec.replicsa"`.
pub fn decode(kind: &Kind, object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let mut decoder = Decoder { root: kind.definition, ..Decoder::default() };
    decoder.value(&Type::Object(kind.definition.to_owned()), object)?;
    Ok(decoder.unknown)
}

/// The refusal of a body that does not decode: `Pod in version "v1" cannot be handled as a Pod: why`.
pub fn refusal(kind: &Kind, why: &str) -> ApiError {
    let message = format!("{0} in version {1:?} cannot be handled as a {0}: {why}", kind.kind, kind.version);
    ApiError::new(Reason::BadRequest, message)
}

/// The refusal of strict validation, with all findings of [`parse`] and [`decode`].
pub fn strict_refusal(kind: &Kind, findings: &[String]) -> ApiError {
    refusal(kind, &format!("strict decoding error: {}", findings.join(", ")))
}

#[derive(Default)]
struct Decoder {
    /// The type of the whole object.
    root: &'static str,
    /// With list indices, for unknown fields.
    path: String,
    /// Names only, as Go's decoder gives it.
    names: Vec<String>,
    /// The type that holds the field.
    holder: String,
    unknown: Vec<String>,
}

impl Decoder {
    fn value(&mut self, ty: &Type, value: &mut Value) -> Result<(), DecodeError> {
        match (ty, &mut *value) {
            (Type::Any, _) | (Type::Boolean, Value::Bool(_)) | (Type::String, Value::String(_)) => Ok(()),
            (Type::Number, Value::Number(_)) => Ok(()),
            (Type::Object(name), Value::Object(map)) => match schema().definition(name) {
                Some(definition) => self.object(name, definition, map),
                None => Ok(()),
            },
            (Type::Map(values), Value::Object(map)) => self.map(values, map),
            (Type::List(item), Value::Array(list)) => self.list(item, list),
            (Type::Int32 | Type::Int64, Value::Number(number)) => {
                let fits = match ty {
                    Type::Int32 => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                    _ => number.is_i64(),
                };
                if fits { Ok(()) } else { Err(self.mismatch(&format!("number {number}"), ty)) }
            }
            (Type::IntOrString, Value::String(_)) => Ok(()),
            (Type::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(())
            }
            (Type::IntOrString, other) => {
                let what = match &*other {
                    Value::Number(number) => format!("number {number}"),
                    other => go_name(other).to_owned(),
                };
                Err(DecodeError(format!("json: cannot unmarshal {what} into Go value of type int32")))
            }
            (Type::Quantity, _) => quantity(value, |quantity| quantity),
            (Type::Bytes, Value::String(text)) => base64(text),
            (Type::Time | Type::MicroTime, Value::String(text)) => time(text, ty),
            (_, other) => Err(self.mismatch(go_name(other), ty)),
        }
    }

    fn object(
        &mut self,
        name: &str,
        definition: &Definition,
        map: &mut Map<String, Value>,
    ) -> Result<(), DecodeError> {
        let short = name.rsplit('.').next().unwrap_or(name).to_owned();
        let outer = std::mem::replace(&mut self.holder, short);
        let names: Vec<String> = map.keys().cloned().collect();
        for name in names {
            let length = self.enter(&name);
            match (definition.fields.get(&name), map.get_mut(&name)) {
                (Some(field), Some(value)) if !value.is_null() => self.value(&field.ty, value)?,
                (None, _) => {
                    self.unknown.push(format!("unknown field {:?}", self.path));
                    map.remove(&name);
                }
                _ => {}
            }
            if let (Some(field), Some(value)) = (definition.fields.get(&name), map.get(&name))
                && field.says_nothing(value)
            {
                map.remove(&name);
            }
            self.leave(length);
        }
        self.holder = outer;
        Ok(())
    }

    fn map(&mut self, values: &Type, map: &mut Map<String, Value>) -> Result<(), DecodeError> {
        for (name, value) in map {
            let length = self.enter(name);
            replace_null(values, value);
            match values {
                // Upstream rounds the quantities of a list of resources, and of nothing else.
                Type::Quantity => quantity(value, Quantity::in_milli)?,
                values => self.value(values, value)?,
            }
            self.leave(length);
        }
        Ok(())
    }

    fn list(&mut self, item: &Type, list: &mut [Value]) -> Result<(), DecodeError> {
        for (index, value) in list.iter_mut().enumerate() {
            let length = self.path.len();
            self.path.push_str(&format!("[{index}]"));
            replace_null(item, value);
            self.value(item, value)?;
            self.path.truncate(length);
        }
        Ok(())
    }

    fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        self.names.push(name.to_owned());
        length
    }

    fn leave(&mut self, length: usize) {
        self.path.truncate(length);
        self.names.pop();
    }

    fn mismatch(&self, found: &str, ty: &Type) -> DecodeError {
        let field = format!("{}.{}", self.holder, embedded::path(self.root, &self.names));
        let ty = go_type(ty);
        DecodeError(if self.names.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {ty}")
        } else {
            format!("json: cannot unmarshal {found} into Go struct field {field} of type {ty}")
        })
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

fn quantity(value: &mut Value, rounded: fn(Quantity) -> Quantity) -> Result<(), DecodeError> {
    let text = match &*value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        other => other.to_string(),
    };
    let quantity: Quantity = text.parse().map_err(|e| DecodeError(format!("{e}")))?;
    *value = Value::from(rounded(quantity).to_string());
    Ok(())
}

fn base64(text: &mut String) -> Result<(), DecodeError> {
    use ::base64::{DecodeError as Base64Error, Engine, engine::general_purpose::STANDARD};
    // Go skips line breaks in base64; manifests have them in folded scalars.
    let packed: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let result = STANDARD.decode(&packed).map(|_| ()).map_err(|e| {
        let at = match e {
            Base64Error::InvalidByte(at, _) | Base64Error::InvalidLastSymbol(at, _) => at,
            Base64Error::InvalidLength(_) | Base64Error::InvalidPadding => packed.len() / 4 * 4,
        };
        DecodeError(format!("illegal base64 data at input byte {at}"))
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

fn time(text: &mut String, ty: &Type) -> Result<(), DecodeError> {
    let layout =
        if *ty == Type::Time { "2006-01-02T15:04:05Z07:00" } else { "2006-01-02T15:04:05.000000Z07:00" };
    let parsed: jiff::Timestamp = text.parse().map_err(|_| {
        DecodeError(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""))
    })?;
    if *ty == Type::MicroTime {
        micro(text).map_err(|why| DecodeError(format!("parsing time {text:?} as {layout:?}: {why}")))?;
    }
    *text = match ty {
        Type::Time => parsed.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        _ => parsed.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
    };
    Ok(())
}

/// What Go's decoder calls a value of this kind.
pub(super) fn go_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_type(ty: &Type) -> String {
    match ty {
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Number => "float64".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::Object(name) => format!("v1.{}", name.rsplit('.').next().unwrap_or(name)),
        Type::List(item) => format!("[]{}", go_type(item)),
        Type::Map(values) => format!("map[string]{}", go_type(values)),
        Type::Any => "interface {}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{kinds::by_resource, model::Resource};

    fn pod(mut object: Value) -> Result<(Value, Vec<String>), String> {
        let unknown = decode(by_resource(Resource::PODS).unwrap(), &mut object).map_err(|e| e.to_string())?;
        Ok((object, unknown))
    }

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let body = json!({"metadata": {"name": "p", "lables": {}},
            "spec": {"containers": [{"name": "c", "imagePullpolicy": "Always"}]}});
        let (object, unknown) = pod(body).unwrap();
        assert_eq!(object, json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}}));
        let expected =
            ["unknown field \"metadata.lables\"", "unknown field \"spec.containers[0].imagePullpolicy\""];
        assert_eq!(unknown, expected);
    }

    #[test]
    fn wrong_types_are_refused_in_the_words_of_go() {
        for (spec, expected) in [
            (
                json!({"terminationGracePeriodSeconds": "30"}),
                "json: cannot unmarshal string into Go struct field \
                 PodSpec.spec.terminationGracePeriodSeconds of type int64",
            ),
            (
                json!({"containers": [{"env": [{"name": "A", "value": 1}]}]}),
                "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
            ),
            (
                json!({"containers": {"name": "c"}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                json!({"volumes": [{"name": "v", "secret": {"items": [{"mode": "x"}]}}]}),
                "json: cannot unmarshal string into Go struct field KeyToPath.spec.volumes.VolumeSource.secret.items.mode \
                 of type int32",
            ),
            (
                json!({"containers": [{"livenessProbe": {"exec": 5}}]}),
                "json: cannot unmarshal number into Go struct field Probe.spec.containers.livenessProbe.ProbeHandler.exec \
                 of type v1.ExecAction",
            ),
            (
                json!({"priority": 1.5}),
                "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                json!({"containers": [{"resources": {"limits": {"cpu": "1 core"}}}]}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                json!({"containers": [{"livenessProbe": {"httpGet": {"port": true}}}]}),
                "json: cannot unmarshal bool into Go value of type int32",
            ),
        ] {
            assert_eq!(pod(json!({ "spec": spec })).unwrap_err(), expected);
        }
    }

    #[test]
    fn the_stored_form_has_canonical_quantities_and_no_empties() {
        let body = json!({
            "metadata": {"name": "p", "creationTimestamp": null, "labels": {}},
            "spec": {
                "containers": [{"name": "c", "env": [], "resources": {"limits": {"cpu": "1000m", "memory": 1024}}}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        });
        let expected = json!({
            "metadata": {"name": "p"},
            "spec": {
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1024"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        });
        assert_eq!(pod(body).unwrap().0, expected);
    }

    #[test]
    fn resources_are_rounded_up_to_thousandths() {
        let body = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "resources": {
                "limits": {"cpu": "100u", "memory": "0.0001"}, "requests": {"cpu": 0.0015}}}],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "0.0001"}}]}});
        let spec = &pod(body).unwrap().0["spec"];
        let expected = json!({"limits": {"cpu": "1m", "memory": "1m"}, "requests": {"cpu": "2m"}});
        assert_eq!(spec["containers"][0]["resources"], expected);
        assert_eq!(spec["volumes"][0]["emptyDir"]["sizeLimit"], "100u", "no list of resources");
    }

    #[test]
    fn a_null_item_is_the_zero_value_of_its_type() {
        let body = json!({"spec": {"nodeSelector": {"k": null}, "containers": [null,
            {"name": "c", "args": [null], "resources": {"limits": {"cpu": null}}}]}});
        let expected = json!({"spec": {"nodeSelector": {"k": ""}, "containers": [{},
            {"name": "c", "args": [""], "resources": {"limits": {"cpu": "0"}}}]}});
        assert_eq!(pod(body).unwrap().0, expected);
    }

    #[test]
    fn the_zero_value_of_a_field_that_is_no_pointer_is_absence() {
        let body = json!({"spec": {"hostNetwork": false, "nodeName": "", "hostUsers": false,
            "terminationGracePeriodSeconds": 0, "priorityClassName": ""}});
        let expected = json!({"spec": {"hostUsers": false, "terminationGracePeriodSeconds": 0}});
        assert_eq!(pod(body).unwrap().0, expected);
    }

    #[test]
    fn micro_times_have_six_digits() {
        let kind = by_resource(Resource::LEASES).unwrap();
        let decoded = |text: &str| {
            let mut lease = json!({"spec": {"renewTime": text}});
            decode(kind, &mut lease).map(|_| lease["spec"]["renewTime"].clone()).map_err(|e| e.to_string())
        };
        assert_eq!(decoded("2026-01-02T03:04:05.678901Z").unwrap(), "2026-01-02T03:04:05.678901Z");
        assert_eq!(
            decoded("2026-01-02T03:04:05Z").unwrap_err(),
            "parsing time \"2026-01-02T03:04:05Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \
             \".000000\""
        );
        assert!(
            decoded("2026-01-02T03:04:05.123456789Z")
                .unwrap_err()
                .ends_with("cannot parse \"789Z\" as \"Z07:00\"")
        );
    }

    #[test]
    fn secrets_must_be_base64() {
        let kind = by_resource(Resource::SECRETS).unwrap();
        let refused = |data: &str| decode(kind, &mut json!({"data": {"k": data}})).unwrap_err().to_string();
        assert_eq!(refused("not base64!"), "illegal base64 data at input byte 3");
        assert!(decode(kind, &mut json!({"data": {"k": "aGVsbG8=\n"}})).is_ok());
    }

    #[test]
    fn refusals_name_the_kind() {
        let kind = by_resource(Resource::DEPLOYMENTS).unwrap();
        assert_eq!(
            strict_refusal(kind, &["unknown field \"spec.x\"".to_owned()]).message,
            "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
             unknown field \"spec.x\""
        );
    }
}
