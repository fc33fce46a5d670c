//! JSON patch (RFC 6902) as upstream applies it: `replace` of an absent field adds it, a source that is absent is null,
//! and an index may count from the end. Which operation failed is not told, as upstream does not tell it.

use serde_json::{Map, Value};

use super::{PatchError, golang::json_type};

/// More operations than this are no patch but an attack.
const MOST: usize = 10_000;

/// Copies may make an object larger by so many bytes of JSON altogether: a few that copy each other double it each time.
const MOST_COPIED: usize = 3 << 20;

/// Applies `patch` to `object`. Returns what strict validation finds in the patch itself beside.
pub(super) fn apply(object: &Value, patch: &Value) -> Result<(Value, Vec<String>), PatchError> {
    let wrong = |found: &str, ty: &str| {
        PatchError::Malformed(format!("error decoding patch: json: cannot unmarshal {found} into Go {ty}"))
    };
    let Value::Array(operations) = patch else {
        return Err(wrong(json_type(patch), "value of type []handlers.jsonPatchOp"));
    };
    let mut findings = Vec::new();
    let mut parsed = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        let Value::Object(fields) = operation else {
            return Err(wrong(json_type(operation), "value of type handlers.jsonPatchOp"));
        };
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("op" | "path" | "from", Value::String(_) | Value::Null) | ("value", _) => {}
                ("op" | "path" | "from", other) => {
                    let field = format!("struct field jsonPatchOp.{name} of type string");
                    return Err(wrong(json_type(other), &field));
                }
                _ => findings.push(format!("json patch unknown field \"[{index}].{name}\"")),
            }
        }
        parsed.push(fields);
    }
    if parsed.len() > MOST {
        let why = format!("The allowed maximum operations in a JSON patch is {MOST}, got {}", parsed.len());
        return Err(PatchError::TooLarge(why));
    }
    let (mut out, mut copied) = (object.clone(), 0);
    for fields in parsed {
        run(&mut out, fields, &mut copied).ok_or_else(|| {
            let why = "the server rejected our request due to an error in our request";
            PatchError::Unprocessable(why.to_owned())
        })?;
    }
    Ok((out, findings))
}

/// One operation; `None` when it does not apply. `sum` is what has been copied so far, in bytes.
fn run(document: &mut Value, operation: &Map<String, Value>, sum: &mut usize) -> Option<()> {
    let text = |name: &str| operation.get(name).and_then(Value::as_str);
    let value = || operation.get("value").cloned().unwrap_or_default();
    match text("op")? {
        "add" => add(document, text("path")?, value()),
        "remove" => remove(document, text("path")?),
        "replace" => replace(document, text("path")?, value()),
        "move" => {
            let moved = get(document, text("from")?)?;
            remove(document, text("from")?)?;
            add(document, text("path")?, moved)
        }
        "copy" => {
            let copied = get(document, text("from")?)?;
            *sum += copied.to_string().len();
            if *sum > MOST_COPIED {
                return None;
            }
            add(document, text("path")?, copied)
        }
        "test" => {
            let found =
                if text("path")?.is_empty() { document.clone() } else { get(document, text("path")?)? };
            (found == value()).then_some(())
        }
        _ => None,
    }
}

/// What holds the last step of a path, and that step.
fn holder<'v>(document: &'v mut Value, path: &str) -> Option<(&'v mut Value, String)> {
    let mut steps = path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"));
    let mut last = steps.next()?;
    let mut here = document;
    for step in steps {
        here = match here {
            Value::Object(map) => map.get_mut(&last)?,
            Value::Array(list) => {
                let at = index(&last, list.len())?;
                list.get_mut(at)?
            }
            _ => return None,
        };
        last = step;
    }
    (here.is_object() || here.is_array()).then_some((here, last))
}

/// A place in a list; negative ones count from the end.
fn index(step: &str, length: usize) -> Option<usize> {
    let at: i64 = step.parse().ok()?;
    if at >= 0 { usize::try_from(at).ok() } else { length.checked_sub(usize::try_from(-at).ok()?) }
}

fn get(document: &mut Value, path: &str) -> Option<Value> {
    match holder(document, path)? {
        (Value::Object(map), name) => Some(map.get(&name).cloned().unwrap_or_default()),
        (Value::Array(list), step) => list.get(index(&step, list.len())?).cloned(),
        _ => None,
    }
}

fn add(document: &mut Value, path: &str, value: Value) -> Option<()> {
    match holder(document, path)? {
        (Value::Object(map), name) => drop(map.insert(name, value)),
        (Value::Array(list), step) if step == "-" => list.push(value),
        (Value::Array(list), step) => {
            let at = index(&step, list.len() + 1).filter(|at| *at <= list.len())?;
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &str) -> Option<()> {
    match holder(document, path)? {
        (Value::Object(map), name) => map.remove(&name).map(drop),
        (Value::Array(list), step) => {
            let at = index(&step, list.len()).filter(|at| *at < list.len())?;
            list.remove(at);
            Some(())
        }
        _ => None,
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        let whole = value.is_object() || value.is_array();
        *document = value;
        return whole.then_some(());
    }
    match holder(document, path)? {
        (Value::Object(map), name) => drop(map.insert(name, value)),
        (Value::Array(list), step) => {
            let at = index(&step, list.len())?;
            *list.get_mut(at)? = value;
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(operation: &Value) -> Result<Value, String> {
        let object = json!({"a": {"b": 1}, "l": [1, 2, 3], "x/y": "s"});
        apply(&object, &json!([operation])).map(|(object, _)| object).map_err(|e| e.to_string())
    }

    #[test]
    fn operations_apply_as_upstream_applies_them() {
        let of = |path: &str, operation: Value| patched(&operation).unwrap().pointer(path).cloned();
        assert_eq!(of("/a/c", json!({"op": "add", "path": "/a/c", "value": 2})), Some(json!(2)));
        assert_eq!(of("/l", json!({"op": "add", "path": "/l/-", "value": 4})), Some(json!([1, 2, 3, 4])));
        assert_eq!(of("/l", json!({"op": "add", "path": "/l/-1", "value": 4})), Some(json!([1, 2, 3, 4])));
        assert_eq!(of("/l", json!({"op": "remove", "path": "/l/-1"})), Some(json!([1, 2])));
        assert_eq!(of("/new", json!({"op": "replace", "path": "/new", "value": 1})), Some(json!(1)));
        assert_eq!(of("/new", json!({"op": "copy", "from": "/absent", "path": "/new"})), Some(Value::Null));
        assert_eq!(of("/b", json!({"op": "copy", "from": "/x~1y", "path": "/b"})), Some(json!("s")));
        assert!(patched(&json!({"op": "test", "path": "/absent", "value": null})).is_ok());
    }

    #[test]
    fn an_operation_that_fails_is_not_named() {
        for operation in [
            json!({"op": "remove", "path": "/absent"}),
            json!({"op": "add", "path": "/absent/b", "value": 1}),
            json!({"op": "add", "path": "a", "value": 1}),
            json!({"op": "add", "path": "/l/9", "value": 1}),
            json!({"op": "test", "path": "/a/b", "value": 2}),
            json!({"op": "move", "from": "/absent", "path": "/b"}),
            json!({"op": "explode", "path": "/a"}),
            json!({"path": "/a"}),
            json!({}),
        ] {
            let words = "the server rejected our request due to an error in our request";
            assert_eq!(patched(&operation).unwrap_err(), words, "{operation}");
        }
    }

    #[test]
    fn what_is_no_patch_is_refused_in_the_words_of_go() {
        let words = |patch: Value| apply(&json!({}), &patch).unwrap_err().to_string();
        let start = "error decoding patch: json: cannot unmarshal";
        assert_eq!(words(json!({})), format!("{start} object into Go value of type []handlers.jsonPatchOp"));
        assert_eq!(words(json!([1])), format!("{start} number into Go value of type handlers.jsonPatchOp"));
        let field = "Go struct field jsonPatchOp.op of type string";
        assert_eq!(words(json!([{"op": 1}])), format!("{start} number into {field}"));
        let (_, findings) = apply(&json!({}), &json!([{"op": "add", "path": "/a", "x": 1}])).unwrap();
        assert_eq!(findings, ["json patch unknown field \"[0].x\""]);
    }

    #[test]
    fn copies_that_double_an_object_again_and_again_end_early() {
        let double = json!({"op": "copy", "from": "/a", "path": "/a/b"});
        let object = json!({"a": {"k": "v"}});
        let (small, _) = apply(&object, &json!([double, double])).unwrap();
        assert_eq!(small, json!({"a": {"k": "v", "b": {"k": "v", "b": {"k": "v"}}}}));
        // The second kind keeps what was there, so that each copy is twice the last.
        let grow = json!({"op": "copy", "from": "/a", "path": "/a/-"});
        let often = Value::from(vec![grow; 64]);
        assert!(matches!(apply(&json!({"a": ["v"]}), &often), Err(PatchError::Unprocessable(_))));
    }
}
