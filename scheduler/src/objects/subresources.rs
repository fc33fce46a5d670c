//! Subresources that write: which part of the object each may touch, and the views that have a body of their
//! own (`scale`, `binding`).

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::{Value, json};

use super::{
    meta,
    target::{Edited, Target},
};
use crate::{
    kinds::{
        Kind, Subresource,
        decode::{decode_as, refusal_of},
        schema::ObjectType,
    },
    model::{ApiError, Cause, LabelSelector},
};

/// Whether the body of a write is another type than the object.
pub(super) fn has_own_body(sub: Subresource) -> bool {
    matches!(sub, Subresource::Scale | Subresource::Binding)
}

/// Undoes whatever a subresource may not touch.
pub(super) fn restrict(kind: &Kind, sub: Subresource, old: &Value, new: &mut Value) {
    match sub {
        Subresource::Status => {
            for path in kind.status_keeps {
                keep(path, old, new);
            }
        }
        Subresource::Finalize => keep(&["status"], old, new),
        // Made from the old object by `merge`: there is nothing else in it.
        _ => {}
    }
}

/// Takes what stands at `path` from the old object.
fn keep(path: &[&str], old: &Value, new: &mut Value) {
    let (Some(object), [first, rest @ ..]) = (new.as_object_mut(), path) else { return };
    match (old.get(*first), rest) {
        (Some(value), []) => drop(object.insert((*first).to_owned(), value.clone())),
        (None, []) => drop(object.remove(*first)),
        (before, rest) => {
            let inner = object.entry(*first).or_insert_with(|| json!({}));
            keep(rest, before.unwrap_or(&Value::Null), inner);
        }
    }
}

/// What validation compares the new state with. A binding alone gives a pod its node: for it the old pod has it
/// already, and for every other write the field is as fixed as all others.
pub(super) fn before<'a>(sub: Option<Subresource>, old: &'a Value, new: &Value) -> Cow<'a, Value> {
    let mut old = Cow::Borrowed(old);
    if sub == Some(Subresource::Binding)
        && let Some(node) = new.pointer("/spec/nodeName")
    {
        old.to_mut()["spec"]["nodeName"] = node.clone();
    }
    old
}

/// The object after a write of a subresource with its own body.
pub(super) fn merge(target: Target<'_>, old: &Value, body: &Value) -> Result<Edited, ApiError> {
    let mut object = old.clone();
    match target.sub {
        Some(Subresource::Scale) => {
            let replicas = scale_replicas(target, body)?;
            // The preconditions of the body hold for the object.
            for field in ["resourceVersion", "uid"] {
                if !meta::text(body, field).is_empty() {
                    meta::carry(&mut object, body, field);
                }
            }
            object["spec"]["replicas"] = replicas.into();
        }
        Some(Subresource::Binding) => bind(target, &mut object, body)?,
        _ => {}
    }
    // A binding is the server's own act: nobody comes to own the node's name by it.
    let recorded = target.sub == Some(Subresource::Binding);
    Ok(Edited { object, warnings: Vec::new(), recorded })
}

/// Whether something is a Scale at all, or why not.
pub(super) fn check_scale(scale: &Value) -> Result<(), String> {
    decode_as(&ObjectType::published("io.k8s.api.autoscaling.v1.Scale"), &mut scale.clone())
        .map(|_| ())
        .map_err(|error| error.told(None).to_owned())
}

fn scale_replicas(target: Target<'_>, body: &Value) -> Result<i64, ApiError> {
    check_scale(body).map_err(|why| refusal_of("Scale", "v1", &why))?;
    let replicas = body.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas >= 0 {
        return Ok(replicas);
    }
    let message = format!("Invalid value: {replicas}: must be greater than or equal to 0");
    let cause = Cause { reason: "FieldValueInvalid", field: "spec.replicas".to_owned(), message };
    Err(ApiError::invalid("autoscaling", "Scale", target.name, vec![cause]))
}

/// The `autoscaling/v1` Scale of a workload.
pub fn scale(object: &Value) -> Value {
    let metadata = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"]
        .into_iter()
        .filter_map(|f| Some((f.to_owned(), meta::of(object).get(f)?.clone())))
        .collect::<serde_json::Map<_, _>>();
    let number = |path| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": number("/status/replicas")});
    let selector = object.pointer("/spec/selector").cloned().unwrap_or_default();
    if let Some(selector) = any_selector(selector) {
        status["selector"] = selector.to_string().into();
    }
    // As upstream's type: a wish for none is not told.
    let spec = match number("/spec/replicas") {
        0 => json!({}),
        replicas => json!({ "replicas": replicas }),
    };
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": spec, "status": status})
}

/// A selector object, or the plain map that a ReplicationController has.
fn any_selector(selector: Value) -> Option<LabelSelector> {
    if selector.as_object().is_some_and(|map| !map.is_empty() && map.values().all(Value::is_string)) {
        let map: Option<BTreeMap<String, String>> = serde_json::from_value(selector).ok();
        return map.map(|map| LabelSelector::from_map(&map));
    }
    serde_json::from_value(selector).ok().and_then(|selector| LabelSelector::from_object(&selector).ok())
}

/// Assigns a pod to the node that the Binding names.
pub(super) fn bind(target: Target<'_>, pod: &mut Value, binding: &Value) -> Result<(), ApiError> {
    let conflict = |why: &str| Err(ApiError::conflict("pods/binding", target.name, why));
    let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or("");
    if node.is_empty() {
        let field = "target.name".to_owned();
        let message = "Required value".to_owned();
        let cause = Cause { reason: "FieldValueRequired", field, message };
        return Err(ApiError::invalid("", "Binding", target.name, vec![cause]));
    }
    let uid = meta::text(binding, "uid");
    if !uid.is_empty() && uid != meta::text(pod, "uid") {
        return Err(target.stale("UID", uid, meta::text(pod, "uid")));
    }
    let revision = meta::text(binding, "resourceVersion");
    if !revision.is_empty() && revision != meta::text(pod, "resourceVersion") {
        return Err(target.stale("ResourceVersion", revision, meta::text(pod, "resourceVersion")));
    }
    if meta::deleting(pod) {
        return conflict(&format!("pod {} is being deleted, cannot be assigned to a host", target.name));
    }
    let present = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("");
    if !present.is_empty() {
        return conflict(&format!("pod {} is already assigned to node {present:?}", target.name));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return conflict(&format!("pod {} has non-empty .spec.schedulingGates", target.name));
    }
    pod["spec"]["nodeName"] = node.into();
    // What whoever bound it had to say of the pod.
    for field in ["annotations", "labels"] {
        let given = meta::of(binding).get(field).and_then(Value::as_object).filter(|given| !given.is_empty());
        if let Some(given) = given {
            let own = meta::of_mut(pod).entry(field).or_insert_with(|| json!({}));
            if let Some(own) = own.as_object_mut() {
                own.extend(given.clone());
            }
        }
    }
    scheduled(pod);
    Ok(())
}

/// Sets the condition `PodScheduled` to true.
fn scheduled(pod: &mut Value) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": meta::now(),
        "lastProbeTime": null});
    let conditions = &mut pod["status"]["conditions"];
    match conditions {
        Value::Array(list) => {
            list.retain(|c| c["type"] != "PodScheduled");
            list.push(condition);
        }
        _ => *conditions = json!([condition]),
    }
}
