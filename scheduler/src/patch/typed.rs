//! Walks over typed objects: which fields an object sets, what differs between two, and removing a set of fields.
//! The rules are those of structured-merge-diff; merging is in [`super::merge`].
//!
//! A null is a value: what sets a field to null sets it, and a list or map that lost all of its content is null.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fields::FieldSet;
use crate::kinds::schema::{Definition, Field, ListKind, ObjectType, Type};

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

/// How the items of a list are told apart.
#[derive(Clone, Copy)]
pub(super) enum Items<'a> {
    /// By their place: the list is one leaf.
    Indexed,
    /// By their value.
    Valued,
    /// By these fields.
    Keyed(&'a [String]),
}

impl<'a> Shape<'a> {
    /// The shape of objects of this type.
    pub(super) fn of_object(ty: &'a ObjectType) -> Self {
        ty.definition().map_or(Self::Leaf, Self::Struct)
    }

    fn of_type(ty: &'a Type) -> Self {
        match ty {
            Type::Object(of) => match of.definition() {
                Some(definition) if !definition.atomic => Shape::Struct(definition),
                _ => Shape::Leaf,
            },
            Type::Map(values) => Shape::Map(values),
            _ => Shape::Leaf,
        }
    }

    pub(super) fn of_field(field: &'a Field) -> Self {
        match (&field.ty, &field.list) {
            _ if field.atomic => Shape::Leaf,
            (Type::List(_), ListKind::Set) => Shape::Set,
            (Type::List(item), ListKind::Map(keys)) => Shape::Keyed(keys, item),
            (ty, _) => Self::of_type(ty),
        }
    }

    pub(super) fn of_child(self, name: &str) -> Self {
        match self {
            Shape::Struct(definition) => definition.fields.get(name).map_or(Shape::Leaf, Self::of_field),
            Shape::Map(values) => Self::of_type(values),
            _ => Shape::Leaf,
        }
    }

    pub(super) fn of_item(self) -> Self {
        match self {
            Shape::Keyed(_, item) => Self::of_type(item),
            _ => Shape::Leaf,
        }
    }

    /// How the items of a list of this shape are told apart.
    pub(super) fn items_are(self) -> Items<'a> {
        match self {
            Shape::Set => Items::Valued,
            Shape::Keyed(keys, _) => Items::Keyed(keys),
            _ => Items::Indexed,
        }
    }

    fn declares(self, name: &str) -> bool {
        matches!(self, Shape::Struct(definition) if definition.fields.contains_key(name))
    }

    /// The path step of a list item: its keys or its value. `None` when it has none of its keys.
    pub(super) fn step(self, item: &Value) -> Option<String> {
        let Shape::Keyed(keys, ty) = self else { return Some(format!("v:{item}")) };
        let definition = match ty {
            Type::Object(of) => of.definition(),
            _ => None,
        };
        let default = |key: &str| definition?.fields.get(key)?.key_default();
        let mut named: Vec<(&str, &Value)> = keys
            .iter()
            .filter_map(|key| Some((key.as_str(), item.get(key).or_else(|| default(key))?)))
            .collect();
        named.sort_by_key(|(key, _)| *key);
        let (key, value) = named.first()?;
        let mut step = format!("k:{{{}:{value}", Value::from(*key));
        for (key, value) in &named[1..] {
            step.push_str(&format!(",{}:{value}", Value::from(*key)));
        }
        step.push('}');
        Some(step)
    }

    /// Whether an item of the list has none of the fields that would tell it from others.
    fn is_keyless(self, item: &Value) -> bool {
        matches!(self, Shape::Keyed(keys, _) if keys.iter().all(|key| item.get(key).is_none()))
            && self.step(item).is_none()
    }

    /// The items of a list by their steps, in order; items with the same step stand together.
    fn items(self, list: &[Value]) -> Vec<(String, Vec<&Value>)> {
        let mut out: Vec<(String, Vec<&Value>)> = Vec::with_capacity(list.len());
        let mut at = BTreeMap::new();
        for item in list {
            let Some(step) = self.step(item) else { continue };
            match at.get(&step) {
                Some(&index) => {
                    let (_, items): &mut (String, Vec<&Value>) = &mut out[index];
                    items.push(item);
                }
                None => {
                    at.insert(step.clone(), out.len());
                    out.push((step, vec![item]));
                }
            }
        }
        out
    }
}

/// What `new` changes of `old`.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
    /// An item that nothing tells from others stands in a list whose items are told apart by their fields: nobody can
    /// say whose it is.
    pub keyless: bool,
}

impl Comparison {
    /// What the writer did: all that is new or other than it was, and what is gone.
    pub(super) fn written_and_removed(self) -> (FieldSet, FieldSet) {
        let mut written = self.modified;
        written.add(self.added);
        (written, self.removed)
    }

    /// The comparison without some fields and all below them.
    pub(super) fn without_subtrees(mut self, fields: &FieldSet) -> Self {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            set.prune(fields);
        }
        self
    }

    fn below(&mut self, step: impl Fn() -> String, below: Self) {
        self.keyless |= below.keyless;
        let sets = [
            (&mut self.added, below.added),
            (&mut self.modified, below.modified),
            (&mut self.removed, below.removed),
        ];
        for (set, below) in sets {
            if !below.is_empty() {
                set.insert(step(), below);
            }
        }
    }
}

/// The fields that `value` sets. Items of a list with the same step count as one leaf.
pub(super) fn to_set(shape: Shape<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let mut below = to_set(shape.of_child(name), value);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                below.member |= empty || !shape.declares(name);
                set.insert(field(name), below);
            }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(list)) => {
            for (step, items) in shape.items(list) {
                let mut below = match items.as_slice() {
                    [one] => to_set(shape.of_item(), one),
                    _ => FieldSet::default(),
                };
                below.member = true;
                set.insert(step, below);
            }
        }
        // An absent struct, map or list sets nothing; whoever holds it knows that it is there.
        (Shape::Struct(_) | Shape::Map(_) | Shape::Set | Shape::Keyed(..), Value::Null) => {}
        _ => set.member = true,
    }
    set
}

/// Compares two states of a value; either may be absent.
pub(super) fn compare(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let mut out = Comparison::default();
    if old == new {
        return out;
    }
    if let (None, Some(new)) = (old, new) {
        out.added = added(shape, new, &mut out.keyless);
        return out;
    }
    let leaf = match shape {
        Shape::Leaf => true,
        Shape::Struct(_) | Shape::Map(_) => no_fields(old) && no_fields(new),
        Shape::Set | Shape::Keyed(..) => no_items(old) && no_items(new),
    };
    if leaf {
        out.modified.member = old.is_some() && new.is_some();
    } else if matches!(shape, Shape::Struct(_) | Shape::Map(_)) {
        compare_fields(shape, old, new, &mut out);
    } else {
        compare_items(shape, old, new, &mut out);
    }
    out.removed.member |= new.is_none();
    out
}

/// What a value adds where nothing was: itself, and all that it sets.
fn added(shape: Shape<'_>, new: &Value, keyless: &mut bool) -> FieldSet {
    let children = match (shape, new) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => map
            .iter()
            .map(|(name, value)| (field(name), added(shape.of_child(name), value, keyless)))
            .collect(),
        (Shape::Set | Shape::Keyed(..), Value::Array(list)) => {
            *keyless |= list.iter().any(|item| shape.is_keyless(item));
            let below = |items: &[&Value], keyless: &mut bool| match only(items) {
                Some(one) => added(shape.of_item(), one, keyless),
                // Items that cannot be told apart are one leaf together.
                None => FieldSet { member: true, ..FieldSet::default() },
            };
            shape.items(list).into_iter().map(|(step, items)| (step, below(&items, keyless))).collect()
        }
        _ => BTreeMap::new(),
    };
    FieldSet { member: true, children }
}

/// The step to a field.
fn field(name: &str) -> String {
    ["f:", name].concat()
}

fn no_fields(value: Option<&Value>) -> bool {
    value.and_then(Value::as_object).is_none_or(Map::is_empty)
}

fn no_items(value: Option<&Value>) -> bool {
    value.and_then(Value::as_array).is_none_or(Vec::is_empty)
}

fn compare_fields(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) {
    let empty = Map::new();
    let old = old.and_then(Value::as_object).unwrap_or(&empty);
    let new = new.and_then(Value::as_object).unwrap_or(&empty);
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let below = compare(shape.of_child(name), old.get(name), new.get(name));
        out.below(|| field(name), below);
    }
}

fn compare_items(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) {
    let mut all = [old, new].into_iter().flatten().filter_map(Value::as_array).flatten();
    out.keyless |= all.any(|item| shape.is_keyless(item));
    let (old, new) = (items_of(shape, old), items_of(shape, new));
    let none = Vec::new();
    for step in old.keys().chain(new.keys().filter(|step| !old.contains_key(*step))) {
        let (was, is) = (old.get(step).unwrap_or(&none), new.get(step).unwrap_or(&none));
        // Items that cannot be told apart are one leaf together.
        let mut below = match (only(was), only(is)) {
            (None, None) => Comparison::default(),
            (a, b) => compare(shape.of_item(), a, b),
        };
        match (was.len() > 1, is.len() > 1) {
            (true, true) => below.modified.member = was != is,
            (true, false) => below.removed.member = true,
            (false, true) => below.added.member = true,
            (false, false) => {}
        }
        out.below(|| step.clone(), below);
    }
}

fn items_of<'v>(shape: Shape<'_>, value: Option<&'v Value>) -> BTreeMap<String, Vec<&'v Value>> {
    value.and_then(Value::as_array).map(|list| shape.items(list)).into_iter().flatten().collect()
}

/// The item, when it is the only one.
fn only<'v>(items: &[&'v Value]) -> Option<&'v Value> {
    if let [one] = items { Some(*one) } else { None }
}

/// Removes the fields and items in `set`. What loses all of its content by it is null.
pub(super) fn remove(shape: Shape<'_>, value: &Value, set: &FieldSet) -> Value {
    let survivor = |step: &str, shape: Shape<'_>, value: &Value| match set.below(step) {
        Some(below) if below.member => None,
        Some(below) => Some(remove(shape, value, below)),
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
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (Shape::Set | Shape::Keyed(..), Value::Array(list)) => {
            let survives = |item: &Value| match shape.step(item) {
                Some(step) => survivor(&step, shape.of_item(), item),
                None => Some(item.clone()),
            };
            let kept: Vec<Value> = list.iter().filter_map(survives).collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        _ => value.clone(),
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
