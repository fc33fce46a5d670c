//! What every row of the kind table begins with: a kind without any behaviour, and what rows do with their status.

use serde_json::Value;

use super::{Kind, Scope, Subresource};
use crate::model::{Cause, Resource};

fn nothing(_: &mut Value) {}

fn nothing_kept(_: &mut Value, _: &Value) {}

fn no_causes(_: &Value, _: Option<&Value>) -> Vec<Cause> {
    Vec::new()
}

fn no_causes_of_sub(_: Subresource, _: &Value, _: &Value) -> Vec<Cause> {
    Vec::new()
}

/// Everything but what describes the object and what was observed.
fn wish_changed(new: &Value, old: &Value) -> bool {
    fn wish(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
    }
    wish(new).ne(wish(old))
}

fn no_warnings(_: &Value) -> Vec<String> {
    Vec::new()
}

fn no_update_warnings(_: &Value, _: &Value) -> Vec<String> {
    Vec::new()
}

fn no_cells(_: &Value, _: i64) -> Vec<Value> {
    Vec::new()
}

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

/// A namespaced core kind without any behaviour: the base of every row.
pub(super) const BASE: Kind = Kind {
    resource: Resource::CONFIG_MAPS,
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    subresources: &[],
    definition: "",
    fields: &[],
    labels: &[],
    generation: false,
    counts: wish_changed,
    status_keeps: &[&["spec"]],
    create_on_update: false,
    cached: true,
    revision_on_update: false,
    view: None,
    defaults: nothing,
    prepare_create: nothing,
    prepare_update: nothing_kept,
    prepare_status: nothing_kept,
    validate: no_causes,
    validate_sub: no_causes_of_sub,
    warnings: no_warnings,
    early_warnings: no_warnings,
    update_warnings: no_update_warnings,
    status_warnings: no_warnings,
    orphans: false,
    deprecated: None,
    columns: &[],
    cells: no_cells,
};
