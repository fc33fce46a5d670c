//! The component schemas: those of `k8s-openapi` in the dialect of OpenAPI 3.0, with the x-kubernetes
//! extensions that upstream publishes.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::extras;
use crate::{
    api::discovery::EXTRAS,
    kinds::{self, schema},
};

const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// The extension that names the kinds of a schema.
pub(super) const GVK: &str = "x-kubernetes-group-version-kind";

/// A reference to the schema called `name`.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("{PREFIX}{name}")})
}

/// The name of the list type of a kind.
pub(super) fn list_name(definition: &str) -> String {
    format!("{definition}List")
}

/// All schemas by name.
pub(super) fn all() -> Map<String, Value> {
    let mut out = Map::new();
    for (name, mut node) in schema::definitions() {
        to_openapi(&mut node);
        if let Some(required) = node.get_mut("required").and_then(Value::as_array_mut) {
            // Required in the types of k8s-openapi only.
            required.retain(|field| field != "metadata");
        }
        if node.get("required").and_then(Value::as_array).is_some_and(Vec::is_empty) {
            node.as_object_mut().map(|n| n.remove("required"));
        }
        out.insert(name, node);
    }
    out.extend(extras::schemas());
    add_scalars(&mut out);
    add_facts(&mut out);
    add_kinds(&mut out);
    out
}

/// The schemas that `paths` refers to, directly or not.
pub(super) fn reachable(paths: &Value, all: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    let mut pending = BTreeSet::new();
    references(paths, &mut pending);
    while let Some(name) = pending.pop_first() {
        if let (false, Some(node)) = (out.contains_key(&name), all.get(&name)) {
            references(node, &mut pending);
            out.insert(name, node.clone());
        }
    }
    out
}

fn references(node: &Value, into: &mut BTreeSet<String>) {
    match node {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(PREFIX)) {
                into.insert(name.to_owned());
            }
            map.values().for_each(|v| references(v, into));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, into)),
        _ => {}
    }
}

/// In OpenAPI 3.0 nothing may stand beside a `$ref`: a described reference goes into an `allOf`.
fn to_openapi(node: &mut Value) {
    match node {
        Value::Object(map) => {
            map.values_mut().for_each(to_openapi);
            if map.len() > 1
                && map.get("$ref").is_some_and(Value::is_string)
                && let Some(reference) = map.remove("$ref")
            {
                map.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(to_openapi),
        _ => {}
    }
}

/// Types that are scalars on the wire.
fn add_scalars(all: &mut Map<String, Value>) {
    let scalars = [
        (
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        ),
        (
            "io.k8s.apimachinery.pkg.api.resource.Quantity",
            json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ),
    ];
    for (name, extra) in scalars {
        if let (Some(Value::Object(node)), Value::Object(extra)) = (all.get_mut(name), extra) {
            node.retain(|field, _| field == "description");
            node.extend(extra);
        }
    }
    let patch = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
    all.insert(format!("{META}.Patch"), json!({"type": "object", "description": patch}));
}

fn add_facts(all: &mut Map<String, Value>) {
    for fact in schema::facts() {
        let Some(definition) = all.get_mut(fact.definition).and_then(Value::as_object_mut) else { continue };
        let node = match fact.field {
            None => Some(definition),
            Some(field) => {
                definition.get_mut("properties").and_then(|p| p.get_mut(field)).and_then(Value::as_object_mut)
            }
        };
        let Some(node) = node else { continue };
        for (word, value) in fact.words() {
            let (name, value) = match word {
                "list" => ("x-kubernetes-list-type", json!(value)),
                "keys" => ("x-kubernetes-list-map-keys", json!(value.split(',').collect::<Vec<_>>())),
                "map" => ("x-kubernetes-map-type", json!(value)),
                "patch" => ("x-kubernetes-patch-strategy", json!(value)),
                "key" => ("x-kubernetes-patch-merge-key", json!(value)),
                "default" => ("default", json!(value)),
                _ => continue,
            };
            node.insert(name.to_owned(), value);
        }
    }
}

/// Names the kinds that schemas stand for and adds the list types.
fn add_kinds(all: &mut Map<String, Value>) {
    let mut name = |definition: &str, group: &str, version: &str, kind: &str| {
        if let Some(node) = all.get_mut(definition) {
            node[GVK] = json!([{"group": group, "version": version, "kind": kind}]);
        }
    };
    for kind in kinds::all() {
        name(kind.definition, kind.group, kind.version, kind.kind);
    }
    name("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "v1", "Scale");
    name("io.k8s.api.policy.v1.Eviction", "policy", "v1", "Eviction");
    name("io.k8s.api.core.v1.Binding", "", "v1", "Binding");
    name(&format!("{META}.Status"), "", "v1", "Status");
    name(&format!("{META}.DeleteOptions"), "", "v1", "DeleteOptions");
    for extra in &EXTRAS {
        name(extra.definition, extra.group, extra.version, extra.kind);
    }
    let listed = kinds::all().iter().map(|kind| (kind.definition, kind.group, kind.version, kind.kind));
    let extras = EXTRAS.iter().filter(|extra| extra.verbs.contains(&"list"));
    let extras = extras.map(|extra| (extra.definition, extra.group, extra.version, extra.kind));
    for (definition, group, version, kind) in listed.chain(extras) {
        all.insert(list_name(definition), list_schema(definition, group, version, kind));
    }
}

fn list_schema(definition: &str, group: &str, version: &str, kind: &str) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("APIVersion defines the versioned schema of this representation of an object."),
            "items": {"type": "array", "description": "Items is the list of objects.",
                "items": reference(definition)},
            "kind": text("Kind is a string value representing the REST resource this object represents."),
            "metadata": {"allOf": [reference(&format!("{META}.ListMeta"))], "default": {},
                "description": "Standard list metadata."},
        },
        GVK: [{"group": group, "version": version, "kind": format!("{kind}List")}],
    })
}
