//! Reading and writing `metadata` of objects held as JSON.

use std::sync::LazyLock;

use jiff::Timestamp;
use rand::Rng as _;
use serde_json::{Map, Value};

/// Letters of generated name suffixes: no vowels and no look-alikes, as upstream.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// A generated name is at most this long before its suffix.
const MAX_BASE: usize = 63 - SUFFIX_LENGTH;

/// The finalizer behind `propagationPolicy=Foreground`.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer behind `propagationPolicy=Orphan`.
pub const ORPHAN: &str = "orphan";

/// `metadata` of an object, empty when it has none.
pub(super) fn of(object: &Value) -> &Map<String, Value> {
    static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    object.get("metadata").and_then(Value::as_object).unwrap_or(&EMPTY)
}

/// `metadata` of an object, made when missing. `object` must be a JSON object, which decoding has checked.
pub(super) fn of_mut(object: &mut Value) -> &mut Map<String, Value> {
    let slot = &mut object["metadata"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// A text field of `metadata`, empty when missing.
pub(super) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    of(object).get(field).and_then(Value::as_str).unwrap_or("")
}

/// Whether deletion has begun.
pub(super) fn deleting(object: &Value) -> bool {
    of(object).get("deletionTimestamp").is_some_and(|t| !t.is_null())
}

/// `metadata.finalizers`.
pub(super) fn finalizers(object: &Value) -> Vec<&str> {
    let list = of(object).get("finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Replaces `metadata.finalizers`; an empty list is left out.
pub(super) fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    let metadata = of_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Takes out owners that are named twice, and says so.
pub(super) fn join_owners(object: &mut Value) -> Option<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut)?;
    let mut twice = Vec::new();
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    (!twice.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may \
             reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        )
    })
}

/// Copies a field of `metadata`, or removes it when `from` does not have it.
pub(super) fn carry(object: &mut Value, from: &Value, field: &str) {
    put(object, field, of(from).get(field).cloned());
}

/// Sets a field of `metadata`, or removes it.
pub(super) fn put(object: &mut Value, field: &str, value: Option<Value>) {
    let metadata = of_mut(object);
    match value {
        Some(value) => metadata.insert(field.to_owned(), value),
        None => metadata.remove(field),
    };
}

/// Raises `metadata.generation` above that of `old`.
pub(super) fn raise_generation(object: &mut Value, old: &Value) {
    let generation = of(old).get("generation").and_then(Value::as_i64).unwrap_or(0);
    of_mut(object).insert("generation".to_owned(), (generation + 1).into());
}

/// Now, as Kubernetes writes times: RFC 3339 in UTC, whole seconds.
pub fn now() -> String {
    after(0)
}

/// Now plus `seconds`.
pub(super) fn after(seconds: i64) -> String {
    let at = Timestamp::now().as_second().saturating_add(seconds);
    Timestamp::from_second(at).unwrap_or(Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A name for `metadata.generateName`.
pub(super) fn generated_name(base: &str) -> String {
    let mut rng = rand::rng();
    let mut name: String = base.chars().take(MAX_BASE).collect();
    for _ in 0..SUFFIX_LENGTH {
        name.push(char::from(SUFFIX_LETTERS[rng.random_range(0..SUFFIX_LETTERS.len())]));
    }
    name
}
