//! The runtime port with a clock: how long each kind of call takes and how many fail, under the names that dashboards of
//! the kubelet use. Changes nothing else.

use std::{future::Future, os::fd::OwnedFd, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;

use super::{ContainerSpec, ExecSession, ExecSpec, Runtime, RuntimeError, RuntimeEvent};
use crate::model::{ContainerId, ObservedContainer, PodUid};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation_type: &'static str,
}

/// See the module.
pub struct Timed {
    inner: Arc<dyn Runtime>,
    seconds: Family<Operation, Histogram>,
    errors: Family<Operation, Counter>,
}

impl Timed {
    /// Measures `inner`.
    pub fn new(inner: Arc<dyn Runtime>, registry: &mut Registry) -> Self {
        let seconds: Family<Operation, Histogram> = Family::new_with_constructor(histogram);
        let errors: Family<Operation, Counter> = Family::default();
        registry.register(
            "kubelet_runtime_operations_duration_seconds",
            "Duration of calls of the container runtime",
            seconds.clone(),
        );
        registry.register(
            "kubelet_runtime_operations_errors",
            "Calls of the container runtime that failed",
            errors.clone(),
        );
        Self { inner, seconds, errors }
    }

    async fn timed<T>(
        &self,
        operation_type: &'static str,
        call: impl Future<Output = Result<T, RuntimeError>> + Send,
    ) -> Result<T, RuntimeError> {
        let began = Instant::now();
        let result = call.await;
        let operation = Operation { operation_type };
        self.seconds.get_or_create(&operation).observe(began.elapsed().as_secs_f64());
        if result.is_err() {
            self.errors.get_or_create(&operation).inc();
        }
        result
    }
}

/// 1 ms to 16 s: a start takes 30 to 100 ms on an idle machine.
fn histogram() -> Histogram {
    Histogram::new((0..15).map(|power| 0.001 * f64::from(1 << power)))
}

#[async_trait]
impl Runtime for Timed {
    async fn version(&self) -> Result<String, RuntimeError> {
        self.timed("version", self.inner.version()).await
    }

    async fn list(&self) -> Result<Vec<ObservedContainer>, RuntimeError> {
        self.timed("list_containers", self.inner.list()).await
    }

    async fn list_pod(&self, pod: &PodUid) -> Result<Vec<ObservedContainer>, RuntimeError> {
        self.timed("container_status", self.inner.list_pod(pod)).await
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        self.timed("create_container", self.inner.create(spec)).await
    }

    async fn start(&self, id: &ContainerId) -> Result<u32, RuntimeError> {
        self.timed("start_container", self.inner.start(id)).await
    }

    async fn kill(&self, id: &ContainerId, signal: i32, all: bool) -> Result<(), RuntimeError> {
        self.timed("stop_container", self.inner.kill(id, signal, all)).await
    }

    async fn release(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.timed("release_container", self.inner.release(id)).await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.timed("remove_container", self.inner.remove(id)).await
    }

    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession, RuntimeError> {
        self.timed("exec", self.inner.exec(id, spec)).await
    }

    // Lasts as long as the process: not a time of the runtime.
    async fn exec_wait(&self, id: &ContainerId, exec: &str) -> Result<i32, RuntimeError> {
        self.inner.exec_wait(id, exec).await
    }

    async fn exec_resize(
        &self,
        id: &ContainerId,
        exec: &str,
        width: u16,
        height: u16,
    ) -> Result<(), RuntimeError> {
        self.inner.exec_resize(id, exec, width, height).await
    }

    async fn exec_kill(&self, id: &ContainerId, exec: &str) -> Result<(), RuntimeError> {
        self.inner.exec_kill(id, exec).await
    }

    async fn attach_stdin(&self, id: &ContainerId, once: bool) -> Result<Option<OwnedFd>, RuntimeError> {
        self.inner.attach_stdin(id, once).await
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        self.inner.events()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeNode;

    #[tokio::test]
    async fn calls_are_counted_by_kind_and_failures_besides() {
        let mut registry = Registry::default();
        let runtime = Timed::new(Arc::new(FakeNode::new()), &mut registry);
        runtime.version().await.unwrap();
        runtime.start(&"p1.web.0".into()).await.unwrap_err();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let count = "kubelet_runtime_operations_duration_seconds_count";
        for line in [
            format!("{count}{{operation_type=\"version\"}} 1"),
            format!("{count}{{operation_type=\"start_container\"}} 1"),
            "kubelet_runtime_operations_errors_total{operation_type=\"start_container\"} 1".to_owned(),
        ] {
            assert!(text.contains(&line), "no {line} in\n{text}");
        }
    }
}
