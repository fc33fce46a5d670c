//! Strategic merge patch: a merge patch that knows which lists are keyed, with directives for the rest
//! (`$patch`, `$deleteFromPrimitiveList/f`, `$setElementOrder/f`, `$retainKeys`).
//!
//! The order of a merged list: what the patch names stands in the order of `$setElementOrder`, else of the patch;
//! what only the object has keeps its own order, each item before the first of the others that it preceded.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    PatchError,
    golang::{go_type, json_type, spelled},
};
use crate::kinds::schema::{Definition, Field, ObjectType, Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;

/// Merges `patch` into an object of type `ty`.
pub(super) fn merge(ty: &ObjectType, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        let found = json_type(patch);
        let why = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
        return Err(PatchError::Malformed(why));
    };
    let original = object.as_object().cloned().unwrap_or_default();
    let shape = Shape::of_object(ty);
    map(original, patch.clone(), shape).map(Value::Object)
}

/// What is known of the fields of an object.
#[derive(Clone, Copy)]
enum Shape<'a> {
    Struct(&'a str, &'a Definition),
    Map(&'a Type),
    Unknown,
}

impl<'a> Shape<'a> {
    fn of_object(ty: &'a ObjectType) -> Self {
        ty.definition().map_or(Self::Unknown, |definition| Self::Struct(ty.name(), definition))
    }

    /// The type's name without its package.
    fn name(self) -> &'a str {
        match self {
            Self::Struct(name, _) => name.rsplit('.').next().unwrap_or(name),
            _ => "",
        }
    }

    fn of(ty: &'a Type) -> Self {
        match ty {
            Type::Object(of) => Self::of_object(of),
            Type::Map(values) => Self::Map(values),
            Type::List(item) => Self::of(item),
            _ => Self::Unknown,
        }
    }

    /// The field and what is known of its value.
    fn field(self, name: &str) -> (Option<&'a Field>, Self) {
        match self {
            Self::Struct(_, definition) => {
                let field = definition.fields.get(name);
                (field, field.map_or(Self::Unknown, |field| Self::of(&field.ty)))
            }
            Self::Map(values) => (None, Self::of(values)),
            Self::Unknown => (None, Self::Unknown),
        }
    }
}

/// Upstream has no class for most faults of a patch, and answers 500.
fn failed(why: impl Into<String>) -> PatchError {
    PatchError::Failed(why.into())
}

fn map(mut original: Object, mut patch: Object, shape: Shape<'_>) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    if let Some(keep) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut original, &keep, &patch)?;
    }
    let orders: Vec<String> = patch.keys().filter(|name| name.starts_with(SET_ORDER)).cloned().collect();
    for directive in orders {
        let order = patch.remove(&directive).unwrap_or_default();
        let name = directive.strip_prefix(SET_ORDER).unwrap_or_default();
        ordered_list(&mut original, &mut patch, name, &order, shape)?;
    }
    for (name, change) in patch {
        match name.strip_prefix(DELETE_FROM_LIST) {
            Some(name) => delete_from_list(&mut original, name, &change),
            None => field(&mut original, name, change, shape)?,
        }
    }
    Ok(original)
}

fn field(original: &mut Object, name: String, change: Value, shape: Shape<'_>) -> Result<(), PatchError> {
    let (field, below) = shape.field(&name);
    let merged = match (original.remove(&name), change) {
        (_, Value::Null) => None,
        (Some(Value::Object(old)), Value::Object(change)) => Some(map(old, change, below)?.into()),
        (Some(Value::Array(old)), Value::Array(change)) => Some(list(old, change, field, below)?.into()),
        (_, change) => without_directives(without_nulls(change)),
    };
    if let Some(merged) = merged {
        original.insert(name, merged);
    }
    Ok(())
}

/// A list with a directive that orders it.
fn ordered_list(
    original: &mut Object,
    patch: &mut Object,
    name: &str,
    order: &Value,
    shape: Shape<'_>,
) -> Result<(), PatchError> {
    let mistyped =
        |found: &Value| failed(format!("expected a []interface {{}}, but received a {}", go_type(found)));
    let list_of = |value: Option<Value>| match value {
        Some(Value::Array(list)) => Ok(Some(list)),
        None => Ok(None),
        Some(other) => Err(mistyped(&other)),
    };
    let Value::Array(order) = order else { return Err(mistyped(order)) };
    let old = list_of(original.get(name).cloned())?;
    let change = list_of(patch.remove(name))?;
    let (field, below) = shape.field(name);
    if let (None, Shape::Struct(..)) = (field, shape) {
        return Err(failed(format!(
            "unable to find api field in struct {} for the json field {name:?}",
            shape.name()
        )));
    }
    let key = field.and_then(|field| field.merge_key.as_deref());
    check_order(change.as_deref().unwrap_or_default(), order, key)?;
    let before = old.clone().unwrap_or_default();
    let merged = match (old, change) {
        (None, None) => return Ok(()),
        (Some(old), None) => old,
        (None, Some(change)) => change.into_iter().filter_map(without_directives).collect(),
        (Some(old), Some(change)) => list(old, change, field, below)?,
    };
    if let Some(key) = key {
        check_keys(merged.iter().chain(order), key)?;
    }
    original.insert(name.to_owned(), in_order(merged, order, &before, key).into());
    Ok(())
}

/// What the patch lists must stand in `order`, and in that order.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let kept = change.iter().filter(|item| item.get(PATCH).is_none());
    let mut rest = order.iter();
    for item in kept {
        if order.is_empty() {
            break;
        }
        if !rest.any(|ordered| identity(ordered, key) == identity(item, key)) {
            let (change, order) = (spelled(&change.into()), spelled(&order.into()));
            let why = format!(
                "The order in patch list:\n{change}\n doesn't match $setElementOrder list:\n{order}\n"
            );
            return Err(failed(why));
        }
    }
    Ok(())
}

fn check_keys<'v>(items: impl Iterator<Item = &'v Value>, key: &str) -> Result<(), PatchError> {
    for item in items {
        match item {
            Value::Object(map) if map.contains_key(key) => {}
            Value::Object(_) => return Err(no_merge_key(item, key)),
            other => {
                let found = go_type(other);
                return Err(failed(format!("expected a map[string]interface {{}}, but received a {found}")));
            }
        }
    }
    Ok(())
}

fn no_merge_key(item: &Value, key: &str) -> PatchError {
    failed(format!("map: {} does not contain declared merge key: {key}", spelled(item)))
}

fn list(
    old: Vec<Value>,
    change: Vec<Value>,
    field: Option<&Field>,
    below: Shape<'_>,
) -> Result<Vec<Value>, PatchError> {
    let Some(field) = field.filter(|field| field.merge) else { return Ok(change) };
    if old.is_empty() && change.is_empty() {
        return Ok(old);
    }
    let all = || old.iter().chain(&change);
    let first = all().next().map(go_type);
    if first == Some("[]interface {}") {
        let why = "the server rejected our request due to an error in our request";
        return Err(PatchError::Unprocessable(why.to_owned()));
    }
    if all().any(|item| Some(go_type(item)) != first) {
        let (old, change) = (spelled(&old.into()), spelled(&change.into()));
        return Err(failed(format!("list element types are not identical: [{old} {change}]")));
    }
    match (&field.merge_key, first) {
        (Some(key), Some("map[string]interface {}")) => keyed_list(old, change, key, below),
        (None, Some("map[string]interface {}")) => {
            Err(failed("cannot merge lists without merge key for struct"))
        }
        _ => Ok(primitive_list(&old, &change)),
    }
}

fn keyed_list(
    old: Vec<Value>,
    change: Vec<Value>,
    key: &str,
    below: Shape<'_>,
) -> Result<Vec<Value>, PatchError> {
    let mut before = old;
    let mut named = Vec::with_capacity(change.len());
    let mut replace = false;
    for item in change {
        match item.get(PATCH).map(|directive| directive.as_str().unwrap_or_default().to_owned()).as_deref() {
            None => named.push(item),
            Some("delete") => match item.get(key) {
                Some(id) => before.retain(|old| old.get(key) != Some(id)),
                None => return Err(no_merge_key(&item, key)),
            },
            Some("replace") => replace = true,
            Some("merge") => return Err(failed("merging lists cannot yet be specified in the patch")),
            Some(_) => {
                let map = item.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(&item[PATCH], &map));
            }
        }
    }
    if replace {
        check_keys(named.iter(), key)?;
        return Ok(named);
    }
    check_keys(named.iter(), key)?;
    let order = named.clone();
    let mut merged = before.clone();
    for item in named {
        match (merged.iter().position(|old| old.get(key) == item.get(key)), item) {
            (Some(at), Value::Object(change)) => {
                let old = merged[at].as_object().cloned().unwrap_or_default();
                merged[at] = map(old, change, below)?.into();
            }
            (_, item) => merged.push(item),
        }
    }
    check_keys(merged.iter().chain(&before), key)?;
    Ok(in_order(merged, &order, &before, Some(key)))
}

fn primitive_list(old: &[Value], change: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(old.len() + change.len());
    for item in old.iter().chain(change) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    in_order(merged, change, old, None)
}

/// What tells an item from others: its merge key, or its value.
fn identity<'v>(item: &'v Value, key: Option<&str>) -> Option<&'v Value> {
    key.map_or(Some(item), |key| item.get(key))
}

/// Puts what `wanted` names into that order. What it does not name keeps the order of `before`, each item in front of
/// the first named one that it preceded.
fn in_order(merged: Vec<Value>, wanted: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let place =
        |list: &[Value], item: &Value| list.iter().position(|i| identity(i, key) == identity(item, key));
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(wanted, item).is_some());
    named.sort_by_key(|item| place(wanted, item));
    rest.sort_by_key(|item| place(before, item));
    let mut named = named.into_iter().peekable();
    let mut out = Vec::with_capacity(named.len() + rest.len());
    for item in rest {
        let at = place(before, &item);
        while let Some(next) =
            named.next_if(|next| place(before, next).zip(at).is_none_or(|(next, at)| at >= next))
        {
            out.push(next);
        }
        out.push(item);
    }
    out.extend(named);
    out
}

/// Takes items from a list of scalars.
fn delete_from_list(original: &mut Object, name: &str, gone: &Value) {
    if let (Some(Value::Array(list)), Value::Array(gone)) = (original.get_mut(name), gone) {
        list.retain(|item| !gone.contains(item));
    }
}

fn unknown_directive(directive: &Value, patch: &Object) -> PatchError {
    let map = spelled(&patch.clone().into());
    failed(format!("unknown patch type: {} in map: {map}", spelled(directive)))
}

/// What the object does not have is taken as it is, but for the parts that are directives.
fn without_directives(value: Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) if map.contains_key(PATCH) => return None,
        Value::Object(map) => {
            let kept = map.into_iter().filter_map(|(name, value)| Some((name, without_directives(value)?)));
            Value::Object(kept.collect())
        }
        Value::Array(list) => list.into_iter().filter_map(without_directives).collect(),
        scalar => scalar,
    })
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name, without_nulls(value))).collect::<Object>().into()
        }
        Value::Array(list) => list.into_iter().map(without_nulls).collect(),
        scalar => scalar,
    }
}

fn retain_keys(original: &mut Object, keep: &Value, patch: &Object) -> Result<(), PatchError> {
    let malformed = || PatchError::Malformed("invalid patch format of retainKeys".to_owned());
    let keep: BTreeSet<&str> =
        keep.as_array().ok_or_else(malformed)?.iter().filter_map(Value::as_str).collect();
    let directive = |name: &str| name.starts_with(DELETE_FROM_LIST) || name.starts_with(SET_ORDER);
    let stray = |(name, value): (&String, &Value)| {
        !value.is_null() && !directive(name) && !keep.contains(name.as_str())
    };
    if patch.iter().any(stray) {
        return Err(malformed());
    }
    original.retain(|name, _| keep.contains(name.as_str()));
    Ok(())
}
