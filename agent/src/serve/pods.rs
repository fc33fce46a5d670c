//! The node's pods as metrics and debugging need them: a reading of desired state, reported statuses and cgroup
//! counters, joined when somebody asks.

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec, PodStatus};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    cgroup::{Cgroups, Usage},
    model::{Desired, DesiredPod, NodeView, PodUid},
    plan::Amounts,
    records::Records,
};

/// The parts that are joined.
#[derive(Clone)]
pub(super) struct Pods {
    pub(super) desired: watch::Receiver<Option<Arc<Desired>>>,
    pub(super) records: Arc<Records>,
    pub(super) cgroups: Arc<dyn Cgroups>,
    pub(super) node: watch::Receiver<Arc<NodeView>>,
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pods")
    }
}

/// One pod in `/debug/pods`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodDebug {
    namespace: String,
    name: String,
    uid: String,
    /// Generation that brought the present desired state of it.
    generation: u64,
    /// Its deletion was asked for.
    deleting: bool,
    /// As last reported to the scheduler.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Arc<PodStatus>>,
}

/// A container that runs, with its counters.
pub(super) struct Running {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) image: String,
    pub(super) usage: Usage,
    pub(super) amounts: Amounts,
    /// Unix seconds.
    pub(super) started: Option<f64>,
}

/// A container that runs, as its status tells, with its counters.
pub(super) type Used = (ContainerStatus, Usage);

/// Everything that is measured, read once for each scrape.
pub(super) struct Reading {
    pub(super) running: Vec<Running>,
    pub(super) running_pods: usize,
    pub(super) exited: usize,
    pub(super) waiting: usize,
    pub(super) failed: bool,
}

impl Pods {
    pub(super) fn debug(&self) -> Vec<PodDebug> {
        let pods = self.desired();
        let describe = |pod: &Arc<DesiredPod>| PodDebug {
            namespace: pod.name.namespace.to_string(),
            name: pod.name.name.to_string(),
            uid: pod.uid.to_string(),
            generation: pod.generation,
            deleting: pod.pod.metadata.deletion_timestamp.is_some(),
            status: self.records.get(&pod.uid).status,
        };
        pods.iter().map(describe).collect()
    }

    /// The pods as the API has them, with the status that was reported last.
    pub(super) fn whole(&self) -> Vec<Pod> {
        let with_status = |desired: Arc<DesiredPod>| {
            let mut pod = desired.pod.clone();
            if let Some(status) = self.records.get(&desired.uid).status {
                pod.status = Some((*status).clone());
            }
            pod
        };
        self.desired().into_iter().map(with_status).collect()
    }

    /// The pod of this name; when one of them is ending, the other.
    pub(super) fn uid_of(&self, namespace: &str, name: &str) -> Option<PodUid> {
        let named = |pod: &&Arc<DesiredPod>| &*pod.name.namespace == namespace && &*pod.name.name == name;
        let pods = self.desired();
        let ending = |pod: &&Arc<DesiredPod>| pod.pod.metadata.deletion_timestamp.is_some();
        pods.iter().filter(named).min_by_key(ending).map(|pod| pod.uid.clone())
    }

    /// What each running container has used, by pod.
    pub(super) fn usage(&self) -> Vec<(Arc<DesiredPod>, Vec<Used>)> {
        let of_pod = |pod: &DesiredPod| {
            let status = self.records.get(&pod.uid).status.unwrap_or_default();
            let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
            let running = all.filter(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()));
            let used = running.filter_map(|c| {
                let usage = self.cgroups.container_usage(&pod.uid, &c.name).ok().flatten()?;
                Some((c.clone(), usage))
            });
            used.collect::<Vec<_>>()
        };
        let all = self.desired().into_iter().map(|pod| (pod.clone(), of_pod(&pod)));
        all.filter(|(_, containers)| !containers.is_empty()).collect()
    }

    pub(super) fn read(&self) -> Reading {
        let mut reading =
            Reading { running: Vec::new(), running_pods: 0, exited: 0, waiting: 0, failed: false };
        for pod in self.desired() {
            let before = reading.running.len();
            let status = self.records.get(&pod.uid).status.unwrap_or_default();
            let regular = status.container_statuses.iter().flatten();
            for status in regular.chain(status.init_container_statuses.iter().flatten()) {
                self.container(&pod, status, &mut reading);
            }
            reading.running_pods += usize::from(reading.running.len() > before);
        }
        reading
    }

    fn container(&self, pod: &DesiredPod, status: &ContainerStatus, reading: &mut Reading) {
        let state = status.state.as_ref();
        let Some(run) = state.and_then(|state| state.running.as_ref()) else {
            let ended = state.is_some_and(|state| state.terminated.is_some());
            *(if ended { &mut reading.exited } else { &mut reading.waiting }) += 1;
            return;
        };
        match self.cgroups.container_usage(&pod.uid, &status.name) {
            Ok(Some(usage)) => reading.running.push(Running {
                namespace: pod.name.namespace.to_string(),
                pod: pod.name.name.to_string(),
                amounts: amounts(pod.pod.spec.as_ref(), &status.name),
                container: status.name.clone(),
                image: status.image.clone(),
                usage,
                started: run.started_at.as_ref().map(|time| time.0.as_millisecond() as f64 / 1000.0),
            }),
            // It ended between the report and this reading.
            Ok(None) => {}
            Err(error) => {
                reading.failed = true;
                tracing::debug!(%error, pod = %pod.name, container = status.name, "no usage of a container");
            }
        }
    }

    fn desired(&self) -> Vec<Arc<DesiredPod>> {
        let desired = self.desired.borrow().clone();
        desired.map(|desired| desired.pods.values().cloned().collect()).unwrap_or_default()
    }
}

fn amounts(spec: Option<&PodSpec>, name: &str) -> Amounts {
    let all = |spec: &PodSpec| -> Vec<Container> {
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).cloned().collect()
    };
    let container = spec.map(all).unwrap_or_default().into_iter().find(|container| container.name == name);
    Amounts::of(container.as_ref().and_then(|container| container.resources.as_ref()))
}
