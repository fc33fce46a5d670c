//! Object metadata and label maps.

use serde_json::Value;

use super::{Path, Problems, names};
use crate::kinds::json::{items, members, text};

/// All annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Finalizers that need no prefix.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Checks `metadata`; `name` checks the object's name.
pub(in crate::kinds) fn object_meta(object: &Value, name: fn(&str) -> Vec<String>, problems: &mut Problems) {
    let (metadata, path) = (&object["metadata"], Path::new("metadata"));
    let (own, base) = (text(metadata, "name"), text(metadata, "generateName"));
    if own.is_empty() {
        problems.required(&path.field("name"), "name or generateName is required");
    } else {
        problems.all(&path.field("name"), own, name(own));
    }
    if !base.is_empty() {
        // The suffix follows a trailing hyphen.
        let stem = base.strip_suffix('-').map_or_else(|| base.to_owned(), |stem| format!("{stem}a"));
        problems.all(&path.field("generateName"), base, name(&stem));
    }
    labels(&metadata["labels"], &path.field("labels"), problems);
    annotations(&metadata["annotations"], &path.field("annotations"), problems);
    owners(&metadata["ownerReferences"], &path.field("ownerReferences"), problems);
    for finalizer in items(&metadata["finalizers"]).iter().filter_map(Value::as_str) {
        let path = path.field("finalizers");
        problems.all(&path, finalizer, names::qualified_name(finalizer));
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            problems.invalid(&path, finalizer, why);
        }
    }
}

/// A map of labels.
pub(in crate::kinds) fn labels(labels: &Value, path: &Path, problems: &mut Problems) {
    for (key, value) in members(labels) {
        problems.all(path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        problems.all(path, value, names::label_value(value));
    }
}

/// A map of annotations.
pub(in crate::kinds) fn annotations(annotations: &Value, path: &Path, problems: &mut Problems) {
    for (key, _) in members(annotations) {
        problems.all(path, key, names::qualified_name(&key.to_lowercase()));
    }
    annotations_size(annotations, path, problems);
}

/// How much a map of annotations may hold.
pub(in crate::kinds) fn annotations_size(annotations: &Value, path: &Path, problems: &mut Problems) {
    let size: usize =
        members(annotations).map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        problems.too_long(path, MAX_ANNOTATIONS);
    }
}

fn owners(owners: &Value, path: &Path, problems: &mut Problems) {
    let mut controllers = Vec::new();
    for (index, owner) in items(owners).iter().enumerate() {
        let path = path.index(index);
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                problems.invalid(&path.field(field), text(owner, field), "must not be empty");
            }
        }
        if owner["controller"] == true {
            controllers.push(text(owner, "name"));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        problems.invalid(path, owners.clone(), why);
    }
}
