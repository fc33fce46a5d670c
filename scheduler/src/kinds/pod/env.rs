//! Validation of environment variables and the references they take values from.

use serde_json::Value;

use super::paths::no_backsteps;
use crate::kinds::{
    json::{items, text},
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
/// Fields of a pod that have a name, though not everything may show each.
const NAMED_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
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
/// What amounts of bytes may be divided by.
const BYTES: [&str; 13] = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

type Check = fn(&Value, &Path, &mut Problems);

/// The sources of a variable's value, in upstream's order.
const SOURCES: [(&str, Check); 5] = [
    ("fieldRef", |source, path, problems| field_ref(source, &ENV_FIELDS, path, problems)),
    ("resourceFieldRef", |source, path, problems| resource_ref(source, false, path, problems)),
    ("configMapKeyRef", key_ref),
    ("secretKeyRef", key_ref),
    ("fileKeyRef", file_ref),
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
        env_from(source, &path.field("envFrom"), index, problems);
    }
}

fn env_from(source: &Value, list: &Path, index: usize, problems: &mut Problems) {
    let path = list.index(index);
    let prefix = text(source, "prefix");
    if !prefix.is_empty() {
        problems.all(&path.field("prefix"), prefix, names::env_name(prefix));
    }
    let present = ["configMapRef", "secretRef"].into_iter().filter(|field| source[*field].is_object());
    let mut found = 0;
    for field in present {
        found += 1;
        let path = path.field(field).field("name");
        match text(&source[field], "name") {
            "" => problems.required(&path, ""),
            name => problems.all(&path, name, names::dns_subdomain_prefix(name)),
        }
    }
    // As upstream: told of the list.
    match found {
        0 => problems.invalid(list, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => problems.invalid(list, "", "may not have more than one field specified at a time"),
    }
}

fn value_from(variable: &Value, path: &Path, problems: &mut Problems) {
    let from = &variable["valueFrom"];
    let mut found = 0;
    for (field, check) in SOURCES.iter().filter(|(field, _)| from[*field].is_object()) {
        found += 1;
        check(&from[*field], &path.field(field), problems);
    }
    if found == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                   `fileKeyRef`";
        problems.invalid(path, "", why);
    } else if !text(variable, "value").is_empty() {
        problems.invalid(path, "", "may not be specified when `value` is not empty");
    } else if found > 1 {
        problems.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// A key of a ConfigMap or Secret.
fn key_ref(source: &Value, path: &Path, problems: &mut Problems) {
    let name = text(source, "name");
    problems.all(&path.field("name"), name, names::dns_subdomain(name));
    match text(source, "key") {
        "" => problems.required(&path.field("key"), ""),
        key => problems.all(&path.field("key"), key, names::config_key(key)),
    }
}

/// A key in a file of variables.
fn file_ref(source: &Value, path: &Path, problems: &mut Problems) {
    let mut part = |field: &str, check: fn(&str, &Path, &mut Problems)| match text(source, field) {
        "" => problems.required(&path.field(field), ""),
        value => check(value, &path.field(field), problems),
    };
    part("key", |key, path, problems| problems.all(path, key, names::env_name(key)));
    part("volumeName", |name, path, problems| problems.all(path, name, names::dns_label(name)));
    part("path", no_backsteps);
}

/// Files of variables are in volumes that the pod itself has, and that hold nothing else.
pub(super) fn check_files(spec: &Value, path: &Path, problems: &mut Problems) {
    let volumes = items(&spec["volumes"]);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            for (variable, value) in items(&container["env"]).iter().enumerate() {
                let source = &value["valueFrom"]["fileKeyRef"];
                if !source.is_object() {
                    continue;
                }
                let path = path.field(list).index(index).field("env").index(variable);
                let path = path.field("valueFrom").field("fileKeyRef").field("volumeName");
                let name = text(source, "volumeName");
                // Of volumes with one name the last counts.
                match volumes.iter().rfind(|volume| text(volume, "name") == name) {
                    None => problems.not_found(&path, name),
                    Some(volume) if volume["emptyDir"].is_object() => {}
                    Some(_) => problems.invalid(&path, name, "referenced volume must be of type emptyDir"),
                }
            }
        }
    }
}

/// A reference to a field of the pod: one of `supported`, or one label or annotation.
pub(super) fn field_ref(reference: &Value, supported: &[&str], path: &Path, problems: &mut Problems) {
    let (version, field) = (text(reference, "apiVersion"), text(reference, "fieldPath"));
    if version.is_empty() {
        return problems.required(&path.field("apiVersion"), "");
    }
    let at = path.field("fieldPath");
    if field.is_empty() {
        return problems.required(&at, "");
    }
    let mut unknown =
        |why: String| problems.invalid(&at, field, format!("error converting fieldPath: {why}"));
    if version != "v1" {
        return unknown(format!("unsupported pod version: {version}"));
    }
    match subscript(field) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            problems.all(path, &key, names::qualified_name(&key));
        }
        Some(("metadata.labels", key)) => problems.all(path, key, names::qualified_name(key)),
        Some(_) => unknown(format!("field label does not support subscript: {field}")),
        None => {
            // The name that the field had in the first versions.
            let field = if field == "spec.host" { "spec.nodeName" } else { field };
            if !NAMED_FIELDS.contains(&field) {
                unknown(format!("field label not supported: {field}"));
            } else if !supported.contains(&field) {
                problems.unsupported(&at, field, supported);
            }
        }
    }
}

/// `map['key']` as map and key.
fn subscript(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['").filter(|(map, _)| !map.is_empty())
}

/// A reference to an amount of a container, which a volume (`named`) must name.
pub(super) fn resource_ref(reference: &Value, named: bool, path: &Path, problems: &mut Problems) {
    let resource = text(reference, "resource");
    let pages = ["requests.hugepages-", "limits.hugepages-"].iter().any(|p| resource.starts_with(p));
    if named && text(reference, "containerName").is_empty() {
        problems.required(&path.field("containerName"), "");
    } else if resource.is_empty() {
        problems.required(&path.field("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource) && !pages {
        problems.unsupported(&path.field("resource"), resource, &RESOURCE_FIELDS);
    }
    let divisor = text(reference, "divisor");
    if matches!(divisor, "" | "0") {
        return;
    }
    let (known, why): (&[&str], _) = match resource.split_once('.').map(|(_, amount)| amount) {
        Some("cpu") => {
            (&["1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource".to_owned())
        }
        Some("memory") => (&BYTES, bytes_only("memory")),
        Some("ephemeral-storage") => (&BYTES, bytes_only("local ephemeral storage")),
        _ if pages => (&BYTES, bytes_only("hugepages")),
        _ => return,
    };
    let counted = pages || RESOURCE_FIELDS.contains(&resource);
    if counted && !known.contains(&divisor) {
        problems.invalid(&path.field("divisor"), resource, why);
    }
}

fn bytes_only(what: &str) -> String {
    format!("only divisor's values {} are supported with the {what} resource", BYTES.join(", "))
}
