//! Secrets. What is in one is in no complaint about it.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules,
    json::{ensure, members, set_default, text},
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
        fields: ["type".into()].into(),
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<Secret>(Secrets)
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", "=core.v1.Secret.type"),
    column("Data", "string", "=core.v1.Secret.data"),
    AGE,
];

struct Secrets;

impl Rules for Secrets {
    fn defaults(&self, secret: &mut Value) {
        defaults(secret);
    }

    fn validate(&self, secret: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(secret, old)
    }

    fn cells(&self, secret: &Value, now: i64) -> Vec<Value> {
        vec![name(secret), json!(text(secret, "type")), json!(size(&secret["data"])), age(secret, now)]
    }
}

/// What upstream fills in for a Secret, after `stringData` has gone into `data`.
fn defaults(secret: &mut Value) {
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

/// A Secret; `old` on update.
fn validate(secret: &Value, old: Option<&Value>) -> Vec<Cause> {
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

#[cfg(test)]
mod tests {
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
    fn typed_secrets_need_their_keys() {
        let secret = |ty: &str, data: Value| json!({"metadata": {"name": "s"}, "type": ty, "data": data});
        let tls = secret("kubernetes.io/tls", json!({"tls.crt": ""}));
        assert_eq!(messages(&validate(&tls, None)), ["data[tls.key]: Required value"]);
        assert!(validate(&secret("kubernetes.io/basic-auth", json!({"password": ""})), None).is_empty());
        let registry = |text: &str| {
            let data = json!({".dockerconfigjson": STANDARD.encode(text)});
            messages(&validate(&secret("kubernetes.io/dockerconfigjson", data), None))
        };
        assert!(registry("{}").is_empty());
        let said = registry("hunter2");
        let expected =
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": not JSON from line 1";
        assert!(said[0].starts_with(expected) && !said[0].contains("hunter2"), "{said:?}");
        let opaque = secret("Opaque", json!({}));
        let causes = validate(&tls, Some(&opaque));
        assert!(
            messages(&causes)
                .contains(&"type: Invalid value: \"kubernetes.io/tls\": field is immutable".to_owned())
        );
    }
}
