//! exec, attach, logs, port-forward and the API's proxies on behalf of the scheduler: finds the container or namespace that a request
//! means, refuses in upstream's words what cannot be served, and moves bytes. Everything is bounded by the channel to
//! the client, and everything that was started ends when the client leaves.

mod carry;
mod dial;
mod exec;
mod forward;
mod logs;

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use axum::Router;
use tokio::sync::watch;

use crate::{
    control::{OpenStream, StreamHandler},
    model::{
        ContainerName, ContainerState, DialTarget, NetworkStatus, NodeView, ObservedContainer, PodUid,
        StreamEnd, StreamRefusal, StreamRequest, chain,
    },
    net::Network,
    records::Records,
    runtime::Runtime,
};

/// Serves streams of this node's pods.
#[derive(Clone)]
pub struct NodeStreams {
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn Network>,
    records: Arc<Records>,
    node: watch::Receiver<Arc<NodeView>>,
    answers: Arc<OnceLock<Router>>,
}

impl NodeStreams {
    /// On these ports; `records` tell which end of a container was reported last, `node` the addresses of pods in its
    /// network.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn Network>,
        records: Arc<Records>,
        node: watch::Receiver<Arc<NodeView>>,
    ) -> Self {
        Self { runtime, network, records, node, answers: Arc::default() }
    }

    /// What the agent itself answers; until then who asks is told to come back. Only the first counts.
    pub fn answer_with(&self, router: Router) {
        let _ = self.answers.set(router);
    }

    async fn network_of(&self, pod: &PodUid) -> Result<NetworkStatus, StreamRefusal> {
        let mut networks = self.network.list().await.map_err(|error| refusal(500, chain(&error)))?;
        networks.remove(pod).ok_or_else(|| refusal(404, format!("pod {pod} has no network")))
    }

    /// The node's first address, which is also that of pods in its network.
    fn own_address(&self) -> Result<IpAddr, StreamRefusal> {
        let first = self.node.borrow().addresses.first().copied();
        first.ok_or_else(|| refusal(503, "the node has no address yet".to_owned()))
    }

    async fn dial(&self, target: DialTarget) -> Result<OpenStream, StreamRefusal> {
        let (ip, port) = match target {
            DialTarget::Agent => {
                let starting = || refusal(503, "the agent is starting".to_owned());
                let router = self.answers.get().cloned().ok_or_else(starting)?;
                return Ok(Box::new(move |channel| Box::pin(carry::carry(dial::answer(router), channel))));
            }
            DialTarget::Node(port) => (self.own_address()?, port),
            DialTarget::Pod(request) => match self.network_of(&request.pod).await?.addresses {
                Some(addresses) => (IpAddr::V4(addresses.v4), request.port),
                None => (self.own_address()?, request.port),
            },
        };
        let stream = dial::connect(ip, port).await?;
        Ok(Box::new(move |channel| Box::pin(carry::carry(stream, channel))))
    }

    /// The container's attempts, oldest first.
    async fn attempts(
        &self,
        pod: &PodUid,
        container: &ContainerName,
    ) -> Result<Vec<ObservedContainer>, StreamRefusal> {
        let all = self.runtime.list_pod(pod).await.map_err(|error| refusal(500, chain(&error)))?;
        let mut attempts: Vec<_> = all.into_iter().filter(|c| c.container == *container).collect();
        attempts.sort_by_key(|c| c.attempt);
        Ok(attempts)
    }

    async fn running(
        &self,
        pod: &PodUid,
        container: &ContainerName,
    ) -> Result<ObservedContainer, StreamRefusal> {
        match self.attempts(pod, container).await?.pop() {
            Some(latest) if matches!(latest.state, ContainerState::Running { .. }) => Ok(latest),
            Some(_) => Err(refusal(400, format!("container {container} is not running"))),
            None => Err(refusal(404, format!("container not found (\"{container}\")"))),
        }
    }
}

#[async_trait]
impl StreamHandler for NodeStreams {
    async fn open(&self, request: StreamRequest) -> Result<OpenStream, StreamRefusal> {
        match request {
            StreamRequest::Logs(request) => {
                let attempts = self.attempts(&request.pod, &request.container).await?;
                let status = self.records.get(&request.pod).status;
                let chosen = logs::choose(attempts, &request, status.as_deref())?;
                Ok(Box::new(move |channel| Box::pin(logs::run(chosen, request, channel))))
            }
            StreamRequest::Exec(request) => {
                let container = self.running(&request.pod, &request.container).await?;
                let runtime = self.runtime.clone();
                if request.attach {
                    return Ok(Box::new(move |channel| {
                        Box::pin(exec::attach(runtime, container, request, channel))
                    }));
                }
                Ok(Box::new(move |channel| Box::pin(exec::run(runtime, container.id, request, channel))))
            }
            StreamRequest::PortForward(request) => {
                let network = self.network_of(&request.pod).await?;
                Ok(Box::new(move |channel| Box::pin(forward::run(network, request.port, channel))))
            }
            StreamRequest::Dial(target) => self.dial(target).await,
        }
    }
}

fn refusal(code: u16, message: String) -> StreamRefusal {
    StreamRefusal { code, message }
}

/// An end with an error for the user.
fn failed(message: String) -> StreamEnd {
    StreamEnd { exit_code: None, error: Some(message) }
}

#[cfg(test)]
mod tests;
