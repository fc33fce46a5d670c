//! Sets of fields: the `FieldsV1` tries of `metadata.managedFields`, as a value with set algebra.

use std::collections::{BTreeMap, btree_map::Entry};

use serde_json::{Map, Value};

/// A set of paths into an object. Each step is spelled as in `FieldsV1`: `f:name` for a field, `k:{...}` for
/// an item by its keys, `v:...` for an item by value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    /// Whether the path that leads here is itself in the set.
    pub member: bool,
    /// Longer paths. None of them leads to nothing.
    pub children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// From paths of field names: `[["spec"], ["metadata", "name"]]`.
    pub(super) fn from_names(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut node = &mut set;
            for name in *path {
                node = node.children.entry(format!("f:{name}")).or_default();
            }
            node.member = true;
        }
        set
    }

    /// Reads the JSON of a `fieldsV1`.
    pub(super) fn from_json(json: &Value) -> Self {
        let mut set = Self::default();
        for (step, below) in json.as_object().into_iter().flatten() {
            if step == "." {
                set.member = true;
            } else {
                let mut child = Self::from_json(below);
                child.member |= child.children.is_empty();
                set.children.insert(step.clone(), child);
            }
        }
        set
    }

    /// The JSON of a `fieldsV1`.
    pub(super) fn into_json(self) -> Value {
        let json = |(step, child): (String, Self)| {
            let whole = child.member && !child.children.is_empty();
            let mut below = child.into_json();
            if let (Value::Object(below), true) = (&mut below, whole) {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (step, below)
        };
        Value::Object(self.children.into_iter().map(json).collect())
    }

    /// Whether no path is in the set.
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Adds what lies below `step`, dropping it when there is nothing.
    pub(super) fn insert(&mut self, step: String, below: Self) {
        if !below.is_empty() {
            self.children.insert(step, below);
        }
    }

    /// The part of the set below `step`.
    pub(super) fn below(&self, step: &str) -> Option<&Self> {
        self.children.get(step)
    }

    /// Paths in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.add(other.clone());
        out
    }

    /// Adds the paths of `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.member |= other.member;
        for (step, theirs) in other.children {
            match self.children.entry(step) {
                Entry::Vacant(place) => drop(place.insert(theirs)),
                Entry::Occupied(mut ours) => ours.get_mut().add(theirs),
            }
        }
    }

    /// Paths of `self` that are not in `other`.
    pub(super) fn difference(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.subtract(other);
        out
    }

    /// Takes the paths of `other` away.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        self.reduce(other, |ours, theirs| {
            ours.subtract(theirs);
            !ours.is_empty()
        });
    }

    /// Paths in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        let mut out = Self { member: self.member && other.member, children: BTreeMap::new() };
        for (step, ours) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                out.insert(step.clone(), ours.intersection(theirs));
            }
        }
        out
    }

    /// Paths of `self` that are not in `other` nor below a path in it.
    pub(super) fn without_subtrees(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.prune(other);
        out
    }

    /// Takes the paths of `other` away, and all that lies below them.
    pub(super) fn prune(&mut self, other: &Self) {
        self.member &= !other.member;
        self.reduce(other, |ours, theirs| {
            if theirs.member {
                return false;
            }
            ours.prune(theirs);
            !ours.is_empty()
        });
    }

    /// Changes what lies below the steps of `other`, by what lies there in it, and drops it where that says so.
    fn reduce(&mut self, other: &Self, keep: impl Fn(&mut Self, &Self) -> bool) {
        for (step, theirs) in &other.children {
            if self.children.get_mut(step).is_some_and(|ours| !keep(ours, theirs)) {
                self.children.remove(step);
            }
        }
    }

    /// Every path as messages spell it (`.spec.containers[name="web"].image`), in upstream's order: at each level
    /// what is itself in the set, then what lies below.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_paths("", &mut out);
        out
    }

    fn collect_paths(&self, prefix: &str, out: &mut Vec<String>) {
        let mut steps: Vec<(&String, &Self)> = self.children.iter().collect();
        steps.sort_by_cached_key(|(step, _)| Rank::of(step));
        let shown: Vec<String> = steps.iter().map(|(step, _)| format!("{prefix}{}", display(step))).collect();
        let members = steps.iter().zip(&shown).filter(|((_, child), _)| child.member);
        out.extend(members.map(|(_, path)| path.clone()));
        for ((_, child), path) in steps.iter().zip(&shown) {
            child.collect_paths(path, out);
        }
    }
}

/// The place of a step among its siblings: fields by name, then items by keys, then items by value.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Field(String),
    Keyed(Vec<(String, Place)>),
    Valued(Place),
    Other(String),
}

/// Numbers count, text is spelled.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Number(i64),
    Text(String),
}

impl Rank {
    fn of(step: &str) -> Self {
        let place = |value: &Value| match value {
            Value::Number(number) => Place::Number(number.as_i64().unwrap_or(i64::MAX)),
            Value::String(text) => Place::Text(text.clone()),
            other => Place::Text(other.to_string()),
        };
        match step.split_once(':') {
            Some(("f", name)) => Self::Field(name.to_owned()),
            Some(("k", keys)) => match serde_json::from_str(keys) {
                Ok(Value::Object(keys)) => {
                    Self::Keyed(keys.iter().map(|(name, value)| (name.clone(), place(value))).collect())
                }
                _ => Self::Other(step.to_owned()),
            },
            Some(("v", value)) => serde_json::from_str(value)
                .map_or_else(|_| Self::Other(step.to_owned()), |value| Self::Valued(place(&value))),
            _ => Self::Other(step.to_owned()),
        }
    }
}

pub(super) fn display(step: &str) -> String {
    if let Some(name) = step.strip_prefix("f:") {
        return format!(".{name}");
    }
    if let Some(value) = step.strip_prefix("v:") {
        return format!("[={value}]");
    }
    if let Some(keys) = step.strip_prefix("k:")
        && let Ok(Value::Object(keys)) = serde_json::from_str(keys)
    {
        let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
        return format!("[{}]", keys.join(","));
    }
    format!("[{}]", step.strip_prefix("i:").unwrap_or(step))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_form_round_trips() {
        let form = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}});
        assert_eq!(FieldSet::from_json(&form).into_json(), form);
    }

    #[test]
    fn paths_read_as_in_conflict_messages() {
        let set = FieldSet::from_json(&json!({"f:spec": {"f:ports": {
            "k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:port": {}}}, "f:finalizers": {"v:\"x\"": {}}}}));
        assert_eq!(set.paths(), [".spec.finalizers[=\"x\"]", ".spec.ports[port=80,protocol=\"TCP\"].port"]);
    }

    #[test]
    fn algebra_works_per_path() {
        let a = FieldSet::from_json(&json!({"f:a": {".": {}, "f:b": {}}, "f:c": {}}));
        let b = FieldSet::from_json(&json!({"f:a": {"f:b": {}, "f:d": {}}}));
        assert_eq!(a.difference(&b).paths(), [".a", ".c"]);
        assert_eq!(a.intersection(&b).paths(), [".a.b"]);
        assert_eq!(a.union(&b).paths(), [".a", ".c", ".a.b", ".a.d"]);
        assert_eq!(a.without_subtrees(&FieldSet::from_names(&[&["a"]])).paths(), [".c"]);
        assert!(a.difference(&a).is_empty());
    }
}
