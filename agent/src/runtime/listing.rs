//! Observation of containers: containerd's records joined with its tasks. A record tells who a container is and
//! what became of it; a task tells whether it runs. Records without a task that never started are left-overs of a
//! killed agent: they are removed at the first observation, and what cannot be removed then is shown as created, so
//! that whoever starts or ends the pod removes it.
//!
//! containerd answers "unknown" for a task whose shim is slow. That is no end: the process itself is looked for.

use std::collections::HashMap;

use containerd_client::{
    services::v1::{Container, ListContainersRequest, ListTasksRequest},
    types::v1::{Process, Status as Task},
};
use tokio::time::timeout;
use tonic::Status;

use super::{
    Runtime, RuntimeError,
    containerd::ContainerdRuntime,
    errors::call,
    facts,
    labels::{self, native_id},
};
use crate::{
    containerd::DEADLINE,
    model::{Chain, ContainerId, ContainerState, ObservedContainer, PodUid},
    proc::Proc,
};

/// Exit code of a container whose program could not be started.
const START_FAILED: i32 = 128;

impl ContainerdRuntime {
    pub(super) async fn observe(&self) -> Result<Vec<ObservedContainer>, RuntimeError> {
        self.recovered.get_or_try_init(|| self.remove_left_overs()).await?;
        let (records, tasks) = self.records_and_tasks().await?;
        let mut observed = Vec::with_capacity(records.len());
        for record in &records {
            observed.extend(self.observed(record, tasks.get(&record.id)).await);
        }
        Ok(observed)
    }

    /// Asks only for the pod's own: a pass over one pod must not cost more on a fuller node.
    pub(super) async fn observe_pod(&self, pod: &PodUid) -> Result<Vec<ObservedContainer>, RuntimeError> {
        self.recovered.get_or_try_init(|| self.remove_left_overs()).await?;
        let mut observed = Vec::new();
        for record in self.records(vec![format!("labels.{:?}=={:?}", labels::POD_UID, pod.as_str())]).await? {
            let task = self.task(&our_id(&record)).await?;
            observed.extend(self.observed(&record, task.as_ref()).await);
        }
        Ok(observed)
    }

    async fn records(&self, filters: Vec<String>) -> Result<Vec<Container>, RuntimeError> {
        let failed = call("list", "containers");
        let request = self.client.request(ListContainersRequest { filters });
        let mut stream = self.client.containers().list_stream(request).await.map_err(&failed)?.into_inner();
        let mut records = Vec::new();
        let silent = |_| Status::deadline_exceeded("containerd stopped in the middle of a list");
        while let Some(message) =
            timeout(DEADLINE, stream.message()).await.map_err(silent).flatten().map_err(&failed)?
        {
            let ours = message.container.filter(|c| c.labels.contains_key(labels::ID));
            // The OCI specification is most of a record and says nothing that is asked here.
            records.extend(ours.map(|record| Container { spec: None, ..record }));
        }
        Ok(records)
    }

    async fn records_and_tasks(&self) -> Result<(Vec<Container>, HashMap<String, Process>), RuntimeError> {
        // Records first: a task without a record here is just being created.
        let records = self.records(Vec::new()).await?;
        let request = self.client.request(ListTasksRequest::default());
        let tasks =
            self.client.tasks().list(request).await.map_err(call("list", "tasks"))?.into_inner().tasks;
        let by_id = |task: Process| {
            let id = if task.container_id.is_empty() { task.id.clone() } else { task.container_id.clone() };
            (id, task)
        };
        Ok((records, tasks.into_iter().map(by_id).collect()))
    }

    async fn remove_left_overs(&self) -> Result<(), RuntimeError> {
        self.execs.remove_left_overs();
        if let Err(error) = self.users.remove_left_overs().await {
            tracing::warn!(error = %Chain(&error),
                "views of images that an earlier agent left cannot be removed now: they expire within an hour");
        }
        let (records, tasks) = self.records_and_tasks().await?;
        for record in records {
            if tasks.contains_key(&record.id) || has_history(&record) {
                continue;
            }
            // A shim that does not answer is missing in the list: only containerd's word for this one task counts.
            let id = our_id(&record);
            let removed = match self.task(&id).await {
                Ok(None) => self.remove(&id).await,
                Ok(Some(_)) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                tracing::warn!(container = %id, error = %Chain(&error), "a left-over cannot be removed yet");
            }
        }
        Ok(())
    }

    async fn observed(&self, record: &Container, task: Option<&Process>) -> Option<ObservedContainer> {
        let id = our_id(record);
        let (pod, container, attempt) = id.parts()?;
        let state = self.state(record, task).await;
        let made_in = record.labels.get(labels::BOOT);
        Some(ObservedContainer {
            pod,
            container,
            attempt,
            image: record.image.clone(),
            image_id: record.labels.get(labels::IMAGE_ID).cloned().unwrap_or_default(),
            state,
            labels: record.labels.clone().into_iter().collect(),
            earlier_boot: task.is_none() && made_in.is_some_and(|boot| *boot != self.boot),
            task: task.is_some(),
            id,
        })
    }

    async fn state(&self, record: &Container, task: Option<&Process>) -> ContainerState {
        match task.filter(|task| task.status() == Task::Stopped) {
            Some(stopped) if !record.labels.contains_key(labels::START_ERROR) => {
                let exit = facts::Exit::of_task(stopped, record, &self.options.cgroup_mount);
                if facts::Exit::recorded(record).is_none() {
                    facts::settle(&self.client, record, exit).await;
                }
                exit.state(number(record, labels::STARTED))
            }
            _ => told(record, task, &Proc::new()),
        }
    }
}

/// What record and task say, but for a task that has just stopped: that is settled first.
fn told(record: &Container, task: Option<&Process>, proc: &Proc) -> ContainerState {
    if record.labels.contains_key(labels::START_ERROR) {
        let finished_ms = number(record, labels::FINISHED).unwrap_or_default();
        return ContainerState::Exited {
            code: START_FAILED,
            started_ms: finished_ms,
            finished_ms,
            oom_killed: false,
        };
    }
    let started = number(record, labels::STARTED);
    let running = |pid| ContainerState::Running {
        pid,
        started_ms: started.unwrap_or_else(|| facts::process_started_ms(proc, pid)),
    };
    let recorded = facts::Exit::recorded(record).map(|exit| exit.state(started));
    match task.map(|task| (task.status(), task)) {
        Some((Task::Created, _)) => ContainerState::Created,
        Some((Task::Running | Task::Paused | Task::Pausing, task)) => running(task.pid),
        // The shim did not answer in time: no news, and no end either.
        Some((Task::Unknown | Task::Stopped, task)) => recorded
            .or_else(|| facts::live_pid(proc, record, task.pid).map(running))
            .unwrap_or(ContainerState::Unreadable),
        None => match (recorded, started) {
            (Some(exited), _) => exited,
            (None, Some(_)) => ContainerState::Lost,
            (None, None) => ContainerState::Created,
        },
    }
}

fn our_id(record: &Container) -> ContainerId {
    let id = ContainerId::new(record.labels.get(labels::ID).cloned().unwrap_or_default());
    debug_assert_eq!(native_id(&id), record.id);
    id
}

fn number(record: &Container, label: &str) -> Option<i64> {
    record.labels.get(label)?.parse().ok()
}

/// It started, ended, or failed to start: something that must be reported.
fn has_history(record: &Container) -> bool {
    [labels::STARTED, labels::START_ERROR, labels::EXIT_CODE].iter().any(|l| record.labels.contains_key(*l))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(facts: &[(&str, &str)]) -> Container {
        let labels = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Container { labels: labels.collect(), ..Container::default() }
    }

    fn task(status: Task, pid: u32) -> Process {
        Process { status: status.into(), pid, ..Process::default() }
    }

    #[test]
    fn a_shim_that_does_not_answer_ends_nothing() {
        let root = tempfile::tempdir().unwrap();
        let proc = Proc::at(root.path());
        let started = [(labels::STARTED, "5"), (labels::PID, "7"), (labels::CGROUP, "/g/c/0")];
        let unknown = task(Task::Unknown, 0);
        assert_eq!(told(&record(&started), Some(&unknown), &proc), ContainerState::Unreadable);
        std::fs::create_dir(root.path().join("7")).unwrap();
        std::fs::write(root.path().join("7/stat"), format!("7 (web) S{}", " 1".repeat(50))).unwrap();
        std::fs::write(root.path().join("7/cgroup"), "0::/g/c/0\n").unwrap();
        let running = ContainerState::Running { pid: 7, started_ms: 5 };
        assert_eq!(told(&record(&started), Some(&unknown), &proc), running);
        // A task that is not there at all is another matter.
        assert_eq!(told(&record(&started), None, &proc), ContainerState::Lost);
    }

    #[test]
    fn a_record_that_never_got_a_task_can_be_seen() {
        assert_eq!(told(&record(&[]), None, &Proc::at("/absent")), ContainerState::Created);
        let ended = record(&[(labels::STARTED, "1"), (labels::EXIT_CODE, "3"), (labels::FINISHED, "2")]);
        let exited = ContainerState::Exited { code: 3, started_ms: 1, finished_ms: 2, oom_killed: false };
        assert_eq!(told(&ended, None, &Proc::at("/absent")), exited);
        assert_eq!(told(&ended, Some(&task(Task::Unknown, 0)), &Proc::at("/absent")), exited);
    }
}
