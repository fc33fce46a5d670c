//! What an applied object must be before it is merged: of declared fields, of the right types, and with list items
//! that can be told apart. The words are those of structured-merge-diff, which kubectl users know.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    fields::display,
    golang::{go_type, literal, spelled},
    typed::{Items, Shape},
};
use crate::kinds::schema::{Field, ObjectType, Type};

/// All that is wrong with an object of type `ty`; `None` when nothing is.
pub(super) fn check(ty: &ObjectType, object: &Value) -> Option<String> {
    let mut checker = Checker::default();
    checker.value(&Type::Object(ty.clone()), None, object);
    match checker.problems.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("errors:\n  {}", many.join("\n  "))),
    }
}

#[derive(Default)]
struct Checker {
    path: String,
    problems: Vec<String>,
}

impl Checker {
    fn value(&mut self, ty: &Type, field: Option<&Field>, value: &Value) {
        match (ty, value) {
            // A null is of every type.
            (_, Value::Null) | (Type::Any, _) => {}
            (Type::Object(of), value) => match (of.definition(), value) {
                (None, _) => {}
                (Some(definition), Value::Object(map)) => {
                    for (name, value) in map {
                        let Some(field) = definition.fields.get(name) else {
                            let here = self.path.len();
                            self.path.push_str(&format!(".{name}"));
                            self.problem("field not declared in schema");
                            self.path.truncate(here);
                            return;
                        };
                        self.below(&format!(".{name}"), &field.ty, Some(field), value);
                    }
                }
                (_, other) => self.problem(&format!("expected map, got &{{{}}}", spelled(other))),
            },
            (Type::Map(item), Value::Object(map)) => {
                for (name, value) in map {
                    self.below(&format!(".{name}"), item, None, value);
                }
            }
            (Type::Map(_), other) => self.problem(&format!("expected map, got &{{{}}}", spelled(other))),
            (Type::List(item), Value::Array(list)) => self.list(item, field, list),
            (Type::List(_), other) => self.problem(&format!("expected list, got &{{{}}}", spelled(other))),
            (scalar, value) => self.scalar(scalar, value),
        }
    }

    fn below(&mut self, step: &str, ty: &Type, field: Option<&Field>, value: &Value) {
        let here = self.path.len();
        self.path.push_str(step);
        self.value(ty, field, value);
        self.path.truncate(here);
    }

    fn list(&mut self, item: &Type, field: Option<&Field>, list: &[Value]) {
        let shape = field.map_or(Shape::Leaf, Shape::of_field);
        let mut seen = BTreeSet::new();
        for (index, value) in list.iter().enumerate() {
            let step = match shape.items_are() {
                Items::Indexed => format!("i:{index}"),
                kind => match item_step(shape, &kind, value) {
                    Ok(step) => step,
                    Err(why) => return self.problem(&format!("element {index}: {why}")),
                },
            };
            let shown = display(&step);
            if !seen.insert(step) {
                self.problem(&format!("duplicate entries for key {shown}"));
            }
            self.below(&shown, item, None, value);
        }
    }

    fn scalar(&mut self, ty: &Type, value: &Value) {
        let expected = match (ty, value) {
            (Type::Int32 | Type::Int64 | Type::Number, Value::Number(_))
            | (Type::String | Type::Bytes, Value::String(_))
            | (Type::Boolean, Value::Bool(_)) => return,
            (Type::Int32 | Type::Int64 | Type::Number, other) => {
                format!("expected numeric (int or float), got {}", go_type(other))
            }
            (Type::String | Type::Bytes, other) => {
                format!("expected string, got &value.valueUnstructured{{Value:{}}}", literal(other))
            }
            (Type::Boolean, other) => format!("expected boolean, got &{{{}}}", spelled(other)),
            (_, Value::Object(_) | Value::Array(_)) => {
                format!("expected any scalar, got &{{{}}}", spelled(value))
            }
            _ => return,
        };
        self.problem(&expected);
    }

    fn problem(&mut self, what: &str) {
        let path = &self.path;
        self.problems.push(if path.is_empty() { what.to_owned() } else { format!("{path}: {what}") });
    }
}

fn item_step(shape: Shape<'_>, kind: &Items<'_>, value: &Value) -> Result<String, String> {
    let why = match (kind, value) {
        (Items::Keyed(keys), Value::Object(_)) => {
            let keys: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
            let omitted = format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                 values for any key fields)",
                keys.join(" ")
            );
            return shape.step(value).ok_or(omitted);
        }
        (Items::Keyed(_), Value::Null) => "associative list with keys may not have a null element",
        (Items::Keyed(_), _) => "associative list with keys may not have non-map elements",
        (_, Value::Object(_)) => "associative list without keys has an element that's a map type",
        (_, Value::Array(_)) => "not supported: associative list with lists as elements",
        (_, Value::Null) => "associative list without keys has an element that's an explicit null",
        (_, scalar) => return shape.step(scalar).ok_or_else(String::new),
    };
    Err(why.to_owned())
}
