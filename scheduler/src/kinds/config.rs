//! ConfigMaps and Secrets.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{
    json::{ensure, members, set_default, text},
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

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

/// Everything that a ConfigMap or Secret holds.
const MAX_DATA: usize = 1024 * 1024;

/// A ConfigMap; `old` on update.
pub(super) fn validate_config_map(map: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
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
        // Of no one field; upstream's words.
        problems.too_long(&Path::new("[]"), MAX_DATA);
    }
    if let Some(old) = old {
        stays(map, old, &["data", "binaryData"], &mut problems);
    }
    problems.into_causes()
}

/// A Secret; `old` on update.
pub(super) fn validate_secret(secret: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(secret, names::dns_subdomain, &mut problems);
    let mut size = 0;
    for (key, value) in members(&secret["data"]) {
        problems.all(&Path::new("data").key(key), key, names::config_key(key));
        size += decoded_length(value);
    }
    if size > MAX_DATA {
        problems.too_long(&Path::new("data"), MAX_DATA);
    }
    let ty = text(secret, "type");
    let present = |key: &str| secret["data"].get(key).is_some();
    let (needed, any): (&[&str], bool) = match ty {
        "kubernetes.io/dockercfg" => (&[".dockercfg"], false),
        "kubernetes.io/dockerconfigjson" => (&[".dockerconfigjson"], false),
        "kubernetes.io/basic-auth" => (&["username", "password"], true),
        "kubernetes.io/ssh-auth" => (&["ssh-privatekey"], false),
        "kubernetes.io/tls" => (&["tls.crt", "tls.key"], false),
        _ => (&[], false),
    };
    if !(any && needed.iter().any(|k| present(k))) {
        for key in needed.iter().filter(|key| !present(key)) {
            problems.required(&Path::new("data").key(key), "");
        }
    }
    for key in needed.iter().filter(|key| key.starts_with(".docker")) {
        let text = secret["data"][key].as_str().and_then(|text| STANDARD.decode(text).ok());
        if let Some(error) = text.and_then(|text| serde_json::from_slice::<Value>(&text).err()) {
            problems.invalid(&Path::new("data").key(key), "<secret contents redacted>", what(&error));
        }
    }
    if let Some(old) = old {
        problems.immutable(&Path::new("type"), &secret["type"], &old["type"]);
        stays(secret, old, &["data"], &mut problems);
    }
    problems.into_causes()
}

/// Where it is wrong, and nothing of what it is.
fn what(error: &serde_json::Error) -> String {
    format!("not JSON from line {}, column {} on", error.line(), error.column())
}

/// Data marked immutable stays, and so does the mark.
fn stays(new: &Value, old: &Value, fields: &[&str], problems: &mut Problems) {
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

fn decoded_length(value: &Value) -> usize {
    value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)
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
        assert_eq!(messages(&validate_config_map(&map, None)), expected);
    }

    #[test]
    fn immutable_data_stays() {
        let old = json!({"metadata": {"name": "c"}, "data": {"k": "1"}, "immutable": true});
        let new = json!({"metadata": {"name": "c"}, "data": {"k": "2"}});
        let expected = [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ];
        assert_eq!(messages(&validate_config_map(&new, Some(&old))), expected);
        assert!(validate_config_map(&old, Some(&old)).is_empty());
    }

    #[test]
    fn typed_secrets_need_their_keys() {
        let secret = |ty: &str, data: Value| json!({"metadata": {"name": "s"}, "type": ty, "data": data});
        let tls = secret("kubernetes.io/tls", json!({"tls.crt": ""}));
        assert_eq!(messages(&validate_secret(&tls, None)), ["data[tls.key]: Required value"]);
        assert!(
            validate_secret(&secret("kubernetes.io/basic-auth", json!({"password": ""})), None).is_empty()
        );
        let registry = |text: &str| {
            let data = json!({".dockerconfigjson": STANDARD.encode(text)});
            messages(&validate_secret(&secret("kubernetes.io/dockerconfigjson", data), None))
        };
        assert!(registry("{}").is_empty());
        let said = registry("hunter2");
        let expected =
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": not JSON from line 1";
        assert!(said[0].starts_with(expected) && !said[0].contains("hunter2"), "{said:?}");
        let opaque = secret("Opaque", json!({}));
        let causes = validate_secret(&tls, Some(&opaque));
        assert!(
            messages(&causes)
                .contains(&"type: Invalid value: \"kubernetes.io/tls\": field is immutable".to_owned())
        );
    }
}
