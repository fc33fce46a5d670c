//! A new node is not ready, whatever it says of itself: it gets the taint that keeps pods away until its controller has
//! seen it ready.

use async_trait::async_trait;
use serde_json::json;

use crate::{
    model::{ApiError, Resource},
    objects::admission::{Admission, Operation, Request},
};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

/// The plugin.
#[derive(Debug, Default)]
pub struct NodeTaints;

#[async_trait]
impl Admission for NodeTaints {
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let new = request.kind.resource == Resource::NODES && request.operation == Operation::Create;
        let Some(spec) = request.object.get_mut("spec").filter(|spec| new && spec.is_object()) else {
            return Ok(());
        };
        let taint = json!({"key": NOT_READY, "effect": EFFECT});
        match spec["taints"].as_array_mut() {
            Some(taints) => {
                if !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == EFFECT) {
                    taints.push(taint);
                }
            }
            None => spec["taints"] = json!([taint]),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::objects::{Objects, WriteOptions};

    #[tokio::test]
    async fn a_new_node_is_tainted_until_it_is_ready() {
        let objects = Objects::in_memory(vec![Arc::new(NodeTaints)]).await.unwrap();
        let taints = async |name: &str, spec: serde_json::Value| {
            let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec});
            let options = WriteOptions::controller("test");
            let written = objects.create(Resource::NODES, None, body, &options).await.unwrap();
            written.object.decode::<serde_json::Value>().unwrap()["spec"]["taints"].clone()
        };
        let not_ready = json!({"key": NOT_READY, "effect": EFFECT});
        assert_eq!(taints("a", json!({})).await, json!([not_ready]));
        let own = json!({"key": "mine", "effect": "NoExecute"});
        assert_eq!(taints("b", json!({"taints": [own]})).await, json!([own, not_ready]));
        assert_eq!(taints("c", json!({"taints": [not_ready]})).await, json!([not_ready]));
    }
}
