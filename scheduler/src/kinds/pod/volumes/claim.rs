//! Validation of the template for the claim of an ephemeral volume.

use serde_json::Value;

use crate::kinds::{
    json::{items, text},
    quantity::Quantity,
    validate::{Path, Problems, meta, names, selectors},
};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// What the metadata of a template may not say, in upstream's order and spelling.
const FOREIGN_METADATA: [(&str, &str); 13] = [
    ("name", "name"),
    ("generateName", "generateName"),
    ("namespace", "namespace"),
    ("selfLink", "selfLink"),
    ("uid", "uID"),
    ("resourceVersion", "resourceVersion"),
    ("generation", "generation"),
    ("creationTimestamp", "creationTimestamp"),
    ("deletionTimestamp", "deletionTimestamp"),
    ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
    ("ownerReferences", "ownerReferences"),
    ("finalizers", "finalizers"),
    ("managedFields", "managedFields"),
];

/// `volumeClaimTemplate` of an ephemeral volume.
pub(super) fn check(template: &Value, path: &Path, problems: &mut Problems) {
    let (metadata, at) = (&template["metadata"], path.field("metadata"));
    meta::annotations(&metadata["annotations"], &at.field("annotations"), problems);
    meta::labels(&metadata["labels"], &at.field("labels"), problems);
    for (_, shown) in FOREIGN_METADATA.iter().filter(|(field, _)| is_set(&metadata[*field])) {
        problems.forbidden(&at.field(shown), "cannot be set");
    }
    spec(&template["spec"], &path.field("spec"), problems);
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        _ => true,
    }
}

/// The spec of a PersistentVolumeClaim.
fn spec(spec: &Value, path: &Path, problems: &mut Problems) {
    let modes: Vec<&str> = items(&spec["accessModes"]).iter().filter_map(Value::as_str).collect();
    let at = path.field("accessModes");
    if modes.is_empty() {
        problems.required(&at, "at least 1 access mode is required");
    }
    selectors::label_selector(&spec["selector"], &path.field("selector"), problems);
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(mode)) {
        problems.unsupported(&at, mode, &ACCESS_MODES);
    }
    let exclusive = |mode: &&str| *mode == "ReadWriteOncePod";
    if modes.iter().any(exclusive) && modes.iter().any(|m| ACCESS_MODES.contains(m) && !exclusive(m)) {
        problems.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
    storage(&spec["resources"]["requests"]["storage"], &path.field("resources").key("storage"), problems);
    class(spec, "storageClassName", path, problems);
    if let Some(mode) = spec["volumeMode"].as_str().filter(|mode| !matches!(*mode, "Block" | "Filesystem")) {
        problems.unsupported(&path.field("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    data_sources(spec, path, problems);
    class(spec, "volumeAttributesClassName", path, problems);
}

fn storage(amount: &Value, path: &Path, problems: &mut Problems) {
    match amount.as_str() {
        None => problems.required(path, ""),
        Some(text) => {
            let positive = text.parse::<Quantity>().is_ok_and(|q| q > Quantity::ZERO);
            if !positive {
                problems.invalid(path, text, "must be greater than zero");
            }
        }
    }
}

fn class(spec: &Value, field: &str, path: &Path, problems: &mut Problems) {
    let name = text(spec, field);
    if !name.is_empty() {
        problems.all(&path.field(field), name, names::dns_subdomain(name));
    }
}

fn data_sources(spec: &Value, path: &Path, problems: &mut Problems) {
    let (plain, wide) = (&spec["dataSource"], &spec["dataSourceRef"]);
    for (source, field) in [(plain, "dataSource"), (wide, "dataSourceRef")] {
        if source.is_object() {
            data_source(source, &path.field(field), problems);
        }
    }
    let namespace = text(wide, "namespace");
    if !namespace.is_empty() {
        problems.all(&path.field("dataSourceRef").field("namespace"), namespace, names::dns_label(namespace));
    }
    if !(plain.is_object() && wide.is_object()) {
        return;
    }
    let same = ["apiGroup", "kind", "name"].iter().all(|field| plain[*field] == wide[*field]);
    // As upstream, which shows an empty object for the field.
    let nothing = Value::Object(serde_json::Map::new());
    if !namespace.is_empty() {
        problems.invalid(path, nothing, "may not be specified when dataSourceRef.namespace is specified");
    } else if !same {
        problems.invalid(path, nothing, "must match dataSourceRef");
    }
}

fn data_source(source: &Value, path: &Path, problems: &mut Problems) {
    for field in ["name", "kind"] {
        if text(source, field).is_empty() {
            problems.required(&path.field(field), "");
        }
    }
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        problems.invalid(path, kind, why);
    }
    if !group.is_empty() {
        problems.all(&path.field("apiGroup"), group, names::dns_subdomain(group));
    }
}
