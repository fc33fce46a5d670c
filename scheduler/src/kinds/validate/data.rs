//! What holds for the data of ConfigMaps and Secrets alike.

use serde_json::Value;

use super::{Path, Problems};

/// Everything that a ConfigMap or Secret holds.
pub(in crate::kinds) const MAX_DATA: usize = 1024 * 1024;

/// Data marked immutable stays, and so does the mark.
pub(in crate::kinds) fn stays(new: &Value, old: &Value, fields: &[&str], problems: &mut Problems) {
    if old["immutable"] != true {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    if new["immutable"] != true {
        problems.forbidden(&Path::new("immutable"), why);
    }
    for field in fields.iter().filter(|field| new[**field] != old[**field]) {
        problems.forbidden(&Path::new(field), why);
    }
}

/// How many bytes some base64 stands for.
pub(in crate::kinds) fn decoded_length(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)
}
