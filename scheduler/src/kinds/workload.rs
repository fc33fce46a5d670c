//! Deployments and ReplicaSets.

use serde_json::{Map, Value};

use super::{
    json::{empty, ensure, set_default, text},
    pod,
    validate::{Path, Problems, meta, names, selectors},
};
use crate::model::Cause;

/// What upstream fills in for a Deployment.
pub(super) fn deployment_defaults(deployment: &mut Value) {
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
        set_default(update, "maxUnavailable", "25%");
        set_default(update, "maxSurge", "25%");
    }
}

/// What upstream fills in for a ReplicaSet.
pub(super) fn replica_set_defaults(set: &mut Value) {
    let Some(set) = set.as_object_mut() else { return };
    let spec = ensure(set, "spec");
    set_default(spec, "replicas", 1);
    pod::defaults::template(spec);
}

/// A Deployment; `old` on update.
pub(super) fn validate_deployment(deployment: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(deployment, names::dns_subdomain, &mut problems);
    let (spec, path) = (&deployment["spec"], Path::new("spec"));
    scaled_spec(spec, "deployment", &path, &mut problems);
    strategy(&spec["strategy"], &path.field("strategy"), &mut problems);
    for field in ["revisionHistoryLimit", "progressDeadlineSeconds"] {
        problems.not_negative(&path.field(field), &spec[field]);
    }
    if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64()
        && deadline <= spec["minReadySeconds"].as_i64().unwrap_or_default()
    {
        let why = "must be greater than minReadySeconds";
        problems.invalid(&path.field("progressDeadlineSeconds"), deadline, why);
    }
    selector_stays(deployment, old, &mut problems);
    problems.into_causes()
}

/// A ReplicaSet; `old` on update.
pub(super) fn validate_replica_set(set: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    meta::object_meta(set, names::dns_subdomain, &mut problems);
    scaled_spec(&set["spec"], "replicaset", &Path::new("spec"), &mut problems);
    selector_stays(set, old, &mut problems);
    problems.into_causes()
}

fn selector_stays(new: &Value, old: Option<&Value>, problems: &mut Problems) {
    if let Some(old) = old {
        problems.immutable(&Path::new("spec.selector"), &new["spec"]["selector"], &old["spec"]["selector"]);
    }
}

/// What everything with replicas, a selector and a template has in common.
fn scaled_spec(spec: &Value, kind: &str, path: &Path, problems: &mut Problems) {
    for field in ["replicas", "minReadySeconds"] {
        problems.not_negative(&path.field(field), &spec[field]);
    }
    let (selector, template) = (&spec["selector"], &spec["template"]);
    if selector.is_null() {
        problems.required(&path.field("selector"), "");
    } else {
        selectors::label_selector(selector, &path.field("selector"), problems);
        if selectors::is_empty(selector) {
            let why = format!("empty selector is invalid for {kind}");
            problems.invalid(&path.field("selector"), selector.clone(), why);
        }
        let labels = match &template["metadata"]["labels"] {
            Value::Null => empty(),
            labels => labels.clone(),
        };
        if !selectors::is_empty(selector) && !selectors::matches(selector, &labels) {
            let path = path.field("template").field("metadata").field("labels");
            problems.invalid(&path, labels, "`selector` does not match template `labels`");
        }
    }
    pod::validate::template(template, "ReplicaSet", &path.field("template"), problems);
}

/// The counts in the status of a ReplicaSet or ReplicationController that a client writes.
pub(super) fn replica_status(status: &Value, problems: &mut Problems) {
    let path = Path::new("status");
    for field in
        ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"]
    {
        problems.not_negative(&path.field(field), &status[field]);
    }
    let count = |field: &str| status[field].as_i64().unwrap_or_default();
    let mut at_most = |field: &str, limit: &str, words: &str| {
        if count(field) > count(limit) {
            problems.invalid(&path.field(field), count(field), format!("cannot be greater than {words}"));
        }
    };
    at_most("fullyLabeledReplicas", "replicas", "status.replicas");
    at_most("readyReplicas", "replicas", "status.replicas");
    at_most("availableReplicas", "replicas", "status.replicas");
    at_most("availableReplicas", "readyReplicas", "readyReplicas");
}

fn strategy(strategy: &Value, path: &Path, problems: &mut Problems) {
    let (update, update_path) = (&strategy["rollingUpdate"], path.field("rollingUpdate"));
    match text(strategy, "type") {
        "Recreate" if !update.is_null() => {
            problems.forbidden(&update_path, "may not be specified when strategy `type` is 'Recreate'");
        }
        "RollingUpdate" if update.is_null() => {
            problems.required(&update_path, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => rolling_update(update, &update_path, problems),
        other => problems.one_of(&path.field("type"), other, &["Recreate", "RollingUpdate"]),
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

/// Warnings about the pod template.
pub(super) fn warnings(object: &Value) -> Vec<String> {
    pod::warnings::template(&object["spec"]["template"], &Path::new("spec").field("template"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        deployment_defaults(&mut object);
        object
    }

    fn problem(change: impl Fn(&mut Value)) -> String {
        let causes = validate_deployment(&deployment(change), None);
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
        let cases: [(Change, &str); 9] = [
            (
                |d| d["spec"]["selector"]["matchLabels"]["app"] = json!("other"),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ),
            (|d| d["spec"]["selector"] = json!(null), "spec.selector: Required value"),
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
                "spec.strategy.type: Unsupported value: \"BlueGreen\": supported values: \"Recreate\", \"RollingUpdate\"",
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
        let causes = validate_deployment(&new, Some(&old));
        assert_eq!(
            causes[0].message,
            "Invalid value: {\"matchLabels\":{\"app\":\"new\"}}: field is immutable"
        );
    }
}
