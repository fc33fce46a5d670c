//! The component schemas: those of `k8s-openapi` in the dialect of OpenAPI 3.0, with what upstream publishes of them
//! beside: defaults, enumerations, what is required, and the x-kubernetes extensions (see `schema/openapi.py`).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{
    api::discovery::EXTRAS,
    kinds::{Catalogue, schema},
};

const PREFIX: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const FACTS: &str = include_str!("../../../schema/openapi-facts.txt");
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

/// All schemas by name, `more` among them.
pub(super) fn all(kinds: &Catalogue, more: Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, mut node) in schema::definitions() {
        to_openapi(&mut node);
        // Other fields are required in the types of k8s-openapi.
        node.as_object_mut().map(|node| node.remove("required"));
        out.insert(name, node);
    }
    out.extend(more);
    add_scalars(&mut out);
    add_facts(&mut out);
    for kind in kinds.all() {
        if let Some(described) = &kind.described {
            out.insert(kind.ty.name().to_owned(), Value::clone(described));
        }
    }
    add_kinds(kinds, &mut out);
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

/// The options of a deletion are a kind of each version that takes them.
pub(super) fn name_options(paths: &Value, schemas: &mut Map<String, Value>) {
    let Some(node) = schemas.get_mut(&format!("{META}.DeleteOptions")) else { return };
    let items = paths.as_object().into_iter().flat_map(Map::values);
    let own = items.filter_map(|item| item["delete"].get(GVK)).next();
    if let (Some(kinds), Some(own)) = (node[GVK].as_array_mut(), own) {
        let kind = json!({"group": own["group"], "version": own["version"], "kind": "DeleteOptions"});
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
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

/// Facts of types that are not served are skipped.
fn add_facts(all: &mut Map<String, Value>) {
    for line in FACTS.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, facts)) = line.split_once(' ') else { continue };
        if let (Some(node), Ok(facts)) = (all.get_mut(name), serde_json::from_str(facts)) {
            merge(node, facts);
        }
    }
}

/// Adds facts to a schema; those of fields that it does not have are left out.
fn merge(node: &mut Value, facts: Map<String, Value>) {
    if node.get("$ref").is_some() {
        // Nothing may stand beside a reference.
        *node = json!({"allOf": [node.take()]});
    }
    let Some(node) = node.as_object_mut() else { return };
    for (name, value) in facts {
        match (name.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                let Some(properties) = node.get_mut("properties") else { continue };
                for (field, facts) in fields {
                    if let (Some(node), Value::Object(facts)) = (properties.get_mut(&field), facts) {
                        merge(node, facts);
                    }
                }
            }
            ("items" | "additionalProperties", Value::Object(facts)) => {
                if let Some(node) = node.get_mut(&name) {
                    merge(node, facts);
                }
            }
            // What the values of an enumeration mean.
            ("words", Value::String(words)) => {
                if let Some(Value::String(description)) = node.get_mut("description") {
                    description.push_str(&words);
                }
            }
            (_, value) => drop(node.insert(name, value)),
        }
    }
}

/// Names the kinds that schemas stand for and adds the list types.
fn add_kinds(kinds: &Catalogue, all: &mut Map<String, Value>) {
    let mut name = |definition: &str, group: &str, version: &str, kind: &str| {
        if let Some(node) = all.get_mut(definition) {
            node[GVK] = json!([{"group": group, "version": version, "kind": kind}]);
        }
    };
    for kind in kinds.all() {
        name(kind.ty.name(), &kind.group, &kind.version, &kind.kind);
    }
    name("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "v1", "Scale");
    name("io.k8s.api.policy.v1.Eviction", "policy", "v1", "Eviction");
    for kind in ["Status", "DeleteOptions", "APIVersions", "APIGroup", "APIGroupList", "APIResourceList"] {
        name(&format!("{META}.{kind}"), "", "v1", kind);
    }
    for extra in &EXTRAS {
        name(extra.definition, extra.group, extra.version, extra.kind);
    }
    let listed = kinds.all().iter().map(|kind| (kind.ty.name(), &*kind.group, &*kind.version, &*kind.kind));
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
