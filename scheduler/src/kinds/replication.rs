//! ReplicationControllers and PodTemplates: the kinds of core/v1 that hold a pod template. What a replication
//! controller does is the ReplicaSet's controller's business.

use serde_json::{Value, json};

use super::{
    Kind, Subresource,
    base::BASE,
    json::{ensure, member_mut, set_default, text},
    pod, print,
    validate::{Path, Problems, meta, names, selectors},
    workload,
};
use crate::model::{Cause, Resource};

/// The row of PodTemplates.
pub(super) const POD_TEMPLATE: Kind = Kind {
    resource: Resource::POD_TEMPLATES,
    kind: "PodTemplate",
    plural: "podtemplates",
    singular: "podtemplate",
    definition: "io.k8s.api.core.v1.PodTemplate",
    generation: true,
    defaults: |template| {
        if let Some(template) = template.as_object_mut() {
            pod::defaults::template(template);
        }
    },
    prepare_create: drop_gated,
    prepare_update: |template, _| drop_gated(template),
    validate: validate_template,
    warnings: template_warnings,
    update_warnings: |new, old| {
        if workload::template::counted(new, old) { template_warnings(new) } else { Vec::new() }
    },
    columns: print::POD_TEMPLATE_COLUMNS,
    cells: print::pod_template,
    ..BASE
};

/// The row of ReplicationControllers.
pub(super) const REPLICATION_CONTROLLER: Kind = Kind {
    resource: Resource::REPLICATION_CONTROLLERS,
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    subresources: &[Subresource::Status, Subresource::Scale],
    definition: "io.k8s.api.core.v1.ReplicationController",
    fields: &["status.replicas"],
    generation: true,
    defaults: controller_defaults,
    prepare_create: |controller| {
        controller["status"] = json!({"replicas": 0});
        workload::template::drop_gated(controller);
    },
    prepare_update: workload::template::prepare_update,
    validate: validate_controller,
    validate_sub: |_, new, old| validate_controller(new, Some(old)),
    warnings: workload::template::warnings,
    // Upstream looks at the template that there was.
    update_warnings: |new, old| {
        if workload::template::counted(new, old) {
            workload::template::template_warnings(old)
        } else {
            Vec::new()
        }
    },
    orphans: true,
    columns: print::REPLICATION_CONTROLLER_COLUMNS,
    cells: print::replication_controller,
    ..BASE
};

fn drop_gated(template: &mut Value) {
    if let Some(template) = template.as_object_mut().and_then(|object| member_mut(object, "template")) {
        pod::prepare::drop_gated(template);
    }
}

fn template_warnings(template: &Value) -> Vec<String> {
    pod::warnings::template(&template["template"], &Path::new("template"))
}

/// A controller that names neither a selector nor labels has those of its template.
fn controller_defaults(controller: &mut Value) {
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

/// A PodTemplate. Unlike that of a workload its pods may end.
fn validate_template(template: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    workload::metadata(template, old, &mut problems);
    pod::validate::any_template(&template["template"], &Path::new("template"), &mut problems);
    problems.into_causes()
}

/// A ReplicationController; `old` on update.
fn validate_controller(controller: &Value, old: Option<&Value>) -> Vec<Cause> {
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
        controller_defaults(&mut object);
        object
    }

    fn told(causes: &[Cause]) -> String {
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    fn problem(change: impl Fn(&mut Value)) -> String {
        told(&validate_controller(&controller(change), None))
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
        let causes = validate_controller(&json!({"metadata": {"name": "A_b"}}), None);
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
            told(&validate_controller(&new, Some(&old))),
            "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0; status.readyReplicas: \
             Invalid value: 2: cannot be greater than status.replicas"
        );
    }

    #[test]
    fn the_pods_of_a_template_may_end() {
        let mut template = json!({"metadata": {"name": "t"}, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i:1"}]}}});
        (POD_TEMPLATE.defaults)(&mut template);
        assert_eq!(template["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        assert_eq!(told(&validate_template(&template, None)), "");
        template["template"]["spec"]["containers"] = json!([]);
        assert_eq!(told(&validate_template(&template, None)), "template.spec.containers: Required value");
    }
}
