//! Strategic merge patch: a merge patch that knows which lists are keyed, with directives for the rest
//! (`$patch`, `$deleteFromPrimitiveList/f`, `$setElementOrder/f`, `$retainKeys`).

use serde_json::{Map, Value};

use super::PatchError;
use crate::kinds::schema::{Definition, Field, ListKind, Schema, Type, schema};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into an object of the type called `definition`.
pub(super) fn merge(definition: &str, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    let merger = Merger { schema: schema() };
    let original = object.as_object().cloned().unwrap_or_default();
    merger.map(original, patch, merger.schema.definition(definition)).map(Value::Object)
}

fn malformed(why: impl Into<String>) -> PatchError {
    PatchError::Malformed(why.into())
}

struct Merger {
    schema: &'static Schema,
}

impl Merger {
    fn definition_of(&self, ty: Option<&Type>) -> Option<&'static Definition> {
        match ty {
            Some(Type::Object(name)) => self.schema.definition(name),
            _ => None,
        }
    }

    fn map(
        &self,
        mut original: Map<String, Value>,
        patch: &Map<String, Value>,
        definition: Option<&Definition>,
    ) -> Result<Map<String, Value>, PatchError> {
        match directive(patch)? {
            Some("replace") => return Ok(without_directives(patch)),
            Some("delete") => return Ok(Map::new()),
            _ => {}
        }
        if let Some(keep) = patch.get(RETAIN_KEYS) {
            retain_keys(&mut original, keep, patch)?;
        }
        for (name, order) in suffixed(patch, SET_ORDER) {
            if !order.is_array() {
                return Err(malformed(format!("{SET_ORDER}{name} must be a list")));
            }
        }
        for (name, change) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
            let field = definition.and_then(|d| d.fields.get(name));
            self.field(&mut original, name, change, field, patch)?;
        }
        // Lists that are only reordered, or only lose primitive items, have no entry of their own.
        for (name, _) in suffixed(patch, SET_ORDER).chain(suffixed(patch, DELETE_FROM_LIST)) {
            if !patch.contains_key(name) && original.get(name).is_some_and(Value::is_array) {
                let field = definition.and_then(|d| d.fields.get(name));
                self.field(&mut original, name, &Value::Array(Vec::new()), field, patch)?;
            }
        }
        Ok(original)
    }

    fn field(
        &self,
        original: &mut Map<String, Value>,
        name: &str,
        change: &Value,
        field: Option<&Field>,
        siblings: &Map<String, Value>,
    ) -> Result<(), PatchError> {
        let merged = match (original.remove(name), change) {
            (_, Value::Null) => return Ok(()),
            (old, Value::Object(change)) => {
                let old = match old {
                    Some(Value::Object(old)) => old,
                    _ => Map::new(),
                };
                if directive(change)? == Some("delete") {
                    return Ok(());
                }
                let definition = self.definition_of(field.map(|f| match &f.ty {
                    Type::Map(item) => item.as_ref(),
                    ty => ty,
                }));
                let is_map = matches!(field.map(|f| &f.ty), Some(Type::Map(_)));
                Value::Object(self.map(old, change, if is_map { None } else { definition })?)
            }
            (old, Value::Array(change)) => {
                let old = match old {
                    Some(Value::Array(old)) => old,
                    _ => Vec::new(),
                };
                Value::Array(self.list(old, change, field, name, siblings)?)
            }
            (_, scalar) => scalar.clone(),
        };
        original.insert(name.to_owned(), merged);
        Ok(())
    }

    fn list(
        &self,
        old: Vec<Value>,
        change: &[Value],
        field: Option<&Field>,
        name: &str,
        siblings: &Map<String, Value>,
    ) -> Result<Vec<Value>, PatchError> {
        let Some(field) = field.filter(|f| f.merge) else { return Ok(change.to_vec()) };
        let order = siblings.get(&format!("{SET_ORDER}{name}")).and_then(Value::as_array);
        match &field.merge_key {
            Some(key) => self.keyed_list(old, change, field, key, order),
            None => {
                let gone = siblings.get(&format!("{DELETE_FROM_LIST}{name}")).and_then(Value::as_array);
                Ok(primitive_list(old, change, gone, order))
            }
        }
    }

    fn keyed_list(
        &self,
        mut list: Vec<Value>,
        change: &[Value],
        field: &Field,
        key: &str,
        order: Option<&Vec<Value>>,
    ) -> Result<Vec<Value>, PatchError> {
        if change.iter().any(|item| item.get(PATCH).and_then(Value::as_str) == Some("replace")) {
            let kept = change.iter().filter(|item| item.get(PATCH).is_none());
            return Ok(kept.cloned().collect());
        }
        let definition = match &field.ty {
            Type::List(item) => self.definition_of(Some(item)),
            _ => None,
        };
        let before: Vec<Value> = list.iter().filter_map(|item| item.get(key).cloned()).collect();
        for item in change {
            let item = item
                .as_object()
                .ok_or_else(|| malformed(format!("items with key {key:?} must be objects")))?;
            let id = item.get(key).ok_or_else(|| {
                malformed(format!(
                    "map: {} does not contain declared merge key: {key}",
                    Value::Object(item.clone())
                ))
            })?;
            let at = matching(&list, item, key, field);
            match (directive(item)?, at) {
                (Some("delete"), _) => list.retain(|old| old.get(key) != Some(id)),
                (_, Some(at)) => {
                    let old = list[at].as_object().cloned().unwrap_or_default();
                    list[at] = Value::Object(self.map(old, item, definition)?);
                }
                (_, None) => list.push(Value::Object(self.map(Map::new(), item, definition)?)),
            }
        }
        if let Some(order) = order {
            let wanted: Vec<Value> = order.iter().filter_map(|item| item.get(key).cloned()).collect();
            sort_by_order(&mut list, &wanted, &before, |item| item.get(key).unwrap_or(&Value::Null));
        }
        Ok(list)
    }
}

/// The item that a patch item is about. Where several share the merge key (a port served over TCP and UDP), it is
/// the one that agrees on the other identifying fields, else the first.
fn matching(list: &[Value], item: &Map<String, Value>, key: &str, field: &Field) -> Option<usize> {
    let identity: &[String] = match &field.list {
        ListKind::Map(keys) => keys,
        _ => &[],
    };
    let same = |old: &Value| old.get(key) == item.get(key);
    let exact = |old: &Value| identity.iter().all(|k| item.get(k).is_none_or(|v| old.get(k) == Some(v)));
    list.iter().position(|old| same(old) && exact(old)).or_else(|| list.iter().position(same))
}

fn primitive_list(
    old: Vec<Value>,
    change: &[Value],
    gone: Option<&Vec<Value>>,
    order: Option<&Vec<Value>>,
) -> Vec<Value> {
    let before = old.clone();
    let mut list = old;
    list.retain(|item| !gone.is_some_and(|gone| gone.contains(item)));
    for item in change {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    if let Some(order) = order {
        sort_by_order(&mut list, order, &before, |item| item);
    }
    list
}

/// Puts the items named by `wanted` into that order; items that only the server has keep their place relative
/// to the items before them.
fn sort_by_order(list: &mut Vec<Value>, wanted: &[Value], before: &[Value], key: impl Fn(&Value) -> &Value) {
    let rank = |item: &Value| wanted.iter().position(|w| w == key(item));
    let (mut named, unnamed): (Vec<Value>, Vec<Value>) =
        list.drain(..).partition(|item| rank(item).is_some());
    named.sort_by_key(|item| rank(item));
    let place = |item: &Value| before.iter().position(|b| b == key(item));
    let mut named = named.into_iter().peekable();
    for extra in unnamed {
        let at = place(&extra);
        while let Some(next) = named.next_if(|next| match (place(next), at) {
            (Some(next), Some(at)) => next < at,
            _ => true,
        }) {
            list.push(next);
        }
        list.push(extra);
    }
    list.extend(named);
}

fn directive(patch: &Map<String, Value>) -> Result<Option<&str>, PatchError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(word)) if matches!(word.as_str(), "replace" | "delete" | "merge") => {
            Ok(Some(word))
        }
        Some(other) => Err(malformed(format!("unknown patch type found: {other}"))),
    }
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch.iter().filter(|(name, _)| !name.starts_with('$')).map(|(n, v)| (n.clone(), v.clone())).collect()
}

fn suffixed<'a>(
    patch: &'a Map<String, Value>,
    prefix: &'a str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    patch.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
}

fn retain_keys(
    original: &mut Map<String, Value>,
    keep: &Value,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    let keep = keep.as_array().ok_or_else(|| malformed("$retainKeys must be a list"))?;
    let kept = |name: &str| keep.iter().any(|k| k.as_str() == Some(name));
    if let Some(stray) = patch.iter().find(|(n, v)| !n.starts_with('$') && !v.is_null() && !kept(n)) {
        return Err(malformed(format!("field {:?} is in the patch but not in $retainKeys", stray.0)));
    }
    original.retain(|name, _| kept(name));
    Ok(())
}
