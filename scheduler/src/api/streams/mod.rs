//! log, exec, attach, port-forward and the proxies: HTTP and WebSocket on the client's side, the agent's dialled-back stream
//! on the other. Decides what can be served from the pod's status, in upstream's words; moves bytes with
//! back-pressure end to end. Never: a look into what flows.

mod command;
mod container;
mod exec;
mod executor;
mod forward;
mod logs;
mod proxy;
mod socket;
mod spdy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use axum::{extract::Request, response::Response};
use gantry_proto::node::v1 as pb;
use k8s_openapi::api::core::v1::Pod;

use super::{Connect, Params, Proxied};
use crate::{
    kinds::Subresource,
    model::{ApiError, Chain, Key, Object, Reason, Resource},
    nodes::Nodes,
    objects::Objects,
    streams::{NodeStream, StreamError},
};

/// Streams into containers, by way of the node sessions.
pub struct PodStreams {
    nodes: Nodes,
    objects: Objects,
    proxy: proxy::Proxy,
}

impl PodStreams {
    /// Over the node sessions, to what the objects tell of.
    pub fn new(nodes: Nodes, objects: Objects) -> Result<Self, rustls::Error> {
        let proxy = proxy::Proxy::new(nodes.clone(), objects.clone())?;
        Ok(Self { nodes, objects, proxy })
    }

    async fn open(&self, node: &str, kind: pb::stream_request::Kind) -> Result<NodeStream, ApiError> {
        self.nodes.open_stream(node, kind).await.map_err(|e| refusal(&e))
    }
}

#[async_trait]
impl Connect for PodStreams {
    async fn connect(
        &self,
        pod: Arc<Object>,
        sub: Subresource,
        params: Params,
        request: Request,
    ) -> Result<Response, ApiError> {
        let pod: Pod =
            pod.decode().map_err(|e| ApiError::new(Reason::InternalError, Chain(&e).to_string()))?;
        match sub {
            Subresource::Log => logs::serve(self, &pod, &params, request).await,
            Subresource::Exec => exec::serve(self, &pod, &params, request, false).await,
            Subresource::Attach => exec::serve(self, &pod, &params, request, true).await,
            _ => forward::serve(self, &pod, &params, request).await,
        }
    }

    async fn proxy(&self, proxied: Proxied<'_>, request: Request) -> Result<Response, ApiError> {
        self.proxy.serve(proxied, request).await
    }
}

/// The pod's node; `None` before it is bound.
fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// The same, which must be one that there is.
fn known_node<'a>(objects: &Objects, pod: &'a Pod) -> Result<Option<&'a str>, ApiError> {
    match node_of(pod) {
        Some(node) if objects.stored(&Key::cluster(Resource::NODES, node)).is_none() => {
            // Upstream names the pods here, whose part this is.
            Err(ApiError::not_found(Resource::PODS, node))
        }
        node => Ok(node),
    }
}

/// The same of a pod that something is to be done in.
fn host_of<'a>(objects: &Objects, pod: &'a Pod) -> Result<&'a str, ApiError> {
    known_node(objects, pod)?.ok_or_else(|| {
        let message = format!("pod {} does not have a host assigned", name_of(pod));
        ApiError::new(Reason::BadRequest, message)
    })
}

fn uid_of(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn name_of(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

fn refusal(error: &StreamError) -> ApiError {
    let reason = match error {
        StreamError::NotConnected(_) => Reason::ServiceUnavailable,
        StreamError::TimedOut(_) => Reason::Timeout,
        StreamError::Refused { code: 400, .. } => Reason::BadRequest,
        StreamError::Refused { code: 404, .. } => Reason::NotFound,
        StreamError::Refused { .. } => Reason::InternalError,
    };
    ApiError::new(reason, error.to_string())
}
