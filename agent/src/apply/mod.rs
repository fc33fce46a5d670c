//! Carries plans out: the only caller of mutating ports. It decides nothing and remembers only failures; what a
//! step did is learned by the next observation. Pulls and hooks run on in the background and ring the pod's bell.

use std::{error::Error, io, sync::Arc};

use futures::{FutureExt, future::join_all};
use tracing::{Instrument, debug, info_span};

use crate::{
    failpoint, logs,
    model::{
        Desired, DesiredPod, EventType, Layout, NetworkStatus, PodUid, StopRecord, Subject, Target, chain,
    },
    net::PodNetwork,
    observe::{Clock, PodState, Ports},
    plan::{self, Launch, Step},
    records::Records,
    runtime::RuntimeError,
};

mod credentials;
mod events;
mod hooks;
mod images;
mod launch;
mod progress;
mod wires;

pub use events::{EventPod, Events};
pub use wires::Wires;

/// SIGKILL.
const KILL: i32 = 9;

/// The hands of the agent.
#[derive(Clone)]
pub struct Apply {
    ports: Ports,
    records: Arc<Records>,
    events: Events,
    clock: Clock,
    layout: Layout,
    wires: Wires,
}

/// The pod that steps are for.
#[derive(Clone)]
pub struct Job {
    /// Its uid.
    pub uid: PodUid,
    /// As desired; `None` for a pod nobody wants.
    pub pod: Option<Arc<DesiredPod>>,
    /// What is desired besides.
    pub desired: Arc<Desired>,
    /// Its memory and bell.
    pub state: Arc<PodState>,
}

impl Apply {
    /// Works through these.
    pub fn new(
        ports: Ports,
        records: Arc<Records>,
        events: Events,
        clock: Clock,
        layout: Layout,
        wires: Wires,
    ) -> Self {
        Self { ports, records, events, clock, layout, wires }
    }

    /// Runs all steps: at the same time, but that containers start in the order given, and none before the datapath is
    /// at the pod's wire.
    pub async fn run(&self, job: &Job, steps: Vec<Step>) {
        let mut launches = Vec::new();
        let mut wire = None;
        let mut others = Vec::new();
        for step in steps {
            match step {
                Step::Launch(launch) => launches.push(*launch),
                Step::Attach(network) => wire = Some(network),
                step => others.push(self.step(job, step)),
            }
        }
        let attached = async {
            match wire {
                Some(network) => self.attach(job, network).await,
                None => true,
            }
        }
        .shared();
        tokio::join!(join_all(others), attached.clone(), self.launch_all(job, launches, attached));
    }

    /// One after the other, as upstream: containers of a pod share a shim, and two that are created at once would
    /// each start one, of which only the last would ever be found again.
    async fn launch_all(
        &self,
        job: &Job,
        launches: Vec<Launch>,
        attached: impl Future<Output = bool> + Clone,
    ) {
        for launch in launches {
            if !self.create(job, &launch).await {
                continue;
            }
            // A container's first process must never reach the network unseen.
            if !attached.clone().await {
                return;
            }
            self.start(job, &launch.target).await;
        }
    }

    async fn step(&self, job: &Job, step: Step) {
        let span = info_span!("step", pod = %job.uid);
        async {
            debug!(?step, "step");
            match step {
                Step::EnsureNetwork(network) => self.ensure_network(job, &network).await,
                Step::EnsureCgroup { qos, limits } => {
                    let done = self.ports.cgroups.ensure_pod(&job.uid, qos, &limits);
                    if self.note(job, Subject::Cgroup, done).is_ok() {
                        let mut memory = job.state.memory();
                        (memory.cgroup, memory.limited) = (true, true);
                    }
                }
                Step::EnsureVolume(volume) => self.ensure_volume(job, &volume).await,
                Step::Image(request) => self.image(job, request).await,
                // Ordered, so run elsewhere.
                Step::Launch(_) | Step::Attach(_) => {}
                Step::PostStart(call) => self.post_start(job, &call),
                Step::BeginStop { target, message, pre_stop } => {
                    self.begin_stop(job, &target, message, pre_stop);
                }
                Step::PreStop(call) => self.pre_stop(job, &call),
                Step::Signal { target, signal } => self.signal(job, &target, signal).await,
                Step::Kill(target) => self.kill(job, &target).await,
                Step::Release(target) => {
                    let done = self.ports.runtime.release(&target.id).await;
                    let _ = self.note(job, Subject::Removal, done);
                }
                Step::Remove { target, log } => self.remove(job, &target, log).await,
                Step::RemoveNetwork => self.remove_network(job).await,
                Step::RemoveCgroup => {
                    let (cgroups, pod) = (Arc::clone(&self.ports.cgroups), job.uid.clone());
                    // It waits until the kernel has killed what was left, seconds at the worst.
                    let done = blocking(move || cgroups.remove_pod(&pod)).await;
                    let _ =
                        self.note(job, Subject::Removal, done.map(|()| job.state.memory().cgroup = false));
                }
                Step::RemoveVolumes => {
                    let done = self.ports.volumes.release(&job.uid).await;
                    let done = done.map(|()| {
                        let mut memory = job.state.memory();
                        memory.volumes.clear();
                        memory.mounted = false;
                    });
                    let _ = self.note(job, Subject::Removal, done);
                }
                Step::RemoveFiles => self.remove_files(job).await,
            }
        }
        .instrument(span)
        .await;
    }

    async fn ensure_network(&self, job: &Job, network: &PodNetwork) {
        let done = self.ports.network.ensure_pod(network).await;
        match self.note(job, Subject::Network, done) {
            Ok(status) => {
                self.wires.made(&job.uid, &status);
                let mut memory = job.state.memory();
                // What has no wire has nothing to attach to.
                memory.attached = status.addresses.is_none();
                memory.network = Some(status);
            }
            Err(error) => self.no_sandbox(job, &error),
        }
    }

    /// Whether the datapath sees the pod from now on.
    async fn attach(&self, job: &Job, network: NetworkStatus) -> bool {
        let dataplane = Arc::clone(&self.ports.dataplane);
        let uid = job.uid.clone();
        // It waits for the kernel's grace periods.
        let done = blocking(move || match &network.addresses {
            Some(addresses) => dataplane.attach_pod(&uid, &network.netns, addresses),
            None => Ok(()),
        });
        match self.note(job, Subject::Network, done.await) {
            Ok(()) => {
                job.state.memory().attached = true;
                true
            }
            Err(error) => {
                self.no_sandbox(job, &error);
                false
            }
        }
    }

    fn no_sandbox(&self, job: &Job, error: &str) {
        if let Some(pod) = &job.pod {
            let message = format!("Failed to create pod sandbox: {error}");
            self.events.pod(&EventPod::of(pod), EventType::Warning, "FailedCreatePodSandBox", message);
        }
    }

    async fn ensure_volume(&self, job: &Job, volume: &crate::volumes::VolumeSpec) {
        let done = self.ports.volumes.ensure(&job.uid, volume).await;
        let done = done.map(|()| {
            let mut memory = job.state.memory();
            memory.volumes.insert(volume.name.clone(), volume.digest);
            (memory.files, memory.mounted) = (true, true);
        });
        if let Err(error) = self.note(job, Subject::Volume(volume.name.clone()), done)
            && let Some(pod) = &job.pod
        {
            let message = format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name);
            self.events.pod(&EventPod::of(pod), EventType::Warning, "FailedMount", message);
        }
    }

    /// Writes down that the end has begun, before anything of it happens.
    fn begin_stop(&self, job: &Job, target: &Target, message: String, pre_stop: Option<plan::HookCall>) {
        let now = (self.clock)();
        self.records.update(&job.uid, |record| {
            let stop = StopRecord { since_ms: now, pre_stop_done: pre_stop.is_none(), signalled_ms: None };
            if let Some(record) = record.of_mut(&target.container, target.attempt) {
                record.stop.get_or_insert(stop);
            }
        });
        if let Some(pod) = &job.pod {
            self.events.container(
                &EventPod::of(pod),
                &target.container,
                EventType::Normal,
                "Killing",
                message,
            );
        }
        if let Some(call) = pre_stop {
            self.pre_stop(job, &call);
        }
    }

    async fn signal(&self, job: &Job, target: &Target, signal: i32) {
        let done = self.ports.runtime.kill(&target.id, signal, false).await;
        if self.note(job, Subject::Stop(target.container.clone()), done).is_ok() {
            let now = (self.clock)();
            self.records.update(&job.uid, |record| {
                let record = record.of_mut(&target.container, target.attempt);
                if let Some(stop) = record.and_then(|record| record.stop.as_mut()) {
                    stop.signalled_ms = Some(now);
                    stop.pre_stop_done = true;
                }
            });
        }
    }

    async fn kill(&self, job: &Job, target: &Target) {
        let done = self.ports.runtime.kill(&target.id, KILL, true).await;
        let _ = self.note(job, Subject::Stop(target.container.clone()), done);
    }

    async fn remove(&self, job: &Job, target: &Target, log: bool) {
        let done = self.ports.runtime.remove(&target.id).await;
        if self.note(job, Subject::Removal, done).is_err() {
            return;
        }
        job.state.memory().messages.remove(&target.id);
        self.ports.volumes.forget_termination_log(&job.uid, &target.container, target.attempt).await;
        if let Some(pod) = job.pod.as_ref().filter(|_| log) {
            let path = self.layout.container_log(&pod.name, &pod.uid, &target.container, target.attempt);
            // What cannot be removed goes with the pod's directory.
            let removed = tokio::task::spawn_blocking(move || logs::remove(&path)).await;
            if let Ok(Err(error)) = removed {
                tracing::warn!(container = %target.id, %error, "the log of an attempt cannot be removed yet");
            }
        }
    }

    async fn remove_network(&self, job: &Job) {
        let done = async {
            // The wire first: links at an interface that is gone end without a grace period. What an interrupted agent
            // leaves of them the next one's start clears.
            self.ports.network.remove_pod(&job.uid).await.map_err(boxed)?;
            failpoint::reach("apply.network.removed", job.uid.as_str());
            self.wires.removed(&job.uid);
            let dataplane = Arc::clone(&self.ports.dataplane);
            let uid = job.uid.clone();
            blocking(move || dataplane.detach_pod(&uid)).await?;
            let mut memory = job.state.memory();
            (memory.network, memory.attached) = (None, false);
            Ok::<(), Box<dyn Error + Send + Sync>>(())
        };
        let _ = self.note(job, Subject::Removal, done.await);
    }

    async fn remove_files(&self, job: &Job) {
        // Logs first: the pod's directory is what tells a later agent that something is left.
        if self.note(job, Subject::Removal, self.remove_logs(&job.uid).await).is_err() {
            return;
        }
        failpoint::reach("apply.files.unlogged", job.uid.as_str());
        let done = self.ports.volumes.remove(&job.uid).await;
        let done = done.map(|()| {
            let mut memory = job.state.memory();
            memory.volumes.clear();
            (memory.files, memory.mounted) = (false, false);
        });
        let _ = self.note(job, Subject::Removal, done);
    }

    /// By uid: of a pod that an earlier agent ran, nothing else may be known.
    async fn remove_logs(&self, uid: &PodUid) -> io::Result<()> {
        let mut entries = match tokio::fs::read_dir(&self.layout.log_dir).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let suffix = format!("_{uid}");
        while let Some(entry) = entries.next_entry().await? {
            if entry.file_name().to_string_lossy().ends_with(&suffix) {
                tokio::fs::remove_dir_all(entry.path()).await?;
            }
        }
        Ok(())
    }

    /// Remembers a failure for the next plan, or that there is none any more; hands on its text.
    fn note<T, E>(&self, job: &Job, subject: Subject, done: Result<T, E>) -> Result<T, String>
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        match done {
            Ok(value) => {
                job.state.memory().failures.remove(&subject);
                Ok(value)
            }
            Err(error) => {
                let text = chain(&*error.into());
                tracing::warn!(pod = %job.uid, subject = ?subject, error = %text, "a step failed");
                job.state.memory().failed(subject, "", text.clone(), 0, (self.clock)());
                Err(text)
            }
        }
    }
}

async fn blocking<E: Error + Send + Sync + 'static>(
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    tokio::task::spawn_blocking(work).await.map_err(boxed)?.map_err(boxed)
}

fn boxed<E: Error + Send + Sync + 'static>(error: E) -> Box<dyn Error + Send + Sync> {
    Box::new(error)
}

/// The reason a failed creation or start has in the pod's status.
fn reason_of(error: &RuntimeError, otherwise: &'static str) -> &'static str {
    match error {
        RuntimeError::Config { .. } => "CreateContainerConfigError",
        RuntimeError::Start { .. } => "RunContainerError",
        RuntimeError::Call { .. } | RuntimeError::Io { .. } | RuntimeError::NotFound(_) => otherwise,
    }
}
