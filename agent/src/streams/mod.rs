//! exec, attach, logs and port-forward on behalf of the scheduler: finds the container or namespace that a request
//! means, refuses in upstream's words what cannot be served, and moves bytes. Everything is bounded by the channel to
//! the client, and everything that was started ends when the client leaves.

mod exec;
mod forward;
mod logs;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    control::{OpenStream, StreamHandler},
    model::{ContainerName, PodUid, StreamEnd, StreamRefusal, StreamRequest},
    net::Network,
    observe::Records,
    runtime::{ContainerState, ObservedContainer, Runtime},
};

/// Serves streams of this node's pods.
#[derive(Clone)]
pub struct NodeStreams {
    runtime: Arc<dyn Runtime>,
    network: Arc<dyn Network>,
    records: Arc<Records>,
}

impl NodeStreams {
    /// On these ports; `records` tell which end of a container was reported last.
    pub fn new(runtime: Arc<dyn Runtime>, network: Arc<dyn Network>, records: Arc<Records>) -> Self {
        Self { runtime, network, records }
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
                let networks = self.network.list().await.map_err(|error| refusal(500, chain(&error)))?;
                let network = networks.get(&request.pod).cloned();
                let network =
                    network.ok_or_else(|| refusal(404, format!("pod {} has no network", request.pod)))?;
                Ok(Box::new(move |channel| Box::pin(forward::run(network, request.port, channel))))
            }
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

/// The whole chain of causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |&e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
