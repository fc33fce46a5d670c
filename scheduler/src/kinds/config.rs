//! ConfigMaps and Secrets.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use super::{
    json::{ensure, members, set_default, text},
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

/// What upstream fills in for a Secret, after `stringData` has gone into `data`.
pub(super) fn secret_defaults(secret: &mut Value) {
    merge_string_data(secret);
    if let Some(secret) = secret.as_object_mut() {
        set_default(secret, "type", "Opaque");
    }
}

/// `stringData` is for writing only: it goes over `data`, encoded, and is never stored.
fn merge_string_data(secret: &mut Value) {
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

/// Everything that a ConfigMap or Secret holds.
const MAX_DATA: usize = 1024 * 1024;

/// A ConfigMap; `old` on update.
pub(super) fn validate_config_map(map: &Value, old: Option<&Value>) -> Vec<Cause> {
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

/// A Secret; `old` on update.
pub(super) fn validate_secret(secret: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    if let Some(old) = old {
        meta::object_meta_update(secret, old, &mut problems);
        problems.immutable(&Path::new("type"), &secret["type"], &old["type"]);
        stays(secret, old, &["data"], &mut problems);
    }
    meta::object_meta(secret, names::dns_subdomain, &mut problems);
    let mut size = 0;
    for (key, value) in members(&secret["data"]) {
        problems.all(&Path::new("data").key(key), key, names::config_key(key));
        size += decoded_length(value);
    }
    if size > MAX_DATA {
        problems.too_long(&Path::new("data"), MAX_DATA);
    }
    keys_of_type(secret, &mut problems);
    problems.into_causes()
}

/// What the readers of a secret of this type look for.
fn keys_of_type(secret: &Value, problems: &mut Problems) {
    let path = Path::new("data");
    let present = |key: &str| secret["data"].get(key).is_some();
    let mut need = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !present(key)) {
            problems.required(&path.key(key), "");
        }
    };
    match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            if text(&secret["metadata"]["annotations"], name).is_empty() {
                problems.required(&Path::new("metadata.annotations").key(name), "");
            }
        }
        "kubernetes.io/basic-auth" if present("username") || present("password") => {}
        "kubernetes.io/basic-auth" => need(&["username", "password"]),
        "kubernetes.io/ssh-auth" if text(&secret["data"], "ssh-privatekey").is_empty() => {
            problems.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        "kubernetes.io/dockercfg" => registry_logins(secret, ".dockercfg", problems),
        "kubernetes.io/dockerconfigjson" => registry_logins(secret, ".dockerconfigjson", problems),
        _ => {}
    }
}

fn registry_logins(secret: &Value, key: &str, problems: &mut Problems) {
    let path = Path::new("data").key(key);
    let Some(text) = secret["data"][key].as_str() else { return problems.required(&path, "") };
    let text = STANDARD.decode(text).unwrap_or_default();
    let why = match serde_json::from_slice::<Value>(&text) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(other) => format!(
            "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            crate::model::go::json_type(&other)
        ),
        Err(_) if text.is_empty() => "unexpected end of JSON input".to_owned(),
        Err(error) => what(&error),
    };
    problems.invalid(&path, "<secret contents redacted>", why);
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
