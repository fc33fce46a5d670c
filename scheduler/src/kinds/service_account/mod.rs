//! ServiceAccounts.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

use super::{
    Column, Kind, Rules,
    json::items_mut,
    kind::texts,
    print::{AGE, NAME, age, name},
    validate::{Problems, meta, names},
};
use crate::model::Cause;

const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["sa"]),
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<ServiceAccount>(ServiceAccounts)
    }
}

const COLUMNS: &[Column] = &[NAME, AGE];

struct ServiceAccounts;

impl Rules for ServiceAccounts {
    fn prepare_create(&self, account: &mut Value) {
        prepare(account);
    }

    fn prepare_update(&self, new: &mut Value, _: &Value) {
        prepare(new);
    }

    fn validate(&self, account: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(account, old)
    }

    fn warnings(&self, account: &Value) -> Vec<String> {
        warnings(account)
    }

    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        update_warnings(new, old)
    }

    fn cells(&self, account: &Value, now: i64) -> Vec<Value> {
        vec![name(account), age(account, now)]
    }
}

/// Of the secrets that a ServiceAccount names, the name alone counts.
fn prepare(account: &mut Value) {
    let Some(account) = account.as_object_mut() else { return };
    for secret in items_mut(account, "secrets") {
        secret.retain(|field, value| field == "name" && value != "");
    }
}

/// A ServiceAccount; `old` on update.
fn validate(account: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    if let Some(old) = old {
        meta::object_meta_update(account, old, &mut problems);
    }
    meta::object_meta(account, names::dns_subdomain, &mut problems);
    problems.into_causes()
}

/// Warnings about a ServiceAccount.
fn warnings(account: &Value) -> Vec<String> {
    if account["metadata"]["annotations"][MOUNTABLE].is_null() {
        return Vec::new();
    }
    let why = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
    vec![format!("metadata.annotations[{MOUNTABLE}]: {why}")]
}

/// Warnings about a changed ServiceAccount: what was so before was told then.
fn update_warnings(new: &Value, old: &Value) -> Vec<String> {
    if old["metadata"]["annotations"][MOUNTABLE].is_null() { warnings(new) } else { Vec::new() }
}
