//! Small steps over JSON objects that defaults, validation and printing share.

use serde_json::{Map, Value};

/// The members of an object; none for anything else.
pub(super) fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The items of a list; none for anything else.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The items of a list in `map`, to change.
pub(super) fn items_mut<'a>(
    map: &'a mut Map<String, Value>,
    name: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = map.get_mut(name).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// An object in `map`, to change, when it is there.
pub(super) fn member_mut<'a>(
    map: &'a mut Map<String, Value>,
    name: &str,
) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_object_mut)
}

/// An object in `map`, to change; made when it is missing.
pub(super) fn ensure<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(name).or_insert(Value::Null);
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// The text at `name`, empty when missing.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Whether `name` is missing, null or the empty text.
pub(super) fn is_unset(map: &Map<String, Value>, name: &str) -> bool {
    match map.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        _ => false,
    }
}

/// Sets `name` where it is unset.
pub(super) fn set_default(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if is_unset(map, name) {
        map.insert(name.to_owned(), value.into());
    }
}

/// An empty object.
pub(super) fn empty() -> Value {
    Value::Object(Map::new())
}
