//! Leases.

use std::borrow::Cow;

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules,
    json::text,
    print::{AGE, NAME, age, column, name},
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        create_on_update: true,
        revision_on_update: true,
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<Lease>(Leases)
    }
}

const COLUMNS: &[Column] =
    &[NAME, column("Holder", "string", "=coordination.v1.LeaseSpec.holderIdentity"), AGE];

struct Leases;

impl Rules for Leases {
    fn prepare_create(&self, lease: &mut Value) {
        prepare(lease);
    }

    fn prepare_update(&self, new: &mut Value, _: &Value) {
        prepare(new);
    }

    fn validate(&self, lease: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(lease, old)
    }

    fn cells(&self, lease: &Value, now: i64) -> Vec<Value> {
        vec![name(lease), json!(text(&lease["spec"], "holderIdentity")), age(lease, now)]
    }
}

/// Coordinated elections are not taken part in, so what only they use is not kept.
fn prepare(lease: &mut Value) {
    if let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("strategy");
        spec.remove("preferredHolder");
    }
}

/// A Lease; `old` on update.
fn validate(lease: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    match old {
        None => meta::plain_object_meta(lease, names::dns_subdomain, &mut problems),
        Some(old) => meta::plain_object_meta_update(lease, old, &mut problems),
    }
    let (spec, path) = (&lease["spec"], Path::new("spec"));
    if let Some(seconds) = spec["leaseDurationSeconds"].as_i64().filter(|s| *s <= 0) {
        problems.invalid(&path.field("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    problems.not_negative(&path.field("leaseTransitions"), &spec["leaseTransitions"]);
    problems.into_causes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_lease_takes_finalizers_of_any_name() {
        let lease =
            json!({"metadata": {"name": "l", "finalizers": ["mine"]}, "spec": {"leaseDurationSeconds": 0}});
        let expected = "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0";
        assert_eq!(said(validate(&lease, None)), [expected]);
    }
}
