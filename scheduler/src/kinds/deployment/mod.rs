//! Deployments.

use std::borrow::Cow;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Map, Value, json};

use super::{
    Column, Kind, Rules, Subresource,
    json::{empty, ensure, set_default, text},
    kind::texts,
    pod,
    print::{AGE, NAME, age, column, integer, name},
    validate::{Path, Problems, meta},
    workload::{
        self,
        print::{CONTAINERS, IMAGES, SELECTOR, template_cells},
        template,
    },
};
use crate::model::Cause;

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["deploy"]),
        categories: texts(["all"]),
        subresources: vec![Subresource::Status, Subresource::Scale],
        generation: true,
        status_keeps: &[&["spec"], &["metadata", "labels"]],
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<Deployment>(Deployments)
    }
}

struct Deployments;

impl Rules for Deployments {
    fn defaults(&self, deployment: &mut Value) {
        defaults(deployment);
    }

    fn prepare_create(&self, deployment: &mut Value) {
        template::prepare_create(deployment);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        template::prepare_update(new, old);
    }

    fn counts(&self, new: &Value, old: &Value) -> bool {
        changed(new, old)
    }

    fn validate(&self, deployment: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate(deployment, old)
    }

    fn validate_sub(&self, _: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        validate_status(new, old)
    }

    fn warnings(&self, deployment: &Value) -> Vec<String> {
        template::warnings(deployment)
    }

    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        template::update_warnings(new, old)
    }

    fn cells(&self, deployment: &Value, now: i64) -> Vec<Value> {
        cells(deployment, now)
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "string", "Number of the pod with ready state"),
    column("Up-to-date", "string", "=apps.v1.DeploymentStatus.updatedReplicas"),
    column("Available", "string", "=apps.v1.DeploymentStatus.availableReplicas"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn cells(deployment: &Value, now: i64) -> Vec<Value> {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let mut cells = vec![
        name(deployment),
        json!(format!("{}/{}", integer(&status["readyReplicas"]), integer(&spec["replicas"]))),
        json!(integer(&status["updatedReplicas"])),
        json!(integer(&status["availableReplicas"])),
        age(deployment, now),
    ];
    cells.extend(template_cells(spec));
    cells
}

/// What upstream fills in for a Deployment.
fn defaults(deployment: &mut Value) {
    let Some(deployment) = deployment.as_object_mut() else { return };
    let spec = ensure(deployment, "spec");
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    rolling_update_defaults(ensure(spec, "strategy"));
    pod::defaults::template(spec);
}

fn rolling_update_defaults(strategy: &mut Map<String, Value>) {
    set_default(strategy, "type", "RollingUpdate");
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        let update = ensure(strategy, "rollingUpdate");
        for field in ["maxUnavailable", "maxSurge"] {
            // An empty text is a value, and a wrong one.
            update.entry(field).or_insert_with(|| "25%".into());
        }
    }
}

/// A Deployment; `old` on update.
fn validate(deployment: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    workload::metadata(deployment, old, &mut problems);
    let (spec, path) = (&deployment["spec"], Path::new("spec"));
    problems.not_negative(&path.field("replicas"), &spec["replicas"]);
    workload::selected_template(spec, &path, &mut problems);
    strategy(&spec["strategy"], &path.field("strategy"), &mut problems);
    for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        problems.not_negative(&path.field(field), &spec[field]);
    }
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= spec["minReadySeconds"].as_i64().unwrap_or_default()
    {
        let why = "must be greater than minReadySeconds";
        problems.invalid(&path.field("progressDeadlineSeconds"), deadline, why);
    }
    workload::selector_stays(deployment, old, &mut problems);
    problems.into_causes()
}

/// The status of a Deployment as a client writes it.
fn validate_status(deployment: &Value, old: &Value) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta_update(deployment, old, &mut problems);
    let (status, path) = (&deployment["status"], Path::new("status"));
    for field in ["observedGeneration", "replicas", "updatedReplicas"] {
        problems.not_negative(&path.field(field), &status[field]);
    }
    for field in
        ["readyReplicas", "availableReplicas", "unavailableReplicas", "terminatingReplicas", "collisionCount"]
    {
        problems.not_negative(&path.field(field), &status[field]);
    }
    workload::at_most(status, &["updatedReplicas", "readyReplicas", "availableReplicas"], &mut problems);
    let (count, before) =
        (workload::number(&status["collisionCount"]), workload::number(&old["status"]["collisionCount"]));
    if count < before {
        problems.invalid(&path.field("collisionCount"), count, "cannot be decremented");
    }
    problems.into_causes()
}

/// Annotations of a Deployment are copied to its ReplicaSets: they count as its spec does.
fn changed(new: &Value, old: &Value) -> bool {
    let annotations = |object: &'_ Value| match &object["metadata"]["annotations"] {
        Value::Null => empty(),
        annotations => annotations.clone(),
    };
    new["spec"] != old["spec"] || annotations(new) != annotations(old)
}

fn strategy(strategy: &Value, path: &Path, problems: &mut Problems) {
    let (update, update_path) = (&strategy["rollingUpdate"], path.field("rollingUpdate"));
    match text(strategy, "type") {
        "Recreate" if !update.is_null() => {
            problems.forbidden(&update_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if update.is_null() => {
            problems.required(&update_path, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => rolling_update(update, &update_path, problems),
        other => {
            let update = rolling_update_shown(update);
            let shown = format!("{{\"Type\":{other:?},\"RollingUpdate\":{update}}}");
            problems.unsupported_shown(path, &shown, &["Recreate", "RollingUpdate"]);
        }
    }
}

/// A rolling update as upstream prints it.
fn rolling_update_shown(update: &Value) -> String {
    let field = |name: &str| if update[name].is_null() { "0".to_owned() } else { update[name].to_string() };
    match update {
        Value::Null => "null".to_owned(),
        _ => {
            let (unavailable, surge) = (field("maxUnavailable"), field("maxSurge"));
            format!("{{\"MaxUnavailable\":{unavailable},\"MaxSurge\":{surge}}}")
        }
    }
}

fn rolling_update(update: &Value, path: &Path, problems: &mut Problems) {
    let field =
        |name: &str, problems: &mut Problems| int_or_percent(&update[name], &path.field(name), problems);
    let (unavailable, surge) = (field("maxUnavailable", problems), field("maxSurge", problems));
    if (unavailable, surge) == (Some(0), Some(0)) {
        let value = update["maxUnavailable"].clone();
        problems.invalid(&path.field("maxUnavailable"), value, "may not be 0 when `maxSurge` is 0");
    }
    let percent = update["maxUnavailable"].is_string();
    if percent && unavailable.is_some_and(|n| n > 100) {
        let value = update["maxUnavailable"].clone();
        problems.invalid(&path.field("maxUnavailable"), value, "must not be greater than 100%");
    }
}

/// A count or a share; returns its number when it is one.
fn int_or_percent(value: &Value, path: &Path, problems: &mut Problems) -> Option<i64> {
    match value {
        Value::String(text) => {
            let number = text.strip_suffix('%').filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
            let number = number.and_then(|n| n.parse().ok());
            if number.is_none() {
                let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  \
                           or '93%', regex used for validation is '[0-9]+%')";
                problems.invalid(path, text.as_str(), why);
            }
            number
        }
        number => {
            problems.not_negative(path, number);
            number.as_i64()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(change: impl Fn(&mut Value)) -> Value {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
            },
        });
        change(&mut object);
        defaults(&mut object);
        object
    }

    fn problem(change: impl Fn(&mut Value)) -> String {
        let causes = validate(&deployment(change), None);
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn defaults_are_upstreams() {
        let spec = deployment(|_| {})["spec"].clone();
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        let strategy =
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}});
        assert_eq!(spec["strategy"], strategy);
        assert!(problem(|_| {}).is_empty());
    }

    type Change = fn(&mut Value);

    #[test]
    fn wrong_deployments_are_refused_as_upstream_refuses_them() {
        let cases: [(Change, &str); 11] = [
            (
                |d| d["spec"]["selector"]["matchLabels"]["app"] = json!("other"),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ),
            (
                |d| d["spec"]["selector"] = json!(null),
                "spec.selector: Required value; spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: \
                 `selector` does not match template `labels`",
            ),
            (
                |d| d["spec"]["selector"]["matchExpressions"] = json!([{"key": "a", "operator": "b"}]),
                "spec.selector.matchExpressions[0].operator: Invalid value: \"b\": not a valid selector operator; \
                 spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\"},\"matchExpressions\":[{\"key\":\"a\",\
                 \"operator\":\"b\"}]}: invalid label selector",
            ),
            (
                |d| d["spec"]["selector"] = json!({}),
                "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            ),
            (
                |d| d["spec"]["replicas"] = json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                |d| d["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ),
            (
                |d| d["spec"]["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                |d| d["spec"]["strategy"] = json!({"type": "BlueGreen"}),
                "spec.strategy: Unsupported value: {\"Type\":\"BlueGreen\",\"RollingUpdate\":null}: supported values: \
                 \"Recreate\", \"RollingUpdate\"",
            ),
            (
                |d| d["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": "a"}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"a\": a valid percent string must be a \
                 numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            ),
            (
                |d| d["spec"]["template"]["spec"]["restartPolicy"] = json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                |d| d["spec"]["progressDeadlineSeconds"] = json!(0),
                "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(problem(change), expected);
        }
    }

    #[test]
    fn a_selector_never_changes() {
        let old = deployment(|_| {});
        let new = deployment(|d| {
            d["spec"]["selector"]["matchLabels"] = json!({"app": "new"});
            d["spec"]["template"]["metadata"]["labels"] = json!({"app": "new"});
        });
        let causes = validate(&new, Some(&old));
        assert_eq!(
            causes[0].message,
            "Invalid value: {\"matchLabels\":{\"app\":\"new\"}}: field is immutable"
        );
        let new = deployment(|d| {
            let one = json!([{"key": "app", "operator": "Exists"}]);
            d["spec"]["selector"] = json!({"matchExpressions": one, "matchLabels": {"app": "web"}});
        });
        let causes = validate(&new, Some(&old));
        assert_eq!(
            causes[0].message,
            "Invalid value: {\"matchLabels\":{\"app\":\"web\"},\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"Exists\"}]}: \
             field is immutable",
            "in the order of its type"
        );
        let causes = validate(&deployment(|d| d["spec"]["selector"] = Value::Null), Some(&old));
        assert_eq!(causes.last().unwrap().message, "Invalid value: null: field is immutable");
    }

    #[test]
    fn annotations_of_a_deployment_count_as_its_spec() {
        let old = deployment(|_| {});
        assert!(!changed(&deployment(|d| d["metadata"]["labels"] = json!({"a": "b"})), &old));
        assert!(!changed(&deployment(|d| d["metadata"]["annotations"] = json!({})), &old));
        assert!(changed(&deployment(|d| d["metadata"]["annotations"] = json!({"a": "b"})), &old));
        assert!(changed(&deployment(|d| d["spec"]["paused"] = json!(true)), &old));
    }

    #[test]
    fn a_count_of_collisions_never_falls() {
        let deployment = |count: i64| json!({"metadata": {"name": "d"}, "status": {"collisionCount": count}});
        let causes = validate_status(&deployment(1), &deployment(2));
        assert_eq!(causes[0].message, "Invalid value: 1: cannot be decremented");
    }
}
