//! What a pod gets without asking: the tolerations that let it sit out a short loss of its node, its service
//! account, its priority.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::{Value, json};

use crate::{
    kinds,
    model::{ApiError, Key, Resource},
    objects::admission::{Admission, Operation, Request},
};

const LOST: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// The built-in priority classes.
const CLASSES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// The plugin.
#[derive(Debug)]
pub struct PodDefaults {
    /// How long a pod stays bound to a lost node.
    pub eviction: Duration,
}

#[async_trait]
impl Admission for PodDefaults {
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let is_pod = request.kind.resource == Resource::PODS && request.subresource.is_none();
        if !is_pod || request.operation == Operation::Delete {
            return Ok(());
        }
        let name = request.name;
        let Some(spec) = request.object.get_mut("spec").filter(|s| s.is_object()) else { return Ok(()) };
        // On update too: a manifest that is applied again names its own tolerations only.
        tolerate_loss(spec, self.eviction);
        if request.operation == Operation::Update {
            for field in ["priority", "preemptionPolicy", "serviceAccount", "serviceAccountName"] {
                let before = request.old.and_then(|old| old.get("spec")?.get(field)).filter(|v| !v.is_null());
                if let (None, Some(before)) = (spec.get(field).filter(|v| !v.is_null()), before) {
                    spec[field] = before.clone();
                }
            }
            return Ok(());
        }
        set_priority(spec, name)?;
        let account = set_account(spec);
        let namespace = request.namespace.unwrap_or("");
        let key = Key::namespaced(Resource::SERVICE_ACCOUNTS, namespace, &account);
        // Every namespace gets its default account a moment after it is made: a pod that is applied together
        // with its namespace need not wait for that.
        let stored = request.objects.stored(&key);
        if account != "default" && stored.is_none() {
            let why = match kinds::path_segment(&account).as_slice() {
                [] => format!("serviceaccount {account:?} not found"),
                wrong => format!("invalid resource name {account:?}: [{}]", wrong.join(" ")),
            };
            let why = format!("error looking up service account {namespace}/{account}: {why}");
            return Err(ApiError::forbidden(Resource::PODS, name, &why));
        }
        wait_at_gates(request.object);
        let Some(spec) = request.object.get_mut("spec") else { return Ok(()) };
        if let Some(account) = stored.and_then(|account| account.decode::<ServiceAccount>().ok()) {
            lend_pull_secrets(spec, &account);
        }
        Ok(())
    }
}

/// A pod with gates says from the start that they are what it waits for.
fn wait_at_gates(pod: &mut Value) {
    let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array);
    if gates.is_none_or(Vec::is_empty) {
        return;
    }
    pod["status"]["conditions"] = json!([{
        "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
        "message": "Scheduling is blocked due to non-empty scheduling gates",
        "lastProbeTime": null,
        "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }]);
}

/// A pod that names no secrets to pull its images with gets those of its account.
fn lend_pull_secrets(spec: &mut Value, account: &ServiceAccount) {
    let named = spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let lent: Vec<Value> =
        account.image_pull_secrets.iter().flatten().map(|secret| json!({"name": secret.name})).collect();
    if !named && !lent.is_empty() {
        spec["imagePullSecrets"] = lent.into();
    }
}

fn tolerate_loss(spec: &mut Value, eviction: Duration) {
    let seconds = i64::try_from(eviction.as_secs()).unwrap_or(i64::MAX);
    let field = |t: &Value, name: &str| t.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let own = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut all = own.clone();
    for key in LOST {
        let covered = own.iter().any(|t| {
            let (k, effect) = (field(t, "key"), field(t, "effect"));
            (k.is_empty() || k == key) && (effect.is_empty() || effect == "NoExecute")
        });
        if !covered {
            all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}));
        }
    }
    if !all.is_empty() {
        spec["tolerations"] = all.into();
    }
}

fn set_priority(spec: &mut Value, pod: &str) -> Result<(), ApiError> {
    let class = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or("").to_owned();
    let priority = match class.as_str() {
        "" => 0,
        name => match CLASSES.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => *value,
            None => {
                let why = format!("no PriorityClass with name {name} was found");
                return Err(ApiError::forbidden(Resource::PODS, pod, &why));
            }
        },
    };
    let given = spec.get("priority").and_then(Value::as_i64);
    if given.is_some_and(|given| given != priority) {
        let why = format!(
            "the integer value of priority ({}) must not be provided in pod spec; priority admission \
             controller computed {priority} from the given PriorityClass name",
            given.unwrap_or_default()
        );
        return Err(ApiError::forbidden(Resource::PODS, pod, &why));
    }
    spec["priority"] = priority.into();
    // What both built-in classes say, and what is said without a class.
    let policy = "PreemptLowerPriority";
    if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str).filter(|p| *p != policy) {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
             controller computed {policy} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(Resource::PODS, pod, &why));
    }
    spec["preemptionPolicy"] = policy.into();
    Ok(())
}

fn set_account(spec: &mut Value) -> String {
    let named = ["serviceAccountName", "serviceAccount"]
        .into_iter()
        .filter_map(|field| spec.get(field).and_then(Value::as_str))
        .find(|name| !name.is_empty())
        .unwrap_or("default")
        .to_owned();
    spec["serviceAccountName"] = named.clone().into();
    spec["serviceAccount"] = named.clone().into();
    named
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::objects::{Objects, WriteOptions};

    async fn created(spec: Value) -> Result<Value, ApiError> {
        created_with(Duration::from_secs(300), spec, None).await
    }

    #[tokio::test]
    async fn an_account_that_nobody_could_have_is_told_from_an_absent_one() {
        let said =
            async |name: &str| created(json!({ "serviceAccountName": name })).await.unwrap_err().message;
        let start = "pods \"web\" is forbidden: error looking up service account default/";
        assert_eq!(said("a").await, format!("{start}a: serviceaccount \"a\" not found"));
        let expected = format!("{start}/a/../b: invalid resource name \"/a/../b\": [may not contain '/']");
        assert_eq!(said("/a/../b").await, expected);
    }

    async fn created_with(
        eviction: Duration,
        spec: Value,
        secrets: Option<Value>,
    ) -> Result<Value, ApiError> {
        let objects = Objects::in_memory(vec![Arc::new(PodDefaults { eviction })]).await.unwrap();
        if let Some(secrets) = secrets {
            let account = json!({"metadata": {"name": "default"}, "imagePullSecrets": secrets});
            let options = WriteOptions::controller("test");
            objects.create(Resource::SERVICE_ACCOUNTS, Some("default"), account, &options).await?;
        }
        let mut body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec});
        body["spec"]["containers"] = json!([{"name": "web", "image": "web"}]);
        let options = WriteOptions::controller("test");
        let written = objects.create(Resource::PODS, Some("default"), body, &options).await?;
        Ok(written.object.decode().unwrap())
    }

    #[tokio::test]
    async fn a_plain_pod_tolerates_the_loss_of_its_node_for_five_minutes() {
        let pod = created(json!({})).await.unwrap();
        let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(tolerations.len(), 2);
        assert!(tolerations.iter().all(|t| t["tolerationSeconds"] == 300));
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["priority"], 0);
    }

    #[tokio::test]
    async fn a_pod_is_judged_by_what_it_was_given() {
        let objects = Objects::in_memory(Vec::new()).await.unwrap();
        let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
            "resources": {"limits": {"memory": "2Gi"}},
            "containers": [{"name": "web", "image": "web", "resources": limits}]}});
        let options = WriteOptions::controller("test");
        let written = objects.create(Resource::PODS, Some("default"), body, &options).await.unwrap();
        let pod: Value = written.object.decode().unwrap();
        let of_pod = &pod["spec"]["resources"];
        assert_eq!(
            of_pod["requests"],
            json!({"cpu": "1", "memory": "1Gi"}),
            "from its containers, whose defaults are there"
        );
        assert_eq!(of_pod["limits"], json!({"cpu": "1", "memory": "2Gi"}));
        assert_eq!(pod["status"]["qosClass"], "Burstable");
    }

    #[tokio::test]
    async fn a_pod_with_gates_says_what_it_waits_for() {
        let pod = created(json!({"schedulingGates": [{"name": "a.io/x"}]})).await.unwrap();
        let condition = &pod["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
        assert_eq!(condition["reason"], "SchedulingGated");
        assert!(condition["lastTransitionTime"].is_string(), "{condition}");
        assert!(created(json!({})).await.unwrap()["status"]["conditions"].is_null());
    }

    #[tokio::test]
    async fn a_manifest_that_is_applied_again_need_not_name_what_it_was_given() {
        let objects = Objects::in_memory(vec![Arc::new(PodDefaults { eviction: Duration::from_secs(300) })]);
        let objects = objects.await.unwrap();
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {
            "containers": [{"name": "web", "image": "web"}],
            "tolerations": [{"key": "a", "operator": "Exists"}]}});
        let options = WriteOptions::controller("test");
        objects.create(Resource::PODS, Some("default"), body.clone(), &options).await.unwrap();
        let written =
            objects.update(Resource::PODS, Some("default"), "web", None, body, &options).await.unwrap();
        let pod: Value = written.object.decode().unwrap();
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 3, "{pod}");
    }

    #[tokio::test]
    async fn the_configuration_says_how_long_the_loss_of_a_node_is_tolerated() {
        let pod = created_with(Duration::from_secs(45), json!({}), None).await.unwrap();
        let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
        assert!(tolerations.iter().all(|t| t["tolerationSeconds"] == 45), "{tolerations:?}");
    }

    #[tokio::test]
    async fn the_accounts_pull_secrets_go_into_pods_that_name_none() {
        let of_account = Some(json!([{"name": "registry"}]));
        let (time, secrets) = (Duration::from_secs(300), "imagePullSecrets");
        let pod = created_with(time, json!({}), of_account.clone()).await.unwrap();
        assert_eq!(pod["spec"][secrets], json!([{"name": "registry"}]));
        let pod = created_with(time, json!({secrets: [{"name": "own"}]}), of_account).await.unwrap();
        assert_eq!(pod["spec"][secrets], json!([{"name": "own"}]));
        let pod = created_with(time, json!({}), None).await.unwrap();
        assert_eq!(pod["spec"][secrets], Value::Null);
    }

    #[tokio::test]
    async fn its_own_words_count() {
        let own = json!([{"operator": "Exists"}]);
        let pod = created(json!({"tolerations": own, "priorityClassName": "system-node-critical"}));
        let pod = pod.await.unwrap();
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["priority"], 2_000_001_000_i64);
        let error = created(json!({"priorityClassName": "gold"})).await.unwrap_err();
        assert_eq!(error.message, "pods \"web\" is forbidden: no PriorityClass with name gold was found");
        let error = created(json!({"preemptionPolicy": "Never"})).await.unwrap_err();
        assert!(
            error.message.contains("the string value of PreemptionPolicy (Never) must not be"),
            "{error}"
        );
        let error = created(json!({"serviceAccountName": "robot"})).await.unwrap_err();
        assert!(error.message.ends_with("serviceaccount \"robot\" not found"), "{error}");
    }
}
