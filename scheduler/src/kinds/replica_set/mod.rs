//! ReplicaSets.

use std::borrow::Cow;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules, Subresource,
    json::{ensure, set_default},
    kind::texts,
    pod,
    print::{AGE, NAME, age, column, integer, name, wide},
    validate::{Path, Problems, meta},
    workload::{
        self,
        print::{CONTAINERS, IMAGES, template_cells},
        template,
    },
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["rs"]),
        categories: texts(["all"]),
        subresources: vec![Subresource::Status, Subresource::Scale],
        generation: true,
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<ReplicaSet>(ReplicaSets)
    }
}

struct ReplicaSets;

impl Rules for ReplicaSets {
    fn defaults(&self, set: &mut Value) {
        defaults(set);
    }

    fn prepare_create(&self, set: &mut Value) {
        template::prepare_create(set);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        template::prepare_update(new, old);
    }

    fn validate(&self, set: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(set, old)
    }

    fn validate_sub(&self, _: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        validate_status(new, old)
    }

    fn warnings(&self, set: &Value) -> Vec<String> {
        template::warnings(set)
    }

    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        template::update_warnings(new, old)
    }

    fn cells(&self, set: &Value, now: i64) -> Vec<Value> {
        cells(set, now)
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", "=apps.v1.ReplicaSetSpec.replicas"),
    column("Current", "integer", "=apps.v1.ReplicaSetStatus.replicas"),
    column("Ready", "integer", "=apps.v1.ReplicaSetStatus.readyReplicas"),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", "string", "=apps.v1.ReplicaSetSpec.selector"),
];

pub(in crate::kinds) fn cells(set: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let mut cells = vec![
        name(set),
        json!(integer(&spec["replicas"])),
        json!(integer(&status["replicas"])),
        json!(integer(&status["readyReplicas"])),
        age(set, now),
    ];
    cells.extend(template_cells(spec));
    cells
}

/// What upstream fills in for a ReplicaSet.
fn defaults(set: &mut Value) {
    let Some(set) = set.as_object_mut() else { return };
    let spec = ensure(set, "spec");
    set_default(spec, "replicas", 1);
    pod::defaults::template(spec);
}

/// A ReplicaSet; `old` on update.
fn validate(set: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    workload::metadata(set, old, &mut problems);
    let (spec, path) = (&set["spec"], Path::new("spec"));
    for field in ["replicas", "minReadySeconds"] {
        problems.not_negative(&path.field(field), &spec[field]);
    }
    workload::selected_template(spec, &path, &mut problems);
    workload::selector_stays(set, old, &mut problems);
    problems.into_causes()
}

/// The status of a ReplicaSet as a client writes it.
fn validate_status(set: &Value, old: &Value) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta_update(set, old, &mut problems);
    workload::replica_status(&set["status"], &mut problems);
    problems.into_causes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_in_a_status_fit_together() {
        let set = |status: Value| json!({"metadata": {"name": "s"}, "status": status});
        let write = |status: Value| {
            let causes = validate_status(&set(status), &set(json!({})));
            causes.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>()
        };
        assert!(write(json!({"replicas": 2, "readyReplicas": 2, "availableReplicas": 1})).is_empty());
        assert_eq!(
            write(json!({"replicas": 1, "availableReplicas": 1})),
            ["status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas"]
        );
    }
}
