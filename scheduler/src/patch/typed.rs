//! Walks over typed objects: which fields an object sets, what differs between two, merging one into another,
//! and removing a set of fields. The rules are those of structured-merge-diff.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{PatchError, fields::FieldSet};
use crate::kinds::schema::{Definition, Field, ListKind, Type, schema};

/// How a value is taken apart.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// Not at all: scalars and everything atomic.
    Leaf,
    /// An object with declared fields.
    Struct(&'a Definition),
    /// An object with free keys.
    Map(&'a Type),
    /// A list of distinct scalars.
    Set,
    /// A list of objects told apart by some of their fields.
    Keyed(&'a [String], &'a Type),
}

impl Shape<'static> {
    /// The shape of objects of the type called `definition`.
    pub(super) fn of_definition(definition: &str) -> Self {
        schema().definition(definition).map_or(Self::Leaf, Self::Struct)
    }
}

impl<'a> Shape<'a> {
    fn of_type(ty: &'a Type) -> Self {
        match ty {
            Type::Object(name) => match schema().definition(name) {
                Some(definition) if !definition.atomic => Shape::Struct(definition),
                _ => Shape::Leaf,
            },
            Type::Map(values) => Shape::Map(values),
            _ => Shape::Leaf,
        }
    }

    fn of_field(field: &'a Field) -> Self {
        match (&field.ty, &field.list) {
            _ if field.atomic => Shape::Leaf,
            (Type::List(_), ListKind::Set) => Shape::Set,
            (Type::List(item), ListKind::Map(keys)) => Shape::Keyed(keys, item),
            (ty, _) => Self::of_type(ty),
        }
    }

    fn of_child(self, name: &str) -> Self {
        match self {
            Shape::Struct(definition) => definition.fields.get(name).map_or(Shape::Leaf, Self::of_field),
            Shape::Map(values) => Self::of_type(values),
            _ => Shape::Leaf,
        }
    }

    fn of_item(self) -> Self {
        match self {
            Shape::Keyed(_, item) => Self::of_type(item),
            _ => Shape::Leaf,
        }
    }

    fn declares(self, name: &str) -> bool {
        matches!(self, Shape::Struct(definition) if definition.fields.contains_key(name))
    }

    /// The path step of a list item: its keys or its value.
    fn step(self, item: &Value) -> String {
        let Shape::Keyed(keys, ty) = self else { return format!("v:{item}") };
        let definition = match ty {
            Type::Object(name) => schema().definition(name),
            _ => None,
        };
        let default = |key: &str| {
            let text = definition?.fields.get(key)?.key_default.clone()?;
            Some(Value::String(text))
        };
        let mut named: Vec<(&str, Value)> = keys
            .iter()
            .filter_map(|key| Some((key.as_str(), item.get(key).cloned().or_else(|| default(key))?)))
            .collect();
        named.sort_by_key(|(key, _)| *key);
        let named: Vec<String> =
            named.iter().map(|(key, value)| format!("{}:{value}", Value::from(*key))).collect();
        format!("k:{{{}}}", named.join(","))
    }
}

/// What `new` changes of `old`.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

/// Struct fields that exist in every object of their type, so nobody owns their being there.
const ALWAYS_THERE: [&str; 7] =
    ["f:metadata", "f:spec", "f:status", "f:template", "f:strategy", "f:containers", "f:loadBalancer"];

/// The fields that `value` sets. Two items of a list with the same keys are refused.
pub(super) fn to_set(shape: Shape<'_>, value: &Value, path: &str) -> Result<FieldSet, PatchError> {
    let mut set = FieldSet::default();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let mut below = to_set(shape.of_child(name), value, &format!("{path}.{name}"))?;
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                below.member |= empty || !shape.declares(name);
                set.insert(format!("f:{name}"), below);
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(list)) => {
            for (index, item) in list.iter().enumerate() {
                let step = shape.step(item);
                if step == "k:{}" {
                    let why = "associative list with keys has an element that omits all key fields";
                    return Err(PatchError::Malformed(format!("{path}: element {index}: {why}")));
                }
                if set.children.contains_key(&step) {
                    let key = FieldSet::from_json(&serde_json::json!({ step: {} })).paths().concat();
                    return Err(PatchError::Malformed(format!("{path}: duplicate entries for key {key}")));
                }
                let mut below = to_set(shape.of_item(), item, &format!("{path}[{index}]"))?;
                below.member = true;
                set.insert(step, below);
            }
        }
        _ => set.member = true,
    }
    Ok(set)
}

/// The values inside `value`, by path step; none for leaves.
fn parts<'v, 's>(shape: Shape<'s>, value: Option<&'v Value>) -> BTreeMap<String, (&'v Value, Shape<'s>)> {
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Some(Value::Object(map))) => {
            map.iter().map(|(name, v)| (format!("f:{name}"), (v, shape.of_child(name)))).collect()
        }
        (Shape::Set | Shape::Keyed(..), Some(Value::Array(list))) => {
            list.iter().map(|item| (shape.step(item), (item, shape.of_item()))).collect()
        }
        _ => BTreeMap::new(),
    }
}

/// Compares two states of a value; either may be absent.
pub(super) fn compare(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let mut out = Comparison::default();
    if old == new {
        return out;
    }
    let (before, after) = (parts(shape, old), parts(shape, new));
    for step in before.keys().chain(after.keys().filter(|step| !before.contains_key(*step))) {
        let (a, b) = (before.get(step), after.get(step));
        let Some((_, shape)) = a.or(b) else { continue };
        let mut below = compare(*shape, a.map(|(v, _)| *v), b.map(|(v, _)| *v));
        if ALWAYS_THERE.contains(&step.as_str()) {
            below.added.member = false;
            below.removed.member = false;
        }
        out.added.insert(step.clone(), below.added);
        out.modified.insert(step.clone(), below.modified);
        out.removed.insert(step.clone(), below.removed);
    }
    match (old, new) {
        (None, _) => out.added.member = true,
        (_, None) => out.removed.member = true,
        _ => out.modified.member = before.is_empty() && after.is_empty(),
    }
    out
}

/// Merges what an applier sets into the live value. Lists follow the applier's order; items that only the live
/// list has keep their place between their neighbours.
pub(super) fn merge(shape: Shape<'_>, live: Option<&Value>, config: &Value) -> Value {
    match (shape, live, config) {
        (Shape::Struct(_) | Shape::Map(_), Some(Value::Object(live)), Value::Object(config)) => {
            let mut out = live.clone();
            for (name, value) in config {
                out.insert(name.clone(), merge(shape.of_child(name), live.get(name), value));
            }
            Value::Object(out)
        }
        (Shape::Set | Shape::Keyed(..), Some(Value::Array(live)), Value::Array(config)) => {
            Value::Array(merge_lists(shape, live, config))
        }
        _ => config.clone(),
    }
}

fn merge_lists(shape: Shape<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let live: Vec<(String, &Value)> = live.iter().map(|item| (shape.step(item), item)).collect();
    let config: Vec<(String, &Value)> = config.iter().map(|item| (shape.step(item), item)).collect();
    let in_config = |step: &str| config.iter().any(|(s, _)| s == step);
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let mut rest = live.iter();
    let mut taken = Vec::new();
    for (step, item) in &config {
        let old = live.iter().find(|(s, _)| s == step).map(|(_, v)| *v);
        // Up to the item's own place in the live list, items of others go first; an item that was overtaken
        // already does not move the cursor.
        if old.is_some() && !taken.contains(step) {
            for (other, value) in rest.by_ref().take_while(|(s, _)| s != step) {
                if in_config(other) {
                    taken.push(other.clone());
                } else {
                    out.push((*value).clone());
                }
            }
        }
        out.push(merge(shape.of_item(), old, item));
    }
    out.extend(rest.filter(|(step, _)| !in_config(step)).map(|(_, value)| (*value).clone()));
    out
}

/// Removes the fields and items in `set`; containers that become empty by it go too.
pub(super) fn remove(shape: Shape<'_>, value: &Value, set: &FieldSet) -> Option<Value> {
    let survivor = |step: &str, shape: Shape<'_>, value: &Value| match set.below(step) {
        Some(below) if below.member => None,
        Some(below) => remove(shape, value, below),
        None => Some(value.clone()),
    };
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            let kept: Map<String, Value> = map
                .iter()
                .filter_map(|(name, v)| {
                    Some((name.clone(), survivor(&format!("f:{name}"), shape.of_child(name), v)?))
                })
                .collect();
            (!kept.is_empty() || map.is_empty()).then_some(Value::Object(kept))
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(list)) => {
            let kept: Vec<Value> =
                list.iter().filter_map(|item| survivor(&shape.step(item), shape.of_item(), item)).collect();
            (!kept.is_empty() || list.is_empty()).then_some(Value::Array(kept))
        }
        _ => Some(value.clone()),
    }
}

/// `set` plus the declared fields that its paths only pass through, so that a field goes when all that it
/// holds goes.
pub(super) fn with_passed_fields(shape: Shape<'_>, set: &FieldSet) -> FieldSet {
    let mut out = FieldSet { member: set.member, ..FieldSet::default() };
    for (step, below) in &set.children {
        let name = step.strip_prefix("f:");
        let child = name.map_or_else(|| shape.of_item(), |name| shape.of_child(name));
        let mut below = with_passed_fields(child, below);
        below.member |= name.is_some_and(|name| shape.declares(name));
        out.insert(step.clone(), below);
    }
    out
}
