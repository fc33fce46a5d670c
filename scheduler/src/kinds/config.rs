//! ConfigMaps and Secrets.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::json::{ensure, set_default};

/// What upstream fills in for a Secret.
pub(super) fn secret_defaults(secret: &mut Value) {
    if let Some(secret) = secret.as_object_mut() {
        set_default(secret, "type", "Opaque");
    }
}

/// `stringData` is for writing only: it goes over `data`, encoded, and is never stored.
pub(super) fn merge_string_data(secret: &mut Value) {
    let Some(secret) = secret.as_object_mut() else { return };
    let Some(Value::Object(plain)) = secret.remove("stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let data = ensure(secret, "data");
    for (name, value) in plain {
        data.insert(name, STANDARD.encode(value.as_str().unwrap_or_default()).into());
    }
}

/// A Secret keeps its type unless the update names another, which validation then refuses.
pub(super) fn prepare_secret_update(new: &mut Value, old: &Value) {
    merge_string_data(new);
    if let (Some(secret), Some(ty)) = (new.as_object_mut(), old.get("type")) {
        set_default(secret, "type", ty.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn string_data_wins_over_data_and_is_not_kept() {
        let mut secret = json!({"data": {"a": "b2xk", "b": "Yg=="}, "stringData": {"a": "new\n"}});
        merge_string_data(&mut secret);
        assert_eq!(secret, json!({"data": {"a": "bmV3Cg==", "b": "Yg=="}}));
    }
}
