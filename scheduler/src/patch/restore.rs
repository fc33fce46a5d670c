//! Why a strategic merge made something that its type cannot hold, in the words of upstream, which brings the merged
//! object into its type without going through JSON.

use serde_json::Value;

use super::golang::go_type;
use crate::kinds::schema::{ObjectType, Type};

/// The first field of an object of type `ty` that its type cannot hold.
pub(super) fn fault(ty: &ObjectType, object: &Value) -> Option<String> {
    value_fault(&Type::Object(ty.clone()), object)
}

fn value_fault(ty: &Type, value: &Value) -> Option<String> {
    let kind = || match go_type(value) {
        "[]interface {}" => "slice",
        "map[string]interface {}" => "map",
        scalar => scalar,
    };
    match (ty, value) {
        (_, Value::Null) => None,
        (Type::Object(of), value) => match (of.definition(), value) {
            (None, _) => None,
            (Some(definition), Value::Object(map)) => {
                definition.fields.iter().find_map(|(name, field)| value_fault(&field.ty, map.get(name)?))
            }
            _ => Some(format!("cannot restore struct from: {}", kind())),
        },
        (Type::Map(item), Value::Object(map)) => map.values().find_map(|value| value_fault(item, value)),
        (Type::Map(_), _) => Some(format!("cannot restore map from {}", kind())),
        (Type::List(item), Value::Array(list)) => list.iter().find_map(|value| value_fault(item, value)),
        (Type::List(_), _) => Some(format!("cannot restore slice from {}", kind())),
        (Type::String, Value::String(_)) | (Type::Boolean, Value::Bool(_)) => None,
        (Type::String, Value::Number(n)) if n.is_i64() => Some("cannot convert int64 to string".to_owned()),
        (Type::String, _) => Some("unrecognized type: string".to_owned()),
        (Type::Boolean, _) => Some("unrecognized type: bool".to_owned()),
        (Type::Int32 | Type::Int64, value) => {
            let name = if *ty == Type::Int32 { "int32" } else { "int64" };
            match value {
                Value::Number(n) if n.as_f64().is_some_and(|n| n.fract() == 0.0) => None,
                Value::Number(_) => Some(format!("cannot convert float64 to {name}")),
                _ => Some(format!("unrecognized type: {name}")),
            }
        }
        _ => None,
    }
}
