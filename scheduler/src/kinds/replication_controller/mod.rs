//! ReplicationControllers.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules, Subresource,
    json::{ensure, member_mut, set_default, text},
    kind::texts,
    pod,
    print::{AGE, NAME, column, wide},
    replica_set,
    validate::{Path, Problems, meta, names, selectors},
    workload::{
        self,
        print::{CONTAINERS, IMAGES, label_text},
        template::{self, counted},
    },
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["rc"]),
        categories: texts(["all"]),
        subresources: vec![Subresource::Status, Subresource::Scale],
        fields: ["status.replicas".into()].into(),
        generation: true,
        orphans: true,
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<ReplicationController>(Controllers)
    }
}

struct Controllers;

impl Rules for Controllers {
    fn defaults(&self, controller: &mut Value) {
        defaults(controller);
    }

    fn prepare_create(&self, controller: &mut Value) {
        controller["status"] = json!({"replicas": 0});
        template::drop_gated(controller);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        template::prepare_update(new, old);
    }

    fn validate(&self, controller: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(controller, old)
    }

    fn validate_sub(&self, _: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        validate(new, Some(old))
    }

    fn warnings(&self, controller: &Value) -> Vec<String> {
        template::warnings(controller)
    }

    /// Upstream looks at the template that there was.
    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        if counted(new, old) { template::template_warnings(old) } else { Vec::new() }
    }

    fn cells(&self, controller: &Value, now: i64) -> Vec<Value> {
        cells(controller, now)
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Desired",
        "integer",
        "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and \
         unspecified. Defaults to 1. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    column(
        "Current",
        "integer",
        "Replicas is the most recently observed number of replicas. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    column("Ready", "integer", "The number of ready replicas for this replication controller."),
    AGE,
    CONTAINERS,
    IMAGES,
    wide(
        "Selector",
        "string",
        "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is \
         defaulted to the labels present on the Pod template. Label keys and values that must match in order to be \
         controlled by this replication controller, if empty defaulted to labels on Pod template. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

fn cells(controller: &Value, now: i64) -> Vec<Value> {
    let mut cells = replica_set::cells(controller, now);
    cells.pop();
    cells.push(label_text(&controller["spec"]["selector"]));
    cells
}

/// A controller that names neither a selector nor labels has those of its template.
fn defaults(controller: &mut Value) {
    let Some(controller) = controller.as_object_mut() else { return };
    let spec = ensure(controller, "spec");
    set_default(spec, "replicas", 1);
    if member_mut(spec, "template").is_some() {
        pod::defaults::template(spec);
    }
    let labels = spec.get("template").and_then(|template| template.pointer("/metadata/labels"));
    let Some(labels) = labels.filter(|labels| labels.is_object()).cloned() else { return };
    let empty =
        |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    if empty(spec.get("selector")) {
        spec.insert("selector".to_owned(), labels.clone());
    }
    let metadata = ensure(controller, "metadata");
    if empty(metadata.get("labels")) {
        metadata.insert("labels".to_owned(), labels);
    }
}

/// A ReplicationController; `old` on update.
fn validate(controller: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    match old {
        // What the name has to look like is told last.
        None => meta::object_meta_of_made(controller, |_| Vec::new(), &mut problems),
        Some(old) => meta::object_meta_update(controller, old, &mut problems),
    }
    let (spec, path) = (&controller["spec"], Path::new("spec"));
    problems.not_negative(&path.field("minReadySeconds"), &spec["minReadySeconds"]);
    let selected = spec["selector"].as_object().is_some_and(|selector| !selector.is_empty());
    if !selected {
        problems.required(&path.field("selector"), "");
    }
    problems.not_negative(&path.field("replicas"), &spec["replicas"]);
    let (template, at) = (&spec["template"], path.field("template"));
    if template.is_null() {
        problems.required(&at, "");
    } else {
        let labels = &template["metadata"]["labels"];
        if selected && !selectors::matches(&json!({"matchLabels": spec["selector"]}), labels) {
            let at = at.field("metadata").field("labels");
            problems.invalid(&at, labels.clone(), "`selector` does not match template `labels`");
        }
        pod::validate::template(template, "ReplicationController", &at, &mut problems);
    }
    if old.is_some_and(|old| old["status"] != controller["status"]) {
        workload::replica_status(&controller["status"], &mut problems);
    }
    let name = text(&controller["metadata"], "name");
    if old.is_none() && !name.is_empty() {
        problems.all(&Path::new("metadata").field("name"), name, names::dns_subdomain(name));
    }
    problems.into_causes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(change: impl Fn(&mut Value)) -> Value {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]}}},
        });
        change(&mut object);
        defaults(&mut object);
        object
    }

    fn told(causes: &[Cause]) -> String {
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    fn problem(change: impl Fn(&mut Value)) -> String {
        told(&validate(&controller(change), None))
    }

    #[test]
    fn selector_and_labels_are_those_of_the_template() {
        let made = controller(|_| {});
        assert_eq!(made["spec"]["replicas"], 1);
        assert_eq!(made["spec"]["selector"], json!({"app": "web"}));
        assert_eq!(made["metadata"]["labels"], json!({"app": "web"}));
        let own = controller(|c| {
            c["spec"]["selector"] = json!({"app": "web", "tier": "front"});
            c["metadata"]["labels"] = json!({"a": "b"});
        });
        assert_eq!(own["spec"]["selector"], json!({"app": "web", "tier": "front"}));
        assert_eq!(own["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(problem(|_| {}), "");
    }

    #[test]
    fn wrong_controllers_are_refused_as_upstream_refuses_them() {
        assert_eq!(
            problem(|c| {
                c["spec"]["selector"] = json!({"app": "other"});
                c["spec"]["replicas"] = json!(-1);
            }),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0; spec.template.metadata.labels: \
             Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
        );
        assert_eq!(
            problem(|c| c["spec"]["template"] = json!(null)),
            "spec.selector: Required value; spec.template: Required value"
        );
        assert_eq!(
            problem(|c| c["spec"]["template"]["spec"]["activeDeadlineSeconds"] = json!(5)),
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is \
             not Supported"
        );
    }

    #[test]
    fn the_form_of_a_name_is_told_last_and_that_of_a_prefix_not_at_all() {
        let causes = validate(&json!({"metadata": {"name": "A_b"}}), None);
        let fields: Vec<&str> = causes.iter().map(|cause| cause.field.as_str()).collect();
        assert_eq!(fields, ["spec.selector", "spec.template", "metadata.name"]);
        assert_eq!(problem(|c| c["metadata"]["generateName"] = json!("A_b")), "");
    }

    #[test]
    fn a_status_counts_no_more_than_there_are() {
        let mut old = controller(|_| {});
        old["status"] = json!({"replicas": 0});
        let mut new = old.clone();
        new["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": -1});
        assert_eq!(
            told(&validate(&new, Some(&old))),
            "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0; status.readyReplicas: \
             Invalid value: 2: cannot be greater than status.replicas"
        );
    }
}
