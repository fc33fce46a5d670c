//! ConfigMaps.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules,
    json::members,
    kind::texts,
    print::{AGE, NAME, age, column, name, size},
    validate::{
        Path, Problems,
        data::{MAX_DATA, decoded_length, stays},
        meta, names,
    },
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["cm"]),
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<ConfigMap>(ConfigMaps)
    }
}

const COLUMNS: &[Column] = &[NAME, column("Data", "string", "=core.v1.ConfigMap.data"), AGE];

struct ConfigMaps;

impl Rules for ConfigMaps {
    fn validate(&self, map: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(map, old)
    }

    fn cells(&self, map: &Value, now: i64) -> Vec<Value> {
        let count = size(&map["data"]) + size(&map["binaryData"]);
        vec![name(map), json!(count), age(map, now)]
    }
}

/// A ConfigMap; `old` on update.
fn validate(map: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    if let Some(old) = old {
        meta::object_meta_update(map, old, &mut problems);
        stays(map, old, &["data", "binaryData"], &mut problems);
    }
    meta::object_meta(map, names::dns_subdomain, &mut problems);
    let mut size = 0;
    for (key, value) in members(&map["data"]) {
        let path = Path::new("data").key(key);
        problems.all(&path, key, names::config_key(key));
        if map["binaryData"].get(key).is_some() {
            problems.invalid(&path, key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in members(&map["binaryData"]) {
        problems.all(&Path::new("binaryData").key(key), key, names::config_key(key));
        size += decoded_length(value);
    }
    if size > MAX_DATA {
        // Of no one field.
        problems.too_long(&Path::new(""), MAX_DATA);
    }
    problems.into_causes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(causes: &[Cause]) -> Vec<String> {
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn keys_are_file_names() {
        let map =
            json!({"metadata": {"name": "c"}, "data": {"a b": "x", "k": "v"}, "binaryData": {"k": "dg=="}});
        let expected = [
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', \
             '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
             '[-._a-zA-Z0-9]+')",
            "data[k]: Invalid value: \"k\": duplicate of key present in binaryData",
        ];
        assert_eq!(messages(&validate(&map, None)), expected);
    }

    #[test]
    fn immutable_data_stays() {
        let old = json!({"metadata": {"name": "c"}, "data": {"k": "1"}, "immutable": true});
        let new = json!({"metadata": {"name": "c"}, "data": {"k": "2"}});
        let expected = [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ];
        assert_eq!(messages(&validate(&new, Some(&old))), expected);
        assert!(validate(&old, Some(&old)).is_empty());
    }
}
