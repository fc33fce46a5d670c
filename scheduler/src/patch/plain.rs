//! Merge patches: RFC 7386, as upstream's library reads it. In: an object, a patch. Out: the patched object.

use serde_json::Value;

use super::{PatchError, golang};

/// Applies a merge patch.
pub fn merge(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    match patch {
        Value::Object(_) => {}
        Value::Null => return Err(PatchError::Malformed("Invalid JSON Patch".to_owned())),
        other => {
            let found = golang::json_type(other);
            let why = format!(
                "error decoding patch: json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"
            );
            return Err(PatchError::Malformed(why));
        }
    }
    let mut out = object.clone();
    merge_into(&mut out, patch);
    Ok(out)
}

/// Unlike RFC 7386, which replaces a list as it is, members of its items that are null go too.
fn merge_into(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                match (value, target.get_mut(name).filter(|there| !there.is_null())) {
                    (Value::Null, _) => drop(target.remove(name)),
                    (value, Some(there)) => merge_into(there, value),
                    (value, None) => drop(target.insert(name.clone(), without_nulls(value))),
                }
            }
        }
        // What was an object is replaced by what is none just as it is.
        (target @ Value::Object(_), patch) => *target = patch.clone(),
        (target, patch) => *target = without_nulls(patch),
    }
}

/// The value without members that are null, wherever they are; null items of lists stay.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect()
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_null_goes_also_within_lists_that_are_replaced() {
        let merged = |object: Value, patch: Value| {
            let mut object = json!({ "a": object });
            merge_into(&mut object, &json!({ "a": patch }));
            object["a"].clone()
        };
        assert_eq!(
            merged(json!({"x": 1, "y": 2}), json!({"x": null, "z": {"u": null, "v": 3}})),
            json!({"y": 2, "z": {"v": 3}})
        );
        let item = json!([{"name": "c", "cpu": null, "in": [{"x": null}, null]}, null]);
        let plain = json!([{"name": "c", "in": [{}, null]}, null]);
        assert_eq!(merged(json!([{"name": "old"}]), item.clone()), plain);
        assert_eq!(merged(Value::Null, item.clone()), plain);
        assert_eq!(merged(json!({"x": 1}), item.clone()), item, "in place of an object it stays as it is");
        assert_eq!(merged(json!("text"), json!({"x": null})), json!({}));
    }
}
