//! Events about pods, with time and subject filled in.

use std::sync::Arc;

use crate::{
    model::{ContainerName, DesiredPod, EventSubject, EventType, NodeEvent, PodName, PodUid, Upstream},
    observe::Clock,
    plan::Notice,
};

/// Whose events.
#[derive(Clone, Debug)]
pub struct EventPod {
    /// Its uid.
    pub uid: PodUid,
    /// Its name.
    pub name: PodName,
    /// Names of its init containers: they have a field path of their own.
    init: Vec<String>,
}

impl EventPod {
    /// Of a desired pod.
    pub fn of(pod: &DesiredPod) -> Self {
        let init = pod.pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        Self {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            init: init.map(|container| container.name.clone()).collect(),
        }
    }

    /// `spec.containers{web}`.
    pub fn field_path(&self, container: &ContainerName) -> String {
        let list = if self.init.iter().any(|name| name == container.as_str()) {
            "initContainers"
        } else {
            "containers"
        };
        format!("spec.{list}{{{container}}}")
    }
}

/// The recorder.
#[derive(Clone)]
pub struct Events {
    upstream: Arc<dyn Upstream>,
    clock: Clock,
}

impl Events {
    /// Records into this sink.
    pub fn new(upstream: Arc<dyn Upstream>, clock: Clock) -> Self {
        Self { upstream, clock }
    }

    /// About one container of a pod.
    pub fn container(
        &self,
        pod: &EventPod,
        container: &ContainerName,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        self.send(pod, Some(pod.field_path(container)), kind, reason, message);
    }

    /// About a pod.
    pub fn pod(&self, pod: &EventPod, kind: EventType, reason: &'static str, message: String) {
        self.send(pod, None, kind, reason, message);
    }

    /// What a plan noticed.
    pub fn notice(&self, pod: &EventPod, notice: Notice) {
        let kind = if notice.warning { EventType::Warning } else { EventType::Normal };
        self.send(pod, notice.field_path, kind, notice.reason, notice.message);
    }

    fn send(
        &self,
        pod: &EventPod,
        field_path: Option<String>,
        kind: EventType,
        reason: &'static str,
        message: String,
    ) {
        self.upstream.event(NodeEvent {
            subject: EventSubject::Pod { uid: pod.uid.clone(), name: pod.name.clone(), field_path },
            kind,
            reason,
            message,
            time_ms: (self.clock)(),
        });
    }
}
