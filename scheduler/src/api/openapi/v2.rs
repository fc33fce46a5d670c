//! The version 2 document, translated from the version 3 parts. kubectl only falls back to it where version 3
//! is missing; older clients validate by it.

use serde_json::{Map, Value, json};

use super::paths;
use crate::kinds::{Catalogue, KUBERNETES_VERSION};

/// The whole API in one document.
pub(super) fn document(kinds: &Catalogue, schemas: &Map<String, Value>) -> Value {
    let definitions: Map<String, Value> =
        schemas.iter().map(|(name, node)| (name.clone(), schema(node))).collect();
    let paths: Map<String, Value> = kinds
        .all()
        .iter()
        .flat_map(|kind| paths::of_kind(kind))
        .map(|(path, item)| (path, path_item(&item)))
        .collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths,
        "definitions": definitions,
    })
}

/// `allOf` with one reference becomes the bare reference beside its description, alternatives become a string
/// with a format, and references point to `definitions`.
fn schema(node: &Value) -> Value {
    match node {
        Value::Object(map) => {
            if map.contains_key("oneOf") {
                let mut out = json!({"type": "string"});
                for field in ["description", "format"] {
                    if let Some(value) = map.get(field) {
                        out[field] = value.clone();
                    }
                }
                return out;
            }
            let mut out = Map::new();
            for (name, value) in map {
                match (name.as_str(), value) {
                    ("$ref", Value::String(path)) => {
                        let path = path.replace("#/components/schemas/", "#/definitions/");
                        out.insert(name.clone(), path.into());
                    }
                    ("allOf", Value::Array(parts)) => {
                        out.extend(parts.iter().filter_map(|p| schema(p).as_object().cloned()).flatten());
                    }
                    _ => {
                        out.insert(name.clone(), schema(value));
                    }
                }
            }
            Value::Object(out)
        }
        Value::Array(list) => Value::Array(list.iter().map(schema).collect()),
        scalar => scalar.clone(),
    }
}

fn path_item(item: &Value) -> Value {
    let operations = item.as_object().into_iter().flatten();
    let translated = operations.map(|(method, value)| {
        let value = if method == "parameters" { parameters(value) } else { operation(value) };
        (method.clone(), value)
    });
    Value::Object(translated.collect())
}

fn operation(operation: &Value) -> Value {
    let mut out = operation.clone();
    let Some(map) = out.as_object_mut() else { return out };
    let mut list = map.get("parameters").map_or_else(|| json!([]), parameters);
    map.insert("produces".to_owned(), json!(["application/json"]));
    if let Some(body) = map.remove("requestBody") {
        let content = body["content"].as_object().cloned().unwrap_or_default();
        map.insert("consumes".to_owned(), content.keys().cloned().collect::<Vec<_>>().into());
        let node = content.values().next().map(|media| schema(&media["schema"])).unwrap_or_default();
        if let Some(list) = list.as_array_mut() {
            list.push(json!({"name": "body", "in": "body", "required": true, "schema": node}));
        }
    }
    map.insert("parameters".to_owned(), list);
    for (_, response) in map.get_mut("responses").and_then(Value::as_object_mut).into_iter().flatten() {
        let Some(response) = response.as_object_mut() else { continue };
        if let Some(content) = response.remove("content")
            && let Some(media) = content.as_object().and_then(|c| c.values().next())
        {
            response.insert("schema".to_owned(), schema(&media["schema"]));
        }
    }
    out
}

fn parameters(list: &Value) -> Value {
    let translated = list.as_array().into_iter().flatten().map(|parameter| {
        let mut out = parameter.clone();
        if let Some(map) = out.as_object_mut()
            && let Some(Value::Object(schema)) = map.remove("schema")
        {
            map.extend(schema);
        }
        out
    });
    Value::Array(translated.collect())
}
