//! Object metadata and label maps.

use serde_json::Value;

use super::{Path, Problems, names};
use crate::{
    kinds::json::{items, members, text},
    model::Cause,
};

/// All annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Finalizers that need no prefix.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Checks `metadata` of a new object; `name` checks the object's name.
pub(in crate::kinds) fn object_meta(object: &Value, name: fn(&str) -> Vec<String>, problems: &mut Problems) {
    plain_object_meta(object, name, problems);
    standard_finalizers(object, problems);
}

/// As [`object_meta`], for the kinds that look at names once they are made, and not at what they are made from.
pub(in crate::kinds) fn object_meta_of_made(
    object: &Value,
    name: fn(&str) -> Vec<String>,
    problems: &mut Problems,
) {
    named_meta(object, name, problems);
    standard_finalizers(object, problems);
}

/// As [`object_meta`], for the kinds that take finalizers of any name.
pub(in crate::kinds) fn plain_object_meta(
    object: &Value,
    name: fn(&str) -> Vec<String>,
    problems: &mut Problems,
) {
    let base = text(&object["metadata"], "generateName");
    if !base.is_empty() {
        problems.all(&Path::new("metadata").field("generateName"), base, name(&stem(base)));
    }
    named_meta(object, name, problems);
}

/// All of `metadata` but the base of a generated name.
fn named_meta(object: &Value, name: fn(&str) -> Vec<String>, problems: &mut Problems) {
    let (metadata, path) = (&object["metadata"], Path::new("metadata"));
    let own = text(metadata, "name");
    if own.is_empty() {
        problems.required(&path.field("name"), "name or generateName is required");
    } else {
        problems.all(&path.field("name"), own, name(own));
    }
    problems.not_negative(&path.field("generation"), &metadata["generation"]);
    maps_and_owners(metadata, &path, problems);
    finalizers(&metadata["finalizers"], &path.field("finalizers"), problems);
}

/// What the generated suffix follows: a trailing hyphen is no fault there.
fn stem(base: &str) -> String {
    let Some(stem) = base.strip_suffix('-').filter(|stem| !stem.is_empty()) else { return base.to_owned() };
    let mut stem = stem.to_owned();
    stem.pop();
    stem.push('a');
    stem
}

/// Checks `metadata` of a changed object, beside [`common_update`].
pub(in crate::kinds) fn object_meta_update(object: &Value, old: &Value, problems: &mut Problems) {
    plain_object_meta_update(object, old, problems);
    standard_finalizers(object, problems);
}

/// As [`object_meta_update`], for the kinds that take finalizers of any name.
pub(in crate::kinds) fn plain_object_meta_update(object: &Value, old: &Value, problems: &mut Problems) {
    let (metadata, before, path) = (&object["metadata"], &old["metadata"], Path::new("metadata"));
    if !before["deletionTimestamp"].is_null() {
        let known = items(&before["finalizers"]);
        let mut added: Vec<String> = items(&metadata["finalizers"])
            .iter()
            .filter(|finalizer| !known.contains(finalizer))
            .map(ToString::to_string)
            .collect();
        added.sort();
        added.dedup();
        if !added.is_empty() {
            let why = "no new finalizers can be added if the object is being deleted, found new finalizers";
            problems.forbidden(&path.field("finalizers"), format!("{why} []string{{{}}}", added.join(", ")));
        }
    }
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        problems.immutable(&path.field(field), &metadata[field], &before[field]);
    }
    maps_and_owners(metadata, &path, problems);
}

/// What every new object of any kind is checked for, after what its kind asks.
pub(in crate::kinds) fn common_create(object: &Value) -> Vec<Cause> {
    let mut problems = Problems::default();
    plain_object_meta(object, names::path_segment, &mut problems);
    problems.into_causes()
}

/// What every update of any kind is checked for, before what its kind asks.
pub(in crate::kinds) fn common_update(object: &Value, old: &Value) -> Vec<Cause> {
    let mut problems = Problems::default();
    plain_object_meta(object, names::path_segment, &mut problems);
    plain_object_meta_update(object, old, &mut problems);
    problems.into_causes()
}

fn maps_and_owners(metadata: &Value, path: &Path, problems: &mut Problems) {
    labels(&metadata["labels"], &path.field("labels"), problems);
    annotations(&metadata["annotations"], &path.field("annotations"), problems);
    owners(&metadata["ownerReferences"], &path.field("ownerReferences"), problems);
}

fn finalizers(finalizers: &Value, path: &Path, problems: &mut Problems) {
    let list = items(finalizers);
    for finalizer in list.iter().filter_map(Value::as_str) {
        problems.all(path, finalizer, names::qualified_name(finalizer));
    }
    if ["orphan", "foregroundDeletion"].iter().all(|name| list.iter().any(|f| f == name)) {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        problems.invalid(path, finalizers.clone(), why);
    }
}

fn standard_finalizers(object: &Value, problems: &mut Problems) {
    let path = Path::new("metadata.finalizers");
    for (index, finalizer) in items(&object["metadata"]["finalizers"]).iter().enumerate() {
        standard_finalizer(finalizer.as_str().unwrap_or_default(), &path.index(index), problems);
    }
}

/// A finalizer without a prefix is one of those that everybody knows.
pub(in crate::kinds) fn standard_finalizer(name: &str, path: &Path, problems: &mut Problems) {
    if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
        problems.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
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
    let mut controller: Option<String> = None;
    for (index, owner) in items(owners).iter().enumerate() {
        let at = path.index(index);
        let version = text(owner, "apiVersion");
        if version.is_empty() {
            problems.required(&at.field("apiVersion"), "must not be empty");
        } else if version.matches('/').count() > 1 || version.ends_with('/') {
            let why = "must be <group>/<version> or <version>";
            problems.invalid(&at.field("apiVersion"), version, why);
        }
        for field in ["kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                problems.required(&at.field(field), "must not be empty");
            }
        }
        if (version, text(owner, "kind")) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            problems.invalid_shown(&at, &owner_shown(owner), why);
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            if let Some(first) = &controller {
                let all: Vec<String> = items(owners).iter().map(owner_shown).collect();
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                );
                problems.invalid_shown(path, &format!("[{}]", all.join(",")), why);
            } else {
                controller = Some(this);
            }
        }
    }
}

/// An owner reference as upstream prints it: its fields in the order of the type.
fn owner_shown(owner: &Value) -> String {
    let needed = ["apiVersion", "kind", "name", "uid"].into_iter();
    let needed = needed.map(|field| format!("\"{field}\":{:?}", text(owner, field)));
    let given = ["controller", "blockOwnerDeletion"].into_iter();
    let given = given.filter(|field| !owner[*field].is_null());
    let given = given.map(|field| format!("\"{field}\":{}", owner[field]));
    let all: Vec<String> = needed.chain(given).collect();
    format!("{{{}}}", all.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(metadata: impl Into<Value>, old: Option<Value>) -> Vec<String> {
        let (object, mut problems) = (json!({"metadata": metadata.into()}), Problems::default());
        match old {
            Some(old) => object_meta_update(&object, &json!({"metadata": old}), &mut problems),
            None => object_meta(&object, names::dns_subdomain, &mut problems),
        }
        problems
            .into_causes()
            .into_iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect()
    }

    #[test]
    fn generated_names_may_end_their_stem_with_a_hyphen() {
        assert!(said(json!({"name": "a-b", "generateName": "a-"}), None).is_empty());
        assert!(said(json!({"name": "a-b", "generateName": "a--"}), None).is_empty());
        assert_eq!(said(json!({"name": "a-b", "generateName": "-"}), None).len(), 1);
    }

    #[test]
    fn owners_are_complete_and_one_controls() {
        let owner = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
        let found = said(json!({"name": "a", "ownerReferences": [owner("a"), owner("b"), {}]}), None);
        assert_eq!(
            found,
            [
                "metadata.ownerReferences: Invalid value: [{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"name\":\"a\",\"uid\":\"u\",\
                 \"controller\":true},{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"name\":\"b\",\"uid\":\"u\",\"controller\":true},\
                 {\"apiVersion\":\"\",\"kind\":\"\",\"name\":\"\",\"uid\":\"\"}]: Only one reference can have Controller set to \
                 true. Found \"true\" in references for Pod/a and Pod/b",
                "metadata.ownerReferences[2].apiVersion: Required value: must not be empty",
                "metadata.ownerReferences[2].kind: Required value: must not be empty",
                "metadata.ownerReferences[2].name: Required value: must not be empty",
                "metadata.ownerReferences[2].uid: Required value: must not be empty",
            ]
        );
    }

    #[test]
    fn finalizers_of_a_deleted_object_only_go() {
        let old = json!({"name": "a", "deletionTimestamp": "t", "finalizers": ["a.b/c"]});
        let new = json!({"name": "a", "deletionTimestamp": "t", "finalizers": ["a.b/c", "a.b/d"]});
        assert_eq!(
            said(new, Some(old)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found \
              new finalizers []string{\"a.b/d\"}"
            ]
        );
    }

    #[test]
    fn finalizers_without_a_prefix_are_the_known_ones() {
        let found = said(json!({"name": "a", "finalizers": ["orphan", "mine", "foregroundDeletion"]}), None);
        assert_eq!(
            found,
            [
                "metadata.finalizers: Invalid value: [\"orphan\",\"mine\",\"foregroundDeletion\"]: finalizer orphan and \
                 foregroundDeletion cannot be both set",
                "metadata.finalizers[1]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it \
                 fully qualified",
            ]
        );
    }
}
