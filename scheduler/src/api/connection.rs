//! What a client asks for that wants a stream into a pod, or to be passed on: the options object that admission sees, in
//! the fields of upstream's. In: the path and the query. Pure.

use serde_json::{Map, Value, json};

use super::Params;
use crate::{
    kinds::{Kind, Subresource},
    model::Resource,
};

/// The options of a connection to a subresource of a kind.
pub(super) fn options(kind: &Kind, sub: Subresource, path: &str, params: &Params) -> Value {
    let mut out = Map::new();
    let name = match (sub, kind.resource) {
        (Subresource::Exec, _) => "PodExecOptions",
        (Subresource::Attach, _) => "PodAttachOptions",
        (Subresource::PortForward, _) => "PodPortForwardOptions",
        (_, Resource::SERVICES) => "ServiceProxyOptions",
        (_, Resource::NODES) => "NodeProxyOptions",
        _ => "PodProxyOptions",
    };
    match sub {
        Subresource::Exec | Subresource::Attach => {
            for flag in ["stdin", "stdout", "stderr", "tty"] {
                if params.is_set(flag) {
                    out.insert(flag.to_owned(), true.into());
                }
            }
            if let Some(container) = params.get("container") {
                out.insert("container".to_owned(), container.into());
            }
            let command: Vec<&str> = params.all("command").collect();
            if sub == Subresource::Exec {
                out.insert("command".to_owned(), json!(command));
            }
        }
        Subresource::PortForward => {
            let ports: Vec<i64> = params.all("ports").filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                out.insert("ports".to_owned(), json!(ports));
            }
        }
        _ => {
            let behind = path.split_once("/proxy").map_or("", |(_, behind)| behind);
            out.insert("path".to_owned(), behind.into());
        }
    }
    out.insert("apiVersion".to_owned(), "v1".into());
    out.insert("kind".to_owned(), name.into());
    out.into()
}
