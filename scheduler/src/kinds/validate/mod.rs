//! Validation, shared parts: paths, the list of what is wrong in upstream's words, and the rules that hold for
//! many kinds.

pub(super) mod addresses;
pub(super) mod data;
pub(super) mod difference;
pub(super) mod ip;
pub(super) mod meta;
pub(super) mod names;
pub(super) mod resources;
pub(super) mod selectors;
pub(super) mod shapes;

use std::fmt;

use serde_json::Value;

use crate::model::{Cause, go};

/// Where a value is: `spec.containers[0].image`.
#[derive(Clone, Debug, Default)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(super) fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::new(name) } else { self.with(&[".", name]) }
    }

    pub(super) fn index(&self, index: usize) -> Self {
        match index {
            // Lists are short: their indices need not be printed each time.
            0..10 => self.with(&["[", &"0123456789"[index..=index], "]"]),
            _ => self.with(&["[", &index.to_string(), "]"]),
        }
    }

    pub(super) fn key(&self, key: &str) -> Self {
        self.with(&["[", key, "]"])
    }

    /// Paths are made for every value that is checked, and mostly for nothing: in one step, without formatting.
    fn with(&self, tail: &[&str]) -> Self {
        let length = self.0.len() + tail.iter().map(|part| part.len()).sum::<usize>();
        let mut path = String::with_capacity(length);
        path.push_str(&self.0);
        tail.iter().for_each(|part| path.push_str(part));
        Self(path)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that is wrong with an object.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Cause>);

impl Problems {
    pub(super) fn into_causes(self) -> Vec<Cause> {
        self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much is wrong so far: tells whether a step found anything.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Adds what `found` has and `known` has not.
    pub(super) fn add_new(&mut self, found: Self, known: &Self) {
        self.0.extend(found.0.into_iter().filter(|cause| !known.0.contains(cause)));
    }

    fn add(&mut self, reason: &'static str, path: &Path, message: String) {
        self.0.push(Cause { reason, field: path.to_string(), message });
    }

    pub(super) fn required(&mut self, path: &Path, detail: &str) {
        let message =
            if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        self.add("FieldValueRequired", path, message);
    }

    pub(super) fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: impl fmt::Display) {
        let value = printed(&value.into());
        self.add("FieldValueInvalid", path, format!("Invalid value: {value}: {detail}"));
    }

    /// As [`Self::invalid`] for a whole object of the type called `ty`, or a list of such.
    pub(super) fn invalid_of(&mut self, path: &Path, ty: &str, value: &Value, detail: impl fmt::Display) {
        let value = shapes::print(ty, value);
        self.add("FieldValueInvalid", path, format!("Invalid value: {value}: {detail}"));
    }

    pub(super) fn forbidden(&mut self, path: &Path, detail: impl fmt::Display) {
        self.add("FieldValueForbidden", path, format!("Forbidden: {detail}"));
    }

    /// As [`Self::invalid`], with the value in upstream's own form: internal types show their Go fields.
    pub(super) fn invalid_shown(&mut self, path: &Path, shown: &str, detail: impl fmt::Display) {
        self.add("FieldValueInvalid", path, format!("Invalid value: {shown}: {detail}"));
    }

    /// As [`Self::duplicate`], with the value in upstream's own form and, where there is one, a reason.
    pub(super) fn duplicate_shown(&mut self, path: &Path, shown: &str, detail: &str) {
        let tail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        self.add("FieldValueDuplicate", path, format!("Duplicate value: {shown}{tail}"));
    }

    pub(super) fn too_many(&mut self, path: &Path, count: usize, max: usize) {
        let items = if max == 1 { "item" } else { "items" };
        self.add("FieldValueTooMany", path, format!("Too many: {count}: must have at most {max} {items}"));
    }

    pub(super) fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.add("FieldValueDuplicate", path, format!("Duplicate value: {}", printed(&value.into())));
    }

    /// As [`Self::duplicate`] for a whole object of the type called `ty`.
    pub(super) fn duplicate_of(&mut self, path: &Path, ty: &str, value: &Value) {
        self.add("FieldValueDuplicate", path, format!("Duplicate value: {}", shapes::print(ty, value)));
    }

    pub(super) fn not_found(&mut self, path: &Path, value: &str) {
        self.add("FieldValueNotFound", path, format!("Not found: {}", go::quote(value)));
    }

    /// As [`Self::not_found`], with where it should have been.
    pub(super) fn not_found_in(&mut self, path: &Path, value: &str, detail: &str) {
        self.add("FieldValueNotFound", path, format!("Not found: {}: {detail}", go::quote(value)));
    }

    /// What upstream fails at rather than refuses.
    pub(super) fn internal(&mut self, path: &Path, detail: impl fmt::Display) {
        self.add("InternalError", path, format!("Internal error: {detail}"));
    }

    pub(super) fn too_long(&mut self, path: &Path, max: usize) {
        self.add("FieldValueTooLong", path, format!("Too long: may not be more than {max} bytes"));
    }

    pub(super) fn unsupported(&mut self, path: &Path, value: &str, supported: &[&str]) {
        self.unsupported_shown(path, &go::quote(value), supported);
    }

    /// As [`Self::unsupported`], with the value in upstream's own form.
    pub(super) fn unsupported_shown(&mut self, path: &Path, shown: &str, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| go::quote(s)).collect();
        let message = format!("Unsupported value: {shown}: supported values: {}", list.join(", "));
        self.add("FieldValueNotSupported", path, message);
    }

    /// All complaints of one of the checks in [`names`].
    pub(super) fn all(&mut self, path: &Path, value: &str, complaints: Vec<String>) {
        for complaint in complaints {
            self.invalid(path, value, complaint);
        }
    }

    /// A text that must be one of `supported`; empty counts as missing.
    pub(super) fn one_of(&mut self, path: &Path, value: &str, supported: &[&str]) {
        if value.is_empty() {
            self.required(path, "");
        } else if !supported.contains(&value) {
            self.unsupported(path, value, supported);
        }
    }

    /// A number, when it is there, that may not be below zero.
    pub(super) fn not_negative(&mut self, path: &Path, value: &Value) {
        if let Some(number) = value.as_i64().filter(|n| *n < 0) {
            self.invalid(path, number, "must be greater than or equal to 0");
        }
    }

    pub(super) fn in_range(&mut self, path: &Path, number: i64, low: i64, high: i64) {
        if !(low..=high).contains(&number) {
            self.invalid(path, number, format!("must be between {low} and {high}, inclusive"));
        }
    }

    pub(super) fn port(&mut self, path: &Path, number: i64) {
        self.in_range(path, number, 1, 65535);
    }

    /// A port by number or by name.
    pub(super) fn port_or_name(&mut self, path: &Path, port: &Value) {
        match port {
            Value::String(name) => self.all(path, name, names::port_name(name)),
            number => self.port(path, number.as_i64().unwrap_or_default()),
        }
    }

    /// A field that an update may not change.
    pub(super) fn immutable(&mut self, path: &Path, new: &Value, old: &Value) {
        if new != old {
            self.invalid(path, new.clone(), "field is immutable");
        }
    }
}

/// A refused value as upstream prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => go::quote(text),
        other => go::json(other),
    }
}
