//! Runtime and images of the fake node.

use std::{io, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use tokio_stream::wrappers::BroadcastStream;

use super::FakeNode;
use crate::{
    images::{Credential, ImageError, Images, Progress},
    model::{ContainerId, ContainerState, ImageInfo, ObservedContainer, PodUid},
    runtime::{ContainerSpec, ExecSession, ExecSpec, Runtime, RuntimeError, RuntimeEvent},
};

const KILL: i32 = 9;

#[async_trait]
impl Runtime for FakeNode {
    async fn version(&self) -> Result<String, RuntimeError> {
        self.answer().await;
        Ok("fake://1".to_owned())
    }

    async fn list(&self) -> Result<Vec<ObservedContainer>, RuntimeError> {
        let mut state = self.state();
        match state.scripted("list") {
            Some(text) => Err(call("list", "containers", text)),
            None => Ok(state.containers.values().map(|(container, _)| container.clone()).collect()),
        }
    }

    async fn list_pod(&self, pod: &PodUid) -> Result<Vec<ObservedContainer>, RuntimeError> {
        Ok(Runtime::list(self).await?.into_iter().filter(|container| container.pod == *pod).collect())
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        let mut state = self.state();
        state.log.push(format!("create {}", spec.id));
        if let Some(message) = state.scripted("create") {
            return Err(RuntimeError::Config { message });
        }
        let Some((pod, container, attempt)) = spec.id.parts() else {
            return Err(RuntimeError::Config { message: format!("{} is no container id", spec.id) });
        };
        if !state.networks.contains_key(&pod) || !state.cgroups.contains(&pod) || spec.cgroup.is_empty() {
            return Err(RuntimeError::Config { message: format!("{pod} is not prepared") });
        }
        let twin = state.containers.values().any(|(known, _)| {
            known.pod == pod
                && known.container == container
                && matches!(known.state, ContainerState::Running { .. })
        });
        if twin {
            return Err(RuntimeError::Config { message: format!("{container} of {pod} is running already") });
        }
        let observed = ObservedContainer {
            id: spec.id.clone(),
            pod,
            container,
            attempt,
            image: spec.image.clone(),
            image_id: format!("{}@sha256:0", spec.image),
            state: ContainerState::Created,
            labels: spec.labels.clone(),
            earlier_boot: false,
            task: true,
        };
        state.containers.insert(spec.id.clone(), (observed, spec.clone()));
        Ok(())
    }

    async fn start(&self, id: &ContainerId) -> Result<u32, RuntimeError> {
        let mut state = self.state();
        state.log.push(format!("start {id}"));
        if let Some(message) = state.scripted("start") {
            return Err(RuntimeError::Start { message });
        }
        state.next_pid += 1;
        let (pid, started_ms) = (state.next_pid, state.now_ms);
        let attached = id.parts().is_some_and(|(pod, ..)| state.attached.contains(&pod));
        let Some((container, spec)) = state.containers.get_mut(id) else {
            return Err(RuntimeError::NotFound(id.clone()));
        };
        if spec.netns.is_some() && !attached {
            return Err(RuntimeError::Start { message: "the datapath does not know the pod".into() });
        }
        container.state = ContainerState::Running { pid, started_ms };
        Ok(pid)
    }

    async fn kill(&self, id: &ContainerId, signal: i32, _all: bool) -> Result<(), RuntimeError> {
        let heeds = {
            let mut state = self.state();
            state.log.push(format!("kill {id} {signal}"));
            if let Some(text) = state.scripted("kill") {
                return Err(call("kill", id.as_str(), text));
            }
            let container = id.parts().map(|(_, container, _)| container.to_string()).unwrap_or_default();
            signal == KILL || !state.stubborn.contains(&container)
        };
        if heeds {
            self.exit(id, 128 + signal);
        }
        Ok(())
    }

    async fn release(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut state = self.state();
        state.log.push(format!("release {id}"));
        if let Some((container, _)) = state.containers.get_mut(id)
            && !container.state.may_live()
        {
            container.task = false;
        }
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let mut state = self.state();
        state.log.push(format!("remove {id}"));
        if let Some(text) = state.scripted("remove") {
            return Err(call("remove", id.as_str(), text));
        }
        if state.containers.get(id).is_some_and(|(c, _)| matches!(c.state, ContainerState::Running { .. })) {
            return Err(call("remove", id.as_str(), "it is running".into()));
        }
        state.containers.remove(id);
        Ok(())
    }

    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession, RuntimeError> {
        let command = spec.command.first().cloned().unwrap_or_default();
        let mut state = self.state();
        state.log.push(format!("exec {id} {command}"));
        if let Some(message) = state.scripted("exec") {
            return Err(RuntimeError::Start { message });
        }
        drop(state);
        let pipe = || io::pipe().map(|(read, _)| read.into());
        let stdout =
            pipe().map_err(|source| RuntimeError::Io { operation: "make", path: "pipe".into(), source })?;
        Ok(ExecSession { stdin: None, stdout, stderr: None, id: command })
    }

    async fn exec_wait(&self, _id: &ContainerId, exec: &str) -> Result<i32, RuntimeError> {
        Ok(self.state().exec_codes.get(exec).copied().unwrap_or(0))
    }

    async fn exec_resize(
        &self,
        _id: &ContainerId,
        _exec: &str,
        _width: u16,
        _height: u16,
    ) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn exec_kill(&self, _id: &ContainerId, _exec: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        let events = BroadcastStream::new(self.subscribe());
        Box::pin(events.map(|event| event.unwrap_or(RuntimeEvent::Resync)))
    }
}

fn call(operation: &'static str, subject: &str, text: String) -> RuntimeError {
    RuntimeError::Call {
        operation,
        subject: subject.to_owned(),
        source: Box::new(tonic::Status::unavailable(text)),
    }
}

fn info(reference: &str) -> ImageInfo {
    ImageInfo {
        reference: reference.to_owned(),
        local_name: reference.to_owned(),
        id: format!("{reference}@sha256:0"),
        user: String::new(),
        stop_signal: String::new(),
        size: 1,
    }
}

#[async_trait]
impl Images for FakeNode {
    async fn find(&self, reference: &str) -> Result<Option<ImageInfo>, ImageError> {
        Ok(self.state().images.contains(reference).then(|| info(reference)))
    }

    async fn pull(
        &self,
        reference: &str,
        _credentials: &[Credential],
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<ImageInfo, ImageError> {
        // A megabyte in ten steps.
        let step = self.state().pull_time / 10;
        for done in 0..10 {
            progress(Progress { done: done * 100_000, total: 1_000_000 });
            tokio::time::sleep(step).await;
        }
        let mut state = self.state();
        state.log.push(format!("pull {reference}"));
        if !state.registry.contains(reference) {
            return Err(ImageError::Pull {
                reference: reference.to_owned(),
                endpoint: "registry.test".into(),
                why: "not found".into(),
                source: None,
            });
        }
        state.images.insert(reference.to_owned());
        Ok(info(reference))
    }

    async fn list(&self) -> Result<Vec<String>, ImageError> {
        Ok(self.state().images.iter().cloned().collect())
    }
}
