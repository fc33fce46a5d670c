//! What most rules do with the status of an object that is written as a whole.

use serde_json::Value;

pub(super) fn drop_status(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
}

pub(super) fn keep_status(new: &mut Value, old: &Value) {
    drop_status(new);
    if let (Some(map), Some(status)) = (new.as_object_mut(), old.get("status")) {
        map.insert("status".to_owned(), status.clone());
    }
}
