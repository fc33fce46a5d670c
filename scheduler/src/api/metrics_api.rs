//! metrics.k8s.io/v1beta1: usage of nodes and pods, computed from heartbeats when it is asked for.

use std::borrow::Cow;

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{Computed, Params, listing::ListOptions, respond};
use crate::{
    kinds::Column,
    model::{ApiError, Object, Resource},
    nodes::{Nodes, Usage},
    objects::Objects,
};

const PREFIX: &str = "/apis/metrics.k8s.io/v1beta1/";
const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// The group's resources.
pub struct ResourceMetrics {
    objects: Objects,
    nodes: Nodes,
}

impl ResourceMetrics {
    /// Over the objects that there are and the usage that their nodes reported.
    pub fn new(objects: Objects, nodes: Nodes) -> Self {
        Self { objects, nodes }
    }

    async fn list(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        params: &Params,
    ) -> Result<Value, ApiError> {
        let kinds = self.objects.kinds();
        let kind = kinds.by_resource(resource).ok_or_else(respond::no_such_path)?;
        let options = ListOptions::of(params, kind, namespace, false)?;
        let list = self.objects.list(resource, &options.selection).await?;
        // What has no two samples yet is left out, as upstream.
        let items: Vec<Value> = list.items.iter().filter_map(|object| self.measure(object)).collect();
        let kind = if resource == Resource::NODES { "NodeMetricsList" } else { "PodMetricsList" };
        Ok(json!({"kind": kind, "apiVersion": API_VERSION, "metadata": {}, "items": items}))
    }

    async fn one(&self, resource: Resource, namespace: Option<&str>, name: &str) -> Result<Value, ApiError> {
        let missing = || match namespace {
            None => ApiError::not_found("nodemetrics.metrics.k8s.io", name),
            Some(namespace) => {
                ApiError::not_found("podmetrics.metrics.k8s.io", &format!("{namespace}/{name}"))
            }
        };
        let object = self.objects.get(resource, namespace, name).await.map_err(|_| missing())?;
        self.measure(&object).ok_or_else(missing)
    }

    fn measure(&self, object: &Object) -> Option<Value> {
        if object.key.resource == Resource::NODES {
            let usage = self.nodes.usage().node(&object.key.name)?;
            return Some(node_metrics(object, &usage));
        }
        let node = object.fields.get("spec.nodeName")?;
        let containers = self.nodes.usage().pod(node, &object.uid);
        pod_metrics(object, &containers)
    }
}

#[async_trait]
impl Computed for ResourceMetrics {
    fn owns(&self, path: &str) -> bool {
        path.strip_prefix(PREFIX).is_some_and(|rest| !rest.is_empty())
    }

    async fn get(&self, path: &str, params: &Params) -> Result<Value, ApiError> {
        let rest = path.strip_prefix(PREFIX).ok_or_else(respond::no_such_path)?;
        match rest.trim_end_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            ["nodes"] => self.list(Resource::NODES, None, params).await,
            ["nodes", name] => self.one(Resource::NODES, None, name).await,
            ["pods"] => self.list(Resource::PODS, None, params).await,
            ["namespaces", namespace, "pods"] => self.list(Resource::PODS, Some(namespace), params).await,
            ["namespaces", namespace, "pods", name] => self.one(Resource::PODS, Some(namespace), name).await,
            _ => Err(respond::no_such_path()),
        }
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self) -> fn(&Value, i64) -> Vec<Value> {
        cells
    }
}

const fn column(name: &'static str, format: &'static str, description: &'static str) -> Column {
    Column {
        name: Cow::Borrowed(name),
        kind: Cow::Borrowed("string"),
        format: Cow::Borrowed(format),
        priority: 0,
        description: Cow::Borrowed(description),
    }
}

/// As metrics-server has them.
const COLUMNS: &[Column] = &[
    column("Name", "name", "Name of the resource"),
    column("cpu", "quantity", ""),
    column("memory", "quantity", ""),
    column("Window", "duration", ""),
];

/// A pod's containers add up.
fn cells(object: &Value, _now: i64) -> Vec<Value> {
    let of = |usage: &Value, name: &str, unit: &str| {
        usage[name]
            .as_str()
            .and_then(|text| text.strip_suffix(unit))
            .and_then(|n| n.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let sum = |name: &str, unit: &str| match object["containers"].as_array() {
        Some(containers) => containers.iter().map(|container| of(&container["usage"], name, unit)).sum(),
        None => of(&object["usage"], name, unit),
    };
    let (cpu, memory) = (sum("cpu", "n"), sum("memory", "Ki"));
    vec![
        object["metadata"]["name"].clone(),
        json!(format!("{cpu}n")),
        json!(format!("{memory}Ki")),
        object["window"].clone(),
    ]
}

fn node_metrics(object: &Object, usage: &Usage) -> Value {
    json!({
        "kind": "NodeMetrics", "apiVersion": API_VERSION, "metadata": metadata(object, usage),
        "timestamp": timestamp(usage), "window": window(usage), "usage": quantities(usage),
    })
}

/// `None` when no container has been measured.
fn pod_metrics(object: &Object, containers: &BTreeMap<String, Usage>) -> Option<Value> {
    let latest = containers.values().max_by_key(|u| u.time_ms)?;
    let list: Vec<Value> =
        containers.iter().map(|(name, u)| json!({"name": name, "usage": quantities(u)})).collect();
    Some(json!({
        "kind": "PodMetrics", "apiVersion": API_VERSION, "metadata": metadata(object, latest),
        "timestamp": timestamp(latest), "window": window(latest), "containers": list,
    }))
}

fn metadata(object: &Object, usage: &Usage) -> Value {
    let mut metadata = json!({"name": object.key.name, "creationTimestamp": timestamp(usage)});
    if let Some(namespace) = &object.key.namespace {
        metadata["namespace"] = json!(namespace);
    }
    if !object.labels.is_empty() {
        metadata["labels"] = json!(*object.labels);
    }
    metadata
}

fn quantities(usage: &Usage) -> Value {
    json!({
        "cpu": format!("{}n", usage.cpu_nanocores),
        "memory": format!("{}Ki", usage.memory_bytes / 1024),
    })
}

/// Whole seconds, as metrics-server writes them.
fn timestamp(usage: &Usage) -> String {
    let seconds = usage.time_ms.div_euclid(1000);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// A Go duration.
fn window(usage: &Usage) -> String {
    format!("{}.{:03}s", usage.window_ms / 1000, usage.window_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fields, Key, Revision};

    #[test]
    fn figures_are_written_as_metrics_server_does() {
        let object = Object {
            key: Key::namespaced(Resource::PODS, "shop", "web"),
            uid: "u".into(),
            revision: Revision(1),
            labels: std::sync::Arc::new([("app".to_owned(), "web".to_owned())].into()),
            fields: Fields::default(),
            owners: Vec::new(),
            deleting: false,
            json: "{}".into(),
        };
        let usage =
            Usage { cpu_nanocores: 1_234_567, memory_bytes: 3 << 20, time_ms: 1_500, window_ms: 10_023 };
        let metrics = pod_metrics(&object, &[("c".to_owned(), usage)].into()).unwrap();
        assert_eq!(
            metrics["containers"],
            json!([{"name": "c", "usage": {"cpu": "1234567n", "memory": "3072Ki"}}])
        );
        assert_eq!(
            (&metrics["timestamp"], &metrics["window"]),
            (&json!("1970-01-01T00:00:01Z"), &json!("10.023s"))
        );
        assert_eq!(metrics["metadata"]["labels"]["app"], "web");
        assert!(pod_metrics(&object, &BTreeMap::new()).is_none());
        let pair = [("a".to_owned(), usage), ("b".to_owned(), usage)].into();
        let row = cells(&pod_metrics(&object, &pair).unwrap(), 0);
        assert_eq!(row, [json!("web"), json!("2469134n"), json!("6144Ki"), json!("10.023s")]);
        assert_eq!(row.len(), COLUMNS.len());
    }
}
