//! Joins what runtime, network, cgroups and volumes report into one [`ObservedPod`]. Containers are asked for at
//! every observation; what the agent alone makes (namespaces, cgroups, directories) is read when it starts and at
//! every full resync, and amended by what the ports answer in between. Never changes anything on the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{
    cgroup::{CgroupError, Cgroups},
    dataplane::Dataplane,
    images::Images,
    model::{
        ContainerId, ContainerName, ContainerState, Failure, HookKind, ImageState, NetworkStatus,
        ObservedContainer, ObservedPod, PodUid, Subject, spec::host_network,
    },
    net::{NetError, Network},
    records::Records,
    runtime::{Runtime, RuntimeError},
    volumes::{VolumeError, Volumes},
};

mod host;
mod pressure;
mod pulse;
mod termination_message;

pub use host::{Host, Machine};
pub use pressure::{Threshold, Thresholds};
pub use pulse::{Heard, Pulse};
pub use termination_message::TerminationMessages;

/// The outside world of the pods.
#[derive(Clone)]
pub struct Ports {
    /// containerd.
    pub runtime: Arc<dyn Runtime>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Limits.
    pub cgroups: Arc<dyn Cgroups>,
    /// Namespaces and addresses.
    pub network: Arc<dyn Network>,
    /// eBPF.
    pub dataplane: Arc<dyn Dataplane>,
    /// Directories and mounts.
    pub volumes: Arc<dyn Volumes>,
}

/// Unix milliseconds. Tests bring their own.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What is known of a pod between two observations without asking anyone, and the bell that asks for the next.
#[derive(Debug, Default)]
pub struct PodState {
    memory: Mutex<Memory>,
    /// Rung by whoever changed something of the pod.
    pub bell: Notify,
}

/// See [`PodState`]. All of it is found again after a restart of the agent, or is made again without harm.
#[derive(Debug, Default)]
pub struct Memory {
    /// As the network port last answered.
    pub network: Option<NetworkStatus>,
    /// The datapath has it.
    pub attached: bool,
    /// It has a cgroup.
    pub cgroup: bool,
    /// This agent has set the cgroup's limits.
    pub limited: bool,
    /// It has a directory.
    pub files: bool,
    /// Volumes are in it, or may be.
    pub mounted: bool,
    /// Digests of its volumes.
    pub volumes: BTreeMap<String, u64>,
    /// Images by container.
    pub images: BTreeMap<ContainerName, ImageState>,
    /// Failed steps.
    pub failures: BTreeMap<Subject, Failure>,
    /// Hooks that run.
    pub hooks: BTreeSet<(ContainerId, HookKind)>,
    /// Last words of ended containers.
    pub messages: BTreeMap<ContainerId, Option<String>>,
}

impl Memory {
    /// Counts a failure of a step.
    pub fn failed(
        &mut self,
        subject: Subject,
        reason: &'static str,
        message: String,
        attempt: u32,
        now: i64,
    ) {
        let count = self.failures.get(&subject).map_or(0, |failure| failure.count) + 1;
        self.failures.insert(subject, Failure { reason, message, count, at_ms: now, attempt });
    }
}

impl PodState {
    /// Its memory; never held across an await.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        // Fields are replaced one by one and each is valid by itself.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the node that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// Containers.
    #[error("cannot list containers")]
    Runtime(#[source] RuntimeError),
    /// Namespaces.
    #[error("cannot list pod networks")]
    Network(#[source] NetError),
    /// cgroups.
    #[error("cannot list pod cgroups")]
    Cgroups(#[source] CgroupError),
    /// Directories.
    #[error("cannot list pod directories")]
    Volumes(#[source] VolumeError),
}

/// Everything of ours on the node, by pod.
#[derive(Debug, Default)]
pub struct Inventory {
    /// Networks.
    pub networks: BTreeMap<PodUid, NetworkStatus>,
    /// Pods with a cgroup.
    pub cgroups: BTreeSet<PodUid>,
    /// Pods with a directory, and whether it has volumes.
    pub files: BTreeMap<PodUid, bool>,
    /// Pods with a container or a record.
    pub others: BTreeSet<PodUid>,
}

impl Inventory {
    /// All pods of which anything is left.
    pub fn pods(&self) -> BTreeSet<PodUid> {
        let sets = self.cgroups.iter().chain(self.files.keys()).chain(&self.others);
        self.networks.keys().chain(sets).cloned().collect()
    }

    /// Corrects what is remembered of one pod.
    pub fn correct(&self, pod: &PodUid, memory: &mut Memory) {
        let network = self.networks.get(pod).cloned();
        if network.is_none() || memory.network != network {
            memory.attached = false;
        }
        memory.network = network;
        memory.cgroup = self.cgroups.contains(pod);
        memory.limited &= memory.cgroup;
        memory.files = self.files.contains_key(pod);
        memory.mounted = self.files.get(pod).copied().unwrap_or(false);
        if !memory.files {
            memory.volumes.clear();
        }
    }
}

/// The reader of the node.
#[derive(Clone)]
pub struct Observer {
    ports: Ports,
    records: Arc<Records>,
    clock: Clock,
    words: TerminationMessages,
}

impl Observer {
    /// Reads through these ports.
    pub fn new(ports: Ports, records: Arc<Records>, clock: Clock, words: TerminationMessages) -> Self {
        Self { ports, records, clock, words }
    }

    /// Everything of ours.
    pub async fn inventory(&self) -> Result<Inventory, ObserveError> {
        let containers = self.ports.runtime.list().await.map_err(ObserveError::Runtime)?;
        let mut others: BTreeSet<_> = containers.into_iter().map(|container| container.pod).collect();
        others.extend(self.records.list());
        let files = self.ports.volumes.list().await.map_err(ObserveError::Volumes)?;
        Ok(Inventory {
            networks: self.ports.network.list().await.map_err(ObserveError::Network)?,
            cgroups: self.ports.cgroups.list_pods().map_err(ObserveError::Cgroups)?.into_iter().collect(),
            files: files.into_iter().map(|files| (files.pod, files.volumes)).collect(),
            others,
        })
    }

    /// One pod. `wanted` tells how its containers leave their termination message; without it nobody asks for them.
    pub async fn pod(
        &self,
        uid: &PodUid,
        state: &PodState,
        wanted: Option<&crate::model::DesiredPod>,
    ) -> Result<ObservedPod, ObserveError> {
        let listed = self.ports.runtime.list_pod(uid).await.map_err(ObserveError::Runtime)?;
        let mut containers: BTreeMap<ContainerName, Vec<ObservedContainer>> = BTreeMap::new();
        for container in listed {
            containers.entry(container.container.clone()).or_default().push(container);
        }
        for attempts in containers.values_mut() {
            attempts.sort_by_key(|container| container.attempt);
        }
        if let Some(pod) = wanted {
            self.read_termination_messages(pod, state, &containers).await;
        }
        let record = self.records.get(uid);
        let memory = state.memory();
        let host_network = wanted.is_some_and(|pod| host_network(&pod.pod));
        Ok(ObservedPod {
            now_ms: (self.clock)(),
            containers,
            network: memory.network.clone(),
            attached: memory.attached || host_network,
            cgroup: memory.cgroup,
            limited: memory.limited,
            volumes: memory.volumes.clone(),
            files: memory.files,
            mounted: memory.mounted,
            images: memory.images.clone(),
            record,
            failures: memory.failures.clone(),
            hooks: memory.hooks.clone(),
            messages: memory
                .messages
                .iter()
                .filter_map(|(id, message)| Some((id.clone(), message.clone()?)))
                .collect(),
        })
    }

    async fn read_termination_messages(
        &self,
        pod: &crate::model::DesiredPod,
        state: &PodState,
        containers: &BTreeMap<ContainerName, Vec<ObservedContainer>>,
    ) {
        for container in containers.values().flatten() {
            let ContainerState::Exited { code, .. } = container.state else { continue };
            if state.memory().messages.contains_key(&container.id) {
                continue;
            }
            let message = self.words.of(&*self.ports.volumes, pod, container, code).await;
            state.memory().messages.insert(container.id.clone(), message);
        }
    }
}
