//! Namespaces. A new one waits for its content before it goes, and bears its name as a label.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Namespace;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules, Subresource,
    base::keep_status,
    json::{ensure, items, set_default, text},
    kind::texts,
    print::{AGE, NAME, age, column, name},
    validate::{Path, Problems, meta, names},
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["ns"]),
        subresources: vec![Subresource::Status, Subresource::Finalize],
        fields: ["status.phase".into()].into(),
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<Namespace>(Namespaces)
    }
}

const COLUMNS: &[Column] = &[NAME, column("Status", "string", "The status of the namespace"), AGE];

struct Namespaces;

impl Rules for Namespaces {
    fn defaults(&self, namespace: &mut Value) {
        defaults(namespace);
    }

    fn prepare_create(&self, namespace: &mut Value) {
        prepare(namespace);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_status(new, old);
        // Finalizers of the content go through `finalize` alone.
        new["spec"] = old["spec"].clone();
    }

    fn validate(&self, namespace: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(namespace, old)
    }

    fn validate_sub(&self, sub: Subresource, namespace: &Value, old: &Value) -> Vec<Cause> {
        validate_sub(sub, namespace, old)
    }

    fn cells(&self, namespace: &Value, now: i64) -> Vec<Value> {
        vec![name(namespace), json!(text(&namespace["status"], "phase")), age(namespace, now)]
    }
}

/// Every namespace is labelled with its own name, so that selectors can name it.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The finalizer behind which a namespace waits for its content.
const CONTENT: &str = "kubernetes";

/// A new Namespace waits for its content before it goes.
fn prepare(namespace: &mut Value) {
    namespace["status"] = json!({"phase": "Active"});
    let Some(namespace) = namespace.as_object_mut() else { return };
    let finalizers = ensure(namespace, "spec").entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut().filter(|list| list.iter().all(|f| f != CONTENT)) {
        list.push(CONTENT.into());
    }
}

/// What upstream fills in for a Namespace.
fn defaults(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].clone();
    if let Some(namespace) = namespace.as_object_mut() {
        ensure(ensure(namespace, "metadata"), "labels").insert(NAME_LABEL.to_owned(), name);
        set_default(ensure(namespace, "status"), "phase", "Active");
    }
}

/// A Namespace; `old` on update.
fn validate(namespace: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(namespace, names::dns_label, &mut problems);
    content_finalizers(namespace, |path, _| path.clone(), &mut problems);
    if let Some(old) = old {
        meta::object_meta_update(namespace, old, &mut problems);
    }
    problems.into_causes()
}

/// A write of a Namespace's status, or of its finalizers.
fn validate_sub(sub: Subresource, namespace: &Value, old: &Value) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta_update(namespace, old, &mut problems);
    if sub == Subresource::Finalize {
        content_finalizers(namespace, Path::index, &mut problems);
        return problems.into_causes();
    }
    let (going, phase) =
        (!old["metadata"]["deletionTimestamp"].is_null(), text(&namespace["status"], "phase"));
    let (wanted, which) = if going { ("Terminating", "not empty") } else { ("Active", "empty") };
    if phase != wanted {
        let why = format!("may only be '{wanted}' if `deletionTimestamp` is {which}");
        problems.invalid(&Path::new("status.Phase"), phase, why);
    }
    problems.into_causes()
}

fn content_finalizers(namespace: &Value, at: fn(&Path, usize) -> Path, problems: &mut Problems) {
    let path = Path::new("spec.finalizers");
    for (index, name) in items(&namespace["spec"]["finalizers"]).iter().filter_map(Value::as_str).enumerate()
    {
        let path = at(&path, index);
        problems.all(&path, name, names::qualified_name(name));
        meta::standard_finalizer(name, &path, problems);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn the_phase_of_a_namespace_follows_its_deletion() {
        let namespace = |phase: &str| json!({"metadata": {"name": "n"}, "status": {"phase": phase}});
        let write =
            |phase: &str| said(validate_sub(Subresource::Status, &namespace(phase), &namespace("Active")));
        assert!(write("Active").is_empty());
        assert_eq!(
            write("Terminating"),
            [
                "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
            ]
        );
    }
}
