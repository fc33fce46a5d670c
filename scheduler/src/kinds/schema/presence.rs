//! Which fields can be absent: the Go types that upstream serves show some fields always, and cannot tell the zero
//! value of others from absence. Objects are kept in that form, so that what a client reads, what managers own and
//! what an update compares are the same as upstream's.
//!
//! In: `schema/presence-facts.txt` (see `schema/gosource.py`). Never: defaults that a kind fills in; those are rules
//! of the kind, not of the type.

use serde_json::{Map, Value};

use super::{Definition, Field, ObjectType, Schema, Type};

const PRESENCE_FACTS: &str = include_str!("../../../schema/presence-facts.txt");

/// Fields whose emptiness validation or admission tells from absence. Everywhere else an empty list or map goes as soon
/// as it is read, so that nothing needs to ask which of the two it has.
const KEPT_EMPTY: [(&str, &[&str]); 4] = [
    ("io.k8s.api.core.v1.PodSpec", &["overhead"]),
    ("io.k8s.api.core.v1.ResourceRequirements", &["claims"]),
    ("io.k8s.api.core.v1.EphemeralContainer", &["ports", "resizePolicy", "restartPolicyRules"]),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", &["finalizers", "ownerReferences"]),
];

/// What it means that a field is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Nobody set it; its zero value is a choice of its own. Empty lists and maps count as not set.
    #[default]
    Optional,
    /// The same as its zero value, which is left out.
    Dropped,
    /// The same as this value, which is always shown.
    Shown(Value),
    /// Nobody set it. What is set stays, be it empty.
    AsGiven,
}

/// Joins the presence facts to the types.
pub(super) fn add_facts(schema: &mut Schema) {
    for line in PRESENCE_FACTS.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, words)) = line.split_once(' ') else { continue };
        let Some(definition) = schema.definitions.get_mut(name) else { continue };
        for (how, fields) in words.split(' ').filter_map(|word| word.split_once('=')) {
            fields.split(',').for_each(|field| add_fact(definition, how, field));
        }
    }
    for (name, fields) in KEPT_EMPTY {
        let Some(definition) = schema.definitions.get_mut(name) else { continue };
        for field in fields {
            if let Some(field) = definition.fields.get_mut(*field) {
                field.kept_empty = true;
            }
        }
    }
    let names: Vec<String> = schema.definitions.keys().cloned().collect();
    for name in names {
        let zeros: Vec<(String, Value)> = schema.zeros_of(&name).into_iter().collect();
        let Some(definition) = schema.definitions.get_mut(&name) else { continue };
        for (field, zero) in zeros {
            if let Some(described) = definition.fields.get_mut(&field) {
                described.presence = Presence::Shown(zero.clone());
                definition.shown.push((field, zero));
            }
        }
    }
}

fn add_fact(definition: &mut Definition, how: &str, words: &str) {
    let (name, default) = words.split_once(':').unwrap_or((words, "null"));
    let Some(field) = definition.fields.get_mut(name) else { return };
    match how {
        "drop" => field.presence = Presence::Dropped,
        // What it looks like is filled in once all types are known.
        "zero" => field.presence = Presence::Shown(Value::Bool(true)),
        "null" => field.presence = Presence::Shown(Value::Null),
        "default" => field.default = serde_json::from_str(default).ok(),
        _ => {}
    }
}

impl Schema {
    /// The fields that an object of this type always shows, as they look when nobody set them.
    pub(super) fn zeros_of(&self, name: &str) -> Map<String, Value> {
        let fields = self.definition(name).into_iter().flat_map(|definition| &definition.fields);
        let shown = fields.filter_map(|(name, field)| match &field.presence {
            Presence::Shown(Value::Null) => Some((name.clone(), Value::Null)),
            Presence::Shown(_) => Some((name.clone(), self.zero(&field.ty))),
            _ => None,
        });
        shown.collect()
    }

    fn zero(&self, ty: &Type) -> Value {
        match ty {
            Type::String => "".into(),
            Type::Quantity => "0".into(),
            Type::Boolean => false.into(),
            Type::Int32 | Type::Int64 | Type::Number | Type::IntOrString => 0.into(),
            Type::Object(of) => self.zeros_of(of.name()).into(),
            _ => Value::Null,
        }
    }
}

impl Field {
    /// Whether `value` says no more than absence, and is left out.
    pub fn says_nothing(&self, value: &Value) -> bool {
        match (value, &self.presence) {
            (Value::Null, _) => true,
            (_, Presence::Optional) => !self.kept_empty && self.is_empty(value),
            (value, Presence::Dropped) => match value {
                Value::Bool(value) => !value,
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::String(text) => text.is_empty(),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether `value` is a list or a map without content.
    fn is_empty(&self, value: &Value) -> bool {
        match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => matches!(self.ty, Type::Map(_)) && map.is_empty(),
            _ => false,
        }
    }
}

/// Drops from an object of type `ty` the empty lists and maps that were told from absence so far.
pub fn drop_empties(ty: &ObjectType, object: &mut Value) {
    if let (Some(definition), Value::Object(map)) = (ty.definition(), object) {
        settle_object(definition, map, false);
    }
}

/// Brings an object of type `ty` into the form that the store keeps: as [`drop_empties`], and an empty
/// list that would be shown anyway is null.
pub fn settle(ty: &ObjectType, object: &mut Value) {
    if let (Some(definition), Value::Object(map)) = (ty.definition(), object) {
        settle_object(definition, map, true);
    }
}

fn settle_object(definition: &Definition, map: &mut Map<String, Value>, nulls: bool) {
    map.retain(|name, value| {
        if !(value.is_array() || value.is_object()) {
            return true;
        }
        let Some(field) = definition.fields.get(name) else { return true };
        if !field.is_empty(value) {
            settle_value(&field.ty, value, nulls);
            return true;
        }
        if nulls && field.presence == Presence::Shown(Value::Null) {
            *value = Value::Null;
        }
        field.presence != Presence::Optional
    });
}

fn settle_value(ty: &Type, value: &mut Value, nulls: bool) {
    match (ty, value) {
        (Type::Object(of), Value::Object(map)) => {
            if let Some(definition) = of.definition() {
                settle_object(definition, map, nulls);
            }
        }
        (Type::List(item), Value::Array(list)) if item.has_parts() => {
            list.iter_mut().for_each(|value| settle_value(item, value, nulls));
        }
        (Type::Map(item), Value::Object(map)) if item.has_parts() => {
            map.values_mut().for_each(|value| settle_value(item, value, nulls));
        }
        _ => {}
    }
}

/// Adds to an object of type `ty` all that it always shows, down to its last part.
pub fn complete(ty: &ObjectType, object: &mut Value) {
    if let (Some(definition), Value::Object(map)) = (ty.definition(), object) {
        complete_object(definition, map);
    }
}

fn complete_object(definition: &Definition, map: &mut Map<String, Value>) {
    for (name, zero) in &definition.shown {
        if map.get(name).is_none_or(Value::is_null) {
            map.insert(name.clone(), zero.clone());
        }
    }
    for (name, value) in map {
        if (value.is_object() || value.is_array())
            && let Some(field) = definition.fields.get(name)
        {
            complete_value(&field.ty, value);
        }
    }
}

fn complete_value(ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Object(of), Value::Object(map)) => {
            if let Some(definition) = of.definition() {
                complete_object(definition, map);
            }
        }
        (Type::List(item), Value::Array(list)) if item.has_parts() => {
            list.iter_mut().for_each(|value| complete_value(item, value));
        }
        (Type::Map(item), Value::Object(map)) if item.has_parts() => {
            map.values_mut().for_each(|value| complete_value(item, value));
        }
        _ => {}
    }
}

impl Type {
    fn has_parts(&self) -> bool {
        matches!(self, Self::Object(_) | Self::List(_) | Self::Map(_))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::schema::schema;

    fn field(definition: &str, name: &str) -> Field {
        schema().definition(definition).unwrap().fields[name].clone()
    }

    #[test]
    fn presence_is_as_in_the_published_types() {
        let container = |name| field("io.k8s.api.core.v1.Container", name).presence;
        assert_eq!(container("resources"), Presence::Shown(json!({})));
        assert_eq!(container("image"), Presence::Dropped);
        assert_eq!(container("securityContext"), Presence::Optional);
        let lease = |name| field("io.k8s.api.coordination.v1.LeaseSpec", name).presence;
        assert_eq!(lease("leaseTransitions"), Presence::Optional);
        let event = |name| field("io.k8s.api.core.v1.Event", name).presence;
        assert_eq!(event("eventTime"), Presence::Shown(Value::Null));
        assert_eq!(event("reportingComponent"), Presence::Shown("".into()));
        let template = field("io.k8s.api.apps.v1.DeploymentSpec", "template").presence;
        assert_eq!(template, Presence::Shown(json!({"metadata": {}, "spec": {"containers": null}})));
        let protocol = field("io.k8s.api.core.v1.ServicePort", "protocol");
        assert_eq!(protocol.default, Some("TCP".into()));
    }

    #[test]
    fn every_fact_of_a_served_type_names_a_field_that_exists() {
        for line in PRESENCE_FACTS.lines().filter(|line| !line.starts_with('#')) {
            let (name, words) = line.split_once(' ').unwrap();
            let Some(definition) = schema().definition(name) else { continue };
            for word in words.split(' ').filter_map(|word| word.split_once('=')) {
                for field in word.1.split(',').map(|f| f.split(':').next().unwrap()) {
                    assert!(definition.fields.contains_key(field), "{name} {field}");
                }
            }
        }
    }

    #[test]
    fn empty_lists_go_where_the_store_cannot_tell_them() {
        let spec = json!({
            "overhead": {}, "resources": {"claims": []},
            "containers": [{"name": "c", "resources": {"claims": []}}],
            "volumes": [{"name": "v", "projected": {"sources": []}}, {"name": "e", "emptyDir": {}}],
        });
        let mut pod = json!({"metadata": {"name": "p", "ownerReferences": []}, "spec": spec});
        let (kind, whole) =
            (crate::kinds::builtin().by_resource(crate::model::Resource::PODS).unwrap(), pod.clone());
        crate::kinds::decode::decode(kind, &mut pod).unwrap();
        assert_eq!(pod, whole, "told until then");
        settle(&ObjectType::published("io.k8s.api.core.v1.Pod"), &mut pod);
        let expected = json!({"metadata": {"name": "p"}, "spec": {
            "resources": {}, "containers": [{"name": "c", "resources": {}}],
            "volumes": [{"name": "v", "projected": {"sources": null}}, {"name": "e", "emptyDir": {}}]}});
        assert_eq!(pod, expected);
    }

    #[test]
    fn an_object_is_completed_down_to_its_last_part() {
        let mut deployment = json!({"metadata": {"name": "d"}, "spec": {
            "template": {"spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "projected": {}}]}}}});
        complete(&ObjectType::published("io.k8s.api.apps.v1.Deployment"), &mut deployment);
        let expected = json!({"metadata": {"name": "d"}, "status": {}, "spec": {
            "selector": null, "strategy": {},
            "template": {"metadata": {}, "spec": {"containers": [{"name": "c", "resources": {}}],
                "volumes": [{"name": "v", "projected": {"sources": null}}]}}}});
        assert_eq!(deployment, expected);
    }
}
