//! The row of Pods.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::{defaults, prepare, print, status, validate, warnings};
use crate::{
    kinds::{Kind, Rules, Subresource, base::keep_status, kind::texts},
    model::Cause,
};

/// What field selectors may use.
const FIELDS: [&str; 9] = [
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    // Taken in selectors and empty on every pod, as upstream.
    "status.podIPs",
    "status.nominatedNodeName",
];

/// The row.
pub(in crate::kinds) fn kind() -> Kind {
    Kind {
        short_names: texts(["po"]),
        categories: texts(["all"]),
        subresources: vec![
            Subresource::Status,
            Subresource::Binding,
            Subresource::Log,
            Subresource::Exec,
            Subresource::Attach,
            Subresource::PortForward,
            Subresource::Proxy,
            Subresource::Eviction,
        ],
        fields: FIELDS.map(Cow::Borrowed).into(),
        labels: vec![("spec.host".into(), "spec.nodeName".into())],
        generation: true,
        // Old kubelets broke the owners of pods when they wrote a status.
        status_keeps: &[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]],
        columns: Cow::Borrowed(print::COLUMNS),
        ..Kind::published::<Pod>(Pods)
    }
}

struct Pods;

impl Rules for Pods {
    fn defaults(&self, pod: &mut Value) {
        defaults::pod(pod);
    }

    fn prepare_create(&self, pod: &mut Value) {
        prepare::new_pod(pod);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_status(new, old);
        prepare::changed_pod(new, old);
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        status::prepare(new, old);
    }

    fn validate(&self, pod: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate::pod(pod, old)
    }

    fn validate_sub(&self, _: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        validate::pod(new, Some(old))
    }

    fn warnings(&self, pod: &Value) -> Vec<String> {
        warnings::pod(pod)
    }

    fn early_warnings(&self, pod: &Value) -> Vec<String> {
        prepare::profile_warnings(pod)
    }

    fn status_warnings(&self, pod: &Value) -> Vec<String> {
        status::address_warnings(pod)
    }

    fn cells(&self, pod: &Value, now: i64) -> Vec<Value> {
        print::cells(pod, now)
    }
}
