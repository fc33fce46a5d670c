//! Validation of files in volumes: paths, modes, and the keys and facts that they show.

use serde_json::Value;

use super::super::{env, paths::relative};
use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems},
};

/// The facts about a pod that a file may show.
const FACTS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// A file in a volume that is written as a whole: names that begin with `..` are the writer's own.
pub(super) fn file(value: &str, path: &Path, problems: &mut Problems) {
    relative(value, path, problems);
    if value.starts_with("..") && !value.starts_with("../") {
        problems.invalid(path, value, "must not start with '..'");
    }
}

/// A file that must be named.
fn named_file(value: &str, path: &Path, problems: &mut Problems) {
    if value.is_empty() {
        problems.required(path, "");
    }
    file(value, path, problems);
}

/// The permissions of files.
pub(super) fn mode(value: &Value, path: &Path, problems: &mut Problems) {
    if let Some(mode) = value.as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        problems.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// Who owns a file: a user of the node.
pub(super) fn owner(value: &Value, path: &Path, problems: &mut Problems) {
    if let Some(user) = value.as_i64() {
        problems.in_range(path, user, 0, i64::from(i32::MAX));
    }
}

/// Keys of a ConfigMap or Secret as files.
pub(super) fn keys(list: &Value, path: &Path, problems: &mut Problems) {
    for (index, item) in items(list).iter().enumerate() {
        let path = path.index(index);
        if text(item, "key").is_empty() {
            problems.required(&path.field("key"), "");
        }
        named_file(text(item, "path"), &path.field("path"), problems);
        mode(&item["mode"], &path.field("mode"), problems);
        owner(&item["user"], &path.field("user"), problems);
    }
}

/// Facts about the pod as files. As upstream, the path does not say which file it is.
pub(super) fn facts(list: &Value, path: &Path, problems: &mut Problems) {
    for item in items(list) {
        named_file(text(item, "path"), &path.field("path"), problems);
        let (field, resource) = (&item["fieldRef"], &item["resourceFieldRef"]);
        if field.is_object() {
            env::field_ref(field, &FACTS, &path.field("fieldRef"), problems);
            if resource.is_object() {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                problems.invalid(path, "resource", why);
            }
        } else if resource.is_object() {
            env::resource_ref(resource, true, &path.field("resourceFieldRef"), problems);
        } else {
            problems.required(path, "one of fieldRef and resourceFieldRef is required");
        }
        mode(&item["mode"], &path.field("mode"), problems);
        owner(&item["user"], &path.field("user"), problems);
    }
}
