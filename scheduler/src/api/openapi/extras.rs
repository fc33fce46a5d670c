//! The resources without stored objects: bindings, reviews of rights, and the usage of nodes and pods.

use serde_json::{Map, Value, json};

use super::schemas::{GVK, list_name, reference};
use crate::{api::discovery::Extra, kinds::Scope};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const METRICS: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// The paths of one.
pub(super) fn paths(extra: &Extra) -> Map<String, Value> {
    let base = match extra.group {
        "" => format!("/api/{}", extra.version),
        group => format!("/apis/{group}/{}", extra.version),
    };
    let namespaced = extra.scope == Scope::Namespaced;
    let collection = if namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", extra.plural)
    } else {
        format!("{base}/{}", extra.plural)
    };
    let parameter = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let mut parameters: Vec<Value> = namespaced.then(|| parameter("namespace")).into_iter().collect();
    let mut out = Map::new();
    for verb in extra.verbs {
        match *verb {
            "create" => {
                let infix = if namespaced { "Namespaced" } else { "" };
                let mut post = operation(extra, "post", "create", infix, extra.definition);
                let schema = json!({"schema": reference(extra.definition)});
                post["requestBody"] = json!({"required": true, "content": {"*/*": schema}});
                out.insert(collection.clone(), json!({"post": post, "parameters": parameters}));
            }
            "list" => {
                let list = list_name(extra.definition);
                let infix = if namespaced { "Namespaced" } else { "" };
                let get = operation(extra, "list", "list", infix, &list);
                out.insert(collection.clone(), json!({"get": get, "parameters": parameters}));
                if namespaced {
                    let get = operation(extra, "list", "list", "AllNamespaces", &list);
                    out.insert(format!("{base}/{}", extra.plural), json!({"get": get}));
                }
            }
            "get" => {
                parameters.push(parameter("name"));
                let get = operation(extra, "get", "read", "", extra.definition);
                out.insert(format!("{collection}/{{name}}"), json!({"get": get, "parameters": parameters}));
                parameters.pop();
            }
            _ => {}
        }
    }
    out
}

fn operation(extra: &Extra, action: &str, verb: &str, infix: &str, response: &str) -> Value {
    let group = match extra.group.split('.').next().unwrap_or_default() {
        "" => "core",
        group => group,
    };
    let title = |word: &str| format!("{}{}", word[..1].to_uppercase(), &word[1..]);
    let (group_title, version) = (title(group), title(extra.version));
    let answer =
        json!({"description": "OK", "content": {"application/json": {"schema": reference(response)}}});
    let code = if action == "post" { "201" } else { "200" };
    json!({
        "tags": [format!("{group}_{}", extra.version)],
        "operationId": format!("{verb}{group_title}{version}{infix}{}", extra.kind),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind":
            {"group": extra.group, "version": extra.version, "kind": extra.kind},
        "responses": {code: answer, "401": {"description": "Unauthorized"}},
    })
}

/// The schemas that no crate has: `metrics.k8s.io`.
pub(super) fn schemas() -> Map<String, Value> {
    let text = |description: &str| json!({"type": "string", "description": description});
    let usage = |whose: &str| {
        json!({"type": "object", "additionalProperties": reference(QUANTITY),
            "description": format!("The memory usage is the memory working set of {whose}.")})
    };
    let about = |kind: &str, field: &str, value: Value| {
        let mut node = json!({
            "description": format!("{kind} sets resource usage metrics."),
            "type": "object",
            "required": ["timestamp", "window", field],
            "properties": {
                "apiVersion": text("APIVersion defines the versioned schema of this representation of an object."),
                "kind": text("Kind is a string value representing the REST resource this object represents."),
                "metadata": {"allOf": [reference(&format!("{META}.ObjectMeta"))], "default": {},
                    "description": "Standard object's metadata."},
                "timestamp": {"allOf": [reference(&format!("{META}.Time"))],
                    "description": "The metrics were collected within the window that ends at this time."},
                "window": {"allOf": [reference(&format!("{META}.Duration"))],
                    "description": "How long the metrics were collected for."},
            },
            GVK: [{"group": "metrics.k8s.io", "version": "v1beta1", "kind": kind}],
        });
        node["properties"][field] = value;
        node
    };
    let containers = json!({"type": "array", "items": reference(&format!("{METRICS}.ContainerMetrics")),
        "description": "Metrics for all containers are collected within the same time window."});
    let container = json!({
        "description": "ContainerMetrics sets resource usage metrics of a container.",
        "type": "object",
        "required": ["name", "usage"],
        "properties": {"name": text("Container name corresponding to the one from pod.spec.containers."),
            "usage": usage("the container")},
    });
    let duration =
        json!({"type": "string", "description": "Duration is a length of time as Go writes it: 10.5s"});
    [
        ("NodeMetrics", about("NodeMetrics", "usage", usage("the node"))),
        ("PodMetrics", about("PodMetrics", "containers", containers)),
        ("ContainerMetrics", container),
    ]
    .into_iter()
    .map(|(name, node)| (format!("{METRICS}.{name}"), node))
    .chain([(format!("{META}.Duration"), duration)])
    .collect()
}
