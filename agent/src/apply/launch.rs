//! Creating and starting one attempt of a container.

use tracing::warn;

use super::{Apply, EventPod, Job, reason_of};
use crate::{
    model::{EventType, Subject, Target, chain},
    plan::{self, Launch},
    runtime::RuntimeError,
};

impl Apply {
    /// Files, sub paths, then the container itself. Whether it can be started.
    pub(super) async fn create(&self, job: &Job, launch: &Launch) -> bool {
        let target = &launch.target;
        if let Err(error) = self.prepare(job, launch).await {
            self.start_failed(job, target, "CreateContainerConfigError", chain(&error));
            return false;
        }
        let mut spec = launch.spec.clone();
        let qos = job.pod.as_ref().map_or(crate::cgroup::Qos::BestEffort, |pod| plan::qos(&pod.pod));
        spec.cgroup = self.ports.cgroups.container_path(&job.uid, qos, target.container.as_str());
        match self.ports.runtime.create(&spec).await {
            Ok(()) => {
                self.tell(job, target, EventType::Normal, "Created", "Container created");
                true
            }
            Err(error) => {
                // The image may have been removed behind our back: look it up again.
                job.state.memory().images.remove(&target.container);
                self.start_failed(job, target, reason_of(&error, "CreateContainerError"), chain(&error));
                false
            }
        }
    }

    async fn prepare(&self, job: &Job, launch: &Launch) -> Result<(), crate::volumes::VolumeError> {
        let volumes = &self.ports.volumes;
        {
            let mut memory = job.state.memory();
            (memory.files, memory.mounted) = (true, true);
        }
        if launch.shared_memory {
            volumes.ensure_shared_memory(&job.uid).await?;
        }
        volumes.write_files(&job.uid, &launch.files).await?;
        volumes.termination_log(&job.uid, &launch.target.container, launch.target.attempt).await?;
        for sub_path in &launch.sub_paths {
            volumes.ensure_sub_path(&job.uid, sub_path).await?;
        }
        Ok(())
    }

    /// Starts a created container.
    pub(super) async fn start(&self, job: &Job, target: &Target) {
        match self.ports.runtime.start(&target.id).await {
            Ok(_) => {
                job.state.memory().failures.remove(&Subject::Container(target.container.clone()));
                self.tell(job, target, EventType::Normal, "Started", "Container started");
            }
            Err(error) => {
                let reason = match reason_of(&error, "RunContainerError") {
                    "CreateContainerConfigError" => "RunContainerError",
                    reason => reason,
                };
                self.start_failed(job, target, reason, start_text(&error));
            }
        }
    }

    fn start_failed(&self, job: &Job, target: &Target, reason: &'static str, message: String) {
        warn!(pod = %job.uid, container = %target.container, reason, error = %message, "a container cannot start");
        // Each attempt tells; what is wrong with the configuration stays so, and the plan tells it.
        if reason != "CreateContainerConfigError" {
            self.tell(job, target, EventType::Warning, "Failed", &format!("Error: {message}"));
        }
        let subject = Subject::Container(target.container.clone());
        job.state.memory().failed(subject, reason, message, target.attempt, (self.clock)());
    }

    fn tell(&self, job: &Job, target: &Target, kind: EventType, reason: &'static str, message: &str) {
        if let Some(pod) = &job.pod {
            self.events.container(&EventPod::of(pod), &target.container, kind, reason, message.to_owned());
        }
    }
}

fn start_text(error: &RuntimeError) -> String {
    format!("failed to start container: {}", chain(error))
}
