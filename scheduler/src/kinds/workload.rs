//! Deployments and ReplicaSets.

use serde_json::{Map, Value};

use super::{
    json::{ensure, set_default},
    pod,
};

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
