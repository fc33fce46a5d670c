//! Validation of environment variables and the references they take values from.

use serde_json::Value;

use crate::kinds::{
    json::{items, members, text},
    validate::{Path, Problems, names},
};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCE_FIELDS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` and `envFrom` of a container.
pub(super) fn check(container: &Value, path: &Path, problems: &mut Problems) {
    for (index, variable) in items(&container["env"]).iter().enumerate() {
        let path = path.field("env").index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            problems.required(&path.field("name"), "");
        } else {
            problems.all(&path.field("name"), name, names::env_name(name));
        }
        if variable["valueFrom"].is_object() {
            value_from(variable, &path.field("valueFrom"), problems);
        }
    }
    for (index, source) in items(&container["envFrom"]).iter().enumerate() {
        let path = path.field("envFrom").index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            problems.all(&path.field("prefix"), prefix, names::env_name(prefix));
        }
        let present: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|f| source[*f].is_object()).collect();
        match present.as_slice() {
            [] => problems.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            [field] => {
                if text(&source[*field], "name").is_empty() {
                    problems.required(&path.field(field).field("name"), "");
                }
            }
            _ => problems.invalid(&path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(variable: &Value, path: &Path, problems: &mut Problems) {
    let from = &variable["valueFrom"];
    match members(from).count() {
        0 => {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                       `fileKeyRef`";
            problems.invalid(path, "", why);
        }
        1 if !text(variable, "value").is_empty() => {
            problems.invalid(path, "", "may not be specified when `value` is not empty");
        }
        1 => {}
        _ => problems.invalid(path, "", "may not have more than one field specified at a time"),
    }
    if from["fieldRef"].is_object() {
        field_ref(&from["fieldRef"], &ENV_FIELDS, &path.field("fieldRef"), problems);
    }
    if from["resourceFieldRef"].is_object() {
        let path = path.field("resourceFieldRef").field("resource");
        problems.one_of(&path, text(&from["resourceFieldRef"], "resource"), &RESOURCE_FIELDS);
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if from[source].is_object() {
            let path = path.field(source);
            if text(&from[source], "name").is_empty() {
                problems.required(&path.field("name"), "");
            }
            match text(&from[source], "key") {
                "" => problems.required(&path.field("key"), ""),
                key => problems.all(&path.field("key"), key, names::config_key(key)),
            }
        }
    }
}

/// A reference to a field of the pod: one of `supported`, or one label or annotation.
pub(super) fn field_ref(reference: &Value, supported: &[&str], path: &Path, problems: &mut Problems) {
    let field = text(reference, "fieldPath");
    if text(reference, "apiVersion").is_empty() {
        problems.required(&path.field("apiVersion"), "");
    }
    let path = path.field("fieldPath");
    if field.is_empty() {
        return problems.required(&path, "");
    }
    let subscript = field.split_once("['").and_then(|(map, rest)| Some((map, rest.strip_suffix("']")?)));
    match subscript {
        Some(("metadata.annotations", key)) => {
            problems.all(&path, key, names::qualified_name(&key.to_lowercase()));
        }
        Some(("metadata.labels", key)) => problems.all(&path, key, names::qualified_name(key)),
        Some((map, _)) => problems.invalid(&path, map, format!("does not support subscript: {field}")),
        None if supported.contains(&field) => {}
        None if ENV_FIELDS.contains(&field)
            || matches!(field, "metadata.labels" | "metadata.annotations") =>
        {
            problems.unsupported(&path, field, supported);
        }
        None => {
            let why = format!("error converting fieldPath: field label not supported: {field}");
            problems.invalid(&path, field, why);
        }
    }
}
