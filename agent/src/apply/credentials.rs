//! Registry credentials out of pull secrets. Never logs any of them.

use std::sync::Arc;

use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use crate::{images::Credential, model::Desired};

/// Credentials of all named secrets of the namespace that are there; the others are passed over, as upstream does.
pub(super) fn credentials(desired: &Desired, namespace: &Arc<str>, names: &[String]) -> Vec<Credential> {
    let mut all = Vec::new();
    for name in names {
        let key = (Arc::clone(namespace), Arc::from(name.as_str()));
        if let Some(secret) = desired.secrets.get(&key) {
            all.extend(of_secret(&secret.object));
        }
    }
    all
}

fn of_secret(secret: &Secret) -> Vec<Credential> {
    let data = |key: &str| {
        let bytes = &secret.data.as_ref()?.get(key)?.0;
        serde_json::from_slice::<Value>(bytes).ok()
    };
    let registries = data(".dockerconfigjson")
        .and_then(|config| config.get("auths").cloned())
        .or_else(|| data(".dockercfg"));
    let Some(Value::Object(registries)) = registries else { return Vec::new() };
    registries.iter().filter_map(|(registry, entry)| credential(registry, entry)).collect()
}

fn credential(registry: &str, entry: &Value) -> Option<Credential> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let (username, password) = match (text("username"), text("password")) {
        (Some(username), Some(password)) => (username, password),
        _ => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
            let joined = String::from_utf8(bytes).ok()?;
            let (username, password) = joined.split_once(':')?;
            (username.to_owned(), password.to_owned())
        }
    };
    // `https://index.docker.io/v1/` and `registry.example:5000` both name a host.
    let host = registry.split_once("://").map_or(registry, |(_, rest)| rest);
    let registry = host.split('/').next().unwrap_or(host).to_owned();
    Some(Credential { registry, username, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SharedObject;

    #[test]
    fn both_forms_of_docker_configuration_are_read() {
        let config = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "dXNlcjpwYTpzcw=="},
            "registry.example:5000": {"username": "u", "password": "p"}}});
        let secret: Secret = serde_json::from_value(serde_json::json!({"data": {
            ".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(config.to_string())}}))
        .unwrap();
        let mut desired = Desired::default();
        desired
            .secrets
            .insert(("ns".into(), "pull".into()), SharedObject { generation: 1, object: Arc::new(secret) });
        let found = credentials(&desired, &"ns".into(), &["absent".into(), "pull".into()]);
        let found: Vec<_> = found.iter().map(|c| (&*c.registry, &*c.username, &*c.password)).collect();
        assert_eq!(found, [("index.docker.io", "user", "pa:ss"), ("registry.example:5000", "u", "p")]);
    }
}
